"""A value that does nothing beside others is named, and truly does nothing."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from onespike.classpath import ClassPath
from onespike.neurons import NEURONS
from onespike.training import load_recipe
from onespike.training.idle import warn_of_idle
from tests.running import thorough

OF_MODELS: dict[str, tuple[float | str, float | str]] = {
    "model.neuron.decay": (0.4, 0.9),
    "model.fusion": ("sincos", "sum"),
    "model.theta": (0.5, 0.9),
    "model.region_threshold": (0.1, 0.2),
}
NO_DRAWS = {"model.encoding": "direct"}
NETWORKS: list[tuple[dict[str, Any], set[str]]] = [
    ({"model.name": "spiking-resnet-xs", "model.windows": "none"}, {*OF_MODELS}),
    ({"model.name": "spiking-vgg-xs", "model.windows": "average", "model.depth": 3}, {"model.region_threshold"}),
    ({"model.name": "spiking-vgg-xs", "model.windows": "alternating", "model.depth": 3}, set()),
    ({"model.name": "spiking-resnet-xs", "model.time_steps": 2}, {*OF_MODELS} - {"model.neuron.decay"}),
    ({"model.name": "conv-tiny", "model.windows": "none"} | NO_DRAWS, {*OF_MODELS}),
    ({"model.name": "conv-tiny", "model.fusion": "none"} | NO_DRAWS, {"model.theta", "model.neuron.decay"}),
    ({"model.name": "conv-tiny"} | NO_DRAWS, set()),
    ({"model.name": "conv-tiny", "model.unit": "lstm"} | NO_DRAWS, set()),
]


def named(given: dict[str, Any], capsys: pytest.CaptureFixture[str], recipe: str = "digits") -> set[str]:
    """The names among those given of which somebody is warned."""
    warn_of_idle(given, load_recipe(recipe, given))
    return {line.split()[1] for line in capsys.readouterr().err.splitlines()}


def answers(given: dict[str, Any]) -> torch.Tensor:
    """Logits of a fresh network that trains, so that spikes pass through surrogates and norms."""
    torch.manual_seed(0)
    network = load_recipe("digits", given).model.build(10, 3, 32)
    with torch.no_grad():
        for weight in network.parameters():  # some begin at 0, and would hide what is behind them
            weight.add_(torch.randn_like(weight), alpha=0.1)
    torch.manual_seed(1)
    return network(torch.rand(4, 3, 32, 32))


@pytest.mark.parametrize(("network", "idle"), thorough(NETWORKS, 4))
def test_what_a_network_does_not_read_is_named_and_does_nothing(network, idle, capsys):
    for name, (one, other) in OF_MODELS.items():
        if name in network:
            continue
        assert named({**network, name: other}, capsys) == ({name} & idle)
        same = answers({**network, name: one}).equal(answers({**network, name: other}))
        assert same == (name in idle) or (same and name == "model.region_threshold"), name


def test_the_region_threshold_of_dilated_windows_is_read(capsys):
    network = {"model.name": "conv-tiny", "model.windows": "dilated", "model.encoding": "threshold"}
    assert named({**network, "model.region_threshold": 0.3}, capsys) == set()
    assert not answers({**network, "model.region_threshold": 0.3}).equal(answers(network))


@pytest.mark.parametrize("neuron", NEURONS)
def test_whether_a_kind_of_neuron_reads_its_decay_at_one_time_step(neuron, capsys):
    network = {"model.name": "spiking-resnet-xs", "model.strict": False, "model.neuron.name": neuron}
    first, second = (answers({**network, "model.neuron.decay": decay}) for decay in (0.4, 0.9))
    idle = named({**network, "model.neuron.decay": 0.9}, capsys) == {"model.neuron.decay"}
    assert first.equal(second) == idle == (neuron != "plif")


def test_a_learned_decay_without_potentials_learns_nothing(capsys):
    given = {"model.name": "conv-tiny", "model.fusion": "none", "model.neuron.learnable_decay": "channel"}
    assert named(given, capsys) == {"model.neuron.learnable_decay"}
    network = load_recipe("digits", given).model.build(10, 3, 32)
    network(torch.rand(4, 3, 32, 32)).sum().backward()
    assert {one.grad for name, one in network.named_parameters() if name.endswith("raw_decay")} == {None}
    assert named({**given, "model.time_steps": 2}, capsys) == set()


TWINS: list[dict[str, Any]] = [
    {"model.name": "spiking-resnet-xs", "model.neuron.name": "relu", "model.strict": False},
    {"model.name": "spiking-vgg-xs", "model.neuron.name": "relu", "model.strict": False},
    {"model.name": "conv-tiny", "model.preset": "ann"} | NO_DRAWS,
]


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize(("key", "value"), [("threshold", 0.3), ("surrogate", "arctan"), ("surrogate_width", 2.0)])
def test_an_artificial_twin_has_no_threshold(twin, key, value, capsys):
    key = f"model.neuron.{key}"
    assert named({**twin, key: value}, capsys) == {key}
    assert answers({**twin, key: value}).equal(answers(twin))
    assert named({"model.name": twin["model.name"], key: value}, capsys) == set()


def test_by_what_frames_are_cut_where_there_is_one(capsys):
    given = {"data.name": "events-folder", "data.frames_by": "count"}
    assert named(given, capsys) == {"data.frames_by"}
    assert named({**given, "data.frames": 2}, capsys) == set()
    assert named({**given, "data.representation": "timesurface"}, capsys) == set()


def test_a_loss_of_each_step_where_there_is_one(capsys):
    assert named({"train.loss": "tet"}, capsys) == {"train.loss"}
    assert named({"train.loss": "tet", "model.time_steps": 2}, capsys) == set()


@pytest.mark.parametrize(
    ("name", "value", "needs"),
    [
        ("data.crop_fill", "reflect", {"data.crop_padding": 2}),
        ("train.teacher_weight", 0.5, {"train.teacher": "twin"}),
        ("train.teacher_temperature", 4.0, {"train.teacher": "twin"}),
        ("train.noise_limit", 0.5, {"train.noise_range": [0.4, 0.9]}),
        ("train.warmup_lr", 0.01, {"train.warmup_epochs": 1}),
    ],
)
def test_a_value_that_needs_another_is_named_without_it_alone(name, value, needs, capsys):
    (key,) = needs
    off: Any = {"train.teacher": "", "train.noise_range": None}.get(key, 0)
    assert named({name: value, key: off}, capsys) == {name}
    assert named({name: value, **needs}, capsys) == set()


@pytest.mark.parametrize(("mixup", "loss", "idle"), [(0.1, "mean", {"loss"}), (0, "tet", {"label_smoothing"})])
def test_beside_a_loss_of_ones_own_the_other_is_named(mixup, loss, idle, capsys):
    given = {"train.loss": loss, "train.label_smoothing": 0.2, "train.mixup": mixup, "model.time_steps": 2}
    warn_of_idle(given, replace(load_recipe("digits", given), loss=ClassPath("torch.nn.CrossEntropyLoss")))
    assert {line.split()[1] for line in capsys.readouterr().err.splitlines()} == {f"train.{name}" for name in idle}


def test_who_trains_is_told(command, monkeypatch, tmp_path):
    monkeypatch.setattr("onespike.training.loop.train", lambda *_, **__: None)
    code, _, said = command("train", "--out", tmp_path / "run", "--train.teacher_weight", 0.5)
    assert (code, said) == (0, "warning: train.teacher_weight does nothing here: there is no train.teacher\n")
    assert command("train", "--out", tmp_path / "run", "--train.lr", 0.5)[2] == ""
