"""`onespike audit`, as it is typed."""

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from onespike.audit import audit, audit_model, audit_run, compare
from onespike.audit.latency import Latency
from onespike.cli.audit import _joule, _print
from onespike.counting.energy import DEFAULT
from onespike.counting.operations import count_operations
from onespike.data.config import DataConfig
from onespike.data.sets import Dataset
from onespike.errors import OnespikeError
from onespike.evaluation import evaluate
from onespike.models import model_config
from onespike.terminal import person
from onespike.training.checkpoint import Checkpoint
from onespike.training.run import Run
from tests.running import read_rows

QUICK = ("--no-latency", "--images", 24, "--device", "cpu")


def test_no_images_are_none_to_audit(make_run):
    run = make_run()
    data = run.dataset()
    with pytest.raises(OnespikeError, match=r"^there are no images to audit the network on"):
        audit_run(run, replace(data, test=data.test.select(np.arange(0))), images=4, latency=False)


def test_a_run(make_run, command, tmp_path: Path):
    run = make_run(top1=93.5)
    files = {kind: tmp_path / f"audit.{kind}" for kind in ("csv", "json", "html")}
    code, printed, complaints = command(
        "audit", run.folder, *QUICK, *(part for kind, file in files.items() for part in (f"--{kind}", file))
    )
    assert (code, complaints) == (0, "")
    found = audit_run(run, images=24, latency=False)
    lines = printed.splitlines()
    ops = found.operations
    assert f"{ops.macs:,} dense multiply-accumulates for one image, {ops.macs_of('real'):,} of them on real" in lines[0]
    assert lines[1].startswith("top-1 93.50%; ")
    assert "UNTRAINED" not in printed
    for source in found.table.sources.values():
        assert source in printed
    content = json.loads(files["json"].read_text())
    assert content["macs"]["dense"] == ops.macs
    assert content["energy"] == json.loads(json.dumps(found.to_json()["energy"]))
    assert content["synaptic_operations"] == ops.synaptic_operations
    assert content["constants"] == {"file": found.table.file, "sources": found.table.sources}
    spent = found.energy("memory")
    assert f"memory, by what it is spent on: real {100 * spent.real / spent.total:.0f}%, spikes " in printed
    units = {line.split()[0]: line.split()[-1] for line in lines if line.rstrip().endswith("AC")}
    for layer in ops.layers:
        for product in layer.products:
            assert units[layer.path] == ("MAC" if product.arrives == "real" else "AC")
    rows = read_rows(files["csv"])
    assert sum(float(row["macs"] or 0) for row in rows) == ops.macs
    assert sum(float(row["joule_memory"] or 0) for row in rows) == pytest.approx(
        found.energy("memory").total, rel=1e-9, abs=0
    )
    for column, total in (("potential_reads", ops.potentials.reads), ("potential_writes", ops.potentials.writes)):
        assert sum(float(row[column] or 0) for row in rows) == total
    assert sum(float(row["elementwise"] or 0) for row in rows) == pytest.approx(sum(ops.elementwise.values()))
    assert files["html"].read_text().startswith("<!doctype html>")


def test_a_fresh_model_says_so_at_once(command, tmp_path: Path):
    options = ("--data.cache", tmp_path, "--model.depths", "[1,1,1]", "--model.preset", "strict", "--json", "-")
    code, printed, said = command("audit", "conv-tiny", *QUICK, *options)
    assert code == 0
    assert "UNTRAINED" in said.splitlines()[1]
    content = json.loads(printed)
    assert (content["name"], content["preset"], content["trained"], content["images"]) == (
        "conv-tiny",
        "strict",
        False,
        24,
    )
    assert content["accuracy"] is None
    assert {product["arrives"] for layer in content["layers"][2:] for product in layer["products"]} == {"binary"}


