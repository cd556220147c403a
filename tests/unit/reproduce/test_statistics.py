import numpy as np
import pytest
from scipy import stats

from onespike.errors import OnespikeError
from reproduce.statistics import Estimate, paired, smallest_visible


def test_by_hand():
    found = Estimate.over([1.0, 2.0, 3.0])
    assert (found.mean, found.std, found.count) == (2.0, 1.0, 3)
    # t for 95% and 2 degrees of freedom is 4.3027, the standard error 1/sqrt(3)
    assert found.interval == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)


def test_against_scipy():
    values = [71.2, 69.8, 73.1, 70.0]
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert Estimate.over(values).interval == pytest.approx(expected)


def test_pairs_of_answers_against_scipy():
    one, other = "1101110", "1001010"
    expected = stats.ttest_rel(*([100.0 * int(hit) for hit in each] for each in (one, other))).confidence_interval()
    assert paired(one, other) == pytest.approx((100 * 2 / 7, *expected))
    assert paired("11", "00") == (100.0, 100.0, 100.0)
    assert paired("10", "10") == (0.0, 0.0, 0.0)
    with pytest.raises(OnespikeError, match="at least 2 images"):
        paired("1", "0")


def test_one_value_has_no_interval():
    found = Estimate.over([5.0])
    assert (found.mean, found.std, found.interval) == (5.0, None, None)
    assert found.against(Estimate.over([1.0, 2.0])) == "no interval"
    assert Estimate.over([1.0, 2.0]).against(found) == "no interval"


def test_intervals_part_from_the_spread_of_all_values_on():
    groups = [50.0, 51.0, 53.0], [10.0, 14.0, 12.0], [70.0, 80.0], [1.0, 2.0, 3.0, 5.0], [1.0]
    squares = sum(np.var(one) * len(one) for one in groups)  # about their own means: 2 + 2 + 1 + 3 of them are free
    expected = 2 * stats.t.ppf(0.975, 2) * (squares / 8 / 3) ** 0.5  # three values have most
    assert smallest_visible([*map(Estimate.over, groups)]) == pytest.approx(expected)
    assert smallest_visible([Estimate.over([1.0])]) is None


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ((0.0, 1.0), (0.5, 2.0), "indistinguishable"),
        ((0.5, 2.0), (0.0, 1.0), "indistinguishable"),
        ((0.0, 1.0), (1.0, 2.0), "indistinguishable"),  # they touch
        ((0.0, 9.0), (4.0, 5.0), "indistinguishable"),  # one lies in the other
        ((0.0, 1.0), (1.1, 2.0), "below"),
        ((1.1, 2.0), (0.0, 1.0), "above"),
    ],
)
def test_overlap(first: tuple[float, float], second: tuple[float, float], verdict: str):
    one, other = (Estimate(sum(pair) / 2, 0.1, pair, 3) for pair in (first, second))
    assert one.against(other) == verdict
