"""Optimisers: the fused ones step as the others do, whatever the weights' layout in memory; groups; Muon, Lookahead."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate.state import PartialState
from torch import Tensor, nn

from onespike.environment import accelerator_type
from onespike.errors import OnespikeError
from onespike.neurons import NeuronConfig, make_neuron
from onespike.training.config import TrainConfig
from onespike.training.device import make_accelerator
from onespike.training.optim import FUSED, make_optimizer, make_scheduler
from tests.running import raising


@pytest.mark.parametrize("name", FUSED)
def test_fused_optimisers_step_as_the_others_do(name: str) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)).to(memory_format=torch.channels_last)
    theirs = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))
    theirs.load_state_dict(ours.state_dict())
    fused, other = (make_optimizer(TrainConfig(optimizer=name, lr=0.1), model) for model in (ours, theirs))
    assert all(group["fused"] for group in fused.param_groups)
    for group in other.param_groups:
        group.update(fused=False, foreach=False)
    for _ in range(4):
        images = torch.randn(2, 3, 8, 8)
        for model, optimizer in ((ours, fused), (theirs, other)):
            optimizer.zero_grad()
            model(images).square().mean().backward()
            optimizer.step()
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.filterwarnings("ignore:It is highly recommended to have .opt_einsum.")
def test_what_an_optimiser_refuses_is_one_line() -> None:
    with pytest.raises(OnespikeError, match=r"^train.optimizer: sgd cannot be used here: Nesterov momentum requires"):
        make_optimizer(TrainConfig(optimizer="sgd", momentum=0.0), nn.Linear(3, 3))
    with pytest.raises(OnespikeError, match=r"^model: it has no weights to train; expected some that require"):
        make_optimizer(TrainConfig(), nn.Linear(3, 3).requires_grad_(False))
    for name, kept in (("kron", "rng_state"), ("lookahead_kronw", "rng_state"), ("adafactorbv", "momentum_dtype")):
        with pytest.raises(OnespikeError, match=rf"^train.optimizer: {name} keeps {kept} beside the state of the"):
            make_optimizer(TrainConfig(optimizer=name), nn.Linear(3, 3))


def test_the_device_is_chosen_anew_for_each_training() -> None:
    make_accelerator(TrainConfig(device="cpu"))
    PartialState._shared_state["device"] = torch.device("cuda")  # as if the training before had had one
    assert make_accelerator(TrainConfig(device="cpu")).device == torch.device("cpu")


def test_an_environment_that_divides_gradients_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(OnespikeError, match=r"^ACCELERATE_GRADIENT_ACCUMULATION_STEPS .* set --train.accumulate$"):
        make_accelerator(TrainConfig(device="cpu"))


def test_pytorch_for_cuda_on_a_machine_without_a_gpu_trains_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    answer = RuntimeError("Cannot access accelerator device when none is available.")  # of PyTorch 2.6
    monkeypatch.setattr(torch.accelerator, "current_accelerator", raising(answer))
    assert accelerator_type() is None
    assert make_accelerator(TrainConfig()).device.type == "cpu"


class Small(nn.Module):
    """Weights of three kinds, and vectors in several shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.neuron = make_neuron(12, NeuronConfig(learnable_threshold="channel"), integrates=False)
        self.shift = nn.Parameter(torch.zeros(1, 12, 1, 1))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neuron(self.norm(self.conv(x)) + self.shift).mean((2, 3)))


def trained(optimizer: torch.optim.Optimizer, model: nn.Module, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        dtype = next(model.parameters()).dtype
        images = torch.randn(16, 8, 4, 4, generator=generator, dtype=dtype)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.arange(16) % 5).backward()
        optimizer.step()


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_what_lies_along_one_axis_is_exempt_from_weight_decay_and_has_a_rate_of_its_own(weight_decay: float) -> None:
    model = Small()
    config = TrainConfig(weight_decay=weight_decay, norm_lr_factor=3.0)
    vectors, weights = make_optimizer(config, model).param_groups
    assert [one is two for one, two in zip(weights["params"], (model.conv.weight, model.head.weight), strict=True)]
    assert len(vectors["params"]) == 6
    assert (vectors["weight_decay"], vectors["lr_scale"]) == (0, 3)
    assert (weights["weight_decay"], weights["lr_scale"]) == (weight_decay, 1)


@pytest.mark.parametrize("named", [{"head.weight"}, lambda: {"head.weight"}], ids=["set", "method"])
def test_a_network_may_name_what_is_exempt(named: Any) -> None:
    model = Small()
    model.no_weight_decay = named
    vectors, weights = make_optimizer(TrainConfig(), model).param_groups
    assert (len(vectors["params"]), len(weights["params"])) == (7, 1)


