"""Values that no option takes: each ends in one line that names the option."""

from dataclasses import fields
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import onespike
from onespike.configs import Text
from onespike.conversion import Calibration, ConversionConfig
from onespike.data.config import DataConfig
from onespike.errors import OnespikeError
from onespike.evaluation.convert import convert_run
from onespike.evaluation.inspect import inspect_image, inspect_sample
from onespike.functional import charge, fuse
from onespike.models import model_config, model_names
from onespike.models.registry import family
from onespike.search import search
from onespike.training import Run, load_recipe
from onespike.training.config import TrainConfig
from onespike.training.device import make_accelerator
from onespike.training.pruning import prune_time
from tests.hostile.harness import fine_or_a_line
from tests.running import raising

#: What is said of an option where it does not go by its name.
CALLED = {"--model.name": "unknown model", "--data.name": "unknown data set", "--data.root": "such home"}
CALLED |= {"--data.cache": "such home", "--resume": "path of a folder", "--init-from": "/dev/null is not a run"}
CALLED |= {"--time-steps": "time_steps", "--energy": "/dev/zero"}
#: What no number is, and numbers that no option means.
NO_NUMBERS = ("", " ", "[1", "{a: 1}", "abc", "*a", "2001-01-01", "true", "[1, 2]", "!!python/name:os.system x")
NUMBERS = (".nan", ".inf", "-.inf", "1e400", "-1", str(10**30), "9" * 5000, "0x" + "f" * 9000)
KINDS = {"data": DataConfig, "train": TrainConfig}


def _numeric(kind: Any) -> list[str]:
    hints = get_type_hints(kind)
    return [one.name for one in fields(kind) if {int, float} & {hints[one.name], *get_args(hints[one.name])}]


def called(option: str) -> str:
    return CALLED.get(option, option.lstrip("-").rpartition(".")[2])


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    monkeypatch.setattr("onespike.training.loop.fit", raising(AssertionError("it was accepted")))


OPTIONS = [f"{section}.{name}" for section, kind in KINDS.items() for name in _numeric(kind)]
CASES = [(option, value) for option in OPTIONS for value in (*NO_NUMBERS, *NUMBERS)]


@pytest.mark.parametrize(
    ("option", "value"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (number % 7 > 0)) for number, case in enumerate(CASES)],
)
def test_no_number_ends_in_a_line(option, value, refused, tmp_path):
    refused("train", "--out", tmp_path / "out", f"--{option}", value, words=(option,))


MODELS = sorted({family(name).config: name for name in reversed(model_names())}.values())
OF_MODELS = [(name, one) for name in MODELS for one in _numeric(family(name).config)]
LISTS = [(name, one) for name in MODELS for one in ("depths", "channels") if hasattr(model_config(name), one)]


@pytest.mark.parametrize(("name", "option"), OF_MODELS)
@pytest.mark.parametrize("value", [".nan", "1e400", "-1", str(10**11), "", "[x]"])
def test_no_number_of_a_model_ends_in_a_line(name, option, value):
    with pytest.raises(OnespikeError, match=option):
        load_recipe("digits", {"model.name": name, f"model.{option}": Text(value)})


@pytest.mark.parametrize(("name", "option"), LISTS)
@pytest.mark.parametrize("value", ["[]", "[0]", "[-1]", f"[{10**9}]", f"[{10**30}]", "[.inf]", "[1, [2]]", "1", "{}"])
def test_no_shape_of_a_model_ends_in_a_line(name, option, value):
    with pytest.raises(OnespikeError, match=option):
        load_recipe("digits", {"model.name": name, f"model.{option}": Text(value)})


@pytest.mark.parametrize("kind", [DataConfig, TrainConfig, ConversionConfig, Calibration])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, -1, "x", b"1", [], object(), True])
def test_calls_from_python_are_checked_too(kind, value):
    for name in _numeric(kind):
        with pytest.raises(OnespikeError, match=name):
            kind(**{name: value})


