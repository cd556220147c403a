"""Distillation: the loss against plain torch, teachers from everywhere, twins that resume, and what is refused."""

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import timm
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset
from torchvision import models

from onespike import convert
from onespike.errors import OnespikeError
from onespike.models import create_model, model_config
from onespike.models.strict_layers import TiedConv
from onespike.neurons import Neuron
from onespike.training import Callback, Run, Stopped, TrainConfig, load_recipe, teacher, train
from onespike.training.checkpoint import Checkpoint
from onespike.training.flops import Flops
from onespike.training.set_up import set_up
from onespike.training.teacher import Found, find_teacher, twin_of
from tests.running import raising

#: Nothing is drawn but Mixup; one step of plain SGD.
EXACT = {
    "model__encoding": "threshold",
    "model__dropout": 0.0,
    "train__precision": "fp64",
    "train__optimizer": "momentum",
    "train__weight_decay": 0.0,
    "train__clip_grad": 0.0,
    "train__lr": 0.1,
}


@pytest.fixture
def taught(small, tmp_path: Path) -> Path:
    """A run whose network teaches."""
    train(small(model__preset="ann", model__encoding="threshold"), tmp_path / "taught", quiet=True)
    return tmp_path / "taught"


def given(network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, mean=(0.5,), std=(0.25,), **known) -> None:
    """Let timm:any be this network."""
    monkeypatch.setitem(teacher.SOURCES, "timm", lambda _: Found(network, mean, std, 32, **known))


