"""Finding thresholds, and taking back what each layer of neurons gets wrong, layer after layer, on training images.

The artificial and the spiking network walk through the same graph side by side. When a layer's turn comes, everything
before it spikes as it will in use; so each layer also makes up, as far as it can, for the errors of those before.

    neurons         thresholds that bring the firing rates closest to the activations
    weight layers   a bias, or weights by least squares, that bring their outputs closest to the artificial ones
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from onespike.errors import OnespikeError, check_choices
from onespike.model.kinds import WEIGHTS, reached_by_images
from onespike.model.spiking import ConvertedNetwork
from onespike.units.channel import ChannelLinear
from onespike.units.integrate import IntegrateFire, OverMeans, PoolSpikes, Staircase, spread

#: Thresholds that are tried, as shares of the percentile.
SHARES = torch.cat([torch.linspace(0.05, 1.0, 39), torch.tensor([1.15, 1.3, 1.5])])
#: Values of each channel that the search looks at.
SAMPLES = 4096
#: Values of unfolded inputs that are in memory at once.
CHUNK = 2**25


@dataclass(frozen=True)
class Calibration:
    """How thresholds are found and errors taken back.

    Attributes:
        thresholds: "maximum" of the activations, "percentile" of them, or "error": the share of the percentile with the
            least error at that number of time steps.
        percentile: Which percentile of the activations, those that are 0 included.
        correct: What is fitted in each weight layer: "none", its "bias", or its "weights" as well.
        ridge: Pull of the fitted weights towards the artificial ones, in units of the inputs' mean square.
    """

    thresholds: Literal["maximum", "percentile", "error"] = "error"
    percentile: float = 99.9
    correct: Literal["none", "bias", "weights"] = "weights"
    ridge: float = 0.1

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 < self.percentile <= 100:
            raise OnespikeError(f"percentile: expected 0 < percentile <= 100, got {self.percentile}")
        if not 0 < self.ridge < math.inf:
            raise OnespikeError(f"ridge: expected a finite number above 0, got {self.ridge}")


#: What measured best, see `docs/conversion.md`.
DEFAULT = Calibration()


@dataclass(frozen=True)
class LayerError:
    """What exchanging one layer's activations for spikes brought, on the calibration images.

    Attributes:
        layer: Path of the layer.
        activation: What the neurons stand for.
        threshold: Mean of the thresholds.
        relative_l2: Norm of the difference of mean output and activation, over that of the activation.
        cosine: Cosine of the angle between the two.
        firing_rate: Spikes per neuron and time step, 0..1.
    """

    layer: str
    activation: str
    threshold: float
    relative_l2: float
    cosine: float
    firing_rate: float


@torch.no_grad()
def calibrate(network: ConvertedNetwork, images: Tensor, options: Calibration = DEFAULT) -> list[LayerError]:
    """Find a network's thresholds and correct its weight layers.

    Neurons that stand for a staircase have their thresholds already. Where time steps times neurons are the staircase's
    steps, there is nothing to correct on average, and their network stays as it is.

    Args:
        network: The network; changed in place.
        images: Training images, normalised, (N, C, H, W).
        options: How.

    Returns:
        The error of each layer of neurons, in order.

    Raises:
        OnespikeError: There are no images, a value is not finite, or the images do not lie along the first axis.
    """
    if not len(images):
        raise OnespikeError("calibration: expected at least one image, got none")
    reference, steps, errors = network.analog(), network.time_steps, []
    analog, spiking = fx.Interpreter(reference), fx.Interpreter(network.graph)
    for interpreter, batch in ((analog, images), (spiking, images.repeat(steps, *[1] * (images.ndim - 1)))):
        interpreter.args_iter = iter([batch])
    pairs = [(neurons, analog.submodules[path]) for path, neurons in network.neurons.items()]
    exact = all(isinstance(one, Staircase) and one.levels == steps * neurons.population for neurons, one in pairs)
    reached = reached_by_images(network.graph)
    for node, twin in zip(network.graph.graph.nodes, reference.graph.nodes, strict=True):
        target = analog.env[twin] = analog.run_node(twin)
        layer = spiking.submodules[node.target] if node.op == "call_module" and node in reached else None
        if isinstance(layer, (IntegrateFire, OverMeans, PoolSpikes, *WEIGHTS)):
            _expect_images_first(target, len(images), str(node.target))
        if isinstance(layer, (IntegrateFire, *WEIGHTS)):
            _expect_finite(target, str(node.target))
            arriving = spiking.env[node.all_input_nodes[0]].unflatten(0, (steps, -1))
            if isinstance(layer, IntegrateFire):
                if not isinstance(analog.submodules[node.target], Staircase):
                    set_thresholds(layer, arriving, target, options)
            elif options.correct != "none" and not exact:
                correct(layer, str(node.target), arriving.mean(0), target, options)
        spiking.env[node] = spiking.run_node(node)
        if isinstance(layer, IntegrateFire):
            kind = type(analog.submodules[node.target]).__name__
            errors.append(_error(str(node.target), kind, layer, target, spiking.env[node]))
        for interpreter, one in ((analog, twin), (spiking, node)):
            for used in interpreter.user_to_last_uses.get(one, []):
                del interpreter.env[used]
    return errors


def set_thresholds(neurons: IntegrateFire, currents: Tensor, activations: Tensor, options: Calibration) -> None:
    """Find the thresholds of a layer.

    Args:
        neurons: The layer; changed in place.
        currents: Its input at each step, (T, N, …).
        activations: What its mean output should be, (N, …).
        options: How.
    """
    rows = _rows(neurons, activations)
    # Places drawn by chance: every n-th one would be the same columns of each map.
    chosen = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(0))[:SAMPLES].sort().values
    current = torch.stack([_rows(neurons, current)[:, chosen] for current in currents]).float()  # (T, C, samples)
    activation = rows[:, chosen].float()
    if options.thresholds == "maximum":
        scale = rows.float().amax(1).clamp(min=0)
    else:
        scale = torch.quantile(activation.clamp(min=0), options.percentile / 100, dim=1)
    whole = scale.max().clamp(min=1e-6)
    scale = torch.where(scale > 1e-3 * whole, scale, whole)  # channels that are never active do not matter
    if options.thresholds == "error":
        sizes = [share * scale / neurons.population for share in SHARES]
        errors = torch.stack([_spread_of_error(current, activation, one, neurons.population, options) for one in sizes])
        scale = scale * SHARES.to(scale)[errors.argmin(0)]
    neurons.raw_threshold.copy_((scale if neurons.raw_threshold.ndim else scale[0]).log())


def _rows(neurons: IntegrateFire, x: Tensor) -> Tensor:
    """Sort (N, …) by what shares a threshold: (C, samples), or (1, samples)."""
    return x.movedim(neurons.axis, 0).flatten(1) if neurons.raw_threshold.ndim else x.reshape(1, -1)


def _spread_of_error(
    currents: Tensor, activation: Tensor, size: Tensor, population: int, options: Calibration
) -> Tensor:
    """Mean square of the error of each channel with spikes of a size, (C,); less its mean if that will be corrected.

    The neurons' steps are gone through one by one, since how unevenly spikes arrive is a part of the error.
    """
    potential, spikes = torch.full_like(activation, 0.5), torch.zeros_like(activation)
    for current in currents:
        potential += current / size[:, None]
        fired = (potential - 1).ceil_().clamp_(0, population)
        potential -= fired
        spikes += fired
    error = spikes * size[:, None] / len(currents) - activation
    return error.square().mean(1) if options.correct == "none" else error.var(1, correction=0)


def correct(layer: _ConvNd | nn.Linear, path: str, mean: Tensor, target: Tensor, options: Calibration) -> None:
    """Change a weight layer so that its mean output comes closest to what it should be.

    Args:
        layer: Convolution or linear layer; changed in place.
        path: Its path.
        mean: Its mean input, (N, …).
        target: What its mean output should be.
        options: How.

    Raises:
        OnespikeError: The pull towards the old weights is too weak for these images.
    """
    axis = -1 if isinstance(layer, nn.Linear) and not isinstance(layer, ChannelLinear) else 1
    missing = (target - layer(mean)).movedim(axis, -1)  # (N, …, C_out)
    offset = missing.flatten(0, -2).cpu().double().mean(0)
    if options.correct == "weights" and _is_matrix(layer):
        gram, product, centre = _moments(layer, mean, missing - offset.to(missing))
        gram.diagonal().add_(options.ridge * gram.diagonal().mean() + 1e-12)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if failed:
            raise OnespikeError(
                f"calibration: no weights of layer {path} are the best with ridge {options.ridge}: raise it, or use "
                "more images"
            )
        change = torch.cholesky_solve(product, factor)  # (columns, C_out)
        layer.weight += change.T.reshape(layer.weight.shape).to(layer.weight)
        offset = offset - centre @ change
    layer.bias += offset.to(layer.bias)


def _moments(layer: nn.Module, mean: Tensor, missing: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the best change of a weight matrix is computed from, in double precision, without all columns at once.

    Args:
        layer: A layer whose weights are a matrix.
        mean: Its mean input, (N, …).
        missing: What its output lacks, of mean 0, (N, …, C_out).

    Returns:
        Sums over all samples: the columns' products with each other about their mean, (columns, columns), those with
        what is missing, (columns, C_out); the columns' mean.
    """
    first = _columns(layer, mean[:1])
    origin, images = first.mean(0), max(CHUNK // first.numel(), 1)  # near the mean, so that little cancels
    # Added up on the CPU: not every device has double precision.
    count, sums, gram, product = 0, *(torch.zeros((), dtype=torch.float64) for _ in range(3))
    for part, lack in zip(mean.split(images), missing.split(images), strict=True):
        columns = _columns(layer, part) - origin
        count += len(columns)
        sums = sums + columns.sum(0).cpu().double()
        gram = gram + (columns.T @ columns).cpu().double()
        product = product + (columns.T @ lack.flatten(0, -2)).cpu().double()
    shift = sums / count
    return gram - count * torch.outer(shift, shift), product, origin.cpu().double() + shift


def _is_matrix(layer: nn.Module) -> bool:
    """Whether a layer multiplies by its weights alone, and as one matrix.

    A subclass may do something to its weights, or pad in a way of its own, before it multiplies.
    """
    if type(layer) is not nn.Conv2d:
        return type(layer) in (nn.Linear, ChannelLinear)
    return layer.groups == 1 and layer.padding_mode == "zeros" and layer.padding != "same"


def _columns(layer: nn.Module, mean: Tensor) -> Tensor:
    """What a weight matrix multiplies, (samples, columns)."""
    if isinstance(layer, nn.Conv2d):
        padding = 0 if isinstance(layer.padding, str) else layer.padding  # "valid"
        columns = F.unfold(mean, layer.kernel_size, layer.dilation, padding, layer.stride)
        return columns.movedim(1, -1).flatten(0, 1)
    return (mean.movedim(1, -1) if isinstance(layer, ChannelLinear) else mean).flatten(0, -2)


def _error(path: str, kind: str, neurons: IntegrateFire, target: Tensor, out: Tensor) -> LayerError:
    mean = out.unflatten(0, (neurons.time_steps, -1)).mean(0)
    fired = (out / spread(neurons.threshold, neurons.axis, out)).mean().item()
    distance = (mean - target).norm() / target.norm().clamp(min=1e-12)
    cosine = F.cosine_similarity(mean.flatten(), target.flatten(), dim=0)
    return LayerError(path, kind, neurons.threshold.mean().item(), distance.item(), cosine.item(), fired)


def _expect_finite(values: Tensor, path: str) -> None:
    if not values.isfinite().all():
        raise OnespikeError(f"calibration: layer {path} of the artificial network gives values that are not finite")


def _expect_images_first(values: Any, images: int, path: str) -> None:
    """Make sure that time, which is laid along the first axis before the images, can be told from what is there."""
    first = values[0] if isinstance(values, tuple) else values
    if len(first) % images:
        raise OnespikeError(
            f"cannot be converted: {path} has {len(first)} along its first axis with {images} images; expected the "
            "images there (batch_first)"
        )