@pytest.mark.parametrize(
    "arguments",
    [
        ("--data.image_size", "100000000000"),
        ("--train.epochs", '!!int ""'),
        ("--train.int8_weights", "!!bool zzz"),
        ("--train.lr", "\uff11\uff12"),
        ("--train.epochs", "010"),
        ("--data.workers", "1000000"),
        ("--data.crop_padding", "1000000000"),
        ("--train.epochs", "1000000000"),
        ("--model.depths", "[1000000000]", "--model.channels", "[4]"),
        ("--model.depths", "[900, 900]", "--model.channels", "[4, 8]"),
        ("--model.channels", "[100000000, 8, 8]"),
        ("--model.channels", "[65536, 65536, 65536]"),
        ("--model.time_steps", "1000000000"),
        ("--model.neuron.threshold", ".inf"),
        ("--model.neuron.options", "{adaptation: .nan}"),
        ("--data.auto_augment", "rand-foo"),
        ("--data.auto_augment", "original-x"),
        ("--data.auto_augment", "rand-m9-mstdx"),
        ("--data.auto_augment", "augmix-m3-z9"),
        ("--data.auto_augment", "augmix-a0"),
        ("--data.auto_augment", "rand-n16-tweights"),
        ("--recipe", ""),
        ("--recipe", "\x1b[31m"),
        ("--model.name", ""),
        ("--model.name", "[a]"),
        ("--model.preset", "[a]"),
        ("--data.name", ""),
        ("--data.root", "~nobody-here/x", "--data.name", "folder"),
        ("--data.cache", "~nobody-here/x"),
        ("--train.optimizer", ""),
        ("--train.noise_range", "[.nan, 1]"),
        ("--train.track", "[[a]]"),
        ("--import", ""),
        ("--model.class_path", ".."),
        ("--resume", ""),
        ("--init-from", "/dev/null"),
    ],
    ids=" ".join,
)
def test_what_would_never_end_or_means_nothing(arguments, refused, tmp_path):
    out = () if "--resume" in arguments else ("--out", tmp_path / "out")
    refused("train", *out, *arguments, words=(called(arguments[0]),))


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "--passes", "1000000000"),
        ("evaluate", "--time-steps", "1000000000"),
        ("evaluate", "--batch-size", str(10**30)),
        ("optimise", "--rounds", "1000000000"),
        ("audit", "--energy", "/dev/zero"),
        ("inspect", "--image", "/dev/zero"),
        ("inspect", "--image", "/"),
        ("check-spikes", "--images", "-5"),
    ],
    ids=" ".join,
)
def test_options_of_commands(arguments, refused, run):
    name, *rest = arguments
    refused(name, run, *rest, words=(called(rest[-2]),))


@pytest.mark.parametrize("name", ["evaluate", "export", "convert", "optimise", "prune-time", "train"])
@pytest.mark.parametrize("place", ["file/out", "file", "x" * 300])
def test_what_cannot_be_written_is_found_before_the_work(name, place, refused, run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(Run, "dataset", None)  # none of them gets there
    first = [] if name in ("prune-time", "train") else [run]
    said = refused(name, *first, "--out", tmp_path / place, words=("cannot write", place[:10]))
    assert (tmp_path / "file").read_text() == "x"
    assert "choose another" in said


def test_a_folder_in_the_way_of_a_later_run_is_found_before_the_first(refused, tmp_path):
    (tmp_path / "runs" / "T1").mkdir(parents=True)
    (tmp_path / "runs" / "T1" / "mine").write_text("x")
    refused("prune-time", "--from", 3, "--out", tmp_path / "runs", words=("T1", "not empty"))


@pytest.mark.parametrize("name", ["pretrained:digits-spiking-vgg-xs", "hub:user/name"])
@pytest.mark.parametrize("line", ["train --out", "push RUN --out", "convert RUN --out"])
def test_no_folder_is_called_as_networks_elsewhere_are(line, name, refused, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(*(run if word == "RUN" else word for word in line.split()), name, words=(name, "choose another"))
    assert {path.name for path in tmp_path.iterdir()} <= {"run"}


@pytest.mark.parametrize("name", ["confusion.csv", "per_class.csv", "confusion.png"])
def test_no_report_replaces_another_of_an_evaluation(name, refused, run, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "dataset", None)
    words = ("cannot write", name, "two things")
    refused("evaluate", run, "--out", tmp_path / "out", "--json", tmp_path / "out" / name, words=words)


def test_a_cache_that_is_a_file(refused, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("ONESPIKE_CACHE", str(tmp_path / "file"))
    refused("cache", "verify", words=(tmp_path / "file", "$ONESPIKE_CACHE"))
    refused("cache", "verify", "--cache", tmp_path / "file", words=("correct --cache",))


def test_a_switch_takes_no_value(refused, run):
    refused("evaluate", run, "--flips=true", words=("--flips", "takes no value, got 'true'"))


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "metrics.csv"])
def test_no_report_replaces_a_file_of_a_run(name, refused, run):
    before = (run / name).read_bytes()
    refused("audit", run, "--no-latency", "--images", 2, "--json", run / name, words=("cannot write", name))
    assert (run / name).read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("USE_CPU", "maybe"), ("TORCH_DEVICE", "nonsense"), ("USE_MEGATRON_LM", "true"), ("USE_DEEPSPEED", "true")],
)
def test_an_environment_that_accelerate_does_not_take(name, value, refused, monkeypatch, tmp_path):
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    refused("train", "--recipe", "digits", "--out", tmp_path / "out", words=(f"ACCELERATE_{name}={value}",))
    monkeypatch.delenv(f"ACCELERATE_{name}")
    assert make_accelerator(TrainConfig(device="cpu")).device.type == "cpu"


