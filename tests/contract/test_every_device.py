"""The library on CUDA and MPS, as far as that can be tested without either: no tensor is forgotten on the CPU.

The devices are emulated; see `tests/elsewhere.py`.
"""

import copy

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

import onespike
from onespike.cli.main import main
from onespike.functional.kernels import kernels_for
from onespike.units import UNITS
from tests.contract.test_every_model import every_family, images, make
from tests.elsewhere import There, emulate
from tests.running import thorough

SMALL = ["--recipe=digits", "--data.workers=0", "--data.limit=60", "--train.batch_size=30", "--train.epochs=2"]
STRICT = [*SMALL, "--model.name", "spiking-vgg-xs"]
RECURRENT = [*SMALL, "--model.channels=[8,8]", "--model.depths=[1,1]", "--model.name"]
#: What trains by ways of its own.
TRAININGS = {
    "batches": [*STRICT, "--data.crop_padding=2", "--data.flip=0.5", "--data.cutout=2", "--train.mixup=0.2"],
    "8 bits": [*STRICT, "--train.int8_weights=true"],
    "teacher": [
        *STRICT,
        "--train.teacher=twin",
        "--train.teacher_features=0.1",
        "--train.ema=0.9",
        "--train.precision=bf16",
    ],
    "penalties": [
        *STRICT,
        "--train.rate_penalty=0.1",
        "--train.hoyer=1e-8",
        "--train.clip_grad=1",
        "--train.accumulate=2",
    ],
    "budget": [*STRICT, "--train.energy_budget=20", "--train.optimizer=muon", "--train.norm_lr_factor=2"],
    "views": [*STRICT, "--data.auto_augment=augmix-m3", "--data.augmix_splits=2", "--data.random_erasing=0.2"],
    "growing": [*STRICT, "--data.image_size=32", "--train.start_size=16", "--train.surrogate_width_end=1"],
    "time": [*STRICT, "--model.time_steps=3", "--train.loss=tet"],
    "recomputed": [*RECURRENT, "lstm12", "--train.recompute=true"],
    "recurrent": [*RECURRENT, "rnn12", "--train.rate_penalty=0.1"],
}


@pytest.fixture(params=[pytest.param("cuda", marks=pytest.mark.slow), "mps"])
def kind(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONESPIKE_KERNELS", "0")  # the CPU computes by the functions that other devices have
        kernels_for.cache_clear()
        emulate(request.param, patch)
        yield request.param
    kernels_for.cache_clear()
    AcceleratorState._reset_state(reset_partial_state=True)


#: What no code asks a device for is the same on both; MPS refuses more.
on_mps = pytest.mark.parametrize("kind", ["mps"], indirect=True)


def test_the_emulated_device_refuses_what_a_real_one_would(kind):
    here, there = torch.arange(6.0).view(2, 3), torch.arange(6.0, device=kind).view(2, 3)
    assert there.device.type == kind
    assert here.to(kind).device == there.device
    assert torch.equal(there.cpu(), here)
    assert type(there.cpu()) is Tensor
    assert (there + 1).sum().item() == 21
    assert isinstance(copy.deepcopy(there), There)
    with pytest.raises(RuntimeError, match="one device"):
        there + here
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    if kind == "mps":
        with pytest.raises(TypeError, match="float64"):
            there.double()
    weight = nn.Linear(3, 1).to(kind).weight
    assert isinstance(weight, nn.Parameter)
    (weight * here.to(kind).requires_grad_()).sum().backward()
    assert weight.grad.device.type == kind


@pytest.mark.parametrize("mixed", thorough([False, True], 1))
@every_family
def test_every_family_computes_there_what_it_computes_here(kind, name, mixed):
    _alike(make(name), kind, mixed)


@on_mps
@pytest.mark.parametrize("name", thorough(["conv-tiny", *(f"{unit}12" for unit in UNITS)], 2))
def test_every_unit_computes_there_what_it_computes_here(kind, name):
    _alike(make(name), kind, False, rtol=1e-2, atol=1e-3)  # the CPU's recurrent units add up in another order


def _alike(here, kind, mixed, **near):
    there, x = copy.deepcopy(here).to(kind), images()
    assert isinstance(next(there.parameters()), There)
    found = []
    for network, batch, device in ((here, x, "cpu"), (there, x.to(kind), kind)):
        torch.manual_seed(3)
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            logits = network.train()(batch)
        assert logits.device.type == device
        logits.float().square().mean().backward()
        gradients = {label: one.grad for label, one in network.named_parameters() if one.grad is not None}
        assert {one.device.type for one in gradients.values()} == {device}
        found.append((logits.detach().cpu(), {label: one.cpu() for label, one in gradients.items()}))
    torch.testing.assert_close(*found, **near)


@on_mps
@pytest.mark.parametrize("how", thorough([*TRAININGS], 1))
@pytest.mark.usefixtures("kind")
def test_every_training_takes_the_same_steps_there(tmp_path, how):
    _same_steps(tmp_path, how)


@pytest.mark.parametrize("kind", ["cuda"], indirect=True)
@pytest.mark.parametrize("how", ["batches", "teacher"])  # pinned memory, and bf16
@pytest.mark.slow
@pytest.mark.usefixtures("kind")
def test_on_cuda_too(tmp_path, how):
    _same_steps(tmp_path, how)


def _same_steps(tmp_path, how):
    found, words = [], TRAININGS[how]
    for device in ("auto", "cpu"):
        run("train", *words, "--out", tmp_path / device, "--train.device", device)
        rows = (tmp_path / device / "metrics.csv").read_text().splitlines()
        found.append([[row.split(",")[column] for column in range(6)] for row in rows])
    assert found[0] == found[1]


@pytest.mark.slow
def test_what_follows_a_training_runs_there(kind, tmp_path):
    out = tmp_path / "run"
    run("train", *STRICT, "--model.time_steps", 2, "--out", out)
    run("train", "--resume", out, "--train.epochs", 3)
    run("evaluate", out, "--passes", 2)
    run("audit", out, "--images", 20, "--html", tmp_path / "report.html")
    run("inspect", out, "--sample", 3, "--out", tmp_path / "spikes.png")
    network = onespike.load(out).to(kind)
    stream = onespike.stream(network)
    frame = torch.rand(2, 1, 16, 16, device=kind)
    first = stream(frame)
    stream.save(tmp_path / "state")
    second = stream(frame)
    stream.load(tmp_path / "state")
    assert torch.equal(stream(frame), second)
    assert first.device.type == kind


@pytest.mark.slow
@on_mps
@pytest.mark.usefixtures("kind")
def test_conversion_and_pruning_of_time_run_there(tmp_path):
    run("train", *SMALL, "--model.name", "resnet18", "--out", tmp_path / "ann")
    run(
        "convert",
        tmp_path / "ann",
        "--out",
        tmp_path / "snn",
        "--finetune",
        "--train.epochs=1",
        "--train.batch_size=30",
    )
    run("prune-time", *STRICT, "--from", 2, "--train.epochs=1", "--out", tmp_path / "pruned")


def run(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert not ended.value.code, words
