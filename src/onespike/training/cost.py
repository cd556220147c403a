"""What a forward pass costs, so that it can be trained for: synaptic operations and energy, with a gradient.

A spike costs as much as the weights that it meets. So each weight layer that reads spikes is asked for the spikes that
arrive, wherever they were made: in a neuron, in a Bernoulli encoding, in overlapping windows. Their sum, each times the
weights that it meets, is what `onespike audit` counts as synaptic operations; through it the surrogate gradients
of the spikes, or the encoding's own, receive the penalty.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onespike.errors import OnespikeError
from onespike.models import Network

#: The field's convention in joule, 45 nm, 32-bit floating point (Horowitz, ISSCC 2014); as in the audit's energy.yaml.
MULTIPLY_ACCUMULATE, ACCUMULATE = 4.6e-12, 0.9e-12
#: What a whole training adds to the penalty's weight if the spikes take twice what the energy budget leaves for them.
ASCENT = 20.0
#: Spikes are multiples of this: the mean over the four windows that overlap in the middle of a map.
_QUARTER = 0.25
#: Weight layers; what else has weights in a network of spiking blocks is element-wise.
_Weights = nn.Conv2d | nn.Linear | nn.RNNBase


class Cost(NamedTuple):
    """Cost of one image, mean over a batch; all with a gradient.

    Attributes:
        operations: Synaptic operations, one for each spike and weight that it meets.
        share: The same as a share of the dense multiply-accumulates, real-valued layers included.
        joules: Energy by the field's convention.
    """

    operations: Tensor
    share: Tensor
    joules: Tensor


class CostMeter:
    """Counts what the forward passes inside `watch()` cost. Costs nothing outside.

    Args:
        network: The network, on its device. It is shown noise once, to see which of its layers read spikes.
    """

    def __init__(self, network: Network) -> None:
        self._layers = [module for module in network.modules() if isinstance(module, _Weights)]
        self._real: set[nn.Module] = set()
        self._sizes = {block.fc[0]: _QUARTER for block in network.blocks() if _leaves_fractions(block)}
        self._look(network)

    @torch.no_grad()
    def _look(self, network: Network) -> None:
        """Find the layers at which other values than spikes arrive."""

        def see(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            if (inputs[0] / _QUARTER).frac().any():
                self._real.add(layer)

        like = next(network.parameters())
        generator = torch.Generator(like.device).manual_seed(0)  # the run's own draws stay as they are
        shape = (4, network.in_channels, network.image_size, network.image_size)
        images = torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)
        handles = [layer.register_forward_pre_hook(see) for layer in self._layers]
        was_training = network.training
        with self.watch():
            network.eval()(images, generator=generator)
        network.train(was_training)
        for handle in handles:
            handle.remove()
        self.least = MULTIPLY_ACCUMULATE * self._real_macs / len(images)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Count during the forward passes inside this context, from 0."""
        self._operations: list[Tensor] = []
        self._accumulates: list[Tensor] = []
        self._macs = self._real_macs = 0.0
        handles = [layer.register_forward_pre_hook(self._count) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def read(self, images: int) -> Cost:
        """What was counted in the last `watch()`.

        Args:
            images: How many images passed.

        Returns:
            Their mean cost.
        """
        operations, accumulates = (torch.stack(found).sum() for found in (self._operations, self._accumulates))
        joules = ACCUMULATE * accumulates + MULTIPLY_ACCUMULATE * self._real_macs
        return Cost(operations / images, operations / self._macs, joules / images)

    def _count(self, layer: _Weights, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        arriving, kept = _macs(layer, x)
        self._macs += arriving + kept
        self._real_macs += kept
        if layer in self._real:
            self._real_macs += arriving
            return
        with torch.autocast(x.device.type, enabled=False):
            spikes = x.to(torch.promote_types(x.dtype, torch.float32)) / self._sizes.get(layer, 1.0)
            self._operations.append(_met(layer, spikes))
            self._accumulates.append(spikes.sum() * (arriving / x.numel()))


def expect_within_reach(meter: CostMeter, budget: float) -> None:
    """Make sure that an energy budget can be kept by firing less.

    Args:
        meter: The network's.
        budget: The budget in microjoule for one image; 0 for none.

    Raises:
        OnespikeError: What is not spikes alone takes as much.
    """
    if 0 < budget <= 1e6 * meter.least:
        raise OnespikeError(
            f"train.energy_budget: the layers that read real values take {1e6 * meter.least:.4g} µJ an image, however "
            f"little the network fires; expected more, got {budget:g} (--model.preset strict has only a stem of them)"
        )


def _leaves_fractions(block: Any) -> bool:
    """Whether windows overlap in a block and no region threshold makes whole spikes of what they leave there."""
    kept = block.region_threshold is None or block.region_threshold >= _QUARTER
    return block.window_kind == "dilated" and kept


def _macs(layer: _Weights, x: Tensor) -> tuple[float, float]:
    """Dense multiply-accumulates of a batch: of what arrives, and of the state of a recurrent layer."""
    if isinstance(layer, nn.RNNBase):
        weights = {"weight_ih": 0, "weight_hh": 0}
        for name, weight in layer.named_parameters():
            if name[:9] in weights:
                weights[name[:9]] += weight.numel()
        tokens = x.numel() / layer.input_size
        return tokens * weights["weight_ih"], tokens * weights["weight_hh"]
    if isinstance(layer, nn.Conv2d):
        positions = 1
        for axis, size in enumerate(x.shape[-2:]):
            reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
            positions *= (size + 2 * int(layer.padding[axis]) - reach - 1) // layer.stride[axis] + 1
        return float(len(x) * positions * layer.weight.numel()), 0.0
    return x.numel() * layer.out_features, 0.0


def _met(layer: _Weights, spikes: Tensor) -> Tensor:
    """How many weights all spikes meet together; at the border of a map they meet fewer."""
    if isinstance(layer, nn.RNNBase):
        gates = len(layer.get_parameter("weight_ih_l0"))
        return spikes.sum() * (gates * (2 if layer.bidirectional else 1))
    if isinstance(layer, nn.Conv2d):
        ones = spikes.new_ones(1, 1, *layer.kernel_size)  # the same convolution, with weights of 1
        taps = F.conv2d(spikes.sum(1, keepdim=True), ones, None, layer.stride, layer.padding, layer.dilation)
        return taps.sum() * (layer.out_channels // layer.groups)
    return spikes.sum() * layer.out_features
