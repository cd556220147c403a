"""Calibration: find thresholds and correct weight layers, layer by layer, on training images.

The artificial and the spiking network run through the same graph side by side. When a layer's turn comes, all layers
before it already spike, so that each layer also corrects, as far as it can, the errors of those before.

    neurons         thresholds that bring the firing rates closest to the activations
    weight layers   a bias, or weights by least squares, that bring their outputs closest to the artificial ones
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from onespike.conversion.config import Calibration
from onespike.conversion.correct import correct
from onespike.conversion.kinds import WEIGHTS, reached_by_images
from onespike.conversion.network import ConvertedNetwork
from onespike.conversion.trace import taking
from onespike.errors import OnespikeError
from onespike.neurons.integrate_fire import QCFS, IntegrateFire

#: Thresholds that are tried, as shares of the percentile.
SHARES = torch.cat([torch.linspace(0.05, 1.0, 39), torch.tensor([1.15, 1.3, 1.5])])
SAMPLES = 4096  # values sampled of each channel for the search
CACHED = 2**17  # values that neurons and the search take at once, to stay in the processor's cache (3 times as fast)


@dataclass(frozen=True)
class LayerError:
    """The error of one layer of neurons on the calibration images.

    Attributes:
        layer: Path of the layer.
        activation: The activation that the neurons replace.
        thresholds: How many thresholds there are: one for each channel, or one for all.
        threshold: Mean of the thresholds.
        relative_l2: Norm of the difference of mean output and activation, over that of the activation.
        cosine: Cosine of the angle between the two.
        firing_rate: Spikes per neuron and time step, 0..1.
    """

    layer: str
    activation: str
    thresholds: int
    threshold: float
    relative_l2: float
    cosine: float
    firing_rate: float


@torch.no_grad()
def calibrate(network: ConvertedNetwork, images: Tensor, options: Calibration) -> list[LayerError]:
    """Find a network's thresholds and correct its weight layers, in place; returns the error of each layer of neurons.

    Neurons that replace a QCFS already have their thresholds. If time steps times neurons are the levels of every QCFS,
    the expected error is 0, and nothing is corrected. A value that is not finite is an `OnespikeError`.
    """
    reference, steps, errors = network.analog(), network.time_steps, []
    analog, spiking = fx.Interpreter(reference), fx.Interpreter(network.body)
    analog.args_iter, spiking.args_iter = iter([images]), iter([images.repeat(steps, *[1] * (images.ndim - 1))])
    pairs = [(neurons, analog.submodules[path]) for path, neurons in network.neurons.items()]
    exact = all(isinstance(one, QCFS) and one.levels == steps * neurons.population for neurons, one in pairs)
    reached, approximate = reached_by_images(network.body.graph), set[fx.Node]()
    for node, twin in zip(network.body.graph.nodes, reference.graph.nodes, strict=True):
        with taking(len(images), (RuntimeError, AssertionError)):  # shapes that do not fit
            target = analog.env[twin] = analog.run_node(twin)
        path = str(node.target)
        layer = spiking.submodules[path] if node.op == "call_module" and node in reached else None
        if isinstance(layer, IntegrateFire) or approximate.intersection(node.all_input_nodes):
            approximate.add(node)
        if isinstance(layer, (IntegrateFire, *WEIGHTS)):
            arriving = spiking.env[node.all_input_nodes[0]]
            _expect_finite(target, f"layer {path} of the artificial network gives")
            _expect_finite(arriving, f"layer {path} of the spiking network reads")
            if isinstance(layer, IntegrateFire):
                if not isinstance(analog.submodules[path], QCFS):
                    set_thresholds(layer, arriving.unflatten(0, (steps, -1)), target, options)
            elif options.correct != "none" and node in approximate and not exact:
                if len(node.args) + len(node.kwargs) > 1:
                    wish = "expected output_padding in place of output_size, or --calibration.correct none"
                    raise OnespikeError(f"calibration: layer {path} takes more than its input: {wish}")
                ridge = options.ridge if options.correct == "weights" else None
                correct(layer, path, _mean(arriving, steps), target, ridge)
        if steps == 1 and node not in approximate:
            out = target
        elif steps == 1 and isinstance(layer, IntegrateFire):
            out = torch.cat([layer(part) for part in arriving.split(max(CACHED // arriving[0].numel(), 1))])
        else:
            with taking(steps * len(images), (RuntimeError, AssertionError)):
                out = spiking.run_node(node)
        spiking.env[node] = out
        if node.op == "output":
            _expect_finite(out, "the spiking network gives")
        if isinstance(layer, IntegrateFire):
            errors.append(_error(path, type(analog.submodules[path]).__name__, layer, target, out))
        for interpreter, one in ((analog, twin), (spiking, node)):
            for used in interpreter.user_to_last_uses.get(one, []):
                del interpreter.env[used]
    return errors


def set_thresholds(neurons: IntegrateFire, currents: Tensor, activations: Tensor, options: Calibration) -> None:
    """Find a layer's thresholds, from its currents, (T, N, …), and the mean output that it should have, (N, …)."""
    every = _rows(neurons, activations)
    # Random places: every n-th one would be in the same columns of each map.
    chosen = torch.randperm(every[0].numel(), generator=torch.Generator().manual_seed(0))[:SAMPLES].sort().values
    places: Any = (slice(None), *torch.unravel_index(chosen.to(every.device), every.shape[1:]))
    current = torch.stack([_rows(neurons, current)[places] for current in currents]).float()  # (T, C, samples)
    activation = every[places].float()
    most = scale = every.amax(list(range(1, every.ndim))).float().clamp(min=0)
    if options.thresholds != "maximum":
        scale = torch.quantile(activation.clamp(min=0), options.percentile / 100, dim=1)
        scale = torch.where(scale > most / 100, scale, most)  # of channels that are seldom active
    loudest = scale.max() if scale.any() else torch.ones_like(scale.max())
    scale = torch.where(scale > 0, scale, loudest)  # of channels that are never active
    if options.thresholds == "error":
        rows = max(CACHED // activation.shape[1], 1)
        parts = zip(current.split(rows, 1), activation.split(rows), scale.split(rows), strict=True)
        scale = torch.cat([_with_least_error(*part, neurons.population, options) for part in parts])
    neurons.raw_threshold.copy_((scale if neurons.raw_threshold.ndim else scale[0]).log())


def _rows(neurons: IntegrateFire, x: Tensor) -> Tensor:
    """View (N, …) with the axis of the thresholds in front: (C, N, …), or (1, N, …)."""
    return x.movedim(neurons.axis, 0) if neurons.raw_threshold.ndim else x.unsqueeze(0)


def _with_least_error(currents: Tensor, target: Tensor, scale: Tensor, population: int, options: Calibration) -> Tensor:
    """The thresholds, among shares of a scale (C,), whose spikes come nearest to a target (C, samples)."""
    errors = []
    for share in SHARES:
        size = (share * scale / population)[:, None]
        potential, spikes = torch.full_like(target, 0.5), torch.zeros_like(target)
        for current in currents:  # step by step: unevenly timed currents are a part of the error
            potential += current / size
            fired = (potential - 1).ceil_().clamp_(0, population)
            potential -= fired
            spikes += fired
        error = spikes * size / len(currents) - target
        if options.correct != "none":
            error -= error.mean(1, keepdim=True)  # a bias corrects it
        errors.append(error.square().mean(1))
    found = scale * SHARES.to(scale)[torch.stack(errors).argmin(0)]
    return torch.where((target > 0).any(1), found, scale)  # where no sample is active, all shares are as good


def _error(path: str, kind: str, neurons: IntegrateFire, target: Tensor, out: Tensor) -> LayerError:
    mean, thresholds = _mean(out, neurons.time_steps), neurons.threshold
    others = [axis for axis in range(out.ndim) if axis != neurons.axis % out.ndim]
    rate = (out.mean(others) / thresholds if thresholds.ndim else out.mean() / thresholds).mean()
    distance = (mean - target).norm() / target.norm().clamp(min=1e-12)
    cosine = torch.dot(mean.flatten(), target.flatten()) / (mean.norm() * target.norm()).clamp(min=1e-12)
    numbers = [one.item() for one in (thresholds.mean(), distance, cosine, rate)]
    return LayerError(path, kind, thresholds.numel(), *numbers)


def _mean(x: Tensor, time_steps: int) -> Tensor:
    """The mean over time, (N, …), of (T*N, …)."""
    return x if time_steps == 1 else x.unflatten(0, (time_steps, -1)).mean(0)


def _expect_finite(values: Tensor, what: str) -> None:
    if values.numel() and not torch.stack(values.aminmax()).isfinite().all():  # several times as fast as all of them
        raise OnespikeError(f"calibration: {what} values that are not finite")
