from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import SMALL

from onespike.audit import Audit, EnergyTable, audit_run
from onespike.classpath import ClassPath
from onespike.conversion import ConversionConfig
from onespike.errors import OnespikeError
from onespike.models import create_model
from onespike.training import load_recipe
from onespike.training.loop import complete
from onespike.training.run import Run
from reproduce import baselines
from reproduce import energy as module
from reproduce.published import ENERGY, Claim
from reproduce.report import read_rows


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ResNet-19 is counted at a sixteenth of its width, and all trainings are short."""
    whole = baselines.create_model
    monkeypatch.setattr(baselines, "create_model", lambda name, time_steps: whole(name, width=8, time_steps=time_steps))
    monkeypatch.setattr(module, "SMALL", SMALL)
    config = module.model_config
    monkeypatch.setattr(module, "model_config", lambda name, width: config(name, width=width, time_steps=2))


def rows(folder: Path) -> list[dict[str, str]]:
    return read_rows(folder / "energy.csv")


@pytest.mark.slow
def test_small_networks_are_trained_once_and_no_ratio_stands_without_two_accuracies(command, tmp_path: Path):
    options = ("energy", "--images", 24, "--width", 2)
    code, _, complaints = command(*options)
    assert (code, complaints) == (0, "")
    found = rows(tmp_path / "results")
    assert {row["against"] for row in found} == {"ANN twin", "binary twin", "spiking-vgg11"}
    assert all(row["top-1 %"] and row["its top-1 %"] for row in found)
    text = (tmp_path / "results" / "energy.md").read_text()
    assert "small: trained on the digits" in text
    # ResNet-19 is known on CIFAR-10 alone: its energy is shown, as assumed, and no ratio.
    assert "ResNet-19, T = 4, rate 0.1: no ratio, since they were audited" in text.replace("\n", " ")
    assert text.count(f"| {module.ASSUMED} |") == 6
    assert str(tmp_path) not in text
    assert (tmp_path / "results" / "energy.png").stat().st_size > 10_000

    work = tmp_path / "runs" / "paper"
    ours, ann = (
        audit_run(Run.open(work / f"energy-digits-{name}"), images=24, latency=False) for name in ("paper", "ann")
    )
    row = next(row for row in found if (row["against"], row["convention"]) == ("ANN twin", "memory"))
    assert float(row["found"]) == pytest.approx(ann.energy("memory").total / ours.energy("memory").total)
    assert float(row["top-1 %"]) == pytest.approx(ours.accuracy)
    assert row["holds"] == ("yes" if float(row["found"]) >= float(row["claimed"]) == 10 else "no")
    assert not next(row for row in found if row["against"] == "binary twin")["claimed"]

    files = [work / "energy-digits-paper" / "summary.json", work / "energy-digits-vgg" / "summary.json"]
    written = [file.stat().st_mtime_ns for file in files]
    command(*options)
    assert [file.stat().st_mtime_ns for file in files] == written
    assert rows(tmp_path / "results") == found


@pytest.mark.slow
def test_the_vgg_is_a_run_like_any_other_and_comes_out_the_same_again(tmp_path: Path, capsys):
    recipe = load_recipe("digits", {**SMALL, "train.epochs": 2, "train.mixup": 0.2, "train.rate_penalty": 1.0})
    one, other = (module._open_or_train_vgg(tmp_path / name, recipe, 2) for name in ("one", "other"))
    assert (one.recipe.model.width, one.recipe.model.time_steps, one.epochs()) == (2, 2, 2)
    assert one.recipe.train.rate_penalty == 0
    timeless = [{k: v for k, v in run.summary.items() if k.startswith("test_")} for run in (one, other)]
    assert timeless[0] == timeless[1]
    assert all((a == b).all() for a, b in zip(one.model().parameters(), other.model().parameters(), strict=True))
    seeded = replace(recipe, train=replace(recipe.train, seed=1))
    third = module._open_or_train_vgg(tmp_path / "third", seeded, 2)
    assert any((a != b).any() for a, b in zip(one.model().parameters(), third.model().parameters(), strict=True))
    audited = audit_run(one, images=16, latency=False)
    assert audited.accuracy == one.summary["test_top1"]
    assert [product.arrives for product in audited.operations.products] == ["real"] + ["binary"] * 8
    capsys.readouterr()


def test_what_is_no_vgg_is_refused(tmp_path: Path, capsys):
    (tmp_path / "precious").write_text("data")
    with pytest.raises(OnespikeError, match="is not empty"):
        module._open_or_train_vgg(tmp_path, load_recipe("digits", SMALL), 2)
    with pytest.raises(OnespikeError, match="needs a multiple of 16 pixels, got 24"):
        module._open_or_train_vgg(tmp_path / "new", load_recipe("digits", {**SMALL, "data.image_size": 24}), 2)
    assert not (tmp_path / "new").exists()
    capsys.readouterr()


def write(folder: Path, **changed: Any) -> Run:
    """A run that is complete, for whoever does not look closer."""
    run = Run(folder)
    run.begin(load_recipe("digits", changed))
    (folder / "summary.json").write_text("{}")
    return run


def test_a_run_of_another_recipe_is_not_taken_for_the_one_that_is_asked_for(tmp_path: Path):
    own = write(tmp_path / "own").recipe
    vgg = write(tmp_path / "vgg", **{"model.name": "spiking-vgg11", "model.width": 2})
    with pytest.raises(OnespikeError, match=r"vgg holds the run of another recipe: .*model\.width was 2, now 4"):
        module._open_or_train_vgg(vgg.folder, own, 4)
    (vgg.folder / "summary.json").unlink()  # nor does one go on that was interrupted
    with pytest.raises(OnespikeError, match=r"vgg holds the run of another recipe: .*model\.width was 2, now 4"):
        module._open_or_train_vgg(vgg.folder, own, 4)
    with pytest.raises(OnespikeError, match=r"own holds the run of another recipe: train\.epochs was 40, now 6"):
        complete(load_recipe("digits", {"train.epochs": 6}), Run(tmp_path / "own"))


def test_a_vgg_takes_no_teacher_loss_or_conversion_from_the_run_beside_it(tmp_path: Path, monkeypatch):
    asked: list[Any] = []
    monkeypatch.setattr(module, "complete", lambda recipe, _: asked.append(recipe))
    recipe = load_recipe("digits", {**SMALL, "train.teacher": "twin", "train.teacher_features": 0.5})
    module._open_or_train_vgg(
        tmp_path, replace(recipe, conversion=ConversionConfig(), loss=ClassPath("torch.nn.CrossEntropyLoss")), 2
    )
    [found] = asked
    assert (found.conversion, found.loss, found.train.teacher, found.train.teacher_features) == (None, None, "", 0.0)


@pytest.mark.parametrize(
    ("changed", "expected", "message"),
    [
        ({}, {"preset": "ann"}, "expected a run of preset ann here, got preset paper"),
        ({"model.name": "conv12"}, {"preset": "paper"}, "expected a run of name conv-tiny here, got name conv12"),
        ({"data.name": "cifar10"}, {"preset": "paper"}, "expected a run of data digits here, got data cifar10"),
        ({"model.name": "spiking-vgg11"}, {"name": "spiking-vgg11", "width": 8}, "width 8 here, got width"),
    ],
)
def test_what_stands_beside_a_network_has_to_be_its_kin(changed, expected, message: str, tmp_path: Path):
    own = write(tmp_path / "own")
    with pytest.raises(OnespikeError, match=message):
        module._kin(own, write(tmp_path / "other", **changed).folder, **expected)
    assert module._kin(own, own.folder, preset="paper").folder == own.folder


@pytest.fixture
def audits(monkeypatch: pytest.MonkeyPatch) -> list[Audit]:
    """Two audits of a small network, of a tenth and of three tenths of its neurons firing."""
    monkeypatch.setattr(baselines, "create_model", lambda _, **how: create_model("spiking-vgg-xs", width=4, **how))
    published = [baselines.Published("network", 1, top1, rate, "") for top1, rate in ((90.0, 0.1), (91.0, 0.3))]
    table = EnergyTable.load()
    return [Audit(one.name, one.operations(), table, data="cifar10", accuracy=one.accuracy) for one in published]


def test_each_claim_is_held_against_the_other_networks_energy_over_ours(audits, monkeypatch: pytest.MonkeyPatch):
    ours, other = audits
    ratio = other.energy("field").total / ours.energy("field").total
    assert ratio > 1.02
    monkeypatch.setitem(ENERGY, "ann", Claim("as much", ratio))
    for pair, claim, expected in (
        ((ours, other), "ann", (90, 91, ratio, ratio, "yes")),
        ((ours, other), "snn", (90, 91, 3, ratio, "no")),
        ((other, ours), "ann", (91, 90, ratio, 1 / ratio, "no")),
        ((ours, other), None, (90, 91, None, ratio, None)),
    ):
        claims, refused = module._claims([module.Subject(pair[0]), module.Subject(pair[1], claim)])
        row = dict(zip(claims.columns, claims.rows[0], strict=True))
        assert (row["against"], row["convention"], refused) == (pair[1].name, "field", [])
        found = tuple(row[name] for name in ("top-1 %", "its top-1 %", "claimed", "found", "holds"))
        assert found == pytest.approx(expected)


def test_the_networks_are_described_by_their_counts(audits):
    table = module._networks([module.Subject(audits[1], "snn", assumed=True)])
    row = dict(zip(table.columns, table.rows[0], strict=True))
    dense, real = audits[1].operations.macs, audits[1].operations.macs_of("real")
    assert (row["top-1 %"], row["dense MACs"], row["firing rates"]) == (91.0, dense, module.ASSUMED)
    assert row["real %"] == pytest.approx(100 * real / dense)
    assert 0.25 * (dense - real) < row["synaptic operations"] <= 0.3 * (dense - real)  # none at the border
    assert row["field µJ"] == pytest.approx(4.6e-6 * real + 0.9e-6 * 0.3 * (dense - real))
    assert row["memory µJ"] == 1e6 * audits[1].energy("memory").total


def test_bad_input(command, tmp_path: Path):
    for options, message in (
        (("--images", 0), "images: expected at least 1, got 0"),
        (("--ann", tmp_path), "give its run by --run"),
        (("--run", tmp_path), "is not a run"),
        (("--run", tmp_path, "--width", 16), "--width is that of a VGG-11: say by --vgg"),
    ):
        code, _, complaints = command("energy", *options)
        assert (code, complaints.count("\n")) == (2, 1)
        assert message in complaints


def test_the_claims_are_the_papers():
    assert (ENERGY["ann"].times, ENERGY["snn"].times) == (10, 3)