@pytest.mark.parametrize("pattern", ["head.weight", "head.w*"])
def test_a_network_inside_torch_compile_names_what_is_exempt(pattern: str) -> None:
    compiled = nn.Module()  # as `torch.compile` makes it: it has its network's attributes
    compiled._orig_mod = Small()
    compiled.no_weight_decay = {pattern}
    vectors, weights = make_optimizer(TrainConfig(), compiled).param_groups
    assert (len(vectors["params"]), len(weights["params"])) == (7, 1)


def test_at_every_step_the_rate_is_so_many_times_that_of_the_weights() -> None:
    config = TrainConfig(epochs=4, warmup_epochs=1, lr=0.1, norm_lr_factor=64.0, noise_range=(0.5, 0.9), min_lr=0.01)
    optimizer = make_optimizer(config, Small())
    plain = make_optimizer(replace(config, norm_lr_factor=1.0), Small())
    schedules = make_scheduler(config, optimizer, 5), make_scheduler(config, plain, 5)
    for step in range(20):
        for schedule in schedules:
            schedule.step_update(step)
        vectors, weights = (group["lr"] for group in optimizer.param_groups)
        assert weights == plain.param_groups[-1]["lr"] == plain.param_groups[0]["lr"]
        assert vectors == 64 * weights


def test_the_rate_rises_in_a_line_then_follows_the_cosine_and_is_noisy_in_between() -> None:
    config = TrainConfig(epochs=4, warmup_epochs=1, warmup_lr=0.001, lr=0.1, min_lr=0.01)

    def rates(chosen: TrainConfig) -> list[float]:
        optimizer = make_optimizer(chosen, Small())
        schedule, found = make_scheduler(chosen, optimizer, 5), []
        for step in range(20):
            schedule.step_update(step)
            found.append(optimizer.param_groups[-1]["lr"])
        return found

    plain = rates(config)
    assert plain[:5] == pytest.approx([0.001 + step * 0.099 / 5 for step in range(5)])
    assert plain[5:] == pytest.approx([0.01 + 0.045 * (1 + math.cos(math.pi * step / 20)) for step in range(5, 20)])
    noisy = rates(replace(config, noise_range=(0.5, 0.9), noise_limit=0.3))
    assert [step for step in range(20) if noisy[step] != plain[step]] == list(range(10, 18))
    assert all(abs(one / other - 1) < 0.3 for one, other in zip(noisy, plain, strict=True))
    assert rates(replace(config, noise_range=(0.5, 0.9), noise_limit=0.3, seed=1)) != noisy


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"momentum": 1.0}, "momentum: expected 0 <= momentum < 1, got 1.0"),
        ({"label_smoothing": 1.0}, "label_smoothing: expected 0 <= label_smoothing < 1, got 1.0"),
        ({"ema": 1.0}, "ema: expected 0 <= ema < 1, got 1.0"),
        ({"lr": 0.0}, "lr: expected more than 0, got 0"),
        ({"teacher_weight": 1.1}, "teacher_weight: expected at most 1, got 1.1"),
        ({"noise_range": (0.5, 0.5)}, r"noise_range: expected 0 <= from < to <= 1, got \[0.5, 0.5\]"),
        ({"noise_range": (0.5, 1.5)}, r"noise_range: expected 0 <= from < to <= 1, got \[0.5, 1.5\]"),
        ({"noise_range": (-0.5, 0.5)}, r"noise_range: expected 0 <= from < to <= 1, got \[-0.5, 0.5\]"),
        ({"accumulate": 3}, "accumulate: 128 images cannot be split into 3 parts"),
        ({"epochs": 10**6 + 1}, "epochs: expected at most 1,000,000, got 1000001"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
    ],
)
def test_options_out_of_their_ranges(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OnespikeError, match=f"^train.{message}$"):
        TrainConfig(**values)


def test_the_ends_of_the_ranges_are_options() -> None:
    TrainConfig(momentum=0.0, label_smoothing=0.0, teacher_weight=1.0, epochs=10**6, seed=2**63 - 1)
    TrainConfig(noise_range=(0, 1), noise_limit=1.0, lr=0.1, min_lr=0.1)
    TrainConfig(noise_range=(0, 1), noise_limit=1e-3, accumulate=128)


def test_the_warm_up_never_falls() -> None:
    config = TrainConfig(epochs=4, warmup_epochs=1, warmup_lr=0.001, lr=0.0005)
    optimizer = make_optimizer(config, Small())
    schedule = make_scheduler(config, optimizer, 5)
    for step in range(5):
        schedule.step_update(step)
        assert optimizer.param_groups[-1]["lr"] == pytest.approx(0.0005)


