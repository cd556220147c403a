"""Mean and spread of one setting over its seeds; whether two settings, or two networks, can be told apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, mode, stdev

from scipy.stats import t

from onespike.errors import OnespikeError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """What is known of a mean from a few values: of one, no standard deviation and no interval.

    Attributes:
        mean: Their mean.
        std: Their sample standard deviation.
        interval: The 95% interval of the mean by Student's t.
        count: How many values there are.
    """

    mean: float
    std: float | None
    interval: tuple[float, float] | None
    count: int

    @classmethod
    def over(cls, values: Sequence[float]) -> "Estimate":
        """Summarise the values, one or more."""
        count, middle = len(values), mean(values)
        if count == 1:
            return cls(middle, None, None, 1)
        spread = stdev(values)
        half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread / count**0.5
        return cls(middle, spread, (middle - half, middle + half), count)

    @property
    def half(self) -> float | None:
        """Half of the interval's width; None without an interval."""
        return self.interval and self.interval[1] - self.mean

    def reaches(self, value: float) -> bool:
        """Whether the interval holds a value; without an interval anything is possible."""
        return self.interval is None or self.interval[0] <= value <= self.interval[1]

    def against(self, other: "Estimate") -> str:
        """Whether it is "above" or "below" a reference, or "indistinguishable": the intervals overlap or touch.

        It is "no interval" where one of the two has but one value.
        """
        if self.interval is None or other.interval is None:
            return "no interval"
        if self.interval[0] <= other.interval[1] and other.interval[0] <= self.interval[1]:
            return "indistinguishable"
        return "above" if self.mean > other.mean else "below"


def smallest_visible(estimates: Sequence[Estimate]) -> float | None:
    """The difference of two means from which on their intervals part, at the spread that the settings have on average.

    It is for as many values as most settings have; None if no setting has two.
    """
    several = [(one.std, one.count) for one in estimates if one.std is not None]
    if not several:
        return None
    pooled = (sum(std**2 * (count - 1) for std, count in several) / sum(count - 1 for _, count in several)) ** 0.5
    count = mode(count for _, count in several)
    return 2 * float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * pooled / count**0.5


def paired(hits: str, other: str) -> tuple[float, float, float]:
    """By how many points one network is ahead of another, and the 95% interval of that, Student's of the pairs.

    Both classified the same images, two or more: `hits` and `other` have for each "1" if that was right, else "0".
    """
    found = Estimate.over([100.0 * (int(hit) - int(beside)) for hit, beside in zip(hits, other, strict=True)])
    if found.interval is None:
        raise OnespikeError("expected at least 2 images, which an interval takes, got 1")
    return found.mean, *found.interval
