"""The whole network: a stem, stages of blocks with patch merging between them, a head; time is the outermost loop."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from onespike.errors import OnespikeError
from onespike.models.block import NORMS, Block, BlockState, uniform
from onespike.models.config import ModelConfig
from onespike.models.initialise import calm, initialise
from onespike.models.patch import Merging, PatchEmbedding
from onespike.units.base import Firing


class Network(nn.Module):
    """A general one-time-step spiking network.

    Args:
        config: The architecture.
        num_classes: Number of classes K.
        in_channels: Channels of the images.
        image_size: Side of the images, in pixels: a multiple of the stem's stride times 2^(stages-1).

    Attributes:
        recompute: Whether training keeps only what passes between blocks, and runs each block once more in the backward
            pass (activation checkpointing): less memory, more time, the same numbers. Draws must then come from the
            global generator or beforehand.

    Raises:
        OnespikeError: The stages cannot take images of that size.
    """

    recompute = False

    def __init__(self, config: ModelConfig, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.config, self.num_classes, self.in_channels, self.image_size = config, num_classes, in_channels, image_size
        if num_classes < 1 or in_channels < 1:
            raise OnespikeError(
                f"num_classes and in_channels: expected at least 1, got {num_classes} and {in_channels}"
            )
        stride = 4 if image_size >= 96 else 2
        unit_side = stride * 2 ** (len(config.depths) - 1)
        if image_size < unit_side or image_size % unit_side:
            raise OnespikeError(
                f"image_size: {len(config.depths)} stages behind a stem of stride {stride} need a multiple of "
                f"{unit_side} pixels, got {image_size}; resize with --data.image_size or choose fewer stages"
            )
        norm, spiking = NORMS[config.norm], config.readout == "spiking"
        self.stem = nn.Sequential(PatchEmbedding(in_channels, config.channels[0], stride), norm(config.channels[0]))
        self.layers = nn.ModuleList()  # blocks, and patch mergings between the stages, as a batch meets them
        number = 0
        for stage, (depth, channels) in enumerate(zip(config.depths, config.channels, strict=True)):
            size = image_size // (stride * 2**stage)
            blocks = [Block(config, channels, size, self._window_kind(config, number + k)) for k in range(depth)]
            if stage:
                before, behind = self.blocks()[-1], blocks[0]
                merges = behind.unit.travels and not spiking
                maps = (before.unit.out_channels, behind.unit.out_channels) if merges else None
                firing = Firing(before.channels, config) if spiking else None
                self.layers.append(Merging(before.channels, behind.channels, maps, norm, firing))
            self.layers.extend(blocks)
            number += depth
        self.readout = Firing(config.channels[-1], config) if spiking else None
        self.head = nn.Linear(config.channels[-1], num_classes)
        initialise(self)
        calm([branch for block in self.blocks() for branch in block.branch_ends()], len(self.blocks()))

    @staticmethod
    def _window_kind(config: ModelConfig, number: int) -> str:
        """What windows a block should have; blocks are counted over the whole network."""
        match config.windows:
            case "alternating":
                return "dilated" if number % 2 else "average"
            case "none":
                return "whole"
            case kind:
                return kind

    def blocks(self) -> list[Block]:
        """All blocks, in the order in which a batch meets them."""
        return [layer for layer in self.layers if isinstance(layer, Block)]

    def neuron_groups(self) -> dict[str, list[nn.Module]]:
        """The layers of neurons of each block's unit, by block."""
        return {
            f"block{number:02}": [module for module in block.unit.modules() if isinstance(module, Firing)]
            for number, block in enumerate(self.blocks(), 1)
        }

    def draw(self, batch: int, generator: torch.Generator | None = None) -> list[Tensor]:
        """Draw beforehand what the Bernoulli encodings of one forward pass consume.

        Args:
            batch: Number of images B.
            generator: Where to draw from; the global generator if None.

        Returns:
            For each time step, for each block, U(0, 1) draws of shape (V, B, C, M, M).
        """
        like = self.head.weight
        shapes = [torch.Size(block.draw_shape(batch)) for block in self.blocks()]
        return [uniform(like, shape, generator) for _ in range(self.config.time_steps) for shape in shapes]

    def forward(
        self, images: Tensor, draws: Sequence[Tensor] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Classify images.

        Args:
            images: Normalised images, (B, C, H, W), H = W = `image_size`.
            draws: What `draw` returns, or your own; drawn on the way if None.
            generator: Source of all draws (encoding and dropout); the global generator if None.

        Returns:
            Logits, (B, K), averaged over the time steps.
        """
        if images.shape[1:] != (self.in_channels, self.image_size, self.image_size):
            raise ValueError(
                f"images: expected (B, {self.in_channels}, {self.image_size}, {self.image_size}), "
                f"got {tuple(images.shape)}"
            )
        expected = self.config.time_steps * len(self.blocks())
        if draws is not None and len(draws) != expected:
            raise ValueError(f"draws: expected {expected} tensors, one per time step and block, got {len(draws)}")
        recompute = self.recompute and torch.is_grad_enabled()
        if recompute and generator is not None:
            raise ValueError("recompute: a block that runs again draws again, which a generator cannot; pass draws")
        remaining = iter(draws) if draws is not None else None
        states: dict[Block, BlockState] = {}
        # The residual stream stays in the images' dtype: under autocast, layers compute in bf16 and add to it.
        embedded = self.stem(images).to(images.dtype)
        logits = []
        for _ in range(self.config.time_steps):
            x, potential = embedded, None
            for layer in self.layers:
                if isinstance(layer, Block):
                    drawn = next(remaining) if remaining is not None else None
                    run = _run_again_later(layer) if recompute else layer
                    x, potential, states[layer] = run(x, potential, states.get(layer), drawn, generator)
                else:
                    x, potential = layer(x, potential)
            logits.append(self._classify(x))
        return torch.stack(logits).mean(0)

    def _classify(self, x: Tensor) -> Tensor:
        """The head: mean over the map, linear; on spikes linear first, since their mean is no spike."""
        if self.readout is None:
            return self.head(x.mean((-2, -1)))
        return self.head(self.readout(x).movedim(1, -1)).mean((1, 2))


def _run_again_later(block: Block) -> Callable[..., Any]:
    """A block that keeps its inputs alone for the backward pass, and runs again there, with the same draws."""
    contexts = lambda: (nullcontext(), _statistics_kept(block))  # noqa: E731
    return partial(checkpoint, block, use_reentrant=False, context_fn=contexts)


@contextmanager
def _statistics_kept(block: Block) -> Iterator[None]:
    """While it is open, batch norm does not take a batch into its running statistics: it saw this one before."""
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
