"""The engine's network: the forward pass of `onespike.models.Network` on bytes; one time step, no gradients."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onespike.errors import OnespikeError, unknown
from onespike.inference.layers import Fire, IntegerLinear, RealLinear, fold, is_affine
from onespike.inference.units import Arithmetic, EngineConvUnit, EngineTravellingUnit, Windows, between, linear
from onespike.models import Block, Network, OnespikeConfig
from onespike.models.patch import Merging
from onespike.neurons import LIF, Neuron
from onespike.neurons.copies import copied
from onespike.training.checkpoint import ModelCard
from onespike.units import ConvUnit
from onespike.units.channel import ChannelLinear
from onespike.units.layers import GELU
from onespike.units.tokens import Recurrent, TravellingUnit

#: Arithmetic by the bits of the weights that meet spikes.
PRECISIONS = {"int8": Arithmetic(1, torch.bfloat16), "int16": Arithmetic(2, torch.float32)}


def _refusal(network: nn.Module) -> str:
    """Why the engine does not run a network, such as one over several time steps; nothing if it does."""
    if type(network) is not Network:  # its forward pass may be another
        return f"expected the library's own network, got a {type(network).__name__}"
    config = network.config
    if config.neuron.name != "lif" or config.encoding == "direct":
        got = f"neuron {config.neuron.name} and encoding {config.encoding}"
        return f"expected a network of the neuron lif whose units read spikes, got {got}"
    units = (block.unit for block in network.layers if isinstance(block, Block))
    own = {f"neuron {config.neuron.name}": config.neuron.neuron is LIF, f"unit {config.unit}": all(map(_is_own, units))}
    for name, is_ours in own.items():
        if not is_ours:
            return f"expected the library's own neuron and unit, got a {name} of another's"
    if config.time_steps != 1:
        return f"expected a network of one time step, got {config.time_steps}"
    if config.norm == "before" or config.stem == "conv":
        got = f"norm {config.norm} and stem {config.stem}"
        return f"expected norm none or batch and stem patch, got {got}; onespike export takes it"
    return ""


def _is_own(unit: nn.Module) -> bool:
    """Whether a unit is made of what the engine knows."""
    if type(unit) is ConvUnit:
        return is_affine(unit.norm1) and is_affine(unit.norm2)
    if type(unit) is not TravellingUnit or not is_affine(unit.norm):
        return False
    layers = [*unit.layer.children()]
    is_mlp = len(layers) == 4 and all(isinstance(layers[k], ChannelLinear) for k in (0, 3))
    return (is_mlp and is_affine(layers[1]) and type(layers[2]) in (GELU, LIF)) or type(unit.layer) is Recurrent


def takes(network: nn.Module) -> bool:
    """Whether the engine can run a network."""
    return not _refusal(network)


class Engine(nn.Module):
    """A trained network, for inference on a CPU.

    Args:
        network: The network to take over; it is not changed.
        precision: A name in `PRECISIONS`.

    Raises:
        OnespikeError: The engine cannot run this architecture, or the precision is unknown.
    """

    #: The card of its model, with class names and normalisation; only an engine that was loaded has one.
    card: ModelCard | None = None

    def __init__(self, network: Network, precision: str = "int8") -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
        self.precision, arithmetic = precision, PRECISIONS[precision]
        if refusal := _refusal(network):
            raise OnespikeError(f"optimise: {refusal}")
        network = copied(network)  # some layers are taken over as they are
        self.in_channels, self.image_size = network.in_channels, network.image_size
        weight, bias = fold(*network.stem)
        self.stem_weight = nn.Buffer(weight.contiguous(memory_format=torch.channels_last))
        self.stem_bias = nn.Buffer(bias)
        self.layers = nn.ModuleList(
            EngineBlock(layer, network.config, arithmetic)
            if isinstance(layer, Block)
            else EngineMerging(layer, arithmetic)  # type: ignore[arg-type]
            for layer in network.layers
        )
        self.readout = Fire(network.readout) if isinstance(network.readout, Neuron) else None
        in_float32 = arithmetic._replace(real=torch.float32)
        self.head = linear(network.head, nn.Identity(), self.readout is not None, in_float32)
        self.eval()

    def blocks(self) -> "list[EngineBlock]":
        """All blocks, in the order in which they run."""
        return [layer for layer in self.layers if isinstance(layer, EngineBlock)]

    @torch.inference_mode()
    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Classify normalised images (B, C, H, W), float32; logits (B, K). `generator` is for a Bernoulli encoding."""
        channels, side = self.in_channels, self.image_size
        kind = images.shape[1:], images.dtype, images.device  # PyTorch's own products end the process on another device
        if kind != ((channels, side, side), torch.float32, self.stem_weight.device):
            expected = f"(B, {channels}, {side}, {side}), torch.float32, on the CPU"
            found = f"{tuple(images.shape)}, {images.dtype}, on {images.device}"
            raise ValueError(f"images: expected {expected}, got {found}")
        if not len(images):
            return images.new_empty(0, len(self.head.bias))  # type: ignore[arg-type]
        images = images.contiguous(memory_format=torch.channels_last)
        stride = self.stem_weight.shape[-1]
        # With one channel, the convolution's maps are not channels-last; the layers add to x in place.
        x = F.conv2d(images, self.stem_weight, self.stem_bias, stride).movedim(1, -1).contiguous()  # (B, L, L, C)
        potential = None
        for layer in self.layers:
            x, potential = layer(x, potential, generator)
        return self.head(x.mean((1, 2))) if self.readout is None else self.head(self.readout(x)).mean((1, 2))


