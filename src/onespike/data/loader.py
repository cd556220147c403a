"""Batches: which images, in which order, with which draws.

Nothing here has a state. The order of an epoch and every draw follow from (seed, epoch, position). So a run that was
interrupted goes on exactly where it stopped, and several processes, each with its share of every batch, together see
what a single process would.
"""

import multiprocessing
import pickle
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from onespike.data.augment import BatchAugment, PolicyAugment, cut_out, mirror
from onespike.data.config import DataConfig
from onespike.data.items import ItemSet
from onespike.data.sets import Batch, Dataset, ImageSet, RecordingSet
from onespike.errors import OnespikeError, reason, warn

#: How workers start. Forks need nothing sent, and no guard in a script; macOS has no safe ones.
START = "fork" if sys.platform == "linux" else "spawn"
#: Options that change raw images; floats are taken as they are.
_OF_RAW_IMAGES = ("crop_padding", "flip", "alternate_flip", "cutout", "auto_augment", "random_erasing")
#: Makes the image at a position, by draws from a seed: (C, H, W) or several versions, (splits, C, H, W), and its label.
Maker = Callable[[int, int], tuple[Tensor, int]]


@dataclass(frozen=True)
class Share:
    """The part of each batch for this process, number `rank` of `world`, and its device and dtype."""

    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    rank: int = 0
    world: int = 1


def derive_seed(*numbers: int) -> int:
    """Mix numbers into one seed of 63 bits; neighbours give unrelated seeds. Zeros at the end do not count."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


class TrainLoader:
    """Shuffled, augmented batches of the training part; the last, incomplete batch of an epoch is left out.

    The batch size is over all processes together; the seed determines order and draws. It is an `OnespikeError` if the
    batch size does not fit the data set or the processes, if AugMix is asked of float images, or if a crop's border or
    Cutout's square does not fit the images.
    """

    def __init__(self, data: Dataset, config: DataConfig, batch_size: int, seed: int, share: Share = Share()) -> None:
        if batch_size > (count := len(data.train)):
            raise OnespikeError(f"train.batch_size: {batch_size} is more than the {count} training images; lower it")
        if batch_size % share.world:
            raise OnespikeError(f"train.batch_size: {batch_size} cannot be shared equally by {share.world} processes")
        self.images, self.batch_size, self.seed, self.share = data.train, batch_size, seed, share
        part = batch_size // share.world
        self.own = slice(share.rank * part, (share.rank + 1) * part)
        crops = (config.crop_padding, config.flip, share.device, share.dtype, config.crop_fill == "reflect")
        self.augment = BatchAugment(data.mean, data.std, *crops)
        self.workers, self.splits = config.workers, max(1, config.augmix_splits)
        self.cutout, self.side = config.cutout, data.image_size
        self.mirrored: Tensor | None = None  # (N,) bool: which images alternating flips mirror in the first epoch
        if config.alternate_flip:
            # Seeded by four numbers, the last not 0: the seeds of orders and batches have fewer.
            generator = torch.Generator().manual_seed(derive_seed(seed, 0, 0, 1))
            self.mirrored = torch.rand(len(data.train), generator=generator) < 0.5
        self.singly: Maker | None = None
        policies = [key for key in ("auto_augment", "random_erasing", "augmix_splits") if getattr(config, key)]
        if policies and data.in_channels not in (1, 3) and not isinstance(data.train, ItemSet):
            found = f"{data.name} has images of {data.in_channels} channels"
            raise OnespikeError(f"data.{policies[0]}: {found}; it is for grey or colour; leave it out")
        if isinstance(data.train, ItemSet):
            self.singly, self.cutout, self.mirrored = data.train.drawn, 0, None
            if config.augmix_splits:
                raise OnespikeError(f"data.augmix_splits: {data.name} gives floats, not raw images; pass 0 for none")
            asked = {key: getattr(config, key) for key in _OF_RAW_IMAGES}
            idle = [f"data.{key}" for key, value in asked.items() if value not in (0, getattr(DataConfig, key))]
            if idle and not share.rank:
                warn(f"{', '.join(idle)}: without effect; {data.name} gives floats, which are taken as they are")
        elif isinstance(data.train, RecordingSet):
            self.singly = data.train.drawn
        elif policies:
            self.singly = PolicyAugment(data.train, config, data.mean, data.std)
        _expect_fitting(config, data)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.images) // self.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Iterate over an epoch, counted from 0, without its first `start` batches, done before an interruption.

        Images are (B, C, H, W), normalised, channels-last, and labels (B,); B is this process's share. With AugMix the
        images are (splits * B, C, H, W), the clean ones first; several frames of events are (T, B, C, H, W).
        """
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
        order = torch.randperm(len(self.images), generator=generator)
        batches = list(order.split(self.batch_size))[start : len(self)]
        own = [indices[self.own].numpy() for indices in batches]
        made = self._by_workers(own, self.singly, epoch) if self.singly else map(self.images.gather, own)
        # Not strict: at the end of an epoch `made` is not asked, which would start its workers for nothing.
        for step, (indices, (images, labels)) in enumerate(zip(batches, made, strict=False), start):
            # Draws are made for the whole batch, then shared out: they do not depend on the number of processes.
            generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch, step))
            draws = self.augment.draw(len(indices), generator)
            if self.mirrored is not None:
                draws[:, 2] = self.mirrored[indices] ^ bool(epoch % 2)
            if not self.singly:
                images, labels = self.augment(images, draws[self.own]), labels.to(self.share.device)
            elif self.mirrored is not None:
                images = mirror(images, self._shared(draws[:, 2] == 1))
            if self.cutout:
                centres = torch.randint(self.side, (len(indices), 2), generator=generator)
                images = cut_out(images, self._shared(centres), self.cutout)
            yield images, labels

    def _shared(self, draws: Tensor) -> Tensor:
        """This process's share of a batch's draws, on its device; all splits of an image have the same."""
        own = draws[self.own].to(self.share.device)
        return torch.cat([own] * self.splits)

    def _by_workers(self, positions: list[np.ndarray], singly: Maker, epoch: int) -> Iterator[Batch]:
        make = partial(_together, singly, self.seed, epoch)
        options: dict[str, Any] = {"num_workers": self.workers, "worker_init_fn": _leave_signals}
        options["multiprocessing_context"] = START if self.workers else None
        before = set(multiprocessing.active_children())
        batches = _begun(DataLoader(positions, None, collate_fn=make, **options))  # type: ignore[arg-type]
        workers = set(multiprocessing.active_children()) - before
        try:
            for batch in batches:
                if isinstance(batch, OnespikeError):
                    raise batch
                images, labels = map(torch.from_numpy, batch)
                floats = images.to(self.share.dtype).to(self.share.device)  # some devices know no float64
                floats = floats.contiguous(memory_format=torch.channels_last)
                if self.images.frames > 1:
                    floats = floats.unflatten(0, (self.images.frames, -1))
                yield floats, labels.to(self.share.device)
        except RuntimeError as error:
            if not re.search(r"DataLoader worker \(pid.*(killed|exited)", str(error)):
                raise
            script = "" if START == "fork" else 'in a script, put what trains under `if __name__ == "__main__":`; else '
            state = f"data.workers: a process that makes images has died ({reason(error)})"
            raise OnespikeError(f"{state}; {script}give it more memory, or pass --data.workers 0") from error
        finally:
            del batches  # asks its workers to end, and waits a while
            for worker in workers:  # they ignore SIGTERM
                worker.kill()


