"""NIR, the neuromorphic intermediate representation: convolutions, means and integrate-and-fire neurons, for one step.

At one time step a neuron starts at 0, so a leak has no effect: V = r * I, and a spike where V > v_threshold. That is
nir.IF with r = 1, for a step of dt = 1. Batch norm, shifts and populations before a threshold are folded into weights
and biases. Max pooling before a threshold, or of spikes, becomes neurons, a mean over the window, and neurons that fire
if any of the first did. Two edges into a node are an addition.

There is no nir.Flatten, since readers disagree whether it counts the axis of the batch: a linear layer on a whole map
is a convolution as large as the map, and logits are (K, 1, 1).
"""

import math
from collections import Counter
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onespike.errors import OnespikeError, reason, requires
from onespike.exporting.lowering.lower import lower
from onespike.exporting.lowering.maps import Collect, Conv, Fire, Geometry, Map, Pixels, Pool, Read, Sum, Term, needed
from onespike.exporting.lowering.reals import Reals
from onespike.exporting.lowering.values import read_bits
from onespike.exporting.network import Exported
from onespike.exporting.parity import Target

FILE = "model.nir"
#: What it reads where it normalises pixels itself: it knows floats alone.
READS = "float32 (B, C, H, W), pixels of 0 to 255"


def write(exported: Exported, folder: Path) -> dict[str, Target]:
    """Write `model.nir`. The graph that is read back, computed for one step, is the target.

    Raises:
        OnespikeError: NIR cannot express a layer, which is named; the package is missing, or does not take the graph.
    """
    with requires("export"):
        import nir
    lowering, spikes = lower(exported, _AnyReader, "nir", "f32")
    writer = _Writer(nir, lowering.maps)
    output = writer.connect()
    try:
        nir.write(folder / FILE, nir.NIRGraph(nodes=writer.nodes, edges=writer.edges))
        graph, names = nir.read(folder / FILE), writer.fired
    except ValueError as error:  # of its check of shapes: up to 1.0.8 it takes rows and columns for alike
        state = f"nir: the package does not take {exported.contract.model}: {reason(error)[:300]}"
        expected = "kernels, strides and dilations have to be square; onnx and pt2 can, c (--weights fp32) may"
        raise OnespikeError(f"{state}; {expected}") from error

    def run(images: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        seen = run_once(graph, exported.reads(images).float())
        bits = torch.zeros(len(images), max((one.offset + one.size for one in names), default=0))
        for one, name in names.items():
            bits[:, one.offset : one.offset + one.size] = seen[name].movedim(1, -1).flatten(1)
        return seen[output].flatten(1), [read_bits(value, bits) for value in spikes]

    return {"nir": run}


class _AnyReader(Reals):
    """Real numbers that meet no threshold exactly: there a neuron of NIR is silent, and one of SpikingJelly fires."""

    def _limits(self, edge: Tensor, strictly: bool) -> tuple[Tensor, Tensor]:
        up, down = super()._limits(edge, strictly)
        if strictly:  # else they lie beside the edge already
            up = torch.nextafter(up.float(), torch.tensor(math.inf)).double()
            down = torch.nextafter(down.float(), torch.tensor(-math.inf)).double()
        return up, down


def run_once(graph: Any, images: Tensor) -> dict[str, Tensor]:
    """Compute one step of a graph, from potentials of 0, on images (B, C, H, W); each node's output, by its name."""
    arriving: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for start, end in graph.edges:
        arriving[end].append(start)
    seen: dict[str, Tensor] = {}

    def value(name: str) -> Tensor:
        if name not in seen:
            before = [value(one) for one in arriving[name]]
            seen[name] = _node(graph.nodes[name], torch.stack(before).sum(0) if before else images)
        return seen[name]

    for name in graph.nodes:
        value(name)
    return seen


def _node(node: Any, x: Tensor) -> Tensor:
    kind = type(node).__name__
    if kind == "Conv2d":
        weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
        stride, padding, dilation = (tuple(map(int, one)) for one in (node.stride, node.padding, node.dilation))
        return F.conv2d(x, weight, bias, stride, padding, dilation, int(node.groups))
    if kind == "AvgPool2d":
        kernel, stride, padding = (tuple(map(int, one)) for one in (node.kernel_size, node.stride, node.padding))
        return F.avg_pool2d(x, kernel, stride, padding)
    if kind == "IF":
        return (torch.from_numpy(node.r) * x > torch.from_numpy(node.v_threshold)).to(x.dtype)
    return x  # input and output


class _Writer:
    """Turns maps of real numbers into nodes and edges."""

    def __init__(self, nir: Any, maps: list[Map]) -> None:
        self.nir, self.maps = nir, maps
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.fired: dict[Map, str] = {}  # the neurons of each map of spikes
        self._names: dict[Map, str] = {}
        self._counts: dict[Map, int] = {}  # number of elements, of sums that are means in NIR
        self._sides: dict[str, tuple[int, int]] = {}  # of each node's output
        self._readers = Counter(read for one in needed(maps) for read in one.reads())

    def connect(self) -> str:
        """Make all nodes and edges; returns the name of the output."""
        parts = self._parts(self.maps[-1])
        sides, classes = self._sides[parts[0]], self.maps[-1].channels
        node = self.nir.Output(output_type={"output": np.array([classes, *sides])})
        return self._add("output", node, parts, sides)

    def _cannot(self, what: str) -> OnespikeError:
        return OnespikeError(f"nir: it cannot say {what}; onnx and pt2 can, c (--weights fp32) may")

    def _add(self, name: str, node: Any, parts: list[str], sides: tuple[int, int]) -> str:
        name = name.replace("/", ".")  # a slash would be a group inside the file
        names = chain([name], (f"{name}_{number}" for number in count(1)))
        name = next(one for one in names if one not in self.nodes)
        self.nodes[name], self._sides[name] = node, sides
        self.edges += [(part, name) for part in parts]
        return name

    def _parts(
        self, of: Map, chosen: Tensor | None = None, gain: Tensor | None = None, constant: Tensor | None = None
    ) -> list[str]:
        """The nodes that add up to gain * (chosen channels of a map) + constant; a channel of -1 is 0."""
        chosen = torch.arange(of.channels) if chosen is None else chosen
        gain = torch.ones(len(chosen), dtype=torch.float64) if gain is None else gain
        constant = torch.zeros(len(chosen), dtype=torch.float64) if constant is None else constant
        gain = torch.where(chosen < 0, 0.0, gain)
        alone = self._readers.get(of, 1) == 1 and of not in self._names
        if isinstance(of, Conv) and alone:
            return [self._conv(of, of.weight[..., chosen.clamp(min=0)] * gain, constant)]
        if isinstance(of, Sum | Collect) and alone:
            return self._added(of, chosen, gain, constant)
        name = self._name(of)
        scale = self._counts.get(of, 1)
        plain = torch.equal(chosen, torch.arange(of.channels)) and bool((gain * scale == 1).all())
        if plain and not constant.any():
            return [name]
        weight = torch.zeros(len(chosen), of.channels, 1, 1, dtype=torch.float64)
        weight[torch.arange(len(chosen)), chosen.clamp(min=0), 0, 0] = gain * scale
        return [self._conv2d(f"{of.layer}.scale", [name], weight, constant, Geometry((1, 1)), self._sides[name])]

    def _added(self, of: Map, chosen: Tensor, gain: Tensor, constant: Tensor) -> list[str]:
        """The nodes of a sum, or of channels side by side; its terms go directly to where it is read."""
        terms = list[Term]()
        if isinstance(of, Sum):
            if of.rectified:
                raise self._cannot(f"relu in {of.layer}")
            constant = constant + torch.where(chosen < 0, 0.0, gain * of.constant[chosen.clamp(min=0)])
            terms = of.terms
        elif isinstance(of, Collect):
            for part in of.parts:
                if not all(torch.equal(one, torch.arange(of.pixels)) for one in (part.to_pixels, part.pixels)):
                    raise self._cannot(f"pixels that move in {of.layer}")
                channels = torch.full((of.channels,), -1)
                channels[part.to_channels] = part.channels
                terms.append(Term(Read(part.map, channels), torch.ones(of.channels, dtype=torch.float64)))
        names: list[str] = []
        for term in terms:
            if term.read.pixels is not None:
                raise self._cannot(f"pixels that move in {of.layer}")
            picked = torch.where(chosen < 0, -1, term.read.channels[chosen.clamp(min=0)])
            names += self._parts(term.read.map, picked, gain * term.factors[chosen.clamp(min=0)], constant)
            constant = torch.zeros_like(constant)
        if len({self._sides[name] for name in names}) > 1 or len(set(names)) < len(names):
            raise self._cannot(f"an addition in {of.layer}")
        return names

    def _name(self, of: Map) -> str:
        """The node that computes a map, made when it is first needed."""
        if of not in self._names:
            self._names[of] = self._made(of)
        return self._names[of]

    def _made(self, of: Map) -> str:
        if of.shape[0] > 1:
            raise self._cannot(f"windows in {of.layer}")
        if isinstance(of, Pixels):
            _, *sides, channels = of.shape
            return self._add("input", self.nir.Input({"input": np.array([channels, *sides])}), [], (sides[0], sides[1]))
        if isinstance(of, Fire):
            return self._fire(of)
        if isinstance(of, Pool):
            if of.largest and of.read.map.kind != "bits":
                raise self._cannot(f"max pooling of real values in {of.layer}, in front of which nothing fires")
            return self._pool(of, self._parts(of.read.map), of.channels)
        ones, zeros = (torch.full((of.channels,), one, dtype=torch.float64) for one in (1.0, 0.0))
        if isinstance(of, Conv):
            return self._conv(of, of.weight, zeros)
        if isinstance(of, Sum | Collect):  # one node, which several read
            eye = torch.eye(of.channels)[:, :, None, None]
            parts = self._added(of, torch.arange(of.channels), ones, zeros)
            return self._conv2d(f"{of.layer}.add", parts, eye, zeros, Geometry((1, 1)), self._sides[parts[0]])
        what = getattr(of, "name", f"a {type(of).__name__.lower()}")  # a function has a name
        raise self._cannot(f"{what} in {of.layer}")

    def _conv(self, of: Conv, weight: Tensor, bias: Tensor) -> str:
        parts = self._parts(of.source)
        sides, small = self._sides[parts[0]], of.geometry == Geometry((1, 1))
        if of.shape[0] > 1 or of.sides[0] > 1:
            raise self._cannot(f"windows in {of.layer}")
        if not (small and math.prod(sides) == math.prod(of.sides)) and sides != tuple(of.sides[1:]):
            raise self._cannot(f"pixels that move in {of.layer}")
        return self._conv2d(of.layer, parts, weight.permute(3, 2, 0, 1), bias, of.geometry, sides)

    def _conv2d(
        self, layer: str, parts: list[str], weight: Tensor, bias: Tensor, geometry: Geometry, sides: tuple[int, int]
    ) -> str:
        kernel = (weight.float().contiguous().numpy(), geometry.stride, geometry.padding, geometry.dilation, 1)
        node = self.nir.Conv2d(sides, *kernel, bias.float().numpy())
        return self._add(layer, node, parts, geometry.sides(sides))

    def _fire(self, of: Fire) -> str:
        source: Map = of.source
        pool: Pool | None = None
        if isinstance(source, Pool) and source.largest and source.kind != "bits":  # fire first, then whether any did
            if of.inverted.any():
                raise self._cannot(f"max pooling in {source.layer} in front of neurons that fire below a threshold")
            pool = source
            source = pool.read.map
        sign = torch.where(of.inverted, -1.0, 1.0).double()
        limits = of.thresholds.double() + (0.0 if of.source.kind == "f32" else 0.5)  # between two whole numbers
        below = torch.nextafter(-limits.float(), torch.tensor(-torch.inf)).double()
        threshold = torch.where(of.inverted, below, limits)
        alike = bool((threshold == threshold[0]).all())
        constant = torch.zeros_like(threshold) if alike else 1 - threshold
        parts = self._parts(source, of.chosen, sign, constant)
        name = self._neurons(of.layer, parts, of.channels, threshold[0].item() if alike else 1.0)
        self.fired[of] = name if pool is None else self._pool(pool, [name], of.channels)
        return self.fired[of]

    def _neurons(self, layer: str, parts: list[str], channels: int, threshold: float) -> str:
        sides = self._sides[parts[0]]
        ones = torch.ones(channels, *sides).numpy()
        node = self.nir.IF(r=ones, v_threshold=ones * np.float32(threshold), v_reset=0 * ones)
        return self._add(layer, node, parts, sides)

    def _pool(self, of: Pool, parts: list[str], channels: int) -> str:
        sides, geometry = self._sides[parts[0]], of.geometry
        if of.read.pixels is not None or of.sides[0] > 1:
            raise self._cannot(f"pixels that move in {of.layer}")
        if geometry.kernel == tuple(of.sides[1:]) and not any(geometry.padding):
            geometry = Geometry(sides, sides)
        elif sides != tuple(of.sides[1:]) or geometry.dilation != (1, 1):
            raise self._cannot(f"this pooling in {of.layer}")
        pairs = (np.array(one) for one in (geometry.kernel, geometry.stride, geometry.padding))
        name = self._add(f"{of.layer}.mean", self.nir.AvgPool2d(*pairs), parts, geometry.sides(sides))
        if not of.largest:
            self._counts[of] = math.prod(geometry.kernel)
            return name
        name = self._neurons(f"{of.layer}.any", [name], channels, 0.5 / math.prod(geometry.kernel))
        if of.kind == "bits":  # what it pools fires already, so neurons behind it may fire just as it does
            self.fired[of] = name
        return name