@pytest.mark.slow
def test_compared_with_twins(make_run, command, tmp_path: Path):
    runs = [make_run(top1=90.0), make_run("twin", top1=91.0, preset="ann"), make_run("unfinished", preset="binary")]
    options = ("--json", tmp_path / "all.json", "--csv", tmp_path / "first.csv")
    others = [run.folder for run in runs[1:]]
    code, printed, _ = command("audit", runs[0].folder, *QUICK, *options, "--compare", *others)
    assert code == 0
    first, second = (audit_run(run, images=24, latency=False) for run in runs[:2])
    ratio = second.energy("field").total / first.energy("field").total
    assert f"(90.00%) takes {1 / ratio:.2f} times the energy of {runs[1].folder} (91.00%), by field\n" in printed
    assert printed.count("The twins are estimates") == 1
    assert f"no ratio of energies, since the accuracy of {runs[2].folder} is not known" in printed
    content = json.loads((tmp_path / "all.json").read_text())
    assert [one["name"] for one in (content, *content["compared"])] == [str(run.folder) for run in runs]
    [pair], [refused] = content["comparisons"], content["not_compared"]
    assert (pair["second"], pair["accuracies"], pair["ratios"]["field"]) == (str(others[0]), [90, 91], ratio)
    assert refused.startswith(f"{runs[0].folder} and {others[1]}: no ratio of energies")
    assert sum(float(row["macs"] or 0) for row in read_rows(tmp_path / "first.csv")) == first.operations.macs


@pytest.mark.slow
def test_an_evaluation_gives_the_accuracy_that_a_summary_lacks(make_run, monkeypatch):
    run = make_run()
    assert audit_run(run, images=8, latency=False).accuracy is None
    (run.folder / "evaluation").mkdir()
    found = evaluate(run, device="cpu").to_json()
    found["top1"]["mean"] = 12.5
    (run.folder / "evaluation" / "evaluation.json").write_text(json.dumps(found))
    hashed, own = [], Dataset.test_set
    monkeypatch.setattr(Dataset, "test_set", lambda *given: (hashed.append(given), own(*given))[1])
    assert audit_run(run, images=8, latency=False).accuracy == 12.5
    assert len(hashed) == 1, "of many images it takes a while"
    for wrong in (150, -1):
        (run.folder / "evaluation" / "evaluation.json").write_text(json.dumps(found | {"top1": {"mean": wrong}}))
        assert audit_run(run, images=8, latency=False).accuracy is None
    others = {"part": "train", "checkpoint": "last", "test_set": "others", "epochs": 2, "time_steps": 4}
    for other in ({key: value} for key, value in (others | {"precision": "bf16"}).items()):
        (run.folder / "evaluation" / "evaluation.json").write_text(json.dumps(found | other))
        assert audit_run(run, images=8, latency=False).accuracy is None


def test_images_are_normalised_as_the_network_was_trained(make_run):
    run = make_run(encoding="threshold")
    checkpoint, images = run.checkpoint("best"), run.dataset().test.spread(24).gather(np.arange(24))[0]
    assert (checkpoint.card.mean, checkpoint.card.std) == ((0.3,), (0.35,)) != (run.dataset().mean, run.dataset().std)
    normal = (images.movedim(-1, -3) / 255 - 0.3) / 0.35
    expected = count_operations(checkpoint.network().eval(), [normal])
    found = audit_run(run, images=24, latency=False, device="cpu").operations
    assert found.synaptic_operations == pytest.approx(expected.synaptic_operations, rel=1e-4)
    assert [one.potentials for one in found.neurons] == [
        pytest.approx(one.potentials, rel=1e-3, abs=1e-4) for one in expected.neurons
    ]


def folder_of(place: Path, shade: int, classes: tuple[str, ...] = ("one", "two")) -> DataConfig:
    """Grey images of the size of the digits, a folder for each class."""
    for part in ("train", "test"):
        for name in classes:
            folder = place / part / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("L", (32, 32), shade * number).save(folder / f"{number}.png")
    return DataConfig(name="folder", root=str(place), cache=str(place.parent / "cache"))


@pytest.fixture
def of_folders(make_run):
    """Make a trained run on the images of a folder."""

    def make(name: str, data: DataConfig, top1: float = 90.0, keys: tuple[str, ...] = ("test_set",)) -> Run:
        run = make_run(name, top1=top1)
        dataset, recipe, summary = run.dataset(data), replace(run.recipe, data=data), run.summary
        run.begin(recipe)
        card = replace(run.checkpoint("best").card, classes=dataset.classes, data=dataset.name)
        Checkpoint(card, card.build().state_dict(), {}, {"progress": {"epoch": 1}}).save(run.best)
        run.finish(summary | {key: dataset.test_set() for key in keys})
        return run

    return make


