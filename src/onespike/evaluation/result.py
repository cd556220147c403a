"""What an evaluation finds, and the files it leaves."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from torch import Tensor

from onespike.evaluation.confusion import draw_confusion
from onespike.evaluation.output import csv_text, save_figure, save_json, save_text


class Spread(NamedTuple):
    """A number that was measured once or several times.

    Attributes:
        mean: Mean over the passes.
        std: Sample standard deviation over the passes; None if there was one alone.
    """

    mean: float
    std: float | None

    @classmethod
    def over(cls, values: Sequence[float]) -> "Spread":
        """Summarise the values of all passes."""
        return cls(mean(values), stdev(values) if len(values) > 1 else None)


class Confusion(NamedTuple):
    """Images of one class that were taken for another.

    Attributes:
        truth: Name of their class.
        guess: Name of the class they were taken for.
        images: How many, over all passes.
        share: Share of the images of their class, in percent.
    """

    truth: str
    guess: str
    images: int
    share: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How a network did on a part of a data set.

    Attributes:
        data: Name of the data set.
        part: "test", "validation" or "train".
        checkpoint: "best" or "last", whichever was asked for.
        epochs: Epochs after which its weights were saved.
        classes: Class names.
        images: Images in the part.
        passes: How often the network saw all of them.
        deterministic: Whether the network gives the same answers at each pass, so that one pass is all there is to see.
        loss: Mean cross-entropy.
        top1: Share of images whose first guess is right, in percent.
        top5: Share of images with the right class among the first five guesses, in percent.
        confusion: Images by true class (row) and first guess (column), (K, K), summed over the passes.
    """

    data: str
    part: str
    checkpoint: str
    epochs: int
    classes: tuple[str, ...]
    images: int
    passes: int
    deterministic: bool
    loss: Spread
    top1: Spread
    top5: Spread
    confusion: Tensor

    @cached_property
    def per_class(self) -> dict[str, float | None]:
        """Accuracy of each class over all passes, in percent; None for a class without images."""
        right, total = self.confusion.diag().tolist(), self.confusion.sum(1).tolist()
        return {name: 100 * r / t if t else None for name, r, t in zip(self.classes, right, total, strict=True)}

    def most_confused(self, count: int) -> list[Confusion]:
        """Find the most frequent confusions.

        Args:
            count: How many, at most.

        Returns:
            Pairs of classes, the most frequent first; equal ones in the order of the classes.
        """
        wrong = self.confusion.clone().fill_diagonal_(0)
        found = []
        for position in wrong.flatten().argsort(descending=True, stable=True)[:count].tolist():
            truth, guess = divmod(position, len(self.classes))
            times = int(wrong[truth, guess])
            if times:
                share = 100 * times / int(self.confusion[truth].sum())
                found.append(Confusion(self.classes[truth], self.classes[guess], times, share))
        return found

    def to_json(self) -> dict[str, Any]:
        """All numbers but the confusion matrix, which is a table by nature."""
        return {
            "data": self.data,
            "part": self.part,
            "checkpoint": self.checkpoint,
            "epochs": self.epochs,
            "images": self.images,
            "passes": self.passes,
            "deterministic": self.deterministic,
            "loss": self.loss._asdict(),
            "top1": self.top1._asdict(),
            "top5": self.top5._asdict(),
            "per_class": self.per_class,
            "most_confused": [confusion._asdict() for confusion in self.most_confused(20)],
        }

    def save(self, folder: Path) -> None:
        """Write `evaluation.json`, `confusion.csv`, `confusion.png` and `per_class.csv`.

        Args:
            folder: Where; made if it does not exist.

        Raises:
            OnespikeError: They cannot be written.
        """
        counts = self.confusion.tolist()
        save_json(self.to_json(), str(folder / "evaluation.json"))
        matrix = [[name, *row] for name, row in zip(self.classes, counts, strict=True)]
        save_text(csv_text(["true class", *self.classes], matrix), folder / "confusion.csv")
        per_class = [
            [name, sum(row), row[number], accuracy]
            for number, (row, (name, accuracy)) in enumerate(zip(counts, self.per_class.items(), strict=True))
        ]
        save_text(csv_text(["class", "images", "correct", "accuracy"], per_class), folder / "per_class.csv")
        title = f"{self.data}, {self.part}: top-1 {self.top1.mean:.2f}%"
        save_figure(draw_confusion(self.confusion, self.classes, title), folder / "confusion.png", dpi=120)
