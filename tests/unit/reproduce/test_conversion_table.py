import json
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onespike.clock import Machine
from onespike.errors import OnespikeError
from onespike.evaluation.convert import convert_run
from onespike.evaluation.evaluate import evaluate
from onespike.training import Run, load_recipe, train
from reproduce.conversion import _measure, _milliseconds, conversion
from reproduce.conversion_table import TRAINED_ON, Entry, Measurement, _draw, _winner, write
from reproduce.report import read_rows
from tests.running import raising

ANN = {
    "data.image_size": 16,
    "data.limit": 200,
    "data.flip": 0,
    "model.name": "resmlp12",
    "train.epochs": 1,
    "train.batch_size": 20,
    "train.warmup_epochs": 0,
    "train.mixup": 0,
}


@pytest.fixture(scope="module")
def ann(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ann"
    train(load_recipe("digits", ANN), folder)
    return folder


def arguments(tmp_path: Path, **others: object) -> dict[str, Any]:
    return {
        "time_steps": (1,),
        "populations": (),
        "images": 64,
        "out": tmp_path / "results",
        "work": tmp_path / "work",
        **others,
    }


def table(tmp_path: Path) -> list[dict[str, str]]:
    return read_rows(tmp_path / "results" / "conversion-resmlp12-digits.csv")


@pytest.mark.slow
def test_the_network_and_its_conversions_stand_side_by_side(ann: Path, tmp_path: Path):
    conversion(ann, **arguments(tmp_path, time_steps=(1, 2), populations=(3,)))
    rows = table(tmp_path)
    assert [(row["network"], row["T"], row["neurons"]) for row in rows] == [
        ("artificial network", "0", "0"),
        ("converted", "1", "1"),
        ("converted", "2", "1"),
        ("converted", "1", "3"),
    ]
    work = tmp_path / "work/conversion"
    folders = [ann, *sorted(work.glob("*-64-T?-P1")), *work.glob("*-64-T1-P3")]
    for row, folder in zip(rows, folders, strict=True):
        assert float(row["top-1 %"]) == pytest.approx(evaluate(Run(folder)).top1.mean)
        assert float(row["from"]) < float(row["top-1 %"]) < float(row["to"])
        assert float(row["ms an image"]) > 0
        assert row["epochs"] == "1"
        assert row["commit"] == json.loads((folder / "environment.json").read_text())["commit"]
    assert [bool(row["whole test set %"]) for row in rows] == [True, False, False, False]
    assert float(rows[0]["whole test set %"]) == pytest.approx(evaluate(Run(ann)).top1.mean)
    energies = [float(row["µJ, field"]) for row in rows]
    assert energies[1] < energies[0], "spikes cost less than real numbers"
    assert energies[1] < energies[2], "twice the time steps take more"
    assert energies[1] < energies[3], "and so do more neurons"
    assert (tmp_path / "results" / "conversion-resmlp12-digits.png").stat().st_size > 1000


@pytest.mark.slow
def test_both_routes_beside_the_network_that_was_trained_as_long(ann: Path, tmp_path: Path):
    runs = {name: tmp_path / name for name in ("longer", "staircase", "other")}
    train(load_recipe("digits", {**ANN, "train.epochs": 3}), runs["longer"])
    train(load_recipe("digits", {**ANN, "model.activation": "qcfs"}), runs["staircase"])
    finetuned = []
    for source in (ann, runs["staircase"]):
        converted = tmp_path / f"{source.name}-converted"
        convert_run(Run(source), converted, images=64)
        finetuned.append(tmp_path / f"{source.name}-finetuned")
        teacher = "" if source == ann else str(ann)
        recipe = load_recipe("digits", {**ANN, "train.epochs": 2, "train.teacher": teacher})
        before = Run(converted).recipe
        recipe = replace(recipe, model=before.model, conversion=before.conversion)
        train(recipe, finetuned[-1], init_from=converted)
    options = arguments(tmp_path, longer=runs["longer"], staircase=runs["staircase"], finetuned=tuple(finetuned))
    conversion(ann, **options)
    rows = table(tmp_path)
    assert [(row["network"], row["epochs"]) for row in rows] == [
        ("artificial network", "1"),
        ("artificial network, trained as long", "3"),
        ("converted", "1"),
        ("staircase network", "1"),
        ("staircase, converted", "1"),
        ("trained on, calibrated route", "3"),
        ("trained on, staircase route with a teacher", "3"),
    ]
    reference = rows[1]
    assert reference["points"] == ""
    for row in rows[:1] + rows[2:]:
        difference = float(row["top-1 %"]) - float(reference["top-1 %"])
        assert float(row["points"]) == pytest.approx(difference)
        assert float(row["points from"]) <= difference <= float(row["points to"])
    text = (tmp_path / "results" / "conversion-resmlp12-digits.md").read_text()
    assert "At one time step: trained on, " in text
    route = "(calibrated|staircase) route( with a teacher)?"
    assert re.search(f"The {route} (is ahead, on these images, of|is indistinguishable from) the {route}: ", text)
    train(load_recipe("digits", {**ANN, "train.epochs": 2}), runs["other"])
    with pytest.raises(OnespikeError, match=r"was trained for 2 epochs, .* for 3 in all"):
        conversion(ann, **{**options, "longer": runs["other"]})
    for wrong in (runs["other"], tmp_path / "ann-converted"):
        with pytest.raises(OnespikeError, match="expected a run that was trained on at one time step after conversion"):
            conversion(ann, **{**options, "finetuned": (wrong,)})
    stopped = Run(Path(shutil.copytree(runs["longer"], tmp_path / "stopped")))
    (stopped.folder / "summary.json").unlink()
    with pytest.raises(OnespikeError, match="stopped: expected a run that was trained to its end; go on with --resume"):
        conversion(ann, **{**options, "longer": stopped.folder})
    train(load_recipe("digits", {**ANN, "train.epochs": 3, "data.limit": 150}), tmp_path / "fewer")
    with pytest.raises(OnespikeError, match=r"expected the images of .*ann, with data\.limit 200, got 150"):
        conversion(ann, **{**options, "longer": tmp_path / "fewer"})
    with pytest.raises(OnespikeError, match="expected qcfs activations here, got relu"):
        conversion(ann, **{**options, "staircase": runs["other"]})
    with pytest.raises(OnespikeError, match="give it as --staircase"):
        conversion(runs["staircase"], **arguments(tmp_path))
    # Two runs of one route do not make two routes.
    conversion(ann, **{**options, "finetuned": (finetuned[0], finetuned[0])})
    text = (tmp_path / "results" / "conversion-resmlp12-digits.md").read_text()
    assert "At one time step: trained on, calibrated route" in text
    assert not re.search("is ahead|indistinguishable", text)


@pytest.mark.slow
def test_a_conversion_that_was_interrupted_is_made_anew(ann: Path, tmp_path: Path):
    conversion(ann, **arguments(tmp_path))
    (folder,) = (tmp_path / "work/conversion").glob("*-64-T1-P1")
    for name in ("best", "last"):
        shutil.rmtree(folder / name)
    conversion(ann, **arguments(tmp_path))
    assert Run(folder).has_checkpoint()


@pytest.mark.parametrize("numbers", [{"time_steps": (0,)}, {"time_steps": ()}, {"populations": (1,)}])
def test_numbers_that_do_not_suit(numbers: dict[str, tuple[int, ...]], ann: Path, tmp_path: Path):
    with pytest.raises(OnespikeError, match=f"{next(iter(numbers))}: expected numbers of at least [12]"):
        conversion(ann, **arguments(tmp_path, **numbers))


def test_times_taken_while_something_else_ran_are_marked(ann: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("reproduce.conversion.watch_machine", lambda: nullcontext(Machine(cpu=1.0, others=1.0)))
    monkeypatch.setattr("reproduce.conversion.interleaved", lambda timed, _: {name: [1.0, 9.0, 2.0] for name in timed})
    [time], busy = _milliseconds([Run(ann)])
    entry = Entry("artificial network", 0, 0, 1, Run(ann), Measurement("1110", 1, 2), time)
    write([entry], entry, 64, tmp_path, "marked", busy)
    assert "The time is NOT TO BE TRUSTED: others used 1.0 cores." in (tmp_path / "marked.md").read_text()
    [row] = read_rows(tmp_path / "marked.csv")
    summary, z = Run(ann).summary, 1.959964
    middle, half = 0.75 + z**2 / 8, z * (0.75 * 0.25 / 4 + z**2 / 64) ** 0.5  # Wilson's, of 3 of 4
    expected = {
        "from": 100 * (middle - half) / (1 + z**2 / 4),
        "to": 100 * (middle + half) / (1 + z**2 / 4),
        "ms an image": 2000 / 64,
        "minutes": summary["seconds"] / 60,
        "whole test set %": summary["test_top1"],
        "top-1 %": 75,
        "µJ, field": 1,
        "µJ, memory": 2,
    }
    assert {name: float(row[name]) for name in expected} == pytest.approx(expected)
    write([entry], entry, 64, tmp_path, "trusted")
    assert "TRUSTED" not in (tmp_path / "trusted.md").read_text()


@pytest.mark.slow
def test_called_again_it_makes_nothing_anew(ann: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    conversion(ann, **arguments(tmp_path))
    before = table(tmp_path)

    for name in ("convert_run", "_hits", "audit_run"):
        monkeypatch.setattr(f"reproduce.conversion.{name}", raising(AssertionError("made anew")))
    conversion(ann, **arguments(tmp_path))
    for row, old in zip(table(tmp_path), before, strict=True):  # time alone is measured again
        assert {**row, "ms an image": ""} == {**old, "ms an image": ""}
    with pytest.raises(AssertionError, match="made anew"):  # other calibration images are another conversion
        conversion(ann, **arguments(tmp_path, images=32))


@pytest.mark.slow
def test_another_network_of_the_same_name_is_another_network(ann: Path, tmp_path: Path):
    train(load_recipe("digits", {**ANN, "train.seed": 1}), tmp_path / "elsewhere" / "ann")
    conversion(ann, **arguments(tmp_path))
    first = table(tmp_path)
    conversion(tmp_path / "elsewhere" / "ann", **arguments(tmp_path))
    for row, other in zip(table(tmp_path), first, strict=True):
        assert row["µJ, field"] != other["µJ, field"] or row["top-1 %"] != other["top-1 %"]


def test_energies_are_those_of_the_audit_and_kept_with_the_answers(
    ann: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    totals = {"field": 1.5e-6, "int8": 9.0, "memory": 2.5e-6}
    audited = SimpleNamespace(energy=lambda convention: SimpleNamespace(total=totals[convention]))
    monkeypatch.setattr("reproduce.conversion.audit_run", lambda *_, **__: audited)
    found = _measure(Run(ann), 30, tmp_path)
    assert (found.microjoules, found.memory_microjoules, len(found.hits)) == (1.5, 2.5, 30)
    monkeypatch.setattr("reproduce.conversion.audit_run", raising(AssertionError("measured anew")))
    assert _measure(Run(ann), 30, tmp_path) == found
    with pytest.raises(AssertionError, match="measured anew"):
        _measure(Run(ann), 31, tmp_path)


def test_every_network_is_drawn_once_and_several_neurons_apart():
    def drawn(*networks: tuple[str, int, int]) -> dict[str, list[float]]:
        (axis,) = _draw([Entry(*one, 1, Run(Path()), Measurement("10", 1, 1), 1) for one in networks]).axes
        handles, labels = axis.get_legend_handles_labels()
        return {label: list(handle[0].get_xdata()) for label, handle in zip(labels, handles, strict=True)}

    one, ours = "converted", "trained on, calibrated route"
    assert drawn((one, 1, 1), (one, 4, 1), (one, 1, 2)) == {one: [1, 4], f"{one}, several neurons": [1, 2]}
    assert drawn((one, 4, 1), (one, 1, 2)) == {one: [4], f"{one}, several neurons": [2]}
    assert drawn((ours, 1, 1), (ours, 1, 1)) == {ours: [1, 1]}
    assert drawn((f"{ours} with 4 neurons each", 1, 4)) == {f"{ours} with 4 neurons each": [4]}


def test_the_verdict_between_routes_is_that_of_their_interval():
    def entry(network: str, hits: str) -> Entry:
        return Entry(network, 1, 1, 1, Run(Path()), Measurement(hits, 1, 1), 1)

    reference = entry("artificial network", "1" * 90 + "0" * 10)
    best, near, far = (
        entry(f"{TRAINED_ON}{route}", "1" * right + "0" * (100 - right))
        for route, right in (("calibrated route", 80), ("staircase route", 79), ("staircase route with more", 40))
    )
    said = _winner([reference, far, near, best], reference)
    assert "At one time step: trained on, calibrated route, -10.00 points" in said
    assert "The calibrated route is indistinguishable from the staircase route: +1.00 points" in said
    assert "The calibrated route is ahead, on these images, of the staircase route with more: +40.00 points" in said
    assert _winner([reference], reference) == ""


def test_a_pretrained_network_is_refused(tmp_path: Path):
    with pytest.raises(OnespikeError, match="expected a run that was trained here, got a pretrained network"):
        conversion(Path("pretrained:digits-spiking-vgg-xs"), out=tmp_path / "results", work=tmp_path / "work")
    assert not any(tmp_path.iterdir())


def test_a_spiking_run_is_refused(tmp_path: Path):
    train(load_recipe("digits", {"data.limit": 100, "train.epochs": 1, "train.warmup_epochs": 0}), tmp_path / "run")
    with pytest.raises(OnespikeError, match="expected a run of an artificial network"):
        conversion(tmp_path / "run", out=tmp_path / "results", work=tmp_path / "work")
    assert not (tmp_path / "results").exists()