@pytest.mark.slow
def test_on_other_images_the_accuracy_of_training_does_not_count(make_run, of_folders, tmp_path: Path):
    one, two = folder_of(tmp_path / "one", 60), folder_of(tmp_path / "two", 50)
    run = make_run(top1=90.0)
    assert audit_run(run, images=4, latency=False).accuracy == 90
    assert audit_run(run, one, images=4, latency=False).accuracy is None
    for keys in (("test_set",), ()):  # whether the summary says which images were tested
        run = of_folders(f"run{len(keys)}", one, keys=keys)
        assert audit_run(run, images=4, latency=False).accuracy == 90
        assert audit_run(run, replace(one, cache=str(tmp_path / "elsewhere")), 4, latency=False).accuracy == 90
        assert audit_run(run, two, images=4, latency=False).accuracy is None
    moved = (tmp_path / "one").rename(tmp_path / "moved")
    assert audit_run(tmp_path / "run1", replace(one, root=str(moved)), 4, latency=False).accuracy == 90


def test_folders_of_equal_names_are_different_images(of_folders, tmp_path: Path):
    datas = [
        *(folder_of(tmp_path / "one", 60), folder_of(tmp_path / "two", 50)),
        folder_of(tmp_path / "three", 60, ("one", "three")),
    ]
    first, *others = (audit_run(of_folders(f"run{n}", data), images=4, latency=False) for n, data in enumerate(datas))
    assert {one.data for one in (first, *others)} == {"folder"}
    for other in others:
        made, refused = compare([first, other])
        assert not made
        assert "different images or classes (folder, folder)" in refused[0]
    assert len(compare([first, replace(first, name="twin", data="other")])[0]) == 1  # the images are the same


def test_what_helps_where_an_accuracy_is_not_known(make_run, of_folders, tmp_path: Path):
    data, fresh = folder_of(tmp_path / "one", 60), model_config("conv-tiny", channels=(4,), depths=(1,))
    run, unknown = of_folders("run", data), audit_run(make_run("other"), data, 4, latency=False)
    known = audit_run(run, images=4, latency=False)
    for other, remedy in (
        (audit_model(fresh, data, 4, latency=False), "train the model, and audit its run"),
        (unknown, "run onespike evaluate RUN on the same images"),
    ):
        assert compare([known, other])[1][0].endswith(f"is not known: {remedy}")


def test_the_accuracy_of_the_best_weights_does_not_stand_beside_others(make_run):
    run = make_run(top1=90.0)
    later = replace(run.checkpoint("best"), state={"progress": {"epoch": 2}})
    later.save(run.last)
    (run.best / "model.safetensors").write_bytes(b"damaged")
    assert audit_run(run, images=4, latency=False).accuracy is None


def test_floats_as_they_are_are_warned_of_as_in_an_evaluation(make_run, capsys):
    pixels = torch.rand(8, 1, 32, 32, dtype=torch.bfloat16, requires_grad=True)
    images = torch.utils.data.TensorDataset(pixels, torch.arange(8))
    audit_run(make_run(), (images, images), images=4, latency=False)
    assert "TensorDataset gives floats, taken as they are; the network knows images less [" in capsys.readouterr().err
    run = make_run()
    trained = run.checkpoint("best")
    replace(trained, card=replace(trained.card, mean=(0.0,), std=(1.0,))).save(run.best)
    audit_run(run, images=4, latency=False)
    assert "gives bytes, taken as 0 to 1; the network knows floats that their owner" in capsys.readouterr().err


def test_runs_to_compare_need_no_other_subject(make_run, command):
    runs = [make_run("one", top1=90.0), make_run("two", top1=91.0)]
    code, printed, _ = command("audit", *QUICK, "--compare", *(run.folder for run in runs))
    assert code == 0
    assert f"times the energy of {runs[1].folder} (91.00%)" in printed
    code, again, _ = command("audit", *QUICK[:1], runs[0].folder, *QUICK[1:], "--compare", runs[1].folder)
    assert (code, again) == (0, printed)


def priced(folder: Path, **operations: dict[str, object]) -> Path:
    """An energy file with some prices of operations changed."""
    content = yaml.safe_load(DEFAULT.read_text())
    for name, prices in operations.items():
        content["operations"][name].update(prices)
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    return folder / "mine.yaml"


def test_the_printed_prices_are_those_of_the_file(make_run, command, tmp_path: Path):
    _, printed, _ = command("audit", make_run().folder, *QUICK, "--energy", priced(tmp_path, fp32={"add": 9.0}))
    assert "12.7 pJ per multiply-accumulate, 9 pJ per accumulate" in printed
    assert "4.6 pJ" not in printed.split("operations.fp32")[0]


