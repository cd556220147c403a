"""Everything that can be chosen about a network's architecture."""

from dataclasses import dataclass
from typing import Literal

from onespike.errors import OnespikeError
from onespike.units.base import Dynamics


@dataclass(frozen=True)
class ModelConfig(Dynamics):
    """The architecture; by default the paper's CNN-SNN with 12 blocks. Extends `Dynamics`.

    Attributes:
        name: The registered model these values started from.
        unit: The spiking unit inside the blocks: "conv", or a layer over the window's tokens: "lstm" (both ways),
            "lstm-forward", "gru", "bigru", "rnn", "birnn" or "mlp".
        depths: Blocks in each stage.
        channels: Channels of each stage.
        encoding: How the residual stream becomes a block's input spikes: "bernoulli" (drawn anew at every forward pass,
            at test time too; straight-through gradient), "bernoulli-detached" (no gradient), "threshold"
            (deterministic) or "direct" (no spikes: an analog input).
        windows: Windows of the blocks: "alternating" (average, dilated, average, …), or one kind throughout. A map that
            cannot be dilated uses average windows.
        region_threshold: Fractions of a spike above it become whole after a dilated recompose, 0..1; None leaves
            the fractions.
        norm: Normalisation behind each weight layer but the head: "none", or "batch" (statistics over windows, batch
            and map together).
        channel_mlp: The block's second half: "gelu" (real-valued), or "spiking" (threshold, linear, threshold, linear).
        mlp_ratio: Hidden width of the channel MLP, in channels.
        dropout: Share of a unit's input spikes that a constant mask drops in training, 0..1.
        time_steps: How often the network runs on one image; logits are averaged.
    """

    name: str = "conv12"
    unit: Literal["conv", "lstm", "lstm-forward", "gru", "bigru", "rnn", "birnn", "mlp"] = "conv"
    depths: tuple[int, ...] = (2, 2, 6, 2)
    channels: tuple[int, ...] = (48, 96, 192, 384)
    encoding: Literal["bernoulli", "bernoulli-detached", "threshold", "direct"] = "bernoulli"
    windows: Literal["alternating", "average", "dilated"] = "alternating"
    region_threshold: float | None = 0.1
    norm: Literal["none", "batch"] = "none"
    channel_mlp: Literal["gelu", "spiking"] = "gelu"
    mlp_ratio: int = 3
    dropout: float = 0.1
    time_steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.depths) != len(self.channels) or not self.depths:
            raise OnespikeError(
                f"depths and channels: expected one of each per stage, got {self.depths}, {self.channels}"
            )
        counts = (*self.depths, *self.channels, self.mlp_ratio, self.time_steps)
        if not all(isinstance(count, int) and count >= 1 for count in counts):
            raise OnespikeError("depths, channels, mlp_ratio and time_steps: expected whole numbers of at least 1")
        if self.region_threshold is not None and not 0 <= self.region_threshold < 1:
            raise OnespikeError(f"region_threshold: expected 0 <= region_threshold < 1, got {self.region_threshold}")
        if not 0 <= self.dropout < 1:
            raise OnespikeError(f"dropout: expected 0 <= dropout < 1, got {self.dropout}")
        if self.learnable_decay != "none" and self.fusion == "none" and self.time_steps == 1:
            raise OnespikeError(
                "learnable_decay: with fusion none and one time step no potential is handed on to decay"
            )
