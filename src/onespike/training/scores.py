"""Scores of a network on a set of images, the same on one process and on many."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from onespike.data.augment import seeded
from onespike.data.loader import derive_seed
from onespike.data.sets import Batch
from onespike.models.strict_layers import adding_up
from onespike.neurons.watch import aside, resetter
from onespike.tensors import wide
from onespike.training.losses import over_time


@dataclass(frozen=True)
class Scores:
    """Scores of a network on a set of images."""

    loss: float  # mean cross-entropy
    top1: float  # share of images whose first guess is right, in percent
    top5: float  # share of images with the right class among the first five guesses, in percent
    confusion: Tensor  # images by true class (row) and first guess (column), (K, K), whole numbers

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.confusion.sum())


@torch.no_grad()
def score(model: nn.Module, batches: Iterable[Batch], classes: int, accelerator: Accelerator, seed: int = 0) -> Scores:
    """Evaluate a network on the images of all processes, and leave it in the mode it was in.

    The network maps images (B, C, H, W), or frames (T, B, C, H, W), to logits (B, K), or (T, B, K), which are averaged
    over time. `batches` are this process's share; its share of a batch may be empty. With a Bernoulli encoding, the
    same `seed` gives the same scores.
    """
    device, reset = accelerator.device, resetter(model)
    confusion = torch.zeros(classes * classes, dtype=torch.float64 if device.type != "mps" else torch.float32)
    loss = hits = 0.0
    with aside(model), seeded(seed), adding_up(model):
        for number, (images, labels) in enumerate(batches):
            if not len(labels):
                continue
            torch.manual_seed(derive_seed(seed, number, accelerator.process_index))
            reset()
            with accelerator.autocast():
                logits = over_time(model(images))
            logits = wide(logits)
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            # Of equal logits, as of spike counts, the first is the guess, as argmax has it; topk may take any.
            best = logits.sort(dim=1, descending=True, stable=True).indices[:, :5]
            hits += (best == labels[:, None]).sum().item()
            confusion += (labels * classes + best[:, 0]).bincount(minlength=classes * classes).cpu()
    # One sum over all processes; counts are whole numbers, so adding them up in floating point loses nothing.
    totals = torch.cat([confusion, torch.tensor([loss, hits], dtype=confusion.dtype)]).to(device)
    totals = accelerator.reduce(totals, "sum").cpu()
    table = totals[:-2].view(classes, classes)
    count = max(table.sum().item(), 1.0)
    mean_loss, top5 = totals[-2].item() / count, 100 * totals[-1].item() / count
    return Scores(mean_loss, 100 * table.diag().sum().item() / count, top5, table.long())
