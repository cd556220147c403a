"""Networks over time: frames (T, B, C, H, W) to logits (T, B, K), layer by layer, all time steps of a layer together.

A network has no state of its own: what its layers keep from one step to the next is returned, and passed in to go on.
Layers that keep something set `carries = True` and exchange it through a `Carry`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from onespike.models.recompute import run_again_later
from onespike.neurons.over_time import Carry, stacked
from onespike.units.base import as_one_batch
from onespike.units.layers import Layers, through


def over_time(layer: nn.Module, x: Tensor, carry: Carry) -> Tensor:
    """Apply a layer, or a sequence of them, to all time steps, (T, B, C, …) to (T, B, C', …)."""
    if getattr(layer, "carries", False):
        return layer(x, carry)
    if isinstance(layer, nn.Sequential):
        for one in layer:
            x = over_time(one, x, carry)
        return x
    return each_step(x, layer)


def expect_floats(images: Tensor) -> None:
    """Raise a ValueError for bytes and other whole numbers, which no layer of weights reads."""
    if not images.is_floating_point():
        raise ValueError(f"images: expected floats (B, C, H, W), normalised, got {images.dtype}")


def each_step(x: Tensor, *layers: nn.Module) -> Tensor:
    """Apply layers without state: in training to all steps as one batch, over which batch norms take their statistics.

    In evaluation they run on each step by itself: libraries round differently for another batch size, and a stream of
    frames must give the same bits as all frames together.
    """
    if any(layer.training for layer in layers):
        return as_one_batch(x, *layers)
    return stacked([through(layers, step) for step in x.unbind()])


class OverTimeNetwork(nn.Module, ABC):
    """A network whose parts run one after the other, at one time step or at several.

    An image that is shown several times, `config.time_steps` or expanded along T, passes the `encoder` once.
    """

    config: Any
    #: Whether in training each of the `segments` saves only its input, and runs again in the backward pass.
    recompute = False

    @property
    def encoder(self) -> nn.Module | None:
        """The part that reads an image and keeps no state, if there is one."""
        return None

    @abstractmethod
    def parts(self) -> Iterable[nn.Module]:
        """The parts after the encoder, up to logits (B, K)."""

    def segments(self) -> list[Layers]:
        """The layers after the encoder, in pieces that each end with a layer that keeps state, such as neurons."""
        pieces: list[list[nn.Module]] = [[]]
        for part in self.parts():
            for layer in part.children() if type(part) in (nn.Sequential, Layers) else [part]:
                pieces[-1].append(layer)
                if getattr(layer, "carries", False):
                    pieces.append([])
        return [Layers(*piece) for piece in pieces if piece]

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W), each shown `time_steps` times, to mean logits (B, K).

        Frames (T, B, C, H, W) give logits (T, B, K).
        """
        expect_floats(images)
        carry = Carry(ends=True)
        if images.ndim == 5:
            return self._all(images, carry)
        x = images if self.encoder is None else self.encoder(images)
        return self._behind(x.expand(self.config.time_steps, *x.shape), carry).mean(0)

    def over_time(self, frames: Tensor, state: Sequence[Any] | None = None) -> tuple[Tensor, list[Any]]:
        """Map frames (T, B, C, H, W) to logits (T, B, K) and the state to go on from; without `state`, start anew."""
        carry = Carry(state)
        logits = self._all(frames, carry)
        if state is not None and len(carry.after) != len(state):
            wrong = f"expected that of {len(carry.after)} layers, got {len(state)}"
            raise ValueError(f"state: {wrong}; give what it returned")
        return logits, carry.after

    def _all(self, frames: Tensor, carry: Carry) -> Tensor:
        if self.encoder is None:
            return self._behind(frames, carry)
        if len(frames) > 1 and not frames.stride(0):  # a single image, expanded, as for a loss of each step
            x = self.encoder(frames[0])
            return self._behind(x.expand(len(frames), *x.shape), carry)
        return self._behind(each_step(frames, self.encoder), carry)

    def _behind(self, x: Tensor, carry: Carry) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            for segment in self.segments():
                x = _over_time_again(segment, x, carry)
            return x
        for part in self.parts():
            x = over_time(part, x, carry)
        return x


def _over_time_again(segment: Layers, x: Tensor, carry: Carry) -> Tensor:
    given = carry.rest()  # looked up once: when the segment runs again, in the backward pass, `carry` has gone on

    def run(x: Tensor) -> tuple[Tensor, list[Any]]:
        own = given.rest()
        return over_time(segment, x, own), own.after

    x, after = run_again_later(segment, run)(x)
    carry.after += after
    return x
