"""Convert an artificial network into a spiking one, save it and load it again."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, fx, nn

from onespike.configs import expect_keys, make, read_json
from onespike.conversion.calibration import LayerError, calibrate
from onespike.conversion.config import Calibration, ConversionConfig
from onespike.conversion.kinds import WEIGHTS, reached_by_images
from onespike.conversion.network import ConvertedNetwork, spiking
from onespike.conversion.over_time import OverMeans, PoolSpikes
from onespike.conversion.trace import taking, trace
from onespike.durable import is_as_written, path_of, read_whole, sealed
from onespike.errors import OnespikeError, shown
from onespike.folders import expect_replaceable, read_folder, save_folder, whole_folder
from onespike.neurons.integrate_fire import QCFS, IntegrateFire
from onespike.neurons.watch import aside, ask
from onespike.tensors import expect_alike, expect_weights, not_finite, read_tensors, to_save

CHECKED = 2  # number of images that the network is traced and checked with
_DRAWS = 0x5EED  # a seed that nobody else would choose, for a network that draws random numbers
TOLERANCE = 1e-3  # relative difference allowed between a network and its graph
MIXED = 0.05  # relative difference from which on rows count as other images'; rounding may move a QCFS by a step
SAVED = TENSORS, CARD = "model.safetensors", "conversion.json"  # the files of a saved conversion

#: Keys of the card, among others.
_CARD: dict[str, Any] = {"config": dict[str, Any], "layers": list[Any], "traced": tuple[int, ...], "graph": list[str]}
_CARD |= {"calibration_images": int, "sha256": str}
#: Most numbers in the images that a network is traced with.
_MOST = 1 << 26
#: Types of images of whole numbers, such as words: an embedding takes no others.
_WHOLE = ("bool", "uint8", "int8", "int16", "int32", "int64")


@dataclass(frozen=True, eq=False)
class Conversion:
    """A converted network, and the errors of its layers.

    Attributes:
        network: The network, in evaluation mode: images (B, C, H, W) to logits (B, K).
        layers: The error of each layer of neurons.
        images: Number of calibration images.
        traced: Shape of those that the network was traced with, (N, C, H, W).
        images_dtype: Their type, such as "int64", if they are whole numbers; else it does not matter, and is "".
    """

    network: ConvertedNetwork = field(repr=False)
    layers: tuple[LayerError, ...] = field(repr=False)
    images: int
    traced: tuple[int, ...]
    images_dtype: str = ""

    @property
    def real(self) -> tuple[str, ...]:
        """Paths of what was left real-valued."""
        return self.network.real

    def to_json(self) -> dict[str, Any]:
        """The numbers, for JSON."""
        how = {"time_steps": self.network.time_steps, "population": self.network.population}
        layers = [asdict(layer) for layer in self.layers]
        return {**how, "calibration_images": self.images, "layers": layers, "real_valued": list(self.real)}

    def save(self, folder: str | Path) -> None:
        """Save the converted network without pickle; `load_converted` reads it.

        Writes `model.safetensors` (weights and thresholds) and `conversion.json` (the `ConversionConfig`, the layers of
        the graph, each layer's error) to a new or empty folder, or over an earlier conversion. It is an `OnespikeError`
        if the folder holds anything else, or cannot be written. An interrupted save leaves the earlier conversion, or
        nothing.
        """
        _expect_few(self.traced)
        folder = path_of(folder)
        expect_replaceable(folder, SAVED if (folder / CARD).is_file() else (), "conversion")  # others have TENSORS, too
        weights = save(to_save(self.network.state_dict()))
        card = {"config": asdict(self.network.config), **self.to_json(), "traced": list(self.traced)}
        card |= {"images_dtype": self.images_dtype} if self.images_dtype else {}
        card = sealed({**card, "graph": self.network.outline()}, weights)
        save_folder(folder, {TENSORS: weights, CARD: json.dumps(card, indent=2, allow_nan=False).encode()})


def convert(model: nn.Module, images: Tensor, *, calibration: Calibration | None = None, **options: Any) -> Conversion:
    """Convert an artificial network: integrate-and-fire neurons in place of its activations.

    It may be any of convolution, linear layers, batch norm, pooling, residual addition and ReLU, GELU or SiLU that
    torch.fx can trace, timm's and torchvision's among them.

    Args:
        model: From images (B, C, H, W) to logits (B, K); it stays as it is.
        images: Training images to calibrate on, as the network takes them, (N, C, H, W); some hundreds.
        calibration: How thresholds are found.
        options: Values of `ConversionConfig`, such as `time_steps=4`, `population=3` or `allow_real=True`.

    Raises:
        OnespikeError: There is no activation, something cannot be converted (its path is named), there are no images,
            or activations are not finite.
    """
    config = make(ConversionConfig, options, "conversion")
    expect_weights(model)
    if not isinstance(calibration, Calibration | None):
        raise OnespikeError(f"calibration: expected a Calibration, got a {type(calibration).__name__}")
    if not isinstance(images, Tensor) or not images.ndim:
        raise OnespikeError(f"images: expected a tensor (N, C, H, W), got a {type(images).__name__}")
    model = _unwrapped(model)
    some, expected = images[:CHECKED], _answers(model, images)
    network = spiking(model, config, some)
    # With a QCFS, rounding, as by folding, becomes whole spikes: its graph is compared before anything is folded.
    rounds = any(isinstance(module, QCFS) for module in model.modules())
    _expect_same(trace(model, some, fold=False) if rounds else network.analog(), some, expected)
    _expect_images_first(network, some)
    layers = calibrate(network, images, calibration or Calibration())
    dtype = str(some.dtype).removeprefix("torch.")
    return Conversion(network, tuple(layers), len(images), tuple(some.shape), dtype if dtype in _WHOLE else "")


def load_converted(folder: str | Path, model: nn.Module) -> Conversion:
    """Load what `Conversion.save` wrote; the network gives the same logits, to the bit, on the device of `model`.

    Args:
        folder: The folder where it was saved.
        model: An artificial network of the architecture that was converted, such as `torchvision.models.vgg11_bn()`, in
            the same memory layout. The spiking one is built from it; its weights do not matter, and it stays as it is.

    Raises:
        OnespikeError: There is no saved conversion, it is damaged, or it is of another network.
    """
    folder = path_of(folder)
    path = whole_folder(folder)
    if not all((path / name).is_file() for name in SAVED):
        raise OnespikeError(f"{folder} is no saved conversion: expected {TENSORS} and {CARD} in it")
    try:
        text, content = read_folder(folder, lambda at: (read_whole(at / CARD), read_whole(at / TENSORS, 1 << 36)))
        card = read_json(text, CARD)
        expect_keys(card, _CARD, CARD)
        if card != sealed(card, content) or not is_as_written(text, card):
            raise OnespikeError("it is not what was written")
        weights = read_tensors(content, TENSORS)
        layers = tuple(make(LayerError, layer, "layers") for layer in card["layers"])
        traced, outline, count = tuple(card["traced"]), list(card["graph"]), card["calibration_images"]
        _expect_few(traced)
        if (dtype := card.get("images_dtype", "")) not in ("", *_WHOLE):
            raise OnespikeError(f"{CARD}: images_dtype: expected one of {', '.join(_WHOLE)}, got {shown(dtype)}")
    except (OnespikeError, OSError) as error:
        raise OnespikeError(f"the conversion {folder} is damaged: {error}") from error
    config = make(ConversionConfig, card["config"], "config")  # no damage if its surrogate is not registered here
    expect_weights(model)
    model = _unwrapped(model)
    like = next(model.parameters(), torch.empty(()))
    network = spiking(model, config, like.new_zeros(traced, dtype=getattr(torch, dtype) if dtype else None))
    for found, saved in zip_longest(_numbered(network.outline()), _numbered(outline), fillvalue="nothing"):
        if found != saved:
            raise OnespikeError(f"{folder} is the conversion of another network: expected {saved}, got {found}")
    expect_alike(weights, network.state_dict(), f"{folder} is the conversion of another network")
    pairs = {(own.dtype, weights[name].dtype) for name, own in network.state_dict().items()}
    if len(pairs) > len({own for own, _ in pairs}):
        raise OnespikeError(f"the conversion {folder} is damaged: weights of several types: expected one")
    if name := not_finite(weights, network):
        raise OnespikeError(f"the conversion {folder} is damaged: {name} is not of finite numbers")
    own = network.state_dict()  # in its layout, such as channels last: sums in another order may round otherwise
    laid = {name: torch.empty_like(own[name], dtype=one.dtype).copy_(one) for name, one in weights.items()}
    network.load_state_dict(laid, assign=True)
    return Conversion(network, layers, count, traced, dtype)


def _expect_few(traced: tuple[int, ...]) -> None:
    """Raise `OnespikeError` unless images of this shape can be made to trace a network with, when it is loaded."""
    if not all(size > 0 for size in traced) or math.prod(traced) > _MOST:
        raise OnespikeError(f"traced: expected images, at most {_MOST:,} numbers in all, got {shown(traced)}")


def _numbered(outline: Sequence[str]) -> list[str]:
    """The lines of an outline with numbers for the nodes, whose names depend on the version of PyTorch."""
    words = [str(line).split(" ") for line in outline]  # name = what it calls, and its arguments
    numbers = {name: f"%{number}" for number, (name, *_) in enumerate(words)}
    nodes = re.compile(r"(?<!['\w])\w+(?!['\w=])")  # no text, and no name of an argument
    arguments = [nodes.sub(lambda word: numbers.get(word[0], word[0]), " ".join(rest[2:])) for _, *rest in words]
    return [" ".join([numbers[line[0]], *line[1:3], rest]) for line, rest in zip(words, arguments, strict=True)]


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, of what `torch.compile`, DataParallel and DistributedDataParallel made of it."""
    inner: Any = getattr(model, "_orig_mod", model)
    parallel = isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel)
    return _unwrapped(inner.module) if parallel else inner


