"""Everything that can be chosen about a network's architecture."""

from dataclasses import dataclass
from typing import Literal

from onespike.errors import OnespikeError, unknown
from onespike.units.base import Dynamics
from onespike.units.registry import RECURRENT, UNITS


@dataclass(frozen=True)
class ModelConfig(Dynamics):
    """The architecture; by default the paper's CNN-SNN with 12 blocks. Extends `Dynamics`.

    Attributes:
        name: The registered model these values started from.
        preset: The preset that changed them: "paper" (the supplement's), "released-cifar10" and "released-cifar100"
            (the released code's), "modern" (no draws, no dropout: deterministic),
            "strict" (after the stem every weight layer reads spikes alone), or the twins for comparison "ann" (ReLU
            instead of spikes, nothing handed on) and "binary" (spikes, nothing handed on).
        unit: The spiking unit inside the blocks: "conv", or a layer over the window's tokens: "lstm" (both ways),
            "lstm-forward", "gru", "bigru", "rnn", "birnn" or "mlp" (see `onespike.units.registry.UNITS`).
        depths: Blocks in each stage.
        channels: Channels of each stage.
        encoding: How the residual stream becomes a block's input spikes: "bernoulli" (drawn anew at every forward pass,
            at test time too; straight-through gradient), "bernoulli-detached" (no gradient), "threshold"
            (deterministic) or "direct" (no spikes: an analog input).
        windows: Windows of the blocks: "alternating" (average, dilated, average, …), one kind throughout, or "none"
            (the whole map is one window). A map that cannot be dilated uses average windows.
        region_threshold: Fractions of a spike above it become whole after a dilated recompose, 0..1; None leaves
            the fractions.
        norm: Normalisation behind each weight layer but the head: "none", or "batch" (statistics over windows, batch
            and map together).
        readout: What patch merging and the head read: "real", the residual stream, or "spiking", what of it exceeds a
            threshold (the head: linear, then the mean over the map). With "spiking", potentials that travel from block
            to block start from 0 in each stage, since the layer that merges them would read real values.
        mlp_ratio: Hidden width of the channel MLP, in channels.
        dropout: Share of a unit's input spikes that a constant mask drops in training, 0..1.
        time_steps: How often the network runs on one image; logits are averaged.
    """

    name: str = "conv12"
    preset: Literal["paper", "released-cifar10", "released-cifar100", "modern", "strict", "ann", "binary"] = "paper"
    unit: str = "conv"
    depths: tuple[int, ...] = (2, 2, 6, 2)
    channels: tuple[int, ...] = (48, 96, 192, 384)
    encoding: Literal["bernoulli", "bernoulli-detached", "threshold", "direct"] = "bernoulli"
    windows: Literal["alternating", "average", "dilated", "none"] = "alternating"
    region_threshold: float | None = 0.1
    norm: Literal["none", "batch"] = "none"
    readout: Literal["real", "spiking"] = "real"
    mlp_ratio: int = 3
    dropout: float = 0.1
    time_steps: int = 1

    @property
    def draws(self) -> bool:
        """Whether the network draws random numbers, at test time too."""
        return self.encoding.startswith("bernoulli")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unit not in UNITS:
            raise unknown("unit", self.unit, UNITS)
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
        if self.activation == "relu" and (self.time_steps > 1 or self.encoding.startswith("bernoulli")):
            raise OnespikeError(
                "activation relu: expected one time step and the encoding threshold (then a ReLU) or direct, "
                f"got {self.time_steps} and {self.encoding}"
            )
        if self.activation == "relu" and self.region_threshold is not None:
            raise OnespikeError(
                "activation relu: expected region_threshold null, for there are no spikes to make whole, got "
                f"{self.region_threshold}; or use preset ann"
            )
        if self.preset == "strict" and self.activation == "relu":
            raise OnespikeError("preset strict: expected the activation spike, got relu")
        if self.preset == "strict" and self.unit in RECURRENT:
            raise OnespikeError(
                f"preset strict: expected the unit conv or mlp, got {self.unit}, whose cell reads its own real state"
            )
        if self.learnable_decay != "none" and self.fusion == "none" and self.time_steps == 1:
            raise OnespikeError(
                "learnable_decay: with fusion none and one time step no potential is handed on to decay"
            )