def _begun(loader: DataLoader[Any]) -> Iterator[Any]:
    """Start the workers; an `OnespikeError` if they are no forks, as on macOS, and cannot be sent what they need.

    PyTorch's handler of signals is not kept: when a worker dies, it would raise in whatever the main process does then,
    as a rule a training step. Whoever waits for a batch looks for the workers, too.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's, of the same
            return iter(loader)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        if not re.search("pickle|local object", str(error)):
            raise
        remedy = "give it a name at the top of a module, or pass --data.workers 0"
        raise OnespikeError(f"data.workers: other processes cannot be sent the images: {error}; {remedy}") from error
    finally:
        # None is a handler of C's, which Python cannot put back; other threads can set none.
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handler)


def _expect_fitting(config: DataConfig, data: Dataset) -> None:
    """Raise an `OnespikeError` if a crop's border or Cutout's square is larger than raw images allow."""
    if isinstance(data.train, ItemSet):
        return
    side = data.image_size
    largest = side if side > 1 else 0  # beyond, ever more crops are border alone
    border = side - 1 if config.crop_fill == "reflect" else largest
    for key, most in (("cutout", largest), ("crop_padding", border)):
        if (value := getattr(config, key)) > most:
            expected = f"expected at most {most} for images of {side} pixels a side"
            raise OnespikeError(f"data.{key}: {expected}, got {value}; lower --data.{key}")


def _together(make: Maker, seed: int, epoch: int, positions: np.ndarray) -> tuple[np.ndarray, ...] | OnespikeError:
    """Make images, split after split, as the Jensen-Shannon loss reads them: (splits * B, C, H, W), and labels.

    Their seeds are derived here: beforehand, for all images of an epoch, it would keep the first batch waiting.

    Arrays go through a pipe. Tensors would go through shared memory, and where that is full, as in small containers, a
    worker loses its batch without a word, and the main process waits for ever.
    """
    try:
        images, labels = zip(*(make(i, derive_seed(seed, epoch, i)) for i in positions.tolist()), strict=True)
    except OnespikeError as error:  # returned: raised in a worker, it would come with the worker's traceback
        return error
    splits = [image.reshape(-1, *image.shape[-3:]) for image in images]
    made = torch.stack(splits, 1).flatten(0, 1)
    made = made.float() if made.dtype is torch.bfloat16 else made  # which numpy does not know
    return made.numpy(), np.array(labels)


def _leave_signals(_worker: int) -> None:
    """Let the main process alone decide what a signal to the whole group means; it ends its workers itself."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


class EvalLoader:
    """Batches in order, normalised by mean and std but not augmented, every image once over all processes together."""

    def __init__(
        self, images: ImageSet, mean: Sequence[float], std: Sequence[float], batch_size: int, share: Share = Share()
    ) -> None:
        self.images, self.batch_size, self.share = images, batch_size, share
        self.augment = BatchAugment(mean, std, device=share.device, dtype=share.dtype)

    def __iter__(self) -> Iterator[Batch]:
        """Yield this process's share of each batch: (B, C, H, W) and (B,); B differs at the end, and may be 0 there.

        Several frames of events are (T, B, C, H, W).
        """
        for start in range(0, len(self.images), self.batch_size):
            stop = min(start + self.batch_size, len(self.images))
            images, labels = self.images.gather(np.arange(start + self.share.rank, stop, self.share.world))
            yield self.augment(images), labels.to(self.share.device)