@torch.no_grad()
def _answers(model: nn.Module, images: Tensor) -> Tensor:
    """The network's logits for the first images, in evaluation mode; the network stays as it is."""
    if not len(images):
        raise OnespikeError("calibration: expected at least one image, got none")
    if images.is_meta or images.layout != torch.strided:
        raise OnespikeError("calibration: expected images that are dense tensors")
    if not images.isfinite().all():
        raise OnespikeError("calibration: expected finite images, got some values that are not")
    with aside(model):
        torch.manual_seed(_DRAWS)  # a graph keeps a draw as a constant: here the network draws another
        logits = ask(model, images[:CHECKED].clone())  # it may change them in place
    if not isinstance(logits, Tensor):
        raise OnespikeError(f"expected a network that gives a tensor of logits, got a {type(logits).__name__}")
    return logits


@torch.no_grad()
def _expect_same(graph: fx.GraphModule, images: Tensor, expected: Tensor) -> None:
    """Raise `OnespikeError` unless a graph, with activations in it, computes the same as the network."""
    answer = graph(images)
    if answer.shape != expected.shape:
        raise OnespikeError("the network's graph by torch.fx gives another shape: expected the same at every call")
    difference = ((answer - expected).norm() / expected.norm().clamp(min=1e-12)).item()
    if difference > TOLERANCE:
        wish = "expected a forward pass that is the same for all images, draws nothing, and changes nothing in place"
        wish += "; on CUDA set torch.backends.cudnn.allow_tf32 = False, or convert on the CPU"
        raise OnespikeError(f"the network's graph by torch.fx computes something else, by {difference:.1%}: {wish}")


