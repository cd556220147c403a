"""Shorter epochs: images that the network finds hard are shown in each, easy ones in some.

Half of an epoch's images are those with the highest losses, half are drawn from the rest. Qin et al. 2024 (InfoBatch)
also leave out easy images at random; they give those that remain more weight instead.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onespike.data.loader import TrainLoader
from onespike.training.callbacks import Callback, Step
from onespike.training.losses import over_time

if TYPE_CHECKING:
    from onespike.training.trainer import Trainer


class HardImages(Callback):
    """Tells the loader of the cross-entropy that each image had when it was last shown; those never shown come first.

    The loader goes by what was known when its epoch began, so that a resumed epoch goes on with the same images.
    """

    def __init__(self, network: nn.Module, batches: TrainLoader) -> None:
        self.network, self.batches = network, batches
        self.targets = torch.from_numpy(batches.images.targets)
        self.losses = torch.full((len(self.targets),), torch.inf)
        batches.hardness = self.losses.clone()
        self._logits: list[Tensor] = []

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Keep the logits, of each part of a batch."""

        def see(_: nn.Module, __: Any, logits: Tensor) -> None:
            self._logits.append(over_time(logits.detach()).float())

        with self.network.register_forward_hook(see):
            yield

    def after_step(self, trainer: "Trainer", step: Step) -> None:  # noqa: ARG002
        """Note the losses, of the images of all processes; of several versions of an image, the first one's."""
        shown, splits = self.batches.shown, self.batches.splits
        logits = torch.cat([part[: len(part) // splits] for part in self._logits])
        self._logits.clear()
        own = self.targets[shown[self.batches.own]].to(logits.device)
        losses = trainer.accelerator.gather(F.cross_entropy(logits, own, reduction="none"))
        self.losses[shown] = losses.cpu()

    def measure(self, trainer: "Trainer", row: dict[str, Any]) -> None:  # noqa: ARG002
        """Let the next epoch go by what is known now."""
        self.batches.hardness = self.losses.clone()

    def state(self) -> dict[str, Any]:
        """What is known now, and what was known when the epoch began."""
        return {"losses": self.losses, "hardness": self.batches.hardness}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore both."""
        self.losses, self.batches.hardness = state["losses"], state["hardness"]
