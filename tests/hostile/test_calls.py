"""Calls from Python with what they do not take: data sets, networks, images, frames and losses of no sense."""

import io
import math
import sys
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import onespike
from onespike import functional
from onespike.audit import EnergyTable, audit, audit_run, save_report
from onespike.classpath import ClassPath
from onespike.data import as_dataset
from onespike.errors import OnespikeError
from onespike.evaluation import evaluate, inspect_network
from onespike.inference import load_engine
from onespike.models import model_config
from onespike.neurons import LIF, PLIF, AdaptiveLIF, Carry, NeuronConfig, make_neuron
from onespike.neurons.integrate_fire import QCFS, IntegrateFire
from onespike.training.checkpoint import ModelCard
from onespike.training.requirements import expect_loss
from tests.hostile.harness import in_time
from tests.running import raising

ITEMS = {
    "labels below 0": (np.zeros((8, 8), np.uint8), -1),
    "labels without end": (np.zeros((8, 8), np.uint8), 2**62),
    "a million labels": (np.zeros((8, 8), np.uint8), 10**6),
    "labels in parts": (np.zeros((8, 8), np.uint8), 1.5),
    "no labels": (np.zeros((8, 8), np.uint8), None),
    "no pixels": (np.zeros((0, 0), np.uint8), 0),
    "no numbers": (np.full((1, 8, 8), np.nan, np.float32), 0),
    "endless numbers": (np.full((1, 8, 8), np.inf, np.float32), 0),
    "four channels": (np.zeros((8, 8, 4), np.uint8), 0),
    "objects": (np.array([[object()]]), 0),
    "text": ("x", 0),
    "three of them": (np.zeros((8, 8), np.uint8), 0, 1),
    "a mapping": {"image": np.zeros((8, 8), np.uint8), "label": 0},
}


