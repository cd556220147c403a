"""Evaluation: scores of a trained network on a part of a data set, over one or several passes, and their files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from onespike.configs import convert
from onespike.data.augment import are_as_given
from onespike.data.config import DataConfig
from onespike.data.dataset import Dataset, warn_of_floats
from onespike.data.loader import EvalLoader, Share
from onespike.data.sources import EVENTS
from onespike.durable import csv_text, path_of, save_json, save_text
from onespike.errors import OnespikeError, warn
from onespike.terminal import tracked
from onespike.training.checkpoint import ModelCard
from onespike.training.device import make_accelerator
from onespike.training.layout import laid_out
from onespike.training.losses import over_time
from onespike.training.run import Run
from onespike.training.scores import Scores, score

Part = Literal["test", "validation", "train"]
Precision = Literal["trained", "fp32", "bf16", "fp16", "fp64"]
_SCORES = ("loss", "top1", "top5")
#: Files beside `evaluation.json`.
TABLES = MATRIX, PER_CLASS, PICTURE = "confusion.csv", "per_class.csv", "confusion.png"


class Spread(NamedTuple):
    """Mean and sample standard deviation over the passes; the latter is None for a single pass."""

    mean: float
    std: float | None

    @classmethod
    def over(cls, values: Sequence[float]) -> "Spread":
        """Summarise the values of all passes."""
        return cls(mean(values), stdev(values) if len(values) > 1 else None)


class Confusion(NamedTuple):
    """Images of one class that were taken for another, over all passes; and their share of the class, in percent."""

    truth: str
    guess: str
    images: int
    share: float


class Flips(nn.Module):
    """A network with test-time flips: the mean of its logits for an image and for its mirror image."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W), or frames (T, B, C, H, W), to logits (B, K), by one pass of 2 B images."""
        logits = over_time(self.network(torch.cat([images, images.flip(-1)], -4)))
        return logits.unflatten(0, (2, -1)).mean(0)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of a network on a part of a data set.

    Attributes:
        data: Name of the data set.
        part: Which part of it.
        test_set: Which test images the data set has, as `Dataset.test_set` tells them apart.
        checkpoint: "best" or "last", whichever was asked for.
        epochs: Epochs after which its weights were saved.
        time_steps: Time steps for one image, as asked for; None: the network's own number.
        precision: Arithmetic, as in `TrainConfig`.
        classes: Class names.
        images: Images in the part.
        passes: How often the network saw all of them.
        deterministic: Whether the network gives the same answer at each pass, so that one pass is enough.
        loss: Mean cross-entropy.
        top1: Share of images whose first guess is right, in percent.
        top5: Share of images with the right class among the first five guesses, in percent.
        confusion: Images by true class (row) and first guess (column), (K, K), summed over the passes.
        with_flips: Loss, top1 and top5 with test-time flips, if asked for. Each image is seen twice, so these are never
            reported as the network's accuracy.
    """

    data: str
    part: str
    test_set: str
    checkpoint: str
    epochs: int
    time_steps: int | None
    precision: str
    classes: tuple[str, ...] = field(repr=False)
    images: int
    passes: int
    deterministic: bool
    loss: Spread
    top1: Spread
    top5: Spread
    confusion: Tensor = field(repr=False)
    with_flips: Mapping[str, Spread] = field(default_factory=dict)

    @cached_property
    def per_class(self) -> dict[str, float | None]:
        """Accuracy of each class over all passes, in percent; None for a class without images."""
        right, total = self.confusion.diag().tolist(), self.confusion.sum(1).tolist()
        return {name: 100 * r / t if t else None for name, r, t in zip(self.classes, right, total, strict=True)}

    def most_confused(self, count: int) -> list[Confusion]:
        """Find the most frequent confusions, the most frequent first; equal ones in the order of the classes."""
        wrong = self.confusion.clone().fill_diagonal_(0)
        totals = self.confusion.sum(1).tolist()
        best = wrong.flatten().argsort(descending=True, stable=True)[:count].tolist()
        pairs = [(*divmod(place, len(self.classes)), int(wrong.flatten()[place])) for place in best]
        return [Confusion(self.classes[i], self.classes[j], n, 100 * n / totals[i]) for i, j, n in pairs if n]

    def to_json(self) -> dict[str, Any]:
        """All numbers but the confusion matrix, which is saved as a table."""
        found = {key: value for key, value in vars(self).items() if key not in ("classes", "confusion", "per_class")}
        found |= {name: getattr(self, name)._asdict() for name in _SCORES}
        found["with_flips"] = {name: one._asdict() for name, one in self.with_flips.items()} or None
        confusions = [confusion._asdict() for confusion in self.most_confused(20)]
        return {**found, "per_class": self.per_class, "most_confused": confusions}

    def save(self, folder: str | Path) -> None:
        """Write `evaluation.json`, `confusion.csv`, `confusion.png` and `per_class.csv` into a folder.

        Raises:
            OnespikeError: They cannot be written.
        """
        folder = path_of(folder)
        save_json(self.to_json(), str(folder / "evaluation.json"))
        matrix = [[name, *row] for name, row in zip(self.classes, self.confusion.tolist(), strict=True)]
        save_text(csv_text(["true class", *self.classes], matrix), folder / MATRIX)
        images, correct = self.confusion.sum(1).tolist(), self.confusion.diag().tolist()
        per_class = zip(self.classes, images, correct, self.per_class.values(), strict=True)
        save_text(csv_text(["class", "images", "correct", "accuracy"], per_class), folder / PER_CLASS)
        from onespike.evaluation.drawing import draw_confusion, save_figure

        title = f"{self.data}, {self.part}: top-1 {self.top1.mean:.2f}%"
        save_figure(draw_confusion(self.confusion, self.classes, title), folder / PICTURE, dpi=120)


def evaluate(
    run: Run | str | Path,
    data: Any = None,
    part: Part = "test",
    which: Literal["best", "last"] = "best",
    passes: int = 1,
    batch_size: int | None = None,
    precision: Precision = "trained",
    device: Literal["auto", "cpu"] = "auto",
    time_steps: int | None = None,
    model: nn.Module | None = None,
    flips: bool = False,
) -> Evaluation:
    """Evaluate the network of a run; under a launcher such as torchrun, all processes work together on one result.

    With the run's own data, batch size and precision, the first pass makes the same draws as the test at the end of
    training, and gives the same scores.

    Args:
        run: The run, or its folder.
        data: The images, as for `Run.dataset`; those of the run if None.
        part: Which part of them.
        which: Which checkpoint; the other one if it is damaged.
        passes: How often to show the images to a network whose encoding draws; a deterministic network sees them once.
        batch_size: Images in a batch, over all processes together; that of training if None.
        precision: Arithmetic, as in `TrainConfig`; "trained" takes that of training.
        device: "auto" takes the accelerator if there is one, "cpu" never.
        time_steps: Time steps for one image; the network's own number if None.
        model: As for `Run.model`, if the network is of a user's class.
        flips: Whether to compute scores with test-time flips as well (see `Flips`).

    Raises:
        OnespikeError: The run or the data cannot be read, do not suit each other, or an argument is out of its range.
    """
    part, precision = convert(part, Part, "part"), convert(precision, Precision, "precision")
    passes, batch_size = convert(passes, int, "passes"), convert(batch_size, int | None, "batch size")
    for name, number in (("passes", passes), ("batch size", batch_size)):
        if number is not None and not 1 <= number <= 10**6:
            raise OnespikeError(f"{name}: expected {'at least 1' if number < 1 else 'at most 10^6'}, got {number}")
    run = Run.open(run)
    config = run.recipe.train
    config = replace(config, device=device, precision=config.precision if precision == "trained" else precision)
    accelerator = make_accelerator(config, f"--precision {precision}")
    with accelerator.main_process_first():
        dataset = run.dataset(data)
    checkpoint = run.checkpoint(which)
    card = checkpoint.card
    expect_same_images(dataset, card if time_steps is None else card.with_time_steps(time_steps))
    test_set, images = dataset.test_set(), getattr(dataset, part)
    if not len(images):
        advice = "" if run.shows(data) else ", or a --data.holdout above 0"
        raise OnespikeError(f"{dataset.name} has no {part} images: choose another part{advice}")
    if run.shows(data):
        _expect_own_images(run, data or run.recipe.data, part, test_set)
    dtype = torch.float64 if config.precision == "fp64" else torch.float32
    blank = dataset.blank(2, device=accelerator.device, dtype=dtype)
    network = laid_out(checkpoint.network(model, time_steps, dtype).to(accelerator.device), blank)
    share = Share(accelerator.device, dtype, accelerator.process_index, accelerator.num_processes)
    # The network knows its images as they were normalised in training, wherever these come from.
    at_once = batch_size or config.batch_size // config.accumulate  # as the test in training
    batches = EvalLoader(images, card.mean, card.std, at_once, share)
    deterministic = card.draws is False
    total = math.ceil(len(images) / batches.batch_size)
    bar = partial(tracked, total=total, hidden=not accelerator.is_main_process)
    every, count = range(1 if deterministic else passes), len(card.classes)

    def scored(network: nn.Module, what: str) -> list[Scores]:
        return [score(network, bar(batches, f"{what} {i + 1}"), count, accelerator, config.seed + i) for i in every]

    scores = scored(network, "pass")
    if not all(math.isfinite(one.loss) for one in scores):
        reason = "answers with numbers that are not finite: its training failed"
        raise OnespikeError(f"the network of {run.folder} {reason}")
    return Evaluation(
        data=dataset.name,
        part=part,
        test_set=test_set,
        checkpoint=which,
        epochs=checkpoint.state["progress"]["epoch"],
        time_steps=time_steps,
        precision=config.precision,
        classes=card.classes,
        images=len(images),
        passes=len(scores),
        deterministic=deterministic,
        **_spreads(scores),
        confusion=torch.stack([one.confusion for one in scores]).sum(0),
        with_flips=_spreads(scored(Flips(network), "flips, pass")) if flips else {},
    )


def _expect_own_images(run: Run, data: DataConfig, part: Part, test_set: str) -> None:
    """Raise an `OnespikeError` for held-out images that training may have seen; warn if its test images were others."""
    own = run.recipe.data
    if part == "validation" and (data.holdout, data.limit) != (own.holdout, own.limit):
        split = f"its training held out {own.holdout:g} of the images (data.holdout), with data.limit {own.limit}"
        found = f"with {data.holdout:g} and {data.limit} it has seen some that are held out"
        raise OnespikeError(f"--part validation: {split}; {found}: leave both options as they were")
    known = (run.summary or {}).get("test_set")
    if part == "test" and known not in (None, test_set):
        warn(f"{run.folder} was tested on other images than these, which lie in their place now: look at data.root")


def _spreads(scores: Sequence[Scores]) -> dict[str, Spread]:
    return {name: Spread.over([getattr(one, name) for one in scores]) for name in _SCORES}


def expect_shape(data: Dataset, card: ModelCard) -> None:
    """Raise `OnespikeError` unless images have a network's channels and size, recordings its frames; warn of floats."""
    steps = getattr(card.model, "time_steps", data.frames)
    if (data.frames > 1 or card.data in EVENTS) and steps != data.frames:
        found = f"{data.name} has {data.frames} frames of each recording, the network takes {steps}"
        raise OnespikeError(f"{found}: pass --data.frames {steps}")
    images, side = f"the images of {data.name} have", card.image_size
    if data.in_channels != card.in_channels:
        raise OnespikeError(f"{images} {data.in_channels} channels, the network takes {card.in_channels}")
    if data.image_size != side:
        remedy = f"pass --data.image_size {side}"
        raise OnespikeError(f"{images} {data.image_size} pixels a side, the network takes {side}: {remedy}")
    warn_of_floats(data, card.mean, card.std)
    if are_as_given(card.mean, card.std) and not are_as_given(data.mean, data.std):
        warn(f"{data.name} gives bytes, taken as 0 to 1; the network knows floats that their owner normalised")


def expect_one_frame(data: Dataset, card: ModelCard, what: str) -> None:
    """Raise `OnespikeError` unless images suit a network (`expect_same_images`) and have one frame; `what` asks."""
    expect_same_images(data, card)
    if data.frames > 1:
        advice = "train it at one time step (--data.frames 1), or prune it to one (onespike prune-time)"
        raise OnespikeError(f"{what}: its recordings have {data.frames} frames; expected one: {advice}")


def expect_same_images(data: Dataset, card: ModelCard) -> None:
    """Raise `OnespikeError` unless a data set has a network's classes, in images of its channels and size."""
    found, expected, classes = data.classes, card.classes, f"the classes of {data.name} are not the network's"
    if len(found) != len(expected):
        raise OnespikeError(f"{classes}: {len(found)} of them, where the network has {len(expected)}")
    for number, (ours, its) in enumerate(zip(found, expected, strict=True)):
        if ours != its:
            raise OnespikeError(f"{classes}: class {number} is {ours!r}, where the network has {its!r}")
    expect_shape(data, card)
