"""What `curves.png` shows."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from onespike.training.progress import Progress
from onespike.training.saving import draw_curves


@pytest.fixture(params=[90.0])
def figure(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    """The curves of three epochs, of which the second is the most accurate, with this best quality."""
    drawn, save = list[Figure](), Figure.savefig

    def kept(one: Figure, *arguments: Any, **options: Any) -> None:
        drawn.append(one)
        save(one, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", kept)
    columns = ("epoch", "train_loss", "valid_loss", "train_top1", "valid_top1", "lr", "pflop", "block01_firing_rate")
    rows = [(1, 2.0, 1.5, 40.0, 50.0, 0.1, 0.25, 0.3), (2, 1.2, 0.3, 80.0, 90.0, 0.05, 0.5, 0.2)]
    rows.append((3, 1.1, 0.4, 85.0, 80.0, 0.0, 0.75, 0.2))
    history = [dict(zip(columns, row, strict=True)) for row in rows]
    draw_curves(Progress(history=history, best=request.param), tmp_path / "curves.png")
    return drawn[0]


@pytest.mark.parametrize(("figure", "epoch"), [(90.0, 2), (80.0, 3)], indirect=["figure"])
def test_the_epoch_that_is_saved_as_the_best_is_marked_in_each(figure: Figure, epoch: int) -> None:
    """Even if another is more accurate: the energy budget that it did not keep may be gone."""
    marked = [
        [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == ":" and len(line.get_xdata())]
        for axis in figure.axes[:4]
    ]
    assert marked == [[epoch], [0.25 * epoch], [epoch], [epoch]]


def test_the_two_losses_have_an_axis_each(figure: Figure) -> None:
    loss, held_out = figure.axes[0], figure.axes[4]
    assert [list(line.get_ydata()) for line in held_out.lines] == [[1.5, 0.3, 0.4]]
    assert list(loss.lines[0].get_ydata()) == [2.0, 1.2, 1.1]
    texts = [text.get_text() for text in loss.get_legend().get_texts()]
    assert any("(left)" in text for text in texts)
    assert any("(right)" in text for text in texts)


def test_epochs_are_whole_numbers(figure: Figure) -> None:
    for axis in (figure.axes[0], figure.axes[2], figure.axes[3]):
        assert all(float(tick).is_integer() for tick in axis.get_xticks())
