"""The cost of a forward pass, with a gradient to train for it: synaptic operations and energy.

For each weight layer that reads spikes, the spikes that it reads are counted, whatever made them: a neuron, a Bernoulli
encoding, overlapping windows. Their sum, each times the number of weights that it meets, is what `onespike audit`
counts as synaptic operations; its gradient reaches the network through the surrogates. The audit's counter tells which
layers read spikes, how large a spike is, and what a layer costs counted dense.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from onespike.conversion.kinds import channel_axis
from onespike.counting.counter import ProductCounter
from onespike.counting.energy import EnergyTable
from onespike.counting.products import Product, Tally
from onespike.errors import OnespikeError
from onespike.models.strict_layers import Head
from onespike.neurons.watch import aside
from onespike.tensors import wide
from onespike.training.spike_sizes import SpikeSizes

_PRICES = EnergyTable.load().operations["fp32"]
#: The field's convention, in joule.
ACCUMULATE = 1e-12 * _PRICES["add"]
MULTIPLY_ACCUMULATE = 1e-12 * (_PRICES["multiply"] + _PRICES["add"])
#: What a whole training adds to the penalty's weight if the spikes take twice what the energy budget leaves for them.
ASCENT = 20.0
#: Images of noise that the network is run on; how far rounding may move a whole number.
NOISE, _WHOLE = 4, 1e-3


class Cost(NamedTuple):
    """Mean cost of a batch's images: synaptic operations, their share of all dense MACs, energy (field's)."""

    operations: Tensor
    share: Tensor
    joules: Tensor


class _Reader(NamedTuple):
    """A weight layer that reads spikes."""

    # Size of one spike, or one for each channel, in a shape that broadcasts to the input. `SpikeSizes` knows better.
    size: float | Tensor
    axis: int | None  # of channels whose sizes, maybe learned, are read from the input; None: `size` holds
    macs: float  # dense multiply-accumulates for each input value


class CostMeter:
    """Counts the cost of the forward passes inside `watch()`.

    Convolutions, linear and recurrent layers that read spikes are counted at each pass. Everything else keeps the cost
    found at the start: layers that read real values their dense count, products of two spiking activations none. Other
    products of spikes and weights, which no hook sees, are an `OnespikeError`.

    Args:
        network: Any network, on its device. It is run on noise once, to see which layers read spikes, and of what size.
        image: Shape of an image, (C, H, W), or of frames, (T, C, H, W).
    """

    def __init__(self, network: nn.Module, image: tuple[int, ...]) -> None:
        self._readers: dict[nn.Module, _Reader] = {}
        self._macs = real = 0.0
        modules = dict(network.named_modules())
        found = [(key[:3], one, one.conclude(NOISE)) for key, one in look(network, image).items()]
        self._sizes = SpikeSizes(network, image)
        real_values = [key for key, _, product in found if product.arrives == "real"]
        dense = {key for key in real_values if not self._sizes.proves(modules[key[0]])}
        signed = any(getattr(module, "signed", False) for module in modules.values())
        for key, tally, product in found:
            (path, name, _), layer = key, modules[key[0]]
            self._macs += product.macs
            if key in dense:  # real in one of its calls: a pass cannot tell which call it is
                real += product.macs
            elif signed and getattr(layer, "adds_up", 1) > 1:
                state = "training adds up the spikes of tied neurons, of which those of different signs cancel out"
                remedy = "set model.tied false, or both to 0"
                raise OnespikeError(f"train.rate_penalty and train.energy_budget: {state}: {remedy}")
            elif isinstance(layer, _ConvNd | nn.Linear) or (isinstance(layer, nn.RNNBase) and name == "input"):
                self._readers[layer] = _reader(layer, tally, product)
            elif product.weights and product.rate:
                where = f"{path or 'the network itself'} ({type(layer).__name__})"
                remedy = "expected nn.Linear, convolutions, nn.RNN, nn.LSTM or nn.GRU: make it one, or set both to 0"
                options = "which train.rate_penalty and train.energy_budget cannot count"
                raise OnespikeError(f"{where} reads spikes by a product of its own, {options}: {remedy}")
        self.least = MULTIPLY_ACCUMULATE * real  # joule for one image, even if no neuron fires

    @property
    def reads_spikes(self) -> bool:
        """Whether any layer reads spikes; if none does, there is nothing to save."""
        return bool(self._readers)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Count during the forward passes inside this context, from 0."""
        self._operations, self._accumulates = list[Tensor](), list[Tensor]()
        with ExitStack() as stack:
            for layer in self._readers:
                stack.callback(layer.register_forward_pre_hook(self._count, with_kwargs=True).remove)
            yield

    def read(self, images: int) -> Cost:
        """Mean cost of an image, over the `images` that passed in the last `watch()`."""
        none = [torch.zeros(())]
        operations, accumulates = (torch.stack(found or none).sum() for found in (self._operations, self._accumulates))
        joules = ACCUMULATE * accumulates / images + self.least
        return Cost(operations / images, operations / (images * self._macs), joules)

    def _count(self, layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        x, reader = (*inputs, *named.values())[0], self._readers[layer]
        x = layer.reads(x) if isinstance(layer, Head) else x
        with torch.autocast(x.device.type, enabled=False):
            size = self._sizes.of(layer) if self._sizes.known(layer) else reader.size
            if reader.axis is not None and not self._sizes.known(layer):
                others = [axis for axis in range(x.ndim) if axis != reader.axis + x.ndim]
                peak = x.detach().abs().amax(others, keepdim=True).float()
                size = torch.where(peak > 0, peak, size)
            spikes = wide(x) / size
            spikes = spikes.abs() if (spikes < 0).any() else spikes  # |0| has no gradient, and 0 has one
            if isinstance(layer, _ConvNd) and spikes.ndim > len(layer.kernel_size) + 2:  # SpikingJelly's: (T, B, C, …)
                spikes = spikes.flatten(0, 1)
            if isinstance(layer, _ConvNd) and layer.padding_mode != "zeros":  # padding repeats spikes
                spikes = F.pad(spikes, layer._reversed_padding_repeated_twice, layer.padding_mode)
            self._operations.append(_met(layer, spikes))
            self._accumulates.append(spikes.sum() * reader.macs)


@torch.no_grad()
def look(network: nn.Module, image: tuple[int, ...]) -> dict[tuple[str, str, object, bool], Tally]:
    """Run a network on `NOISE` images of noise and count; the run's random state stays as it is."""
    like, counter = next(network.parameters()), ProductCounter(network)
    with aside(network):
        torch.manual_seed(0)
        images = torch.randn((NOISE, *image), device=like.device, dtype=like.dtype)
        images = images.transpose(0, 1) if images.ndim == 5 else images
        with counter.watch():
            network(images)
    return counter.tallies


def _reader(layer: nn.Module, tally: Tally, product: Product) -> _Reader:
    """Describe a layer that reads spikes, as it was found."""
    channels, sizes, step = channel_axis(layer), tally.left.arrivals.sizes, product.step
    size: float | Tensor = step if step is not None else 1.0
    if sizes is not None:
        size = sizes.view(-1, *[1] * (-1 - channels)).to(next(layer.parameters()).device)
    # A spike is 1, or a whole fraction of it where windows overlap; any other size is a threshold.
    own = sizes is not None or (step is not None and abs(1 / step - round(1 / step)) > _WHOLE)
    axis = channels if own and product.arrives != "graded" else None
    return _Reader(size, axis, product.macs / product.inputs)


def _met(layer: nn.Module, spikes: Tensor) -> Tensor:
    """Number of weights that all spikes meet together; at the border of a map they meet fewer."""
    if isinstance(layer, nn.RNNBase):
        return spikes.sum() * (len(layer.get_parameter("weight_ih_l0")) * (1 + layer.bidirectional))
    if isinstance(layer, _ConvNd):
        axes = len(layer.kernel_size)
        ones = spikes.new_ones(1, 1, *layer.kernel_size)  # the same convolution, with weights of 1
        spikes = spikes.sum(-1 - axes, keepdim=True)
        padding: Any = layer.padding if layer.padding_mode == "zeros" else 0
        rest = (layer.output_padding, 1, layer.dilation) if layer.transposed else (layer.dilation,)
        convolve = getattr(F, f"conv_transpose{axes}d" if layer.transposed else f"conv{axes}d")
        return convolve(spikes, ones, None, layer.stride, padding, *rest).sum() * (layer.out_channels // layer.groups)
    assert isinstance(layer, nn.Linear)
    return spikes.sum() * layer.out_features