def test_where_nothing_costs_anything_no_ratio_is_given(make_run, command, tmp_path: Path):
    free = {"multiply": 0, "add": 0}
    runs = [make_run("one", top1=90.0).folder, make_run("two", top1=91.0).folder]
    prices = priced(tmp_path, fp32=free, int8=free)
    code, printed, _ = command("audit", *QUICK, "--energy", prices, "--compare", *runs)
    assert code == 0
    assert "no ratio, since by" in printed


def test_constants_of_ones_own(make_run, command, tmp_path: Path):
    prices = priced(tmp_path, fp32={"multiply": 0, "add": 0, "source": "a test"})
    code, printed, _ = command("audit", make_run().folder, *QUICK, "--energy", prices, "--json", "-")
    assert code == 0
    assert json.loads(printed)["energy"]["field"]["network"]["total"] == 0


def test_from_python_prices_may_be_a_file(tmp_path: Path):
    prices = priced(tmp_path, fp32={"multiply": 0, "add": 0})
    for table in (prices, str(prices)):
        assert audit(nn.Linear(4, 4), [torch.randn(3, 4)], table=table).energy("field").total == 0


def test_a_pretrained_network_has_the_name_that_was_typed(tmp_path: Path):
    name = "pretrained:digits-spiking-vgg-xs"
    assert audit_run(name, DataConfig(cache=str(tmp_path)), images=2, latency=False).name == name


@pytest.mark.parametrize("options", [{"depths": 2, "channels": (4,)}, {"depths": (2,)}])
def test_scaling_takes_networks_of_stages_alone(options):
    own = SimpleNamespace(name="own", build=lambda *_: nn.Flatten(), **options)
    with pytest.raises(OnespikeError, match="--scaling: expected a network of spiking blocks such as conv12, got own"):
        audit_model(own, images=2, latency=False, scale=True)


@pytest.mark.slow
def test_latency_and_scaling(make_run, command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("onespike.audit.latency._SECONDS", 0.0)
    code, printed, _ = command("audit", make_run().folder, *QUICK[1:], "--scaling", "--json", "-")
    assert code == 0
    content = json.loads(printed)
    assert [one["batch"] for one in content["latency"]] == [1, 24]
    for one in content["latency"]:
        assert 0 < one["low"] <= one["median"] <= one["high"]
        assert one["images_per_second"] == pytest.approx(one["batch"] / one["median"])
        assert one["memory"] is None or one["memory"] > 10**7
    assert [one["axis"] for one in content["scaling"]] == ["image size", "width", "depth"]
    assert content["joules"]["per_image"] is not None or content["joules"]["meter"].startswith("not measured")


@pytest.mark.slow
def test_an_axis_without_an_exponent_is_said_to_have_none(command, tmp_path: Path):
    stages = ("--model.depths", "[1,1,1,1,1,1]", "--model.channels", "[2,2,2,2,2,2]", "--data.image_size", 64)
    options = ("--data.cache", tmp_path, "--no-latency", "--images", 2, "--device", "cpu", "--scaling")
    code, printed, _ = command("audit", "conv-tiny", *stages, *options, "--html", tmp_path / "audit.html")
    assert code == 0
    last = [line for line in printed.splitlines() if "exponent" in line or "accumulates ~" in line]
    assert [line.split("^")[0] for line in last[:2]] == [
        f"multiply-accumulates ~ {axis}" for axis in ("width", "depth")
    ]
    assert last[2] == "no exponent of the image size: only one size fits its stages and its stem"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a run folder or a model: onespike audit RUN|MODEL"),
        (["conv21"], "unknown run folder or model 'conv21': did you mean"),
        (["RUN", "--image", "3"], "unknown option '--image': did you mean '--images'?"),
        (["RUN", "--images", "0"], "images: expected at least 1, got 0"),
        (["RUN", "--energy", "nowhere.yaml"], "nowhere.yaml: No such file or directory; expected a YAML file"),
        (["RUN", "--compare", "conv12"], "conv12 is not a run: expected a folder with config.yaml"),
        (["conv-tiny", "--compare", "nowhere"], "nowhere is not a run: expected a folder with config.yaml"),
        (["RUN", "--data.name", "flowers"], "unknown data set 'flowers'"),
        (
            ["conv-tiny", "--model.name", "conv12"],
            "--model.name conv12: the model is conv-tiny; name one of them alone",
        ),
        (["RUN", "--html", "-"], "-: expected a file for --html and --csv"),
        (["RUN", "--csv", "-"], "-: expected a file for --html and --csv"),
        (["RUN", "--json", "/proc/nowhere/a.json"], "cannot write /proc/nowhere/a.json"),
    ],
)
def test_bad_input(arguments, message, make_run, command):
    run = make_run()
    code, _, complaints = command("audit", *(run.folder if a == "RUN" else a for a in arguments), *QUICK[:1])
    assert code == 2
    assert complaints.startswith("error: ")
    assert message in complaints
    assert complaints.count("\n") == 1