class OfLength(list):
    """A data set that says of its length what it likes."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length


class Table(list):
    """What pandas has: an index along rows, by `iloc`, and names of columns for items."""

    iloc = None


@pytest.mark.parametrize("what", ITEMS)
def test_items_of_data_sets(what):
    with in_time(), pytest.raises(OnespikeError) as caught:
        as_dataset([ITEMS[what]] * 20, name="mine").train[0]
    assert str(caught.value).isprintable()
    assert "mine" in str(caught.value)


def _image(form: str, whole: bool) -> Image.Image:
    """Pillow's, of a file that it has not read yet."""
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(content, form)
    return Image.open(io.BytesIO(content.getvalue()[: None if whole else content.tell() // 2]))


class Files(list):
    """Images that are read in `__getitem__`, as torchvision's are."""

    def __getitem__(self, index: int):
        image, label = super().__getitem__(index)
        return image.convert("RGB"), label


@pytest.mark.parametrize("kind", [list, Files])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("number", [0, 7])
def test_damaged_images_of_data_sets(number, form, kind):
    with in_time(), pytest.raises(OnespikeError, match=f"mine, train: item {number}: its image cannot be read"):
        as_dataset(kind((_image(form, one != number), one % 2) for one in range(20)), name="mine")


IMAGES = {"images": np.zeros((20, 8, 8), np.uint8), "labels": np.arange(20) % 2}


NO_DATA = [None, 5, "x", (), {}, [], ([],), {"test": []}, iter([]), IMAGES, {"train": IMAGES}]
NO_DATA += [torch.utils.data.TensorDataset, Table([1]), *map(OfLength, (-1, 2.5, "x", 2**70))]


@pytest.mark.parametrize("data", NO_DATA)
def test_what_is_no_data_set(data):
    with pytest.raises(OnespikeError):
        as_dataset(data, name="mine")


@pytest.mark.parametrize(
    "arguments",
    [
        {"holdout": 2},
        {"holdout": math.nan},
        {"holdout": "x"},
        {"limit": -3},
        {"limit": "x"},
        {"name": 3},
        {"classes": 5},
        {"classes": "ab"},
    ]
    + [{"image_size": size} for size in (-3, "x", 10**9)],
    ids=str,
)
def test_arguments_of_data_sets(arguments):
    with pytest.raises(OnespikeError, match=next(iter(arguments))):
        as_dataset([(np.zeros((8, 8), np.uint8), one % 2) for one in range(20)], **{"name": "mine", **arguments})


@pytest.mark.parametrize("overrides", [[1], {1: 2}, "x", 5], ids=str)
def test_overrides_of_no_sense(overrides):
    with pytest.raises(OnespikeError):
        onespike.load_recipe("digits", overrides)


def test_a_network_without_weights(tmp_path):
    recipe = onespike.load_recipe("digits", {"train.epochs": 1})
    network = nn.Sequential(nn.AdaptiveAvgPool2d((1, 10)), nn.Flatten())
    with pytest.raises(OnespikeError, match="it has no weights"):
        onespike.train(recipe, tmp_path / "out", model=network, quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "code",
    [
        "def __getattr__(name): raise ImportError(name)",
        "def __getattr__(name): raise ValueError",
        "1 / 0",
        "x =",
        "raise SystemExit(0)",
        "raise RuntimeError('a\\nb')",
        "import nope",
    ],
)
def test_modules_that_fail(code, refused, tmp_path, monkeypatch):
    sys.modules.pop("fails", None)
    (tmp_path / "fails.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    if "__getattr__" not in code:
        refused("train", "--import", "fails", "--out", tmp_path / "out", words=("--import fails: cannot be imported",))
    network = ("--model.class_path", "fails.Net")
    refused("train", *network, "--out", tmp_path / "out", words=("model.class_path: there is no fails.Net",))


class Stateful(nn.Linear):
    def get_extra_state(self):
        return {"a": 1}


def filled(module, value):
    with torch.no_grad():
        for one in module.parameters():
            one.fill_(value)
    return module


LINEAR = ClassPath("torch.nn.Linear", {"in_features": 2, "out_features": 2})
CARD = ModelCard(LINEAR, ("a", "b"), 1, 8, (0.5,), (0.5,), "digits")
AUDIT = {"images": 1, "weights": 1, "synaptic_operations": 1.0, "firing_rate": 0.1, "joules": {"field": 2e-6}}
SOUND = {"test_top1": 50.0, "test_images": 10, "audit": AUDIT | {"macs": {"dense": 5}}}
PUSHES = {
    "other weights": {"weights": "x"},
    "no card": {"card": "x"},
    "a card of another network": {"card": replace(CARD, model=model_config("spiking-vgg-xs"), image_size=32)},
    "a card of no network": {"card": replace(CARD, model=model_config("spiking-vgg-xs"))},
    "a list": {"results": [1]},
    "no number": {"results": {"a": math.nan}},
    "an object": {"results": {"a": object()}},
    "five times right": {"results": {"test_top1": 500.0, "test_images": 10}},
    "of less than no images": {"results": {"test_top1": 50.0, "test_images": -5}},
    "no audit": {"results": {"audit": 5}},
    "an audit without operations": {"results": {"audit": AUDIT}},
    "text for a number": {"results": SOUND | {"test_top1": "95"}},
    "text in an audit": {"results": SOUND | {"audit": SOUND["audit"] | {"joules": {"field": "1"}}}},
    "weights of no number": {"model": filled(nn.Linear(2, 2), math.nan)},
    "weights without values": {"model": nn.Linear(2, 2, device="meta")},
    "weights to come": {"model": nn.LazyLinear(2)},
    "state of another kind": {"model": Stateful(2, 2)},
    "no epoch": {"results": {"best_epoch": "x"}},
    "no cost": {"results": {"pflop": "x"}},
    "a cost below nothing": {"results": {"pflop_before": -1.0}},
    "epochs without end": {"results": {"epochs": 10**18}},
    "five times right while training": {"results": {"valid_top1": 500.0}},
    "a checkpoint of a network": {"which": "last"},
    "8 bits of weights that are computed": {"model": weight_norm(nn.Linear(2, 2)), "weights": "int8"},
    "an audit of less than no images": {"results": SOUND | {"audit": SOUND["audit"] | {"images": -5}}},
}


@pytest.mark.parametrize("what", PUSHES)
def test_weights_that_travel_with_nonsense(what, tmp_path):
    with pytest.raises(OnespikeError):
        onespike.save_pretrained(**{"model": nn.Linear(2, 2), "folder": tmp_path / "out", "card": CARD, **PUSHES[what]})
    assert not (tmp_path / "out").exists()


def test_weights_that_travel_with_sense(tmp_path):
    folder = onespike.save_pretrained(nn.Linear(2, 2), tmp_path / "out", card=CARD, results=SOUND)
    card = (folder / "README.md").read_text()
    assert "50.00% of 10 test images" in card
    assert (
        "1 weights; 5 multiply-accumulates if it were dense;\n1 synaptic operations, measured on 1 test images" in card
    )
    assert (
        "firing rate 0.100, the mean over layers. Energy by the estimates of `onespike audit`, microjoules:\nfield 2.\n"
        in card
    )


def test_networks_without_neurons_that_are_known_travel(tmp_path):
    results = SOUND | {"audit": SOUND["audit"] | {"firing_rate": None}}
    folder = onespike.save_pretrained(nn.Linear(2, 2), tmp_path / "out", card=CARD, results=results)
    assert "no neurons that are known" in (folder / "README.md").read_text()


def test_weights_that_are_shared_travel(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    assert onespike.save_pretrained(model, tmp_path / "out", card=CARD).is_dir()


def test_weights_that_would_travel_into_a_file(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OnespikeError, match="cannot write"):
        onespike.save_pretrained(nn.Linear(2, 2), tmp_path / "out", card=CARD)


NETWORK = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
IMAGES = torch.rand(4, 3, 8, 8)
PIXELS = torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
EXPORTS = {
    "images of three axes": {"images": IMAGES[0]},
    "no images": {"images": IMAGES[:0]},
    "a list of images": {"images": [1]},
    "no numbers": {"images": IMAGES * math.nan},
    "whole numbers": {"images": IMAGES.long()},
    "other channels": {"images": torch.rand(4, 4, 8, 8)},
    "not square": {"images": torch.rand(4, 3, 8, 9)},
    "a mean of one channel": {"images": PIXELS, "mean": (0.5,)},
    "a deviation of 0": {"images": PIXELS, "std": (0.0,) * 3},
    "a deviation of no number": {"images": PIXELS, "std": (math.nan,) * 3},
    "one class": {"images": IMAGES, "classes": ["a"]},
    "fewer labels": {"images": IMAGES, "labels": torch.zeros(2).long()},
    "labels of no class": {"images": IMAGES, "labels": torch.full((4,), 5)},
    "no format": {"images": IMAGES, "to": []},
    "a number for a format": {"images": IMAGES, "to": 5},
    "an unknown format": {"images": IMAGES, "to": "../x"},
    "unknown weights": {"images": IMAGES, "weights": "x"},
    "images without values": {"images": IMAGES.to("meta")},
    "sparse images": {"images": IMAGES.to_sparse()},
    "labels in parts": {"images": IMAGES, "labels": torch.zeros(4)},
    "a text for a mean": {"images": PIXELS, "mean": "x"},
    "a mean of text": {"images": PIXELS, "mean": ["x"] * 3},
    "a mean without end": {"images": PIXELS, "mean": [10**400] * 3},
    "a number for classes": {"images": IMAGES, "classes": 5},
    "classes in no order": {"images": IMAGES, "classes": {"a", "b", "c", "d", "e"}},
    "classes by name": {"images": IMAGES, "classes": {"e": 4, "d": 3, "c": 2, "b": 1, "a": 0}},
    "a class of two numbers": {"images": IMAGES, "classes": ["a", "a", "b", "c", "d"]},
    "a class of half a character": {"images": IMAGES, "classes": ["\ud800", "a", "b", "c", "d"]},
    "a text for a count": {"images": IMAGES, "count": "x"},
    "a count of 0": {"images": IMAGES, "count": 0},
}


@pytest.mark.parametrize("what", EXPORTS)
def test_exports_of_no_sense(what, tmp_path):
    with in_time(), pytest.raises(OnespikeError) as caught:
        onespike.export(NETWORK, tmp_path / "out", **EXPORTS[what])
    assert str(caught.value).isprintable()
    assert not (tmp_path / "out").exists()


class Odd(nn.Module):
    """A network that answers as somebody's own code may."""

    def __init__(self, answer):
        super().__init__()
        self.network, self.answer = NETWORK, answer

    def forward(self, x):
        return self.answer(self.network(x))


ANSWERS = {
    "two": lambda y: (y, y),
    "a mapping": lambda y: {"y": y},
    "nothing": lambda _: None,
    "a number": lambda _: 3.0,
    "one logit": torch.sum,
    "a vector": lambda y: y[:, 0],
    "a map": lambda y: y[..., None, None],
    "of half the images": lambda y: y[: len(y) // 2],
    "of twice the images": lambda y: y.repeat(2, 1),
    "no classes": lambda y: y[:, :0],
    "whole numbers": torch.Tensor.long,
    "complex numbers": lambda y: y.to(torch.complex64),
    "a KeyError": raising(KeyError("x")),
    "an error in C": lambda y: y @ y,
}


@pytest.mark.parametrize("to", ["onnx", "c"])
@pytest.mark.parametrize("what", ANSWERS)
def test_networks_whose_answers_are_not_logits_are_not_exported(what, to, tmp_path):
    with in_time(), pytest.raises(OnespikeError) as caught:
        onespike.export(Odd(ANSWERS[what]), tmp_path / "out", to, images=IMAGES, weights="fp32")
    assert str(caught.value).isprintable()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["onnx", "c"])
def test_networks_whose_classes_change_are_not_exported(to, tmp_path):
    calls = []
    changing = Odd(lambda y: y[:, : 5 - (calls.append(0) or len(calls)) % 2])
    with in_time(), pytest.raises(OnespikeError):
        onespike.export(changing, tmp_path / "out", to, images=IMAGES, weights="fp32")


MODELS = {
    "no module": len,
    "a class": nn.Linear,
    "nothing": None,
    "weights to come": nn.LazyLinear(2),
    "weights without values": nn.Conv2d(3, 4, 3, device="meta"),
    "a script": torch.jit.ScriptModule(),
    "no forward": nn.ModuleList(),
    "other numbers": nn.Conv2d(3, 4, 3).double(),
    "a KeyError": Odd(ANSWERS["a KeyError"]),
}


@pytest.mark.parametrize("what", MODELS)
def test_models_that_cannot_be_audited(what):
    with in_time(), pytest.raises(OnespikeError) as caught:
        audit(MODELS[what], [IMAGES])
    assert str(caught.value).isprintable()


AUDITS = {
    "no batches": {"batches": None},
    "a tensor": {"batches": IMAGES},
    "images and labels": {"batches": [(IMAGES, torch.zeros(4))]},
    "three axes": {"batches": [IMAGES[0, 0]]},
    "bytes": {"batches": [(IMAGES * 255).byte()]},
    "other channels": {"batches": [torch.rand(4, 5, 8, 8)]},
    "more than all right": {"accuracy": 500.0},
    "less than none right": {"accuracy": -5.0},
    "no number right": {"accuracy": math.nan},
    "a text right": {"accuracy": "x"},
    "a seed below 0": {"seed": -1},
    "a seed of text": {"seed": "x"},
    "a table that is none": {"table": 5},
}


@pytest.mark.parametrize("what", AUDITS)
def test_audits_of_no_sense(what):
    with in_time(), pytest.raises(OnespikeError) as caught:
        audit(**{"model": NETWORK, "batches": [IMAGES], **AUDITS[what]})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("what", ANSWERS)
def test_networks_whose_answers_cannot_be_inspected(what, tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "x.png")
    card = replace(CARD, classes=tuple("abcde"), in_channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    with in_time(), pytest.raises(OnespikeError) as caught:
        inspect_network(Odd(ANSWERS[what]), card, tmp_path / "x.png")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("place", [None, 5, b"x", "", "a\0b", "x" * 5000 + ".yaml"], ids=repr)
def test_places_of_no_sense(place):
    for read in (onespike.load_recipe, load_engine, EnergyTable.load, onespike.load):
        with pytest.raises(OnespikeError):
            read(place) if place is not None or read != EnergyTable.load else read("")


def test_numbers_of_any_kind(run):
    audited = audit(NETWORK, [IMAGES], accuracy=np.float32(50), seed=np.int64(1))
    assert type(audited.accuracy) is float
    assert audit(NETWORK, [IMAGES], accuracy="50").accuracy == 50
    assert audit_run(run, images="2", latency=False).operations.images == 2
    assert evaluate(run, passes=np.int64(1), batch_size="7").passes == 1
    with pytest.raises(OnespikeError, match="passes: expected at least 1"):
        evaluate(run, passes="0")


def test_reports_of_no_sense(run):
    audited = audit(NETWORK, [IMAGES])
    for audits, path in (
        ([], "x"),
        (["a"], "x"),
        ([audited], run / "summary.json"),
        ([audited], "a\0b"),
        ([audited], 5),
    ):
        before = (run / "summary.json").read_bytes()
        with pytest.raises(OnespikeError):
            save_report(audits, path)
        assert (run / "summary.json").read_bytes() == before


@pytest.mark.parametrize(
    "audits", [audit(NETWORK, [IMAGES]), iter([]), {}, "x"], ids=["one", "iterator", "mapping", "text"]
)
def test_what_is_no_list_of_audits(audits, tmp_path):
    with pytest.raises(OnespikeError, match="audits: expected a list of Audit"):
        save_report(audits, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("asked", [("fp32",), ("Field",), (None,), ("field", "twin"), ("field", None)], ids=str)
def test_energies_that_nobody_knows(asked):
    with pytest.raises(OnespikeError, match=f"unknown {'variant' if asked[1:] else 'convention'} '{asked[-1]}'"):
        audit(NETWORK, [IMAGES]).energy(*asked)


CONVERSIONS = {
    "no images": (NETWORK, IMAGES[:0], {}),
    "a list": (NETWORK, [1], {}),
    "no numbers": (NETWORK, IMAGES * math.nan, {}),
    "whole numbers": (NETWORK, IMAGES.long(), {}),
    "other channels": (NETWORK, torch.rand(4, 5, 8, 8), {}),
    "an unknown option": (NETWORK, IMAGES, {"x": 1}),
    "no time steps": (NETWORK, IMAGES, {"time_steps": 0}),
    "no network": (5, IMAGES, {}),
    "images without values": (NETWORK, IMAGES.to("meta"), {}),
    "a number for an image": (NETWORK, torch.tensor(1.0), {}),
    "a number for the calibration": (NETWORK, IMAGES, {"calibration": 5}),
    "weights without values": (nn.Sequential(nn.Conv2d(3, 4, 3, device="meta"), nn.ReLU()), IMAGES, {}),
    "nothing to convert": (nn.Identity(), IMAGES, {}),
}


@pytest.mark.parametrize("what", CONVERSIONS)
def test_conversions_of_no_sense(what):
    model, images, options = CONVERSIONS[what]
    with in_time(), pytest.raises(OnespikeError):
        onespike.convert(model, images, **options)


@pytest.mark.parametrize("frame", [None, 3, torch.rand(3), torch.rand(3, 32, 32), torch.rand(1, 5, 32, 32)])
def test_frames_of_no_sense(frame):
    with pytest.raises(OnespikeError, match=r"^stream: "):
        onespike.stream(onespike.create_model("spiking-vgg-xs"))(frame)


LOSSES = {
    "no tensor": lambda *_: 1.0,
    "nothing": lambda *_: None,
    "a vector": lambda logits, _: logits,
    "a constant": lambda *_: torch.zeros(()),
    "of other arguments": lambda logits: logits.sum(),
}


@pytest.mark.parametrize("what", LOSSES)
def test_losses_of_no_sense(what):
    with pytest.raises(OnespikeError, match="loss"):
        expect_loss(LOSSES[what], torch.rand(4, 10), soft=False)


@pytest.mark.parametrize(
    "modules", [None, 5, ["json"], math, b"json", ""], ids=["none", "number", "list", "module", "bytes", "empty"]
)
def test_what_is_no_module(modules):
    with pytest.raises(OnespikeError, match="expected a module's whole name"):
        onespike.allow_imports(modules)


def test_an_empty_place_is_no_run_to_start_from(tmp_path):
    with pytest.raises(OnespikeError, match="expected the path of a folder, got ''"):
        onespike.train("digits", tmp_path / "out", init_from="")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", ["", "in a function ", "in code without a name "])
def test_packages_of_others_that_cannot_be_imported(where, refused, tmp_path, monkeypatch):
    code = "raise ValueError('no number:\\nx')"
    nameless = f"exec(compile({code!r}, 'x', 'exec'), {{}})"  # its globals lack __name__
    texts = {"": code, "in a function ": f"def read():\n    {code}\nread()", "in code without a name ": nameless}
    (tmp_path / "refusing.py").write_text(texts[where])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("onespike.cli.main.dispatch", lambda _: import_module("refusing"))
    refused("models", words=("refusing cannot be imported (no number: x)", "environment variable"))


def test_bugs_keep_their_traceback(command, monkeypatch):
    monkeypatch.setattr("onespike.cli.main.dispatch", raising(ValueError("a bug")))
    with pytest.raises(ValueError, match="a bug"):
        command("models")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        RuntimeError("CUDA out of memory."),
    ],
    ids=str,
)
def test_too_little_memory_is_a_line(error, refused, monkeypatch):
    monkeypatch.setattr("onespike.cli.main.dispatch", raising(error))
    refused("models", words=("not enough memory",))


ONES, FRAMES = torch.ones(4, 2, 3, 4, 4), torch.ones(2, 2, 3)
FUNCTIONS = {
    "sparse currents": lambda: functional.charge(ONES.to_sparse(), 0.4),
    "sparse potentials beside": lambda: functional.charge(ONES, 0.4, ONES.to_sparse()),
    "a decay of text": lambda: functional.charge(ONES, "0.4"),
    "no decay": lambda: functional.charge(ONES, None),
    "a threshold of truth": lambda: functional.spike(ONES, True),
    "a negative side": lambda: functional.window_side(-3, "average"),
    "a map without pixels": lambda: functional.partition(torch.randn(2, 3, 0, 0), "average"),
    "a map of one dimension": lambda: functional.partition(torch.ones(3), "average"),
    "a tensor for what arrives": lambda: LIF(3).charge_and_fire(ONES, ONES),
    "the same, adaptive": lambda: AdaptiveLIF(3).charge_and_fire(ONES, ONES),
    "a state of a number": lambda: LIF(3).over_time(FRAMES, Carry([5])),
    "a state of other neurons": lambda: AdaptiveLIF(3).over_time(FRAMES, Carry([(FRAMES[0], FRAMES[0])])),
    "a reset that there is not over time": lambda: LIF(3, NeuronConfig(reset="subtract")).over_time(FRAMES),
    "time steps of nothing": lambda: LIF(3).over_time(torch.rand(3)),
    "a config of other neurons": lambda: LIF(3, NeuronConfig("adaptive", options={"adaptation": 0.9})),
    "a staircase without a threshold": lambda: QCFS(4, None),
    "a staircase of truth": lambda: QCFS(True),
    "a population of truth": lambda: IntegrateFire(None, 1, True, "rectangle"),
    "images for other time steps": lambda: IntegrateFire(None, 1, 3, "rectangle")(torch.ones(4, 2)),
    "images of bytes": lambda: onespike.create_model("spiking-vgg-xs")(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)),
}


@pytest.mark.parametrize("what", FUNCTIONS)
def test_equations_and_neurons_of_no_sense(what):
    with pytest.raises((ValueError, OnespikeError), match=r"^[a-z_]+: .*(expected|got)") as caught:
        FUNCTIONS[what]()
    assert str(caught.value).isprintable()


def test_neurons_take_what_makes_sense():
    assert type(make_neuron(3, None)) is LIF
    assert type(PLIF(3, NeuronConfig(decay=0.3))) is PLIF
    assert QCFS(4, np.float32(2)).size == 0.5
    functional.spike(ONES, np.float32(0.5))


def test_a_stream_knows_the_network_of_its_state(tmp_path):
    frames, path = torch.rand(2, 1, 3, 32, 32), tmp_path / "state"
    networks = [onespike.create_model(f"spiking-{name}-xs") for name in ("vgg", "resnet", "vgg")]
    first = onespike.stream(networks[0])
    first(frames[0])
    first.save(path)
    for other in networks[1:]:
        with pytest.raises(OnespikeError, match="a state of another network"):
            onespike.stream(other).load(path)
    again = onespike.stream(networks[0])
    again.load(path)
    assert torch.equal(again(frames[1]), first(frames[1]))
