"""The result of an audit and its files; and, for each product, whether it reads spikes alone."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from onespike.audit.latency import Joules, Latency
from onespike.audit.scaling import Scaling
from onespike.configs import convert
from onespike.counting.arrivals import KINDS, Kind
from onespike.counting.energy import CONVENTIONS, VARIANTS, Convention, Energy, EnergyTable, Variant
from onespike.counting.operations import Layer, Operations
from onespike.counting.products import Product
from onespike.durable import csv_text


@dataclass(frozen=True)
class Audit:
    """The cost of a network.

    Attributes:
        name: Name of the run, or of the model.
        operations: Its operations for one image.
        table: The constants that energy is computed from.
        preset: The preset it was built with; empty for a user's model.
        trained: Whether its weights were trained: those of a fresh network fire at rates that mean little.
        data: Name of the data set that the images are from; "noise" if none are; empty if it has no name.
        test_set: Digest of its test images and classes, see `Dataset.test_set`; empty if these are not known.
        accuracy: Top-1 on the test images, in percent; None if it is not known.
        latency: Measurements, by batch size; empty if none were made.
        scaling: How the cost grows; empty if it was not asked for.
        joules: Energy of one image by a meter.
    """

    name: str
    operations: Operations
    table: EnergyTable = field(repr=False)
    preset: str = ""
    trained: bool = True
    data: str = ""
    test_set: str = ""
    accuracy: float | None = None
    latency: tuple[Latency, ...] = ()
    scaling: tuple[Scaling, ...] = ()
    joules: Joules = field(default_factory=Joules)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The network and the twins that can be estimated; over time steps there is no "ann", which would run once."""
        return tuple(one for one in VARIANTS if one != "ann" or self.operations.steps == 1)

    def energy(self, convention: Convention, variant: Variant = "network") -> Energy:
        """Energy for one image by what it is spent on, of the network or of an estimated twin.

        Raises:
            OnespikeError: The convention, or the variant, is not known.
        """
        convention, variant = convert(convention, Convention, "convention"), convert(variant, Variant, "variant")
        return self.table.network(self.operations, convention, variant)

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        ops = self.operations
        energy = {
            one: {variant: self.energy(one, variant).to_json() for variant in self.variants} for one in CONVENTIONS
        }
        return {
            **{key: getattr(self, key) for key in ("name", "preset", "trained", "data", "test_set")},
            "images": ops.images,
            "steps": ops.steps,
            "accuracy": self.accuracy,
            "weights": ops.weights,
            "macs": {"dense": ops.macs} | {kind: ops.macs_of(kind) for kind in KINDS},
            "synaptic_operations": ops.synaptic_operations,
            "elementwise": ops.elementwise,
            "potentials": ops.potentials._asdict(),
            "firing_rate": ops.firing_rate,
            "energy": energy,
            "titles": self.table.titles,
            "constants": {"file": self.table.file, "sources": self.table.sources},
            "layers": [self._layer(layer) for layer in ops.layers],
            "neurons": [asdict(neurons) for neurons in ops.neurons],
            "latency": [one.to_json() for one in self.latency],
            "scaling": [one.to_json() for one in self.scaling],
            "joules": self.joules._asdict(),
        }

    def _layer(self, layer: Layer) -> dict[str, Any]:
        energy = {one: self.table.layer(layer, self.operations, one, "network").to_json() for one in CONVENTIONS}
        return asdict(layer) | {"group": layer.group, "potentials": layer.potentials._asdict(), "energy": energy}

    def to_csv(self) -> str:
        """One line for each product; for a layer without one, a line with its element-wise work and potentials."""
        header = ["path", "type", "product", *(one.name for one in fields(Product)[1:])]
        header += ["elementwise", "potential_reads", "potential_writes"]
        header += [f"joule_{convention}" for convention in CONVENTIONS]
        lines = []
        for layer in self.operations.layers:
            own = [sum(layer.elementwise.values()), *layer.potentials]
            energy = [self.table.layer(layer, self.operations, one, "network").total for one in CONVENTIONS]
            for number, product in enumerate(layer.products or (None,)):
                values = list(asdict(product).values()) if product else [""] * len(fields(Product))
                # A layer's own work and its energy stand in its first line alone, so that columns can be summed.
                rest = [*own, *energy] if number == 0 else [""] * (len(own) + len(energy))
                lines.append([layer.path, layer.type, *values, *rest])
        return csv_text(header, lines)


class Reading(NamedTuple):
    """The input of one product of the layer at `path`; a product in the network's own forward has its class there.

    The stem is every product that reads the network's input with no product in between, and whatever is in a module
    named `stem`.
    """

    path: str
    product: Product
    stem: bool

    @property
    def holds(self) -> bool:
        """Whether it reads spikes of one size alone, with or without a sign; the stem may read anything."""
        return self.stem or self.arrives in ("binary", "signed")

    @property
    def arrives(self) -> Kind:
        """The kind of its input; for a product of two activations, the less simple kind."""
        return self.product.beside or self.product.arrives


def read_spikes(operations: Operations) -> list[Reading]:
    """Tell what every weight layer, and every product of two activations, reads, in network order."""
    return [
        Reading(layer.path or layer.type, product, product.first or "stem" in layer.path.split("."))
        for layer in operations.layers
        for product in layer.products
    ]
