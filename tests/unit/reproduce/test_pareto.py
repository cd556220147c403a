import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import SMALL

from onespike.audit import audit_run
from onespike.errors import OnespikeError
from onespike.training.run import Run
from reproduce import pareto as module
from reproduce.outcome import Outcome
from reproduce.pareto import PARETO, Point, read_costs
from reproduce.plan import Setting, plan, resolve
from reproduce.statistics import Estimate
from reproduce.sweep import run_sweep


def point(accuracy: float, energy: float) -> Point:
    outcome = Outcome(Setting("group", "label", {}), 1, [], Estimate(accuracy, None, None, 1))
    return Point(outcome, {"field": Estimate(energy, None, None, 1)})


def test_the_front_by_hand():
    points = [point(90, 10), point(80, 5), point(80, 6), point(95, 20), point(85, 10), point(94, 21)]
    assert [one.is_on_front(points, "field") for one in points] == [True, True, False, True, False, False]
    twice = [point(90, 10), point(90, 10)]  # settings that share their runs
    assert all(one.is_on_front(twice, "field") for one in twice)


def test_the_twins_and_the_penalties_are_other_recipes():
    recipes = resolve(PARETO, {})
    named = {(one.group, one.label): recipe for one, recipe in zip(PARETO.settings, recipes, strict=True)}
    assert [named["rate penalty", f"{w:g}"].train.rate_penalty for w in module.PENALTIES] == list(module.PENALTIES)
    assert named["preset", "ann"].model.neuron.name == "relu"
    assert named["preset", "strict"].model.readout == "spiking"
    # conv-tiny is modern as it is, and without a penalty it is the paper's: one training for three rows.
    assert len(plan(PARETO, recipes, 2)) == 2 * (len(PARETO.settings) - 2)


def read(path: Path) -> list[dict[str, Any]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_each_network_is_audited_once_and_a_sweep_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    chosen = {("rate penalty", "0"), ("rate penalty", "3"), ("preset", "paper"), ("preset", "ann")}
    sweep = replace(PARETO, settings=[one for one in PARETO.settings if (one.group, one.label) in chosen])
    audited: list[Path] = []

    def counted(run: Run, **options: Any) -> Any:
        audited.append(run.folder)
        return audit_run(run, **{**options, "images": 32})

    monkeypatch.setattr(module, "audit_run", counted)
    out, work = tmp_path / "results", tmp_path / "work"
    run_sweep(sweep, SMALL, 1, out, work)
    assert len(audited) == 3
    costs = read_costs(out / "pareto.audit.csv")
    assert [one["seed"] for one in costs] == [0, 0, 0]
    rows = {(row["group"], row["setting"]): row for row in read(out / "pareto.csv")}
    assert rows["rate penalty", "0"]["field µJ"] == rows["preset", "paper"]["field µJ"]
    assert float(rows["preset", "ann"]["real %"]) == 100
    assert float(rows["preset", "ann"]["field µJ"]) > float(rows["preset", "paper"]["field µJ"])
    # What stands in the table is what an audit of the run says.
    run = next(folder for folder in audited if "penalty-3" in folder.name)
    again = audit_run(Run.open(run), images=32, latency=False)
    assert float(rows["rate penalty", "3"]["field µJ"]) == pytest.approx(1e6 * again.energy("field").total)
    assert float(rows["rate penalty", "3"]["test top-1 %"]) == pytest.approx(again.accuracy)
    text = (out / "pareto.md").read_text()
    assert "| pending |" not in text
    assert str(tmp_path) not in text
    assert (out / "pareto.png").stat().st_size > 10_000

    # Killed between an audit and its row: the audit is not made again. Killed before it: it is.
    ledger = (out / "pareto.runs.csv").read_text().splitlines(keepends=True)
    (out / "pareto.runs.csv").write_text("".join(ledger[:-1]))
    run_sweep(sweep, SMALL, 1, out, work)
    assert len(audited) == 3
    assert (out / "pareto.runs.csv").read_text() == "".join(ledger)
    (out / "pareto.runs.csv").write_text("".join(ledger[:-1]))
    lines = (out / "pareto.audit.csv").read_text().splitlines(keepends=True)
    (out / "pareto.audit.csv").write_text("".join(lines[:-1]))
    run_sweep(sweep, SMALL, 1, out, work)
    assert len(audited) == 4
    assert (out / "pareto.audit.csv").read_text() == "".join(lines)

    shutil.rmtree(work)  # all rows are there: nothing is needed any more
    run_sweep(sweep, SMALL, 1, out, work)
    assert not work.exists()
    capsys.readouterr()


def test_what_is_missing_is_pending(tmp_path: Path):
    recipes = resolve(PARETO, SMALL)
    module.write_pareto(PARETO, recipes, plan(PARETO, recipes, 2), 2, [], tmp_path)
    rows = read(tmp_path / "pareto.csv")
    assert {row["front"] for row in rows} == {"pending"}
    assert {row["field µJ"] for row in rows} == {""}
    assert (tmp_path / "pareto.png").is_file()


def test_a_damaged_file_of_audits_is_refused(tmp_path: Path):
    (tmp_path / "pareto.audit.csv").write_text("digest,seed\nabc,0\n")
    with pytest.raises(OnespikeError, match="cannot be read as audits"):
        read_costs(tmp_path / "pareto.audit.csv")
    assert read_costs(tmp_path / "other.csv") == []