class Line(torch.nn.Module):
    """It remembers what it saw, and answers a step of time after the other."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.linear, self.seen = torch.nn.Linear(32 * 32, classes), list[torch.Tensor]()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images)
        logits = self.linear(images.flatten(1))
        return torch.stack([logits, 3 * logits])


@pytest.mark.parametrize("features", [0.0, 0.6])
def test_a_step_is_the_equation_written_out_in_plain_torch(small, taught, features):
    recipe = small(**EXACT, train__teacher=str(taught), train__teacher_weight=0.3, train__teacher_features=features,
                   train__teacher_temperature=1.7, train__accumulate=2)  # fmt: skip
    alone = replace(recipe.train, teacher="", teacher_features=0.0)
    made, plain = set_up(recipe), set_up(replace(recipe, train=alone))
    images, labels = next(made.batches.epoch(0))
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {"student": [], "teacher": []}
    networks = {"student": plain.network, "teacher": Run.open(taught).model().double()}
    for who, network in networks.items():
        for module in network.modules():
            if isinstance(module, Neuron):
                module.register_forward_hook(lambda _m, _i, out, who=who: seen[who].append(out))
    # What Mixup makes of the batch, by its own draws.
    torch.manual_seed(0)
    mixed: list[torch.Tensor] = []
    made.network.register_forward_pre_hook(lambda _, inputs: mixed.append(inputs[0].clone()))
    targets: list[torch.Tensor] = []
    own = made.loss
    made.loss = lambda logits, y: (targets.append(y), own(logits, y))[1]
    loss, _ = made.step(0, images, labels)

    total, expected_loss = 0.0, 0.0
    for x, y in zip(mixed, targets, strict=True):
        for calls in seen.values():
            calls.clear()
        logits = networks["student"](x)
        with torch.no_grad():
            answers = networks["teacher"](x)
        cross_entropy = -(y * logits.log_softmax(1)).sum(1).mean()
        p, q = (answers / 1.7).softmax(1), (logits / 1.7).softmax(1)
        divergence = (p * (p.log() - q.log())).sum(1).mean()
        distances = []
        for ours, its in zip(seen["student"], seen["teacher"], strict=True):
            a, b = (one.movedim(1, 0).flatten(1) if one.ndim == 5 else one.flatten(1) for one in (ours, its))
            a, b = (one / one.norm(dim=1, keepdim=True).clamp(min=1) for one in (a, b))
            distances.append(((a - b) ** 2).sum(1).mean())
        total = (
            total + (0.7 * cross_entropy + 0.3 * 1.7**2 * divergence + features * sum(distances) / len(distances)) / 2
        )
        expected_loss += cross_entropy.item() / 2
    assert loss == pytest.approx(expected_loss, abs=1e-12)  # what is reported is the labels' loss
    gradients = torch.autograd.grad(total, list(networks["student"].parameters()))
    for (name, moved), before, gradient in zip(
        made.network.named_parameters(), networks["student"].parameters(), gradients, strict=True
    ):
        assert torch.allclose(moved, before - 0.1 * gradient, rtol=0, atol=1e-12), name


def test_the_teacher_sees_the_augmented_images_as_it_was_trained_to_see_them(small, monkeypatch):
    line = Line()
    given(line, monkeypatch)
    made = set_up(small(train__teacher="timm:any", train__precision="fp64"))
    line.seen.clear()
    seen: list[torch.Tensor] = []
    made.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    made.step(0, *next(made.batches.epoch(0)))
    mean, std = made.data.mean[0], made.data.std[0]
    assert torch.allclose(line.seen[0], (seen[0] * std + mean - 0.5) / 0.25, rtol=0, atol=1e-12)
    assert not any(parameter.requires_grad for parameter in made.teacher.network.parameters())
    assert not made.teacher.network.training


def test_floats_that_a_teacher_normalises_again_are_said(small, monkeypatch, capsys):
    images = TensorDataset(torch.rand(40, 1, 32, 32), torch.arange(40) % 10)
    for mean, std, warnings in ((0.5, 0.25, 1), (0.0, 1.0, 0)):
        given(Line(), monkeypatch, (mean,), (std,))
        set_up(small(train__teacher="timm:any", data__limit=0), data=images)
        said = capsys.readouterr().err
        assert (
            said.count("gives floats, taken as they are; the teacher knows images less [0.5], over [0.25]") == warnings
        )


def test_a_colour_teacher_of_grey_images_is_counted_and_takes_images_that_grow(small, monkeypatch):
    colours = torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(1), torch.nn.Linear(4, 10)
    given(torch.nn.Sequential(*colours), monkeypatch, (0.5,) * 3, (0.25,) * 3)
    grey = torch.nn.Conv2d(1, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(1), torch.nn.Linear(4, 10)
    made = set_up(small(train__teacher="timm:any", train__start_size=16), torch.nn.Sequential(*grey))
    made.flops.start(made)
    assert (made.flops.problem, made.progress.flops) == ("", 0)
    macs = 3 * 9 * 4 * 30 * 30 + 4 * 10
    alone = Flops(made.network)
    assert made.flops._cost(made, made.data.image) - alone._cost(made, made.data.image) == 2 * macs


def test_the_spikes_of_a_teachers_tied_neurons_are_added_up(small, monkeypatch):
    network, arrived = create_model("spiking-vgg-xs", in_channels=1, tied=True, head="mean"), []
    conv = next(layer for layer in network.modules() if isinstance(layer, TiedConv))
    conv.register_forward_pre_hook(lambda _, read: arrived.append(read[0].shape[1] / conv.in_channels))
    given(network, monkeypatch)
    made = set_up(small(train__teacher="timm:any"))
    arrived.clear()
    made.step(0, *next(made.batches.epoch(0)))
    assert arrived == [1]


def test_answers_over_time_are_averaged_and_weight_one_leaves_the_labels_out(small, monkeypatch):
    line = Line()
    given(line, monkeypatch)
    made = set_up(small(**EXACT, train__teacher="timm:any", train__teacher_weight=1.0, train__teacher_temperature=1.0,
                        train__mixup=0.0))  # fmt: skip
    images, labels = next(made.batches.epoch(0))
    answers = (2 * line.linear(((images * made.data.std[0] + made.data.mean[0] - 0.5) / 0.25).flatten(1))).softmax(1)
    network = set_up(small(**EXACT, train__mixup=0.0)).network
    gradients = torch.autograd.grad(F.cross_entropy(network(images), answers.detach()), list(network.parameters()))
    made.step(0, images, 9 - labels)  # whatever they are
    for moved, before, gradient in zip(made.network.parameters(), network.parameters(), gradients, strict=True):
        assert torch.allclose(moved, before - 0.1 * gradient, rtol=0, atol=1e-10)


def test_features_of_blocks_that_run_again_are_compared_all_the_same(small, taught):
    options = {**EXACT, "train__teacher": str(taught), "train__teacher_features": 0.5, "train__mixup": 0.0}
    weights = []
    for recompute in (False, True):
        made = set_up(small(**options, train__recompute=recompute))
        made.step(0, *next(made.batches.epoch(0)))
        weights.append(dict(made.network.named_parameters()))
    assert all(torch.allclose(weights[0][name], weights[1][name], rtol=0, atol=1e-12) for name in weights[0])


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("create", [timm.create_model, models.get_model], ids=["timm", "torchvision"])
def test_neurons_of_a_converted_network_learn_from_the_activations_that_they_replaced(
    small, monkeypatch, create, steps
):
    network, images = create("resnet18", num_classes=10).eval(), torch.randn(4, 3, 32, 32)
    converted = convert(network, images, time_steps=steps, batch_norm="kept").network
    given(network, monkeypatch, mean=(0.5,) * 3, std=(0.25,) * 3)
    recipe = small(train__teacher="timm:any", train__teacher_features=0.6, train__teacher_weight=0.0, data__limit=40)
    colour = TensorDataset(torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8), torch.arange(40) % 10)
    made = set_up(recipe, converted, data=colour)
    assert made.teacher.layers == set(converted.neurons)
    ours, its = list[torch.Tensor](), list[torch.Tensor]()
    for neurons in converted.neurons.values():  # in the order of the forward pass, as the calls of ReLUs are
        neurons.register_forward_hook(lambda _m, _i, out: ours.append(out.unflatten(0, (steps, -1)).sum(0)))
    for module in network.modules():  # torchvision calls each ReLU of a block twice
        if isinstance(module, torch.nn.ReLU):
            module.register_forward_hook(lambda _m, _i, out: its.append(out.clone()))
    with made.teacher.forward():
        converted(images)
    penalty = made.teacher.penalty(made, len(images))
    assert len(ours) == len(its) == 17
    pairs = zip(ours, its, strict=True)
    distances = [
        (F.normalize(a.flatten(1), eps=1.0) - F.normalize(b.flatten(1), eps=1.0)).square().sum(1) for a, b in pairs
    ]
    assert penalty.item() == pytest.approx(0.6 * torch.stack(distances).mean().item(), rel=1e-5)
    penalty.backward()
    assert all(neurons.raw_threshold.grad is not None for neurons in converted.neurons.values())


def test_an_activation_of_a_vector_is_no_feature(small, monkeypatch):
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            linear = torch.nn.Linear
            self.body = torch.nn.Sequential(torch.nn.Flatten(), linear(1024, 8), torch.nn.ReLU(), linear(8, 10))
            self.gain, self.scale = torch.nn.ReLU(), torch.nn.Parameter(torch.ones(10))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.body(images) * self.gain(self.scale)

    given(Scaled(), monkeypatch)
    made = set_up(small(train__teacher="timm:any", train__teacher_features=1.0), Scaled())
    assert made.teacher.layers == {"body.2"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.slow
def test_a_twin_is_trained_first_by_the_same_recipe(small, tmp_path, precision):
    recipe = small(
        train__teacher="twin", train__teacher_features=0.5, train__precision=precision, train__rate_penalty=0.1
    )
    summary = train(recipe, tmp_path / "run", quiet=True)
    twin = Run.open(tmp_path / "run" / "teacher")
    assert (twin.recipe.model.neuron.name, twin.recipe.model.channels) == ("relu", recipe.model.channels)
    assert twin.recipe.train == replace(recipe.train, teacher="", teacher_features=0.0, rate_penalty=0.0)
    assert summary["teacher_pflop"] == twin.summary["pflop"]
    # Both networks have the same layers: what a teacher adds is a third of what training costs.
    assert summary["pflop"] == pytest.approx(twin.summary["pflop"] * 8 / 6, rel=1e-12)
    assert Run.open(tmp_path / "run").summary == summary
    assert set_up(small()).teacher is None
    alone = train(twin.recipe, tmp_path / "alone", quiet=True)
    assert (alone["test_loss"], "teacher_pflop" in alone) == (twin.summary["test_loss"], False)


def test_a_resumption_that_is_refused_while_the_twin_is_trained_leaves_the_run_as_it_was(
    small, tmp_path, monkeypatch, stop_after
):
    values = {"train__teacher": "twin", "train__epochs": 1, "data__limit": 60, "data__workers": 0}
    stop_after(2)
    with pytest.raises(Stopped, match="go on with resume=True"):
        train(small(**values), tmp_path, quiet=True)
    before = (tmp_path / "config.yaml").read_bytes()
    with pytest.raises(OnespikeError, match=r"teacher is another run: train.batch_size was 16, now 8"):
        train(small(**values, train__batch_size=8), tmp_path, resume=True, quiet=True)
    assert (tmp_path / "config.yaml").read_bytes() == before
    stop_after(1)  # the twin goes on, so the student's options have changed
    with pytest.raises(Stopped):
        train(small(**values, train__hoyer=1e-4), tmp_path, resume=True, quiet=True)
    monkeypatch.undo()
    assert Run.open(tmp_path).recipe.train.hoyer == 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "init_from"])
def test_interrupted_in_the_teacher_and_in_the_student_it_ends_in_the_same_bits(
    small, tmp_path, monkeypatch, stop_after, fresh
):
    recipe = small(train__teacher="twin", train__teacher_features=0.5, train__ema=0.9)
    init_from = None
    if not fresh:
        train(small(train__epochs=1), tmp_path / "old", quiet=True)
        init_from = tmp_path / "old"
    straight = train(recipe, tmp_path / "straight", init_from=init_from, quiet=True)
    for number, steps in enumerate((5, 8 + 16 - 5)):  # in the teacher's first epoch; in the student's first
        stop_after(steps)
        with pytest.raises(Stopped):
            train(recipe, tmp_path / "stopped", bool(number), None if number else init_from, quiet=True)
        monkeypatch.undo()
        assert (tmp_path / "stopped" / "teacher" / "summary.json").exists() == bool(number)
    summary = train(recipe, tmp_path / "stopped", resume=True, quiet=True)
    for one in ("last", "best", "teacher/last"):
        weights = [Checkpoint.load(tmp_path / run / one).weights for run in ("straight", "stopped")]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    timed = ("seconds", "images_per_second")
    assert {**summary, **dict.fromkeys(timed)} == {**straight, **dict.fromkeys(timed)}


def test_of_a_teacher_the_best_weights_teach(small, tmp_path):
    student = small(train__teacher="twin", data__limit=60, model__depths=[1], model__channels=[4])
    made, run = set_up(twin_of(student)), Run(tmp_path / "teacher")
    run.begin(made.recipe)
    made.progress.flops = 7.0
    for folder, value in ((run.best, 1.0), (run.last, 2.0)):
        made.network.head.bias.data.fill_(value)
        made.checkpoint().save(folder)
    for name in ("twin", str(run.folder)):
        trainer = set_up(replace(student, train=replace(student.train, teacher=name)))
        trainer.run = Run(tmp_path)
        trainer.teacher.start(trainer)
        assert (trainer.teacher.network.head.bias == 1).all()
        assert trainer.teacher.found.flops == 7.0


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("conv-tiny", {}),
        ("conv12", {"preset": "strict", "neuron": {"learnable_threshold": "channel", "surrogate": "triangle"}}),
        ("lstm12", {"preset": "paper", "time_steps": 2}),
        ("spiking-vgg11", {}),
        ("spiking-vgg-xs", {"preset": "windows", "width": 4}),
        ("spiking-resnet-m", {"preset": "windows", "windows": "dilated", "width": 4}),
    ],
)
def test_the_twin_of_every_kind_of_model_is_artificial(small, name, overrides):
    others = {"train__hoyer": 1.0, "train__surrogate_width_end": 1.0, "train__energy_budget": 1.0}
    recipe = small(train__teacher="twin", train__teacher_features=1.0, **others)
    recipe = replace(recipe, model=model_config(name, **overrides))
    twin = twin_of(recipe).model
    assert twin_of(recipe).train == small().train, "neither taught nor penalised"
    assert (twin.name, twin.neuron.name, twin.neuron.learnable_threshold) == (name, "relu", "none")
    assert getattr(twin, "time_steps", 1) == 1
    if getattr(twin, "windows", "none") != "none":
        assert (twin.fusion, twin.region_threshold) == ("none", None)
    assert twin.build(10, 1, 32)(torch.randn(2, 1, 32, 32)).shape == (2, 10)


def test_events_of_several_frames_have_no_twin():
    recipe = load_recipe("events/digits", {"data.frames": 4, "train.teacher": "twin"})
    with pytest.raises(OnespikeError, match=r"^train.teacher: a twin runs at .*: expected data.frames 1, got 4, or"):
        twin_of(recipe)


def test_a_teacher_of_timm_and_one_of_torchvision(small, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    made, create = dict[str, torch.nn.Module](), timm.create_model

    def create_model(name: str, pretrained: bool) -> torch.nn.Module:
        assert pretrained
        return made.setdefault(name, create(name, num_classes=10))

    monkeypatch.setattr(timm, "create_model", create_model)
    found = set_up(small(train__teacher="timm:test_resnet")).teacher.found
    assert (found.network, found.size, len(found.mean), found.flops) == (made["test_resnet"], 160, 3, None)
    weights = models.SqueezeNet1_1_Weights.DEFAULT
    file = tmp_path / "hub" / "checkpoints" / Path(weights.url).name
    file.parent.mkdir(parents=True)
    network = models.squeezenet1_1()
    torch.save(network.state_dict(), file)
    found = teacher._torchvision("squeezenet1_1")
    assert torch.equal(found.network.classifier[1].weight, network.classifier[1].weight)
    assert (found.mean, found.std, found.size) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224)
    with pytest.raises(OnespikeError, match=r"torchvision:squeezenet1_1 .* it knows 1000 classes, digits has 10"):
        set_up(small(train__teacher="torchvision:squeezenet1_1"))


def test_asking_a_teacher_leaves_other_gpus_alone(small, monkeypatch):
    fork, asked = torch.random.fork_rng, list[object]()

    def noted(devices=None, *rest, **more):
        asked.append(devices)
        return fork(devices, *rest, **more)

    monkeypatch.setattr(torch.random, "fork_rng", noted)
    given(Line(), monkeypatch)
    set_up(small(train__teacher="timm:any"))
    assert asked
    assert None not in asked  # it would be all of them


class Evil:
    def __reduce__(self):
        return os.system, ("touch $TORCH_HOME/executed",)


def test_weights_in_a_cache_run_no_code(small, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / Path(models.SqueezeNet1_1_Weights.DEFAULT.url).name
    file.parent.mkdir(parents=True)
    file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(OnespikeError, match=r"torchvision:squeezenet1_1 cannot be loaded"):
        set_up(small(train__teacher="torchvision:squeezenet1_1"))
    assert not (tmp_path / "executed").exists()


def test_without_a_network_one_line_says_where_weights_come_from(small, tmp_path, monkeypatch):
    refused = raising(URLError("no network"))

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refused)
    monkeypatch.setattr(timm, "create_model", refused)
    for source in ("torchvision:resnet18", "timm:resnet18"):
        with pytest.raises(OnespikeError) as error:
            set_up(small(train__teacher=source))
        assert f"{source} cannot be loaded (<urlopen error no network>); its weights come from the cache" in str(
            error.value
        )
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pretrained:nothing", r"train.teacher: .*'nothing'"),
        ("nothing/here", r"train.teacher: nothing/here is not a run: .*; or twin, torchvision:NAME, timm:NAME"),
        ("keras:resnet", r"unknown train.teacher 'keras:resnet'.*known: RUN, pretrained:NAME, timm:NAME, torchvision"),
        ("timm:resnet81", r"unknown train.teacher timm 'resnet81': did you mean 'resnet"),
        ("torchvision:resnet81", r"unknown train.teacher torchvision 'resnet81': did you mean 'resnet18'"),
    ],
)
def test_a_teacher_that_does_not_exist(small, tmp_path, name, message):
    with pytest.raises(OnespikeError, match=message) as error:
        train(small(train__teacher=name), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_network_of_the_package_teaches(small):
    found = find_teacher(small(train__teacher="pretrained:digits-spiking-vgg-xs"), None)
    assert (type(found.network).__name__, found.size, len(found.classes)) == ("SpikingVGG", 32, 10)
    assert found.flops == 2559560908800


def test_a_teacher_that_was_passed_from_python_is_told_what_to_do(small, tmp_path):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10))
    train(small(train__epochs=1, data__limit=60), tmp_path / "run", model=network, quiet=True)
    with pytest.raises(
        OnespikeError, match=r"run was passed from Python, .*: train it by its class, --model.class_path"
    ):
        set_up(small(train__teacher=str(tmp_path / "run")))


def test_a_teacher_that_does_not_suit(small, taught, monkeypatch):
    with pytest.raises(OnespikeError, match=r"its images have 32 pixels a side, those of digits 64: .*expected"):
        set_up(small(train__teacher=str(taught), data__image_size=64))
    with pytest.raises(OnespikeError, match=r"resnet18 has no option neuron to make a twin by: expected"):
        set_up(replace(small(train__teacher="twin"), model=model_config("resnet18")))
    silent = Line()
    silent.register_forward_pre_hook(raising(AssertionError))  # as a bare assert does
    given(silent, monkeypatch)
    with pytest.raises(OnespikeError, match=r"its images have 32 pixels a side, those of digits 32: AssertionError$"):
        set_up(small(train__teacher="timm:any"))
    given(Line(7), monkeypatch)
    with pytest.raises(OnespikeError, match=r"timm:any does not suit the data: it knows 7 classes, digits has 10"):
        set_up(small(train__teacher="timm:any"))
    given(Line(), monkeypatch, classes=tuple("0123456798"))
    with pytest.raises(OnespikeError, match=r"does not suit the data: it has a class '9' where digits has '8'"):
        set_up(small(train__teacher="timm:any"))
    given(Line(), monkeypatch)
    with pytest.raises(OnespikeError, match=r"train.teacher_features: expected layers of neurons, .*timm:any has none"):
        set_up(small(train__teacher="timm:any", train__teacher_features=1.0))
    any_size = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(1, 10))
    with pytest.raises(OnespikeError, match=r"train.teacher: timm:any: train.start_size: .*\(2, 1, 16, 16\)"):
        set_up(small(train__teacher="timm:any", train__start_size=16), any_size)
    images = torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8)
    colour = torch.utils.data.TensorDataset(images, torch.arange(40) % 10)
    with pytest.raises(OnespikeError, match=r"its images have 1 channels, those of TensorDataset 3"):
        set_up(small(train__teacher="timm:any"), data=colour)


@pytest.mark.slow
def test_a_teacher_that_takes_any_size_may_have_been_trained_at_another(small, tmp_path):
    recipe = replace(small(train__epochs=1), model=model_config("resnet18"))
    train(recipe, tmp_path / "run", quiet=True)
    other = small(train__teacher=str(tmp_path / "run"), data__image_size=16, model__windows="average")
    assert set_up(other).teacher.found.size == 32


def test_bad_values():
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(OnespikeError, match=r"train\.teacher_weight: expected"):
            TrainConfig(teacher_weight=value)
    for values in ({"teacher_temperature": 0.0}, {"teacher_features": -1.0}, {"teacher_temperature": float("inf")}):
        with pytest.raises(OnespikeError, match=f"train.{next(iter(values))}: expected"):
            TrainConfig(**values)
    assert TrainConfig(teacher_weight=1.0).teacher == ""
    with pytest.raises(OnespikeError, match=r"train\.teacher_features: expected a train\.teacher .* set 0"):
        TrainConfig(teacher_features=1.0)


def test_a_student_may_change_its_images_in_place(small, monkeypatch):
    line = Line()
    given(line, monkeypatch)
    student = torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Flatten(), torch.nn.Linear(1024, 10))
    made = set_up(small(train__teacher="timm:any", train__mixup=0.0), student)
    line.seen.clear()
    images, labels = next(made.batches.epoch(0))
    assert images.min() < 0
    seen = images.clone()
    made.step(0, images, labels)
    mean, std = made.data.mean[0], made.data.std[0]
    assert torch.allclose(line.seen[0], (seen * std + mean - 0.5) / 0.25, atol=1e-5)


def test_a_run_is_not_resumed_with_another_teacher_in_the_place_of_its_own(small, taught, tmp_path):
    recipe = small(train__teacher=str(taught), train__epochs=2)

    class Stop(Callback):
        def after_step(self, trainer, step):  # noqa: ARG002
            trainer.stop = True

    with pytest.raises(Stopped):
        train(recipe, tmp_path / "run", callbacks=[Stop()], quiet=True)
    shutil.rmtree(taught)
    train(small(model__preset="ann", model__encoding="threshold", train__seed=5), taught, quiet=True)
    with pytest.raises(OnespikeError, match=r"^train\.teacher: .* has other weights than when .*/run was trained: re"):
        train(recipe, tmp_path / "run", resume=True, quiet=True)
    without = replace(recipe, train=replace(recipe.train, teacher=""))
    train(without, tmp_path / "run", resume=True, quiet=True)  # whoever asks for it gets it