@torch.no_grad()
def _expect_images_first(network: ConvertedNetwork, images: Tensor) -> None:
    """Raise `OnespikeError` unless images are along the first axis of each layer's output: time is stacked there."""
    graph = network.analog()
    reached = reached_by_images(graph.graph)
    alone, among = (fx.Interpreter(graph, garbage_collect_values=False) for _ in range(2))
    # Over time steps, a layer sees all of them at once: it must not depend on what else is there, statistics included.
    others = images.flip(0) if network.time_steps == 1 else (0.5 * images.flip(0)).to(images.dtype)
    for interpreter, given in ((alone, images), (among, torch.cat([images, others]))):
        with taking(len(given), Exception):
            interpreter.run(given)
    for node in graph.graph.nodes:
        path = str(node.target)
        layer = network.body.get_submodule(path) if node.op == "call_module" else None
        if node not in reached or not isinstance(layer, (IntegrateFire, OverMeans, PoolSpikes, *WEIGHTS)):
            continue
        pair = alone.env[node], among.env[node]
        pairs = list(zip(*pair, strict=True)) if isinstance(pair[0], tuple) else [pair]
        # At one time step only the first of several outputs matters.
        for one, more in pairs[: None if network.time_steps > 1 else 1]:
            if one is None:
                continue
            if isinstance(one, tuple):
                raise OnespikeError(f"cannot be converted: {path} gives tensors within tuples, over several time steps")
            if not isinstance(one, Tensor):
                raise OnespikeError(f"cannot be converted: {path} gives one {type(one).__name__} for all images")
            one, more = 1.0 * one, 1.0 * more  # they may be true or false
            if not one.ndim or len(more) != 2 * len(one) or (more[: len(one)] - one).norm() > MIXED * one.norm():
                rows = f"the rows of what {path} gives, {tuple(one.shape)} for {len(images)} images"
                wish = "are not one image after the other; expected the images along the first axis (batch_first)"
                raise OnespikeError(f"cannot be converted: {rows}, {wish}")
