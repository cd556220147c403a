"""FLOPs: what a training costs, whatever machine it runs on.

A dense multiply-accumulate is two operations. It takes place once in a forward pass and twice in a backward pass: for
the gradients of the layer's input and of its weights. So training costs 6 x multiply-accumulates x images, 2 more for
layers that run forward again, and 2 for a teacher's. Multiply-accumulates are what `onespike audit` counts, but once
for all tied neurons of a channel, whose spikes are added up before; element-wise work, evaluation and the optimiser are
left out, as is usual. The first layer's input needs no gradient, and fixed filters none of their own, so this counts a
little more than is done: 2.7% in `spiking-resnet-m`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from onespike.errors import reason
from onespike.training.callbacks import Callback, Step
from onespike.training.cost import NOISE, look
from onespike.training.progress import counted

if TYPE_CHECKING:
    from onespike.training.trainer import Trainer

#: Operations for each multiply-accumulate of a forward pass, and of the backward pass after it.
FORWARD, BACKWARD = 2, 4


class Flops(Callback):
    """Adds the cost of each step to `trainer.progress.flops`, from the shapes of the network's input images."""

    def __init__(self, network: nn.Module, teacher: nn.Module | None = None) -> None:
        self.network, self.teacher, self.problem = network, teacher, ""  # why they are not counted
        self._step: list[tuple[int, ...]] = []  # shapes of the batches that passed in this step
        self._costs: dict[tuple[int, ...], int] = {}  # of training on one image, by its shape

    def start(self, trainer: "Trainer") -> None:
        """Find out whether this network can be counted."""
        progress, data = trainer.progress, trainer.data
        if progress.epoch == progress.step == 0:
            progress.flops = 0
        self._cost(trainer, data.image)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Record the shape of the images."""

        def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            images = inputs[0].transpose(0, 1) if inputs[0].ndim == 5 else inputs[0]
            self._step.append(tuple(images.shape))

        with self.network.register_forward_pre_hook(note):
            yield

    def after_step(self, trainer: "Trainer", step: Step) -> None:  # noqa: ARG002
        """Add the step's cost; each process takes as many images as this one."""
        cost = sum(images * self._cost(trainer, tuple(image)) for images, *image in self._step)
        self._step.clear()
        if trainer.progress.flops is not None:
            trainer.progress.flops = counted(trainer.progress.flops + cost * trainer.accelerator.num_processes)

    def _cost(self, trainer: "Trainer", image: tuple[int, ...]) -> int:
        """FLOPs of training on an image (C, H, W), or frames (T, C, H, W); if unknown, counting ends."""
        if image not in self._costs:
            self._costs[image] = 0
            try:
                self._costs[image] = self._count(image)
            except Exception as error:  # a network that the counter does not understand is trained all the same
                self.problem, trainer.progress.flops = reason(error), None
        return self._costs[image]

    def _count(self, image: tuple[int, ...]) -> int:
        again = set[nn.Module]()
        if getattr(self.network, "recompute", False):
            pieces = self.network.segments()  # type: ignore[operator]
            again = {module for piece in pieces for module in piece.modules()}
        each = FORWARD + BACKWARD
        cost = sum(macs * (each + FORWARD * (layer in again)) for layer, macs in _products(self.network, image))
        if self.teacher is not None:
            cost += sum(FORWARD * macs for _, macs in _products(self.teacher, image))
        return cost // NOISE


def _products(network: nn.Module, image: tuple[int, ...]) -> Iterator[tuple[nn.Module, int]]:
    """Layers and their multiply-accumulates for an image, where the spikes of tied neurons are added up before."""
    modules = dict(network.named_modules())
    for (path, *_), tally in look(network, image).items():
        yield modules[path], tally.macs // getattr(modules[path], "adds_up", 1)


def peta(flops: float | None) -> float | None:
    """Convert FLOPs to PFLOP (10^15); None stays None."""
    return None if flops is None else flops / 1e15
