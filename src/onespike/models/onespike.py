"""The paper's network: a stem, stages of blocks with patch merging between them, a head; time is the outermost loop."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from onespike.errors import OnespikeError, unregistered
from onespike.functional import uniform, window_kinds
from onespike.models.block import NORMS, Block, BlockState, after_norm
from onespike.models.initialise import initialise, scale_branches
from onespike.models.patch import Merging, PatchEmbedding
from onespike.models.recompute import run_again_later
from onespike.models.refusals import expect_no_reset, expect_region_threshold, fires_ones, real_values
from onespike.models.registry import ModelConfig, expect_multiple, register_model
from onespike.neurons import Neuron, NeuronConfig, make_neuron
from onespike.units import RECURRENT, UNITS, UnitConfig
from onespike.units.layers import BatchNorm, Conv3x3, Layers, MaxPool


@dataclass(frozen=True)
class OnespikeConfig(ModelConfig):
    """The paper's networks: spiking units in windows, potentials handed on. By default conv12.

    Attributes:
        name: The registered model these values started from.
        preset: The preset that changed them: "paper" (the supplement's), "released-cifar10" and "released-cifar100"
            (the released code's), "modern" (no draws, no dropout: deterministic), "strict" (at test time every weight
            layer after the stem reads spikes alone; options that break this are refused), "improved" (modern, with
            normalisation before the thresholds, thresholds learned for each channel, a wide triangle as surrogate, and
            two convolutions in the stem), or the twins for comparison "ann" (ReLU instead of spikes, nothing handed on)
            and "binary" (spikes, nothing handed on).
        unit: The spiking unit inside the blocks: "conv", or a layer over the window's tokens: "lstm" (both ways),
            "lstm-forward", "gru", "bigru", "rnn", "birnn" or "mlp" (see `onespike.units.UNITS`).
        neuron: The neurons, in units, encodings and readout alike.
        fusion: How the two potentials that meet at a neuron are merged: "sincos", "sinsum", "nested", "mean", "sum"
            (see `onespike.functional.fuse`), or "none", which hands nothing on at all.
        theta: Radian factor of the fusion, 0 < theta <= 1.
        mlp_activation: What stands between the linear layers of the channel MLPs, and of the unit "mlp": "gelu"
            (real-valued), or "spiking" (a threshold before each linear layer).
        depths: Blocks in each stage.
        channels: Channels of each stage.
        encoding: How the residual stream becomes a block's input spikes: "bernoulli" (drawn anew at every forward pass,
            at test time too; straight-through gradient), "bernoulli-detached" (no gradient), "threshold"
            (deterministic) or "direct" (no spikes: an analog input).
        windows: Windows of the blocks: "alternating" (average, dilated, average, …), one kind throughout, or "none"
            (the whole map is one window). A map that cannot be dilated uses average windows.
        region_threshold: Threshold, 0..1, above which fractions of a spike become whole spikes after a dilated
            recompose; None leaves the fractions.
        norm: Normalisation: "none"; "batch", after each weight layer but the head (statistics over windows, batch and
            map together); or "before", in front of all neurons, the branches and the head, but not at the end of
            branches.
        stem: How the image becomes a map: "patch", patches of 2x2 or 4x4 pixels, each mapped by itself; or "conv", two
            3x3 convolutions with batch norm and ReLU between them, and max pooling.
        readout: What patch merging and the head read: "real", the residual stream, or "spiking", spikes where it
            exceeds a threshold (the head: linear, then the mean over the map). With "spiking", potentials that travel
            from block to block start at 0 in each stage, since the layer that merges them would read real values.
        mlp_ratio: Hidden width of the channel MLP, in channels.
        dropout: Share of a unit's input spikes that a constant mask drops in training, 0..1.
        time_steps: How often the network runs on one image; logits are averaged.
    """

    name: str = "conv12"
    preset: str = "paper"
    unit: str = "conv"
    neuron: NeuronConfig = field(default_factory=NeuronConfig)
    fusion: str = "sincos"
    theta: float = 0.5
    mlp_activation: Literal["gelu", "spiking"] = "gelu"
    depths: tuple[int, ...] = (2, 2, 6, 2)
    channels: tuple[int, ...] = (48, 96, 192, 384)
    encoding: Literal["bernoulli", "bernoulli-detached", "threshold", "direct"] = "bernoulli"
    windows: Literal["alternating", "average", "dilated", "none"] = "alternating"
    region_threshold: float | None = 0.1
    norm: Literal["none", "batch", "before"] = "none"
    stem: Literal["patch", "conv"] = "patch"
    readout: Literal["real", "spiking"] = "real"
    mlp_ratio: int = 3
    dropout: float = 0.1
    time_steps: int = 1

    @property
    def draws(self) -> bool:
        """Whether the network draws random numbers, at test time too."""
        return self.encoding.startswith("bernoulli")

    @property
    def units(self) -> UnitConfig:
        """The options that a unit needs."""
        return UnitConfig(self.neuron, self.fusion, self.theta, self.mlp_activation)

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.units  # building it checks its ranges
        if self.unit not in UNITS:
            raise unregistered("unit", self.unit, UNITS)
        if len(self.depths) != len(self.channels) or not self.depths:
            raise OnespikeError(f"depths, channels: expected one of each per stage, got {self.depths}, {self.channels}")
        if not 0 <= self.dropout < 1:
            raise OnespikeError(f"dropout: expected 0 <= dropout < 1, got {self.dropout}")
        name, spiking = self.neuron.name, self.neuron.neuron.spiking
        if not spiking and (self.time_steps > 1 or self.draws):
            expected = "one time step and the encoding threshold (then a ReLU) or direct"
            raise OnespikeError(f"neuron {name}: expected {expected}, got {self.time_steps} and {self.encoding}")
        expect_region_threshold(self.neuron, self.windows, self.region_threshold)
        if self.fusion == "none" or (self.unit, self.windows) == ("conv", "none"):
            expect_no_reset(self.neuron)
        if self.preset == "strict":
            self._expect_strict()

    def _expect_strict(self) -> None:
        """Raise an `OnespikeError` if a layer behind the stem would read anything but spikes."""
        if not fires_ones(self.neuron):
            raise OnespikeError(f"preset strict: expected a neuron that spikes, by 1 at most, got {self.neuron.name}")
        if self.unit in RECURRENT:
            raise OnespikeError(f"preset strict: expected the unit conv or mlp, got {self.unit}, whose state is real")
        real = [f"{name} {value}" for name, value in REAL.items() if getattr(self, name) == value]
        if real := real + real_values(self.neuron, self.windows, self.region_threshold):
            remedy = "change it, or leave the preset"
            raise OnespikeError(f"preset strict: {real[0]}: a layer would read real values; {remedy}")


#: Values of options by which layers behind the stem read real numbers.
REAL = {"encoding": "direct", "mlp_activation": "gelu", "readout": "real"}
#: Blocks in each stage, by depth. 12 is the paper's; how the others are split is ours.
DEPTHS = {12: (2, 2, 6, 2), 20: (4, 3, 10, 3), 24: (4, 3, 14, 3), 36: (8, 8, 16, 4)}
#: Options that make a network deterministic.
NO_DRAWS: dict[str, Any] = {"encoding": "threshold", "dropout": 0.0}
#: Neurons of the preset "improved".
LEARNED = {"surrogate": "triangle", "surrogate_width": 2.0, "learnable_threshold": "channel"}

#: Registered models: the options in which each differs from `OnespikeConfig`'s defaults, which are the paper's.
VARIANTS: dict[str, dict[str, Any]] = {
    f"{unit}{depth}": {"unit": unit, "depths": depths} for unit in UNITS for depth, depths in DEPTHS.items()
}
VARIANTS["conv-tiny"] = NO_DRAWS | {"depths": (2, 2, 2), "channels": (16, 32, 64), "norm": "batch"}

#: Presets: the options that each changes in any model. A preset overrides the model's values, a single option both.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "released-cifar10": {"encoding": "bernoulli-detached", "fusion": "nested", "region_threshold": None},
    "released-cifar100": {"encoding": "bernoulli-detached", "fusion": "mean", "region_threshold": 0.2},
    "modern": NO_DRAWS,
    "improved": NO_DRAWS | {"norm": "before", "stem": "conv", "neuron": LEARNED},
    "strict": NO_DRAWS | {"norm": "batch", "region_threshold": 0.1, "mlp_activation": "spiking", "readout": "spiking"},
    "ann": {"neuron": {"name": "relu"}, "encoding": "threshold", "fusion": "none", "region_threshold": None},
    "binary": {"fusion": "none"},
}


def stem_stride(image_size: int) -> int:
    """The stride of the stem on images of this side: 2, or 4 from 96 pixels on."""
    return 4 if image_size >= 96 else 2


@register_model(OnespikeConfig, VARIANTS, PRESETS)
class Network(nn.Module):
    """The paper's network, for images whose side is a multiple of the stem's stride times 2^(stages-1)."""

    #: Whether training saves only what passes between blocks and runs each block again in the backward pass (activation
    #: checkpointing): less memory, more time, the same numbers. Draws must then come from the global generator, or be
    #: passed in.
    recompute = False

    def __init__(self, config: OnespikeConfig, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.config, self.num_classes, self.in_channels, self.image_size = config, num_classes, in_channels, image_size
        stride = stem_stride(image_size)
        stages = f"{config.name} ({len(config.depths)} stages behind a stem of stride {stride})"
        expect_multiple(stages, image_size, stride * 2 ** (len(config.depths) - 1))
        (_, norm, norm_before), spiking, first = NORMS[config.norm], config.readout == "spiking", config.channels[0]
        layers: list[nn.Module]
        if config.stem == "patch":
            layers = [PatchEmbedding(in_channels, first, stride)]
        else:
            layers = [Conv3x3(in_channels, first, stride // 2), BatchNorm(first), nn.ReLU()]
            layers += [Conv3x3(first, first), MaxPool()]
        self.stem = Layers(*layers, norm(first))

        def make_firing(channels: int) -> nn.Module:
            return after_norm(norm_before(channels), make_neuron(channels, config.neuron, integrates=False))

        self.layers = nn.ModuleList()  # blocks, and patch mergings between the stages, as they run
        kinds = window_kinds(config.windows)
        for stage, (depth, channels) in enumerate(zip(config.depths, config.channels, strict=True)):
            size = image_size // (stride * 2**stage)
            blocks = [Block(channels, size, next(kinds), config) for _ in range(depth)]
            if stage:
                before, next_block = self.blocks()[-1], blocks[0]
                merges = next_block.unit.travels and not spiking
                maps = (before.unit.out_channels, next_block.unit.out_channels) if merges else None
                firing = make_firing(before.channels) if spiking else None
                self.layers.append(Merging(before.channels, next_block.channels, maps, norm, firing))
            self.layers.extend(blocks)
        self.readout = make_firing(config.channels[-1]) if spiking else None
        self.norm = nn.Identity() if spiking else norm_before(config.channels[-1])
        self.head = nn.Linear(config.channels[-1], num_classes)
        initialise(self)
        scale_branches([branch for block in self.blocks() for branch in block.branch_ends()], len(self.blocks()))

    def blocks(self) -> list[Block]:
        """All blocks, in the order in which they run."""
        return [layer for layer in self.layers if isinstance(layer, Block)]

    def segments(self) -> list[Block]:
        """The parts that run again in the backward pass if `recompute` is set."""
        return self.blocks()

    def neuron_groups(self) -> dict[str, list[nn.Module]]:
        """The neurons of each block's unit, by a label for the block."""
        units = {f"block{number:02d}": block.unit for number, block in enumerate(self.blocks(), 1)}
        return {label: [one for one in unit.modules() if isinstance(one, Neuron)] for label, unit in units.items()}

    def draw(self, batch: int, generator: torch.Generator | None = None) -> list[Tensor]:
        """Draw the encodings' random numbers for one forward pass: U(0, 1), (V, B, C, M, M), per step and block."""
        shapes = [torch.Size(block.draw_shape(batch)) for block in self.blocks()] * self.config.time_steps
        return [uniform(self.head.weight, shape, generator) for shape in shapes]

    def forward(
        self, images: Tensor, draws: Sequence[Tensor] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Map normalised images (B, C, H, W) to logits (B, K), averaged over the time steps.

        Args:
            images: H = W = `image_size`. Frames (T, B, C, H, W) give logits (T, B, K).
            draws: Draws as from `draw`, or your own; drawn during the pass if None.
            generator: Source of all draws (encoding and dropout); the global generator if None.
        """
        if images.ndim == 5:
            return self.over_time(images, None, draws, generator)[0]
        embedded = self._embed(images)
        return self._run([embedded] * self.config.time_steps, None, draws, generator)[0].mean(0)

    def over_time(
        self,
        frames: Tensor,
        state: Sequence[BlockState] | None = None,
        draws: Sequence[Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, list[BlockState]]:
        """Map frames (T, B, C, H, W) to logits (T, B, K) and the state to go on from; without `state`, start anew."""
        return self._run([self._embed(frame) for frame in frames.unbind()], state, draws, generator)

    def _embed(self, images: Tensor) -> Tensor:
        channels, side = self.in_channels, self.image_size
        if images.shape[1:] != (channels, side, side):
            raise ValueError(f"images: expected (B, {channels}, {side}, {side}), got {tuple(images.shape)}")
        # The residual stream stays in the images' dtype: under autocast, layers compute in bf16 and add to it.
        return self.stem(images).to(images.dtype)

    def _run(
        self,
        embedded: Sequence[Tensor],
        state: Sequence[BlockState] | None,
        draws: Sequence[Tensor] | None,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, list[BlockState]]:
        """Run the blocks over the time steps, each with an embedded image or frame, (B, C, L, L)."""
        if not embedded:
            raise ValueError("time steps: expected one at least, frames (T, B, C, H, W) with T > 0, got none")
        blocks = self.blocks()
        expected = len(embedded) * len(blocks)
        if state is not None and len(state) != len(blocks):
            raise ValueError(f"state: expected that of {len(blocks)} blocks, got {len(state)}; give what it returned")
        if draws is not None and len(draws) != expected:
            raise ValueError(f"draws: expected {expected} tensors, one per time step and block, got {len(draws)}")
        recompute = self.recompute and torch.is_grad_enabled()
        if recompute and generator is not None:
            raise ValueError("recompute: a block that runs again draws again, which a generator cannot; pass draws")
        for block in blocks:
            block.mlp.runs_again = recompute
        # No `next` with a default, no `zip` that is not strict: the compiler of PyTorch 2.6 knows neither.
        remaining = iter([None] * expected if draws is None else draws)
        given = () if state is None else zip(blocks, state, strict=True)
        states = {block: BlockState(*one) for block, one in given}
        logits = []
        for x in embedded:
            potential = None
            for layer in self.layers:
                if isinstance(layer, Block):
                    run = run_again_later(layer) if recompute else layer
                    x, potential, states[layer] = run(x, potential, states.get(layer), next(remaining), generator)
                else:
                    x, potential = layer(x, potential)
            logits.append(self._classify(x))
        return torch.stack(logits), list(states.values())

    def _classify(self, x: Tensor) -> Tensor:
        """The head: mean over the map, linear; on spikes linear first, since a mean of spikes is no spike."""
        if self.readout is None:
            return self.head(self.norm(x).mean((-2, -1)))
        return self.head(self.readout(x).movedim(1, -1)).mean((1, 2))


def expect_blocks(network: nn.Module, name: str) -> Network:
    """Return the network, if it is made of spiking blocks; otherwise raise an `OnespikeError` that calls it `name`."""
    if not isinstance(network, Network):
        raise OnespikeError(f"{name} has no spiking blocks: expected a network such as conv12")
    return network