def test_plain_descent_moves_vectors_so_much_further() -> None:
    torch.manual_seed(0)
    model = Small().double()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    config = TrainConfig(momentum=0.0, weight_decay=0.0, lr=0.1, norm_lr_factor=7.0)
    optimizer = make_optimizer(config, model)
    make_scheduler(replace(config, warmup_epochs=0), optimizer, 10).step_update(0)
    trained(optimizer, model, 1)
    for name, parameter in model.named_parameters():
        rate = 0.1 if name in ("conv.weight", "head.weight") else 0.7
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.detach(), before[name] - rate * parameter.grad)


@pytest.mark.parametrize("name", ["muon", "nmuon"])
def test_muons_steps_of_filters_are_orthogonal_and_all_others_adamws(name: str) -> None:
    torch.manual_seed(0)
    model = Small()
    twin = copy.deepcopy(model)
    config = TrainConfig(optimizer=name, lr=0.02, momentum=0.8, weight_decay=0.1)
    optimizer = make_optimizer(config, model)
    assert all(group["momentum"] == 0.8 for group in optimizer.param_groups)
    assert all(group["ns_steps"] == 3 for group in optimizer.param_groups)
    before = model.conv.weight.detach().clone()
    trained(optimizer, model, 1)
    step = ((1 - 0.02 * 0.1) * before - model.conv.weight.detach()).flatten(1)  # (12, 72)
    assert model.conv.weight.grad is not None
    left, _, right = torch.linalg.svd(model.conv.weight.grad.flatten(1), full_matrices=False)
    # Newton and Schulz leave singular values around 1. The scale gives the step the root mean square of AdamW's, 0.2.
    singular = torch.linalg.svdvals(step) / (0.02 * 0.2 * 72**0.5)
    assert singular.min() > 0.6
    assert singular.max() < 1.3
    assert nn.functional.cosine_similarity(step.flatten(), (left @ right).flatten(), dim=0) > 0.97
    assert step.square().mean().sqrt() == pytest.approx(0.02 * 0.2, rel=0.2)
    if name == "nmuon":  # its fallback has Nesterov's momentum
        return
    others = {name: one for name, one in twin.named_parameters() if name != "conv.weight"}
    groups = [{"params": others.pop("head.weight")}, {"params": others.values(), "weight_decay": 0}]
    adamw = torch.optim.AdamW(groups, 0.02, (0.9, 0.95), 1e-7, 0.1)
    trained(adamw, twin, 1)
    for (one, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        if one != "conv.weight":
            torch.testing.assert_close(ours, theirs)


def test_the_head_is_the_last_weight_that_is_trained() -> None:
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 10, bias=False), nn.Linear(10, 10, bias=False))
    model[2].requires_grad_(False)
    optimizer = make_optimizer(TrainConfig(optimizer="muon", lr=0.02), model)
    (head,) = [group for group in optimizer.param_groups if group.get("use_fallback")]
    assert [one.shape for one in head["params"]] == [(10, 64)]


def test_muon_learns() -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(16, 8, 4, 4), torch.arange(16) % 5
    losses = {}
    for name in ("muon", "adamuon"):
        model = Small()
        optimizer = make_optimizer(TrainConfig(optimizer=name, lr=0.01), model)
        for _ in range(60):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
        losses[name] = loss.item()
    assert max(losses.values()) < 1.0


def test_lookahead_goes_half_the_way_back_every_six_steps() -> None:
    torch.manual_seed(0)
    model = Small().double()
    fast, slow = copy.deepcopy(model), None
    trained(make_optimizer(TrainConfig(optimizer="lookahead_nesterov", lr=0.1), model), model, 12)
    optimizer = torch.optim.SGD(fast.parameters(), 0.1, 0.9, nesterov=True)
    for parameter, decay in ((one, 2e-5 * (one.numel() > max(one.shape))) for one in fast.parameters()):
        parameter.register_hook(lambda gradient, one=parameter, decay=decay: gradient + decay * one.detach())
    generator = torch.Generator().manual_seed(1)
    for step in range(1, 13):
        images = torch.randn(16, 8, 4, 4, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(fast(images), torch.arange(16) % 5).backward()
        optimizer.step()
        with torch.no_grad():
            if step == 6:  # timm's slow weights begin here
                slow = [one.clone() for one in fast.parameters()]
            if step == 12 and slow is not None:
                for one, start in zip(fast.parameters(), slow, strict=True):
                    one.copy_((one + start) / 2)
    for one, two in zip(model.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(one, two)
