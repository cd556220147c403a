"""Energy: what the counted operations would cost, under three conventions, for the network and for two twins of it.

field    what most papers print: 4.6 pJ per multiply-accumulate, 0.9 pJ per accumulate (or what the energy file says),
         accumulates = rate * MACs; strict: a product is priced by the kind of its inputs
int8     the same, with the 8-bit arithmetic that deployed networks use
memory   int8, and all else: exact synaptic operations, element-wise work, reads and writes of weights, activations and
         of potentials that are handed on

The twins: "binary" is the same network over as many time steps, with nothing handed from window to window or from block
to block; a layer that reads real numbers still does. "ann" is the same network with ReLU, so that all layers read real
numbers, and runs as often: over several time steps that is too much, and an audit leaves it out. Both are estimates
until they are trained and audited themselves.
"""

from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from onespike.configs import read_yaml
from onespike.counting.operations import Layer, Operations
from onespike.counting.products import Product
from onespike.durable import path_of
from onespike.errors import OnespikeError, shown, unknown

Convention = Literal["field", "int8", "memory"]
Variant = Literal["network", "binary", "ann"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
VARIANTS: tuple[Variant, ...] = get_args(Variant)
_MOST = 1e18  # of any constant

#: Titles for readers of a report; `EnergyTable.titles` adds the prices.
_TITLES = {
    "field": "the field's convention: {fp32}; accumulates are the firing rate times the dense count, padding included",
    "int8": "the same with 8-bit arithmetic: {int8}",
    "memory": "8-bit arithmetic with element-wise work and memory traffic",
    "network": "this network",
    "binary": "binary twin: nothing handed on, zeros skipped; what reads real numbers still does",
    "ann": "ANN twin: ReLU, real values everywhere",
}
DEFAULT = Path(__file__).with_name("energy.yaml")
_PICO = 1e-12


@dataclass(frozen=True)
class Energy:
    """Energy for one image, in joule, by what it is spent on.

    Attributes:
        real: Multiply-accumulates.
        spikes: Accumulates.
        elementwise: Element-wise work.
        storage: Reading all weights once, from the memory that holds all of them.
        weights: Reading one weight for each operation, from the nearest memory.
        activations: Writing and reading the inputs of the layers.
        potentials: Writing and reading potentials that are handed on.
    """

    real: float = 0.0
    spikes: float = 0.0
    elementwise: float = 0.0
    storage: float = 0.0
    weights: float = 0.0
    activations: float = 0.0
    potentials: float = 0.0

    @property
    def total(self) -> float:
        """The sum of all."""
        return sum(astuple(self))

    @classmethod
    def sum(cls, parts: Iterable["Energy"]) -> "Energy":
        """Add up."""
        return cls(*map(sum, zip(astuple(cls()), *map(astuple, parts), strict=True)))

    def to_json(self) -> dict[str, float]:
        """All parts, and the total."""
        return asdict(self) | {"total": self.total}


@dataclass(frozen=True)
class EnergyTable:
    """The constants of an energy file, in picojoule; see `energy.yaml`, which explains each.

    Attributes:
        operations: Of "fp32" and "int8": energy to "multiply" and to "add".
        elementwise: Energy of each kind of element-wise work.
        width: Bits of one memory access.
        levels: Memories, from small to large: name, bytes (None: any), energy of an access.
        bits: Width of a "weight", a "real" activation, a "potential".
        sources: Where each section comes from.
        file: The file that they are from.
    """

    operations: dict[str, dict[str, float]]
    elementwise: dict[str, float]
    width: int
    levels: tuple[tuple[str, int | None, float], ...]
    bits: dict[str, float]
    sources: dict[str, str]
    file: str

    @classmethod
    def load(cls, file: str | Path | None = None) -> "EnergyTable":
        """Read an energy file; None takes the package's own.

        Raises:
            OnespikeError: It cannot be read, lacks a value, has one that is not known, or one that is not a number.
        """
        path = path_of(DEFAULT if file is None else file, "file of energies")
        content = read_yaml(path)
        _check(content, read_yaml(DEFAULT), path, "")
        levels = tuple((one["name"], one["bytes"], float(one["access"])) for one in content["memory"]["levels"])
        sizes = [size for _, size, _ in levels]
        if sizes[-1] is not None or None in sizes[:-1] or sorted(sizes[:-1]) != sizes[:-1]:
            raise OnespikeError(f"{path}: memory.levels: expected them from small to large, the last with bytes: null")
        sources = {f"operations.{name}": part["source"] for name, part in content["operations"].items()}
        sources |= {name: content[name]["source"] for name in ("elementwise", "memory", "bits")}
        return cls(
            operations={name: _numbers(part) for name, part in content["operations"].items()},
            elementwise=_numbers(content["elementwise"]),
            width=content["memory"]["width"],
            levels=levels,
            bits=_numbers(content["bits"]),
            sources=sources,
            file=DEFAULT.name if path == DEFAULT else str(path),
        )

    @property
    def titles(self) -> dict[str, str]:
        """What each convention and each variant means, with this table's prices."""
        prices = {
            name: f"{part['multiply'] + part['add']:g} pJ per multiply-accumulate, {part['add']:g} pJ per accumulate"
            for name, part in self.operations.items()
        }
        return {name: text.format(**prices) for name, text in _TITLES.items()}

    def transfer(self, values: float, bits: float, held: float) -> float:
        """Picojoule to move values of `bits` bits each from or to the smallest memory that holds `held` bytes."""
        access = next(energy for _, size, energy in self.levels if size is None or size >= held)
        return values * bits / self.width * access

    def layer(self, layer: Layer, network: Operations, convention: Convention, variant: Variant) -> Energy:
        """Energy of one layer for one image; the number of weights in its network decides which memory they are in."""
        twin = variant != "network"
        if layer.merging and twin:
            return Energy()
        parts = [self._product(product, network, convention, variant) for product in layer.products]
        if convention == "memory" and not (layer.handing and twin):
            parts.append(Energy(elementwise=_PICO * sum(self.elementwise[k] * n for k, n in layer.elementwise.items())))
            if variant != "ann":  # what neurons keep from step to step is handed to nobody
                (reads, writes), bits = layer.potentials, self.bits["potential"]
                # A step overwrites what the one before kept: units write in each, other neurons not in the last one.
                times = network.steps if layer.handing else network.steps - 1
                held = writes * bits / 8 / max(times, 1)
                parts.append(Energy(potentials=_PICO * self.transfer(reads + writes, bits, held)))
        return Energy.sum(parts)

    def _product(self, product: Product, network: Operations, convention: Convention, variant: Variant) -> Energy:
        real = variant == "ann" or product.arrives == "real"
        if convention == "memory":
            times = product.reached if real else product.operations
        else:  # by the field's rule, spikes per input; of two activations, as counted
            rate = product.rate if product.weights else product.operations / max(product.macs, 1)
            times = product.macs * (1 if real else rate)
        prices = self.operations["fp32" if convention == "field" else "int8"]
        price = prices["add"] + (prices["multiply"] if real else 0)
        spent = {"real" if real else "spikes": _PICO * times * price}
        if convention == "memory":
            weight = self.bits["weight"]
            spent["storage"] = _PICO * self.transfer(product.weights, weight, network.weights * weight / 8)
            spent["weights"] = _PICO * self.transfer(times, weight, held=0)
            # Of two activations the wider one decides.
            is_real = real or product.beside == "real"
            bits = self.bits["real"] if is_real else float(product.levels.bit_length() + product.signs)
            held = product.inputs * bits / 8 / product.time_steps  # one step at a time
            spent["activations"] = _PICO * self.transfer(2 * product.inputs, bits, held)
        return Energy(**spent)

    def network(self, operations: Operations, convention: Convention, variant: Variant = "network") -> Energy:
        """Energy of a whole network, see `layer`."""
        return Energy.sum(self.layer(layer, operations, convention, variant) for layer in operations.layers)


def _numbers(section: dict[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in section.items() if key != "source"}


def _check(content: Any, pattern: Any, file: Path, place: str) -> None:
    """Compare a file with the package's own: the same keys, numbers for numbers, texts for texts."""
    if isinstance(pattern, dict):
        if not isinstance(content, dict):
            raise OnespikeError(
                f"{file}: {place[:-1] or 'the file'}: expected {', '.join(pattern)}, got {shown(content)}"
            )
        for key in [*content, *pattern]:
            if key not in pattern:
                raise unknown(f"key in {file}", f"{place}{key}", [f"{place}{known}" for known in pattern])
            if key not in content:
                raise OnespikeError(f"{file}: {place}{key} is missing: copy it from {DEFAULT}")
            _check(content[key], pattern[key], file, f"{place}{key}.")
        return
    whole = isinstance(content, int) and not isinstance(content, bool)
    if isinstance(pattern, list):
        expected, fits = "a list", isinstance(content, list) and bool(content)
    elif place.endswith("bytes."):
        expected, fits = "a number of bytes or null", content is None or (whole and 1 <= content < _MOST)
    elif isinstance(pattern, str):
        expected, fits = "a text", isinstance(content, str) and bool(content.strip())
    elif place.endswith("width."):
        expected, fits = "a number of bits of at least 1", whole and 1 <= content < _MOST
    else:
        expected, fits = "a number of at least 0", (whole or isinstance(content, float)) and 0 <= content < _MOST
    if not fits:
        raise OnespikeError(f"{file}: {place[:-1]}: expected {expected}, got {shown(content)}")
    for number, item in enumerate(content if isinstance(pattern, list) else ()):
        _check(item, pattern[0], file, f"{place}{number}.")