def test_images_of_another_size(make_run, command):
    code, _, complaints = command("audit", make_run(size=16).folder, *QUICK)
    assert code == 2
    assert "the images of digits have 32 pixels a side, the network takes 16: pass --data.image_size 16" in complaints


@pytest.mark.parametrize(("name", "shape"), [("conv-tiny", (1, 32)), ("mlp12", (3, 32))])
def test_a_model_without_images_is_counted_on_noise_and_says_so(command, name, shape, tmp_path: Path):
    options = ("--model.depths", "[1]", "--model.channels", "[8]", "--html", tmp_path / "a.html")
    code, printed, said = command("audit", name, *QUICK, *options, "--json", "-")
    assert code == 0
    assert "counted on 24 images of NOISE: choose real ones by --data.*" in said
    content = json.loads(printed)
    assert (content["data"], content["images"], content["accuracy"]) == ("noise", 24, None)
    channels, side = shape
    (stem,) = next(layer["products"] for layer in content["layers"] if layer["path"] == "stem.0")
    assert stem["macs"] == (side // 2) ** 2 * 8 * channels * 4
    again = json.loads(command("audit", name, *QUICK, *options[:4], "--json", "-")[1])
    assert again == content, "the noise is the same each time"


def test_on_a_busy_machine_latency_is_no_headline(command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("onespike.audit.latency._SECONDS", 0.0)
    options = ("--model.depths", "[1]", "--model.channels", "[4]", "--images", 4, "--device", "cpu", "--json", "-")
    found = {}
    for load in (0.0, 9.0):
        # All processors together: this process, and so many cores more.
        by_all = lambda load=load: time.process_time() + load * time.perf_counter()  # noqa: E731
        monkeypatch.setattr("onespike.clock._processors_seconds", by_all)
        monkeypatch.setattr("onespike.clock.OWN", 0.0)  # whatever else this machine does
        monkeypatch.setattr("onespike.clock.OTHERS", 4.0)
        code, printed, said = command("audit", "conv-tiny", *options, "--html", tmp_path / f"{load}.html")
        assert code == 0
        found[load] = json.loads(printed)["latency"]
        assert ("NOT TO BE TRUSTED, the machine was busy: others used" in said) == (load > 0)
        assert all(one["others"] == pytest.approx(load, abs=3) and one["cpu"] > 0 for one in found[load])
    assert [one["busy"] for one in found[0.0]] == [None, None]
    assert all("others used" in one["busy"] for one in found[9.0])
    assert "others used" in (tmp_path / "9.0.html").read_text()


def test_the_peak_of_a_gpu_is_not_that_of_the_process(capsys):
    found = audit(nn.PReLU(), [torch.randn(2, 3)])
    for device, peak in (("cpu", "of the process"), ("cuda:0", "allocated")):
        took = Latency(1, 10, 0.1, 0.1, 0.1, 2**20, "float32", device, 1, 1.0, 0.0, None)
        _print(replace(found, latency=(took,)), person(None))
        assert f"peak memory {peak} 1 MiB" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("joule", "text"),
    [
        *((2.5e-9, "2.50 nJ"), (9.996e-7, "1.00 µJ"), (3.632e-6, "3.63 µJ"), (1.234e-4, "123 µJ"), (0.5, "500 mJ")),
        *((1234.0, "1,234 J"), (4e-14, "0.0400 pJ"), (0, "0.00 pJ")),
    ],
)
def test_energies_have_three_digits_and_a_unit(joule, text):
    assert _joule(joule) == text


def test_a_network_without_a_product_is_printed(capsys):
    _print(audit(nn.PReLU(), [torch.randn(2, 3)]), person(None))
    assert "0 dense multiply-accumulates for one image, 0 of them on real values\n" in capsys.readouterr().out