class EngineBlock(nn.Module):
    """A block of the engine: windows of bytes, unit, recompose, residual; then the channel MLP, residual."""

    def __init__(self, block: Block, config: OnespikeConfig, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.windows, self.whole = Windows(block.size, block.window_kind), block.region_threshold
        self.encoder = Fire(block.encoder) if block.encoder is not None else None
        self.unit: EngineConvUnit | EngineTravellingUnit
        if isinstance(block.unit, ConvUnit):
            self.unit = EngineConvUnit(block.unit, self.windows.side, arithmetic)
        else:
            assert isinstance(block.unit, TravellingUnit)
            self.unit = EngineTravellingUnit(block.unit, arithmetic)
        self.fc = IntegerLinear(block.fc[0], block.fc[1], arithmetic.terms)  # type: ignore[arg-type]
        first, linear1, norm1, middle, linear2, norm2 = block.mlp
        spiking = config.mlp_activation == "spiking"
        into, out = (linear(*pair, spiking, arithmetic) for pair in ((linear1, norm1), (linear2, norm2)))  # type: ignore[arg-type]
        self.mlp = nn.Sequential(*([Fire(first)] if spiking else []), into, between(middle), out)  # type: ignore[arg-type]

    def forward(
        self, x: Tensor, potential: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """Map the residual stream (B, L, L, C), and the travelling potentials if there are any, to the next block's."""
        spikes = self.windows.cut(x if self.encoder is None else self.encoder(x))
        if self.encoder is None:
            spikes = (spikes > torch.rand(spikes.shape, generator=generator)).view(torch.uint8)
        out, handed = self.unit(spikes, None if potential is None else self.windows.cut(potential))
        x = self._recomposed(out, x)
        return x + self.mlp(x), None if handed is None else self.windows.quarters(handed) / 4

    def _recomposed(self, spikes: Tensor, x: Tensor) -> Tensor:
        """Put windows of spikes (V, B, M, M, C) back into one map, apply `fc`, add to (B, L, L, C) in place."""
        if not self.windows.overlap or (self.whole is not None and self.whole < 0.25):
            return self.fc(self.windows.union(spikes), onto=x)
        quarters = self.windows.quarters(spikes)
        if self.whole is not None:
            quarters.masked_fill_(quarters > 4 * self.whole, 4)
        return self.fc(quarters, 0.25, onto=x)


class EngineMerging(nn.Module):
    """A patch merging of the engine, of the features and of the travelling potentials."""

    def __init__(self, merging: Merging, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.fire = Fire(merging.firing) if merging.firing is not None else None  # type: ignore[arg-type]
        (features, norm), potential = merging.features, merging.potential
        self.features = linear(features.reduction, norm, self.fire is not None, arithmetic)  # type: ignore[arg-type]
        self.potential = None if potential is None else RealLinear(potential.reduction, nn.Identity(), torch.float32)

    def forward(self, x: Tensor, potential: Tensor | None, _: object) -> tuple[Tensor, Tensor | None]:
        """Map (B, L, L, C), and potentials likewise, to maps of side L/2."""
        merged = None if self.potential is None or potential is None else self.potential(_four_pixels(potential))
        return self.features(_four_pixels(x if self.fire is None else self.fire(x))).float(), merged


def _four_pixels(x: Tensor) -> Tensor:
    """Stack 2x2 pixels, column by column: (B, L, L, C) to (B, L/2, L/2, 4C)."""
    return x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5).flatten(3)
