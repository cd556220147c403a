"""One block: windows, spikes, unit, recompose, residual; then the channel MLP, residual."""

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

from onespike.functional import constant_mask, encode, partition, recompose, region_threshold, uniform
from onespike.functional.kernels import is_traced
from onespike.functional.window import window_count, window_kind_at, window_side
from onespike.models.recompute import recomputed
from onespike.neurons import NeuronConfig, make_neuron
from onespike.units.base import Memory
from onespike.units.channel import ChannelLinear, Norm
from onespike.units.layers import GELU
from onespike.units.registry import UNITS

if TYPE_CHECKING:
    from onespike.models.onespike import OnespikeConfig

#: Normalisations by name: functions of the number of channels, for the inside, the end and the start of a branch.
NORMS: dict[str, tuple[Norm, Norm, Norm]] = {
    "none": (nn.Identity, nn.Identity, nn.Identity),
    "batch": (nn.BatchNorm2d, nn.BatchNorm2d, nn.Identity),
    "before": (nn.BatchNorm2d, nn.Identity, nn.BatchNorm2d),
}


class BlockState(NamedTuple):
    """State of a block between time steps: the unit's memory, and the dropout mask if there is one."""

    memory: Memory
    mask: Tensor | None


class Block(nn.Module):
    """A spiking unit inside windows and a channel MLP, each with a residual connection, on maps of side `size`.

    `window_kind` is a name in `WINDOW_KINDS`; on a side that is no multiple of 4, dilated windows become average ones.
    """

    def __init__(self, channels: int, size: int, window_kind: str, config: "OnespikeConfig") -> None:
        super().__init__()
        (norm, norm_behind, norm_before), neuron = NORMS[config.norm], config.neuron
        self.size, self.channels = size, channels
        self.window_kind = window_kind_at(window_kind, size)
        self.encoding, self.dropout = config.encoding, config.dropout
        self.region_threshold = config.region_threshold if self.window_kind == "dilated" else None
        self.signed = neuron.neuron.signed
        self.norm = norm_before(channels)
        self.encoder = make_neuron(channels, neuron, integrates=False) if self.encoding == "threshold" else None
        self.unit = UNITS[config.unit](channels, config.units, norm)
        self.fc = nn.Sequential(ChannelLinear(self.unit.out_channels, channels), norm_behind(channels))
        firing = neuron if config.mlp_activation == "spiking" else None
        self.mlp = ChannelMlp(channels, config.mlp_ratio, NORMS[config.norm], firing)

    def branch_ends(self) -> list[ChannelLinear]:
        """The last linear layer of each of the two residual branches."""
        return [cast("ChannelLinear", layer) for layer in (self.fc[0], self.mlp[4])]

    def draw_shape(self, batch: int) -> tuple[int, ...]:
        """Shape (V, B, C, M, M) of the uniform draws that this block's encoding consumes at one time step."""
        side = window_side(self.size, self.window_kind)
        return window_count(self.window_kind), batch, self.channels, side, side

    def forward(
        self,
        x: Tensor,
        potential: Tensor | None = None,
        state: BlockState | None = None,
        draws: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor | None, BlockState]:
        """Run the block for one time step; returns the residual stream, the potential map (if any) and the next state.

        Args:
            x: The residual stream, (B, C, L, L).
            potential: The travelling potential map of the previous block, (B, C, L, L), if the unit has one.
            state: This block's state after the previous time step; None at the first.
            draws: Uniform draws for the Bernoulli encoding, (V, B, C, M, M); drawn here if None.
            generator: Source of all draws; the global generator if None.
        """
        windows = partition(self.norm(x), self.window_kind)  # (V, B, C, M, M)
        if draws is None and self.encoding.startswith("bernoulli"):
            draws = uniform(windows, windows.shape, generator)
        mask = state.mask if state else None
        if state is None and self.training and self.dropout > 0:
            mask = constant_mask(uniform(windows, windows.shape[1:], generator), self.dropout).to(windows.dtype)
        if self.encoder is None:
            spikes = encode(windows, self.encoding, draws, mask=mask)
        else:
            spikes = self.encoder(windows) if mask is None else self.encoder(windows) * mask
        incoming = None if potential is None else partition(potential, self.window_kind)
        out = self.unit(spikes, incoming, state.memory if state else None)
        recomposed = recompose(out.spikes, self.size, self.window_kind)  # (B, C, L, L)
        if self.region_threshold is not None:
            recomposed = region_threshold(recomposed, self.region_threshold, self.signed)
        x = x + self.fc(recomposed)
        x = x + self.mlp(x)
        if out.potential is not None:
            potential = recompose(out.potential, self.size, self.window_kind)
        return x, potential, BlockState(out.memory, mask)


def after_norm(norm: nn.Module, neuron: nn.Module | None) -> nn.Module:
    """Put neurons after a normalisation; an identity, or neurons that are None, are left out."""
    if neuron is None:
        return norm
    return neuron if isinstance(norm, nn.Identity) else nn.Sequential(norm, neuron)


class ChannelMlp(nn.Sequential):
    """Linear, GELU, linear, pixel by pixel; with a `neuron`: fire, linear, fire, linear. `norms` is one of `NORMS`."""

    #: Whether all of it runs again in the backward pass; then nothing is kept, and nothing has to be recomputed.
    runs_again = False

    def __init__(
        self, channels: int, ratio: int, norms: tuple[Norm, Norm, Norm], neuron: NeuronConfig | None = None
    ) -> None:
        hidden, (norm, norm_behind, norm_before) = ratio * channels, norms
        super().__init__(
            after_norm(norm_before(channels), make_neuron(channels, neuron, integrates=False) if neuron else None),
            ChannelLinear(channels, hidden),
            norm(hidden),
            GELU() if neuron is None else make_neuron(hidden, neuron, integrates=False),
            ChannelLinear(hidden, channels),
            norm_behind(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, L, L) to (B, C, L, L)."""
        first, linear1, norm1, between, linear2, norm2 = self
        before = norm1(linear1(first(x)))
        after = between(before)
        if self.runs_again or not isinstance(between, nn.GELU) or is_traced():
            return norm2(linear2(after))
        # The second linear layer's gradient needs `after`, which is wide; `before` is kept anyway.
        with recomputed(after, lambda: between(before.detach())):
            return norm2(linear2(after))
