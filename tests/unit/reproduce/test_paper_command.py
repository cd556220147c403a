"""`python -m reproduce`, as it is typed."""

import signal
from pathlib import Path

import pytest

from reproduce import registry

TINY = ("--recipe", "digits", "--data.workers", 0, "--model.depths", "[1,1]", "--channels", "[4,6]")
BUDGET = ("--limit", 60, "--epochs", 1, "--seeds", 1, "--train.batch_size", 16)


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch, sweep) -> None:
    monkeypatch.setitem(registry.PAPER, "demo", sweep)


@pytest.mark.usefixtures("demo")
def test_a_sweep_as_it_is_typed(command, tmp_path: Path):
    code, printed, complaints = command("demo", *TINY, *BUDGET, "--data.cache", tmp_path / "c")
    assert (code, complaints) == (0, "")
    assert "0 runs done, 2 to do; now: baseline baseline, seed 0" in printed
    assert "1 runs done, 1 to do, about 1 min left; now: theta 0.3, seed 0" in printed
    assert {path.name for path in (tmp_path / "results").iterdir()} >= {
        *("demo.csv", "demo.md", "demo.png", "demo.runs.csv"),
    }
    text = (tmp_path / "results" / "demo.md").read_text()
    assert "60 training images, of which 10% are held out" in text
    assert "channels 4-6, fp32" in text
    assert "Of one seed there is no interval" in text
    assert str(tmp_path) not in text + (tmp_path / "results" / "demo.runs.csv").read_text()


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize(
    ("number", "code"), [(None, 130), (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_interrupted(number: signal.Signals | None, code: int, command, monkeypatch: pytest.MonkeyPatch):
    """By the training loop, or by a signal outside of it."""
    from onespike.training.loop import Stopped
    from reproduce import sweep

    def stop(*_: object, **__: object) -> None:
        if number:
            signal.raise_signal(number)
        raise Stopped

    monkeypatch.setattr(sweep, "complete", stop)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    try:
        found, _, complaints = command("demo", "--recipe=digits")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert found == code
    assert "go on with: python -m reproduce demo --recipe=digits" in complaints


def test_what_keeps_nothing_does_not_say_that_it_goes_on(command, monkeypatch: pytest.MonkeyPatch):
    def stop(out: Path = Path("results")) -> None:  # noqa: ARG001 - each table has it
        raise KeyboardInterrupt

    monkeypatch.setitem(registry.PAPER, "table1", stop)
    assert command("table1") == (130, "", "\nstopped\n")


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize("arguments", [("demo", *TINY, "--part", "9/9"), ("table1",)], ids=lambda words: words[0])
def test_names_are_printed_as_they_are(arguments: tuple[object, ...], command):
    code, printed, complaints = command(*arguments, "--out", ":smile:\x1b[31m")
    assert (code, complaints) == (0, "")
    assert "the table is :smile:\\x1b[31m/" in printed


def test_without_a_name_all_are_listed(command):
    code, printed, _ = command()
    assert code == 0
    assert all(name in printed for name in registry.PAPER)


@pytest.mark.parametrize("name", ["table1", "taylor", "table2"])
def test_help(name: str, command):
    code, printed, _ = command(name, "--help")
    assert code == 0
    assert "--out" in printed


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("tabel1", "did you mean 'table1'?"),
        ("table1 --ot x", "did you mean '--out'?"),
        ("demo --seeds 0", "seeds: expected 1 to 1000, got 0"),
        ("demo --seeds 1000000", "seeds: expected 1 to 1000, got 1000000"),
        ("demo --epochs 0", "train.epochs: expected at least 1, got 0"),
        ("demo --limit -1", "data.limit: expected"),
        ("demo --precision fp17", "precision"),
        ("demo --part 3/2", "part: expected K/N with 1 <= K <= N"),
        ("demo --part half", "part: expected K/N, such as 1/2"),
        ("demo --train.epochs 3", "demo has an option of its own for it: --epochs"),
        ("demo --train.sed 3", "did you mean '--train.seed'?"),
        ("table2 --data.name digits", "rows of table2 set it themselves"),
        ("time --epochs 4", "--epochs: rows of time set it themselves"),
        ("events --epochs 5", "--epochs: rows of events set it themselves"),
        ("conversion --test-images 1", "test_images: expected at least 2, which an interval takes, got 1"),
        ("demo --recipe digit", "did you mean 'digits'?"),
        ("demo --model.theta 2", "theta: expected"),
    ],
)
def test_bad_input(arguments: str, message: str, command, tmp_path: Path):
    code, printed, complaints = command(*arguments.split())
    assert (code, printed) == (2, "")
    assert message in complaints
    assert complaints.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.usefixtures("demo")
def test_a_damaged_list_of_runs(command, tmp_path: Path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "demo.runs.csv").write_text("seed,digest\nzero,x\n")
    code, _, complaints = command("demo", *TINY)
    assert (code, complaints.count("\n")) == (2, 1)
    assert "cannot be read as the runs of a sweep" in complaints