PLACES = {"none": None, "a number": 5, "long": "x" * 5000, "a null byte": "a\0b", "bytes": b"x", "a list": []}
CALLS = {
    "Run.open": Run.open,
    "load": onespike.load,
    "evaluate": onespike.evaluate,
    "train into": lambda place: onespike.train("digits", place),
    "resume": lambda place: onespike.train("digits", place, resume=True),
    "load_converted": lambda place: onespike.load_converted(place, nn.Identity()),
    "save_pretrained": lambda place: onespike.save_pretrained(nn.Identity(), place),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_what_is_no_path(call, place):
    with pytest.raises(OnespikeError) as caught:
        call(place)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("size", [np.int64(10), "10"])
def test_sizes_of_any_kind(size):
    assert onespike.create_model("spiking-vgg-xs", num_classes=size).head.weight.shape[0] == 10


ODD = {
    "a name of no recipe": lambda out: prune_time("x", 4, out),
    "a network for a recipe": lambda out: prune_time(nn.Identity(), 4, out),
    "no number of time steps": lambda out: prune_time("digits", "x", out),
    "a single time step": lambda out: prune_time("digits", "1", out),
    "no folder": lambda _: prune_time("digits", 4, None),
    "a run that is none": lambda out: convert_run("nowhere", out),
    "no number of images": lambda out: convert_run("pretrained:digits-spiking-vgg-xs", out, images="x"),
    "no file": lambda _: inspect_image("pretrained:digits-spiking-vgg-xs", None),
    "no number of a sample": lambda _: inspect_sample("pretrained:digits-spiking-vgg-xs", "x"),
    "no number of trials": lambda out: search("digits", "space.yaml", out, trials="x"),
    "too many processes": lambda out: search("digits", "space.yaml", out, workers="1000"),
}


@pytest.mark.parametrize("what", ODD)
def test_calls_of_no_sense(what, tmp_path):
    with pytest.raises(OnespikeError) as caught:
        ODD[what](tmp_path / "out")
    assert str(caught.value).isprintable()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("recipe", [None, 5, [], nn.Identity()])
def test_what_is_no_recipe(recipe, tmp_path):
    with pytest.raises(OnespikeError, match="expected a recipe"):
        onespike.train(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["conv-tiny", "spiking-vgg-xs", "spiking-resnet-xs", "spiking-mlp"])
@pytest.mark.parametrize("what", ["num_classes", "in_channels", "image_size"])
@pytest.mark.parametrize("value", ["x", True, 2.5, [3], 0, -1, 10**30])
def test_what_is_no_size_of_a_network(name, what, value):
    with pytest.raises(OnespikeError, match=f"{what}: expected a whole number"):
        onespike.create_model(name, **{what: value})


@pytest.mark.parametrize("images", ["1000000000000", "-1", "x"])
def test_noise_without_end(images, refused):
    refused("audit", "conv-tiny", "--images", images)


@given(st.sampled_from(OPTIONS), st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_value_or_a_line(option, value):
    with fine_or_a_line():
        load_recipe("digits", {option: Text(value)})


@pytest.mark.parametrize("theta", [0, -1, 1.5, float("nan"), float("inf")])
def test_functions_check_their_ranges(theta):
    with pytest.raises(ValueError, match="theta"):
        fuse(torch.zeros(2), torch.zeros(2), theta=theta)
    if theta:
        with pytest.raises(ValueError, match="decay"):
            charge(torch.zeros(4, 1, 1, 2, 2), theta)
