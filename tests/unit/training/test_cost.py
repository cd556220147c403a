"""Training for cost: the penalty on synaptic operations, and the energy budget."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from onespike import convert
from onespike.audit import audit
from onespike.conversion.network import spiking
from onespike.errors import OnespikeError
from onespike.models import create_model, model_config
from onespike.neurons import QCFS, IntegrateFire, NeuronConfig, make_neuron
from onespike.neurons.integrate_fire import spread
from onespike.training import Stopped, TrainConfig, load_recipe, train
from onespike.training.callbacks import Callback, Step
from onespike.training.checkpoint import Checkpoint
from onespike.training.cost import ACCUMULATE, ASCENT, MULTIPLY_ACCUMULATE, CostMeter
from onespike.training.penalties import EnergyBudget
from onespike.training.progress import Progress, quality
from onespike.training.restoring import restore
from onespike.training.run import Run, load
from onespike.training.set_up import set_up
from onespike.training.spike_sizes import SpikeSizes
from tests.forward import Forward
from tests.running import read_rows, thorough
from tests.unit.metered import expect_meter_equals_audit

NARROW = {"channels": (4, 6, 8), "depths": (1, 2, 1)}


def metrics(run: Path) -> list[dict[str, str]]:
    return read_rows(run / "metrics.csv")


def test_a_layer_that_also_reads_real_numbers_is_dense_in_all_its_calls():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.same = torch.nn.Conv2d(3, 3, 3)

        def forward(self, x):
            return self.same((self.same(x) > 0).float())

    meter = CostMeter(Twice(), (3, 8, 8))
    assert not meter.reads_spikes
    assert meter.least == pytest.approx(MULTIPLY_ACCUMULATE * 81 * (36 + 16))


@pytest.mark.parametrize(
    ("parts", "product", "name"),
    [
        ({"w": torch.randn(4, 8)}, lambda net, spikes: F.linear(spikes, net.w), "the network itself (Forward)"),
        (
            {"attention": torch.nn.MultiheadAttention(8, 2)},
            lambda net, spikes: net.attention(spikes, spikes, spikes)[0],
            "attention (MultiheadAttention)",
        ),
    ],
)
def test_spikes_that_a_product_of_its_own_reads_are_refused_not_left_out(parts, product, name):
    network = Forward(lambda net, x: product(net, (net.stem(x) > 0).float()), stem=torch.nn.Linear(6, 8), **parts)
    with pytest.raises(OnespikeError, match=re.escape(f"{name} reads spikes by a product of its own")):
        CostMeter(network, (6,))


def test_a_product_that_reads_zeros_alone_is_none_of_spikes():
    network = Forward(
        lambda net, x: net.out((F.linear(net.stem(x) * net.gate, net.w) + net.stem(x) > 0).float()),
        stem=torch.nn.Linear(6, 8),
        gate=torch.zeros(8),
        w=torch.eye(8),
        out=torch.nn.Linear(8, 3),
    )
    assert CostMeter(network, (6,)).reads_spikes


def test_one_block_by_hand():
    torch.manual_seed(0)
    network = create_model(
        "conv-tiny", in_channels=1, image_size=8, depths=(1,), channels=(2,), encoding="bernoulli", norm="none"
    )
    block = network.blocks()[0]
    images, draws = torch.randn(3, 1, 8, 8), network.draw(3)
    meter = CostMeter(network, (1, 8, 8))
    with meter.watch():
        network(images, draws=draws)
    cost = meter.read(3)

    def taps(windows: torch.Tensor) -> torch.Tensor:
        """Each pixel of a window of two meets all 4 output pixels, with 2 channels each."""
        return windows.sum() * 4 * 2

    # Four windows of 2x2 pixels and 2 channels: the encoding's spikes, the first layer's, the second layer's.
    seen: dict[str, torch.Tensor] = {}
    for name in ("conv1", "conv2"):
        module = getattr(block.unit, name)
        module.register_forward_pre_hook(lambda _m, inputs, name=name: seen.update({name: inputs[0]}))
    block.fc[0].register_forward_pre_hook(lambda _m, inputs: seen.update(fc=inputs[0]))
    network(images, draws=draws)
    expected = (taps(seen["conv1"]) + taps(seen["conv2"]) + seen["fc"].sum() * 2) / 3
    dense = 16 * 4 * 2 + 4 * 2 * (4 * 9 * 2 * 2) + 16 * (2 * 2 + 2 * 2 * 6) + 2 * 10
    assert expected > 0
    assert cost.operations.item() == expected.item()
    assert cost.share.item() == pytest.approx(expected.item() / dense, rel=1e-6)

    stem = network.stem[0].weight
    (gradient,) = torch.autograd.grad(cost.operations, stem)
    (by_hand,) = torch.autograd.grad(expected, stem)
    assert gradient.abs().sum() > 0
    torch.testing.assert_close(gradient, by_hand)


def test_the_gradient_of_one_convolution_is_the_surrogate_times_what_a_spike_meets():
    network = create_model("conv-tiny", in_channels=1, image_size=8, depths=(1,), channels=(1,), norm="none").eval()
    meter = CostMeter(network, (1, 8, 8))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.stem[0].weight[0, 0, 0, 0] = 1
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 0, 0] = 0.75  # at the encoder: the spike of the corner, whose distance of 0.25 is in the support
    with meter.watch():
        network(image)
    cost = meter.read(1)
    assert cost.operations.item() == 4  # it meets the four pixels of its window
    (gradient,) = torch.autograd.grad(cost.operations, network.stem[0].bias)
    # All 16 potentials: 0.25 above the threshold, or 0.5 below it, which is just outside the rectangle's support.
    assert gradient.item() == 4


@pytest.mark.parametrize(
    ("name", "overrides"),
    thorough(
        [
            ("conv-tiny", {}),
            ("conv-tiny", {"preset": "strict"}),
            ("conv-tiny", {"region_threshold": None}),
            ("conv-tiny", {"region_threshold": 0.6, "windows": "dilated"}),
            ("conv-tiny", {"encoding": "bernoulli", "time_steps": 2}),
            ("conv-tiny", {"encoding": "direct", "dropout": 0.5}),
            ("lstm12", {"depths": (1, 2, 1)}),
            ("gru12", {"depths": (1, 2, 1), "preset": "binary"}),
            ("mlp12", {"depths": (1, 2, 1), "preset": "modern"}),
            ("conv-tiny", {"neuron": "ternary", "windows": "dilated", "region_threshold": None}),
        ],
        6,
    ),
    ids=str,
)
def test_it_is_what_the_audit_counts(name, overrides):
    torch.manual_seed(1)
    network = create_model(name, image_size=32, **{**NARROW, **overrides}).eval()
    expect_meter_equals_audit(network, torch.randn(4, 3, 32, 32))


class StepsConv(torch.nn.Conv2d):
    """As SpikingJelly's in its mode of several steps: it maps (T, B, C, H, W)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_so_it_is_in_convolutions_of_several_time_steps_at_once(padding_mode):
    torch.manual_seed(0)
    network = Forward(
        lambda net, x: net.out(net.conv((net.stem(x.expand(3, *x.shape)) > 0).float()).mean((0, 3, 4))),
        stem=StepsConv(1, 4, 3, padding=1),
        conv=StepsConv(4, 8, 3, stride=2, padding=1, padding_mode=padding_mode),
        out=torch.nn.Linear(8, 3),
    ).eval()
    expect_meter_equals_audit(network, torch.randn(4, 1, 8, 8))


@pytest.mark.parametrize("neuron", ["lif", "ternary"])
@pytest.mark.parametrize("head", ["or", "mean"])
def test_so_it_is_in_strict_networks(head, neuron):
    torch.manual_seed(0)
    network = create_model("spiking-resnet-xs", image_size=16, width=4, stages=(1, 2), head=head, neuron=neuron)
    network(torch.randn(16, 3, 16, 16))  # batch norm learns what it reads
    expect_meter_equals_audit(network.eval(), torch.randn(4, 3, 16, 16))


@pytest.mark.parametrize("stem", ["spiking", "whitening"])
@pytest.mark.parametrize("training", [False, True])
def test_an_image_as_frames_all_alike_passes_the_stem_once(stem, training):
    """So a loss of each step (tet) trains it."""
    torch.manual_seed(0)
    network = create_model("spiking-vgg-xs", stem=stem, time_steps=4, image_size=16, width=8)
    meter, images, counts, logits = CostMeter(network, (3, 16, 16)), torch.randn(8, 3, 16, 16), [], []
    for shown in (images, images.expand(4, *images.shape)):
        with meter.watch():
            logits.append(network.train(training)(shown))
        counts.append(meter.read(8).operations.item())
    assert counts[0] == pytest.approx(counts[1], rel=1e-6)
    torch.testing.assert_close(logits[1].mean(0), logits[0])


def small(*parts: torch.nn.Module) -> torch.nn.Sequential:
    torch.manual_seed(0)
    first = [torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.AvgPool2d(2), torch.nn.Conv2d(6, 8, 3)]
    return torch.nn.Sequential(*first, torch.nn.ReLU(), *parts, torch.nn.Flatten(), torch.nn.LazyLinear(5))


@pytest.mark.parametrize("neurons", ["layer", "channel"])
@pytest.mark.parametrize("steps", [{"population": 1}, {"population": 4}, {"time_steps": 3}], ids=str)
def test_it_counts_by_the_sizes_that_spikes_have_at_the_time(steps, neurons):
    images, more = torch.randn(64, 3, 16, 16), [torch.nn.AvgPool2d(2), torch.nn.Conv2d(8, 8, 1), torch.nn.ReLU()]
    network = small(*more)
    network(images)
    converted = convert(network, images, neurons=neurons, **steps).network
    fresh = spiking(network, converted.config, images)  # thresholds of 1, until weights are loaded
    meter = CostMeter(fresh, (3, 16, 16))
    fresh.load_state_dict(converted.state_dict())
    for one in fresh.neurons.values():
        one.raw_threshold.data += 0.3 * torch.linspace(-1, 1, one.raw_threshold.numel()).view_as(one.raw_threshold)
    audited = audit(fresh, [images]).operations
    assert len(meter._readers) == 3
    with meter.watch():
        fresh(images)
    # Of a channel that never fires once the audit sees no single spike, and counts too few.
    near = 5e-3 if steps == {"population": 4} else 1e-6
    assert meter.read(64).operations.item() == pytest.approx(audited.synaptic_operations, rel=near)


@pytest.mark.parametrize("staircase", [False, True])
def test_its_gradient_on_the_size_of_spikes_is_that_of_their_number(staircase):
    images = torch.randn(16, 3, 16, 16)
    network = small()
    if staircase:
        network[1], network[4] = QCFS(4, 2.0), QCFS(4, 1.0)
    network(images)
    if not staircase:
        network = convert(network, images, population=3, neurons="channel").network
    meter, numbers = CostMeter(network, (3, 16, 16)), list[torch.Tensor]()
    for one in network.modules():
        if isinstance(one, QCFS | IntegrateFire):
            one.register_forward_hook(lambda one, _, out: numbers.append(out / spread(one.size, 1, out)))
    with meter.watch():
        network(images)
    pooled = F.avg_pool2d(numbers[0], 2) * 4
    kernel = pooled.new_ones(1, 1, 3, 3)
    by_hand = 8 * F.conv2d(pooled.sum(1, keepdim=True), kernel).sum() + 5 * numbers[1].sum()
    assert meter.read(16).operations.item() == pytest.approx(by_hand.item() / 16, rel=1e-5)
    parameters = [one for one in network.parameters() if one.requires_grad]
    found, expected = (
        torch.autograd.grad(one, parameters, allow_unused=True, retain_graph=True)
        for one in (16 * meter.read(16).operations, by_hand)
    )
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * other.abs().max().item())


class Parts(torch.nn.Module):
    """Two convolutions with a staircase each, what becomes of their spikes, and a convolution that reads it."""

    def __init__(self, becomes, inputs: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = (torch.nn.Conv2d(3, 6, 3, padding=1, bias=False) for _ in range(2))
        self.one, self.other, self.becomes = QCFS(4, 1.0), QCFS(2, 3.0), becomes
        self.table, self.row = torch.nn.Parameter(torch.rand(3, 8)), torch.nn.Linear(8, 6)
        self.vector, self.out = torch.nn.Parameter(torch.rand(8)), torch.nn.Linear(8, 5)
        self.read = torch.nn.Conv2d(inputs, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        read = self.becomes(self, self.one(self.first(x)), self.other(self.second(x)), x)
        return self.read(read).mean((2, 3)) + self.row(self.table).mean() + self.out(self.vector)


@pytest.mark.parametrize(
    ("becomes", "inputs", "known"),
    [
        (lambda _net, a, b, _x: torch.cat([a, F.avg_pool2d(b, 2).repeat(1, 1, 2, 2)], 1), 12, True),
        (lambda _net, a, b, _x: F.max_pool2d(a, 2) + 0 * F.max_pool2d(b, 2), 6, True),
        (lambda _net, a, b, _x: a + b, 6, False),
        (lambda _net, a, b, _x: a * torch.sigmoid(b), 6, False),
        (lambda _net, a, b, _x: a + a * b, 6, False),
        (lambda net, a, _b, x: a + net.second(x), 6, False),
        (lambda net, a, _b, x: a * torch.sigmoid(net.second(x)), 6, False),
        (lambda _net, a, _b, _x: F.adaptive_avg_pool2d(a, 1), 6, False),
        (lambda _net, a, _b, _x: F.avg_pool2d(a, 3, 2, 1, count_include_pad=False), 6, False),
        (lambda _net, a, _b, _x: 0.7 * a, 6, False),
    ],
)
def test_sizes_are_known_where_whole_spikes_of_one_layer_arrive_in_each_channel(becomes, inputs, known):
    network, images = Parts(becomes, inputs), 2 * torch.randn(32, 3, 8, 8)
    assert SpikeSizes(network, (3, 8, 8)).known(network.read) == known
    meter = CostMeter(network, (3, 8, 8))
    network.one.raw_threshold.data += 0.3 * known
    audited = audit(network, [images]).operations.synaptic_operations
    with meter.watch():
        network(images)
    assert meter.read(32).operations.item() == pytest.approx(audited, rel=1e-5)


def test_a_mean_over_channels_and_a_layer_that_is_called_twice_have_no_known_sizes():
    def forward(net: Forward, x: torch.Tensor) -> torch.Tensor:
        spikes = net.neurons(net.first(x))
        means = spikes.unflatten(1, (2, 3)).mean(2)
        return net.read(means).mean() + net.twice(spikes).mean() + net.twice(spikes.flip(2)).mean() + net.once(spikes)

    first, neurons = torch.nn.Conv2d(3, 6, 1), IntegrateFire(6, 1, 1, "rectangle")
    read, once, twice = torch.nn.Conv2d(2, 5, 1), torch.nn.Conv2d(6, 5, 1), torch.nn.Conv2d(6, 5, 1)
    network = Forward(forward, first=first, neurons=neurons, read=read, once=once, twice=twice)
    sizes = SpikeSizes(network, (3, 8, 8))
    assert [sizes.known(one) for one in (once, read, twice)] == [True, False, False]


def test_spikes_count_whatever_their_sign_also_where_the_noise_showed_one_sign_of_each_neuron():
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), make_neuron(8, NeuronConfig("ternary")), torch.nn.Linear(8, 3))
    with torch.no_grad():
        net[0].bias.copy_(torch.tensor([-9.0, 9.0] * 4))
    meter, images = CostMeter(net, (6,)), torch.randn(64, 6)
    torch.nn.init.zeros_(net[0].bias)
    with meter.watch():
        net(images)
    spikes = net[1](net[0](images))
    assert spikes.aminmax() == (-1, 1)
    assert meter.read(64).operations.item() == pytest.approx(3 * spikes.abs().sum().item() / 64)


def test_signs_that_cancel_out_before_they_can_be_counted_are_refused():
    network = create_model("spiking-vgg-xs", width=4, image_size=16, tied=True, head="mean", neuron="ternary")
    with pytest.raises(OnespikeError, match=r"^train.rate_penalty and .* cancel out: set model.tied false, or both"):
        CostMeter(network, (3, 16, 16))


def test_the_conventions_prices_are_the_audits():
    assert pytest.approx(0.9e-12, rel=1e-9, abs=0) == ACCUMULATE
    assert pytest.approx(4.6e-12, rel=1e-9, abs=0) == MULTIPLY_ACCUMULATE


def test_in_bfloat16_spikes_are_counted_exactly():
    torch.manual_seed(0)
    network = create_model("conv-tiny", image_size=32, **NARROW).eval()
    images, meter = torch.randn(8, 3, 32, 32), CostMeter(network, (3, 32, 32))
    seen: list[float] = []

    def count(_layer, inputs):
        ones = torch.ones(1, inputs[0].shape[1], 3, 3, dtype=torch.float64)
        seen.append(F.conv2d(inputs[0].double(), ones, padding=1).sum().item() * 4)

    for layer in (network.blocks()[0].unit.conv1, network.blocks()[0].unit.conv2):
        layer.register_forward_pre_hook(count)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), meter.watch():
        network(images)
    assert [one.item() for one in meter._operations[:2]] == seen


def test_looking_for_spikes_leaves_the_network_and_the_draws_alone():
    torch.manual_seed(0)
    network = create_model("conv-tiny", image_size=32, encoding="bernoulli", **NARROW)
    before, state = {n: t.clone() for n, t in network.state_dict().items()}, torch.get_rng_state()
    CostMeter(network, (3, 32, 32))
    assert network.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_off_by_default_nothing_is_measured(small, tmp_path, monkeypatch):
    monkeypatch.setattr(CostMeter, "__init__", None)  # to make one would fail
    train(small(train__epochs=1), tmp_path / "run")
    assert not {"energy_uj", "penalty_weight", "synaptic_operations"} & metrics(tmp_path / "run")[0].keys()


def test_of_augmixs_splits_each_image_counts_once(small):
    quiet = {"model__encoding": "threshold", "model__norm": "none", "model__dropout": 0.0, "train__mixup": 0.0}
    options = {"data__augmix_splits": 3, "data__workers": 0, "train__accumulate": 2, "train__rate_penalty": 0.1}
    trainer = set_up(small(**quiet, **options))
    (penalty,) = (one for one in trainer.callbacks if isinstance(one, EnergyBudget))
    images, labels = next(trainer.batches.epoch(0))
    meter = CostMeter(trainer.network, trainer.data.image)
    with meter.watch(), torch.no_grad():
        trainer.network(images)
    cost = meter.read(len(images))
    loss, _ = trainer.step(0, images, labels)
    trainer.after_step(0, loss, len(labels))
    penalty.measure(trainer, row := {})
    assert len(images) == 3 * len(labels)
    assert row["synaptic_operations"] == pytest.approx(cost.operations.item(), rel=1e-5)
    assert row["energy_uj"] == pytest.approx(1e6 * cost.joules.item(), rel=1e-5)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory):
    """Train conv-tiny, narrow, on the digits for a few epochs."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str, **options: float) -> Path:
        overrides = {f"train.{key}": value for key, value in options.items()}
        short = {"train.epochs": 4, "train.warmup_epochs": 0, "train.batch_size": 16, "data.limit": 300}
        network = {"model.channels": [6, 8, 10], "model.depths": [1, 1, 1]}
        recipe = load_recipe("digits", {**short, **network, "data.cache": str(folder / "cache"), **overrides})
        train(recipe, folder / name)
        return folder / name

    return run


@pytest.fixture(scope="module")
def free(digits) -> Path:
    """A run that is counted, with a penalty too small to matter."""
    return digits("free", rate_penalty=1e-12)


@pytest.mark.slow
def test_the_penalty_lowers_the_rates(digits, free):
    last, before = metrics(digits("penalised", rate_penalty=3.0))[-1], metrics(free)[-1]
    assert float(last["synaptic_operations"]) < 0.8 * float(before["synaptic_operations"])
    rates = [name for name in last if name.endswith("firing_rate")]
    assert sum(float(last[name]) for name in rates) < sum(float(before[name]) for name in rates)


@pytest.mark.slow
def test_the_budget_is_kept(digits, free):
    unpenalised = float(metrics(free)[-1]["energy_uj"])
    least = 1e6 * CostMeter(load(free), (1, 32, 32)).least
    budget = least + 0.5 * (unpenalised - least)
    run = digits("budget", energy_budget=budget)
    rows = metrics(run)
    assert float(rows[0]["energy_uj"]) > 1.03 * budget
    assert float(rows[-1]["energy_uj"]) <= 1.03 * budget
    assert float(rows[0]["penalty_weight"]) > 0
    best = Checkpoint.load(run / "best").state["progress"]["epoch"]
    assert float(rows[best - 1]["energy_of_budget"]) <= 1.03


def test_an_epoch_over_the_budget_ranks_below_all_that_keep_it():
    def row(accuracy: float | None, energy: float) -> dict[str, float | None]:
        return {"epoch": 3, "valid_top1": accuracy, "energy_of_budget": energy}

    assert -1 < quality(row(99.0, 2.0)) < quality(row(98.0, 1.5)) < quality(row(0.0, 1.0)) < quality(row(1.0, 0.5))
    assert quality(row(None, 0.9)) == 3
    assert quality(row(1.0, 1.04)) < 0 < quality(row(1.0, 1.02)), "the ascent hovers around the budget"
    assert quality({"epoch": 3, "valid_top1": 40.0}) == 40.0


@pytest.mark.slow
def test_interrupted_and_resumed_with_a_budget_ends_in_the_same_bits(small, tmp_path, monkeypatch, stop_after):
    recipe = small(train__energy_budget=1.0, train__rate_penalty=0.1, train__accumulate=2, train__ema=0.9)
    train(recipe, tmp_path / "straight")
    stop_after(11)
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "stopped")
    monkeypatch.undo()
    train(recipe, tmp_path / "stopped", resume=True)
    straight, stopped = (Checkpoint.load(tmp_path / run / "last") for run in ("straight", "stopped"))
    assert all(torch.equal(tensor, stopped.weights[name]) for name, tensor in straight.weights.items())
    kept = [dict(saved.state["callbacks"]["pairs"]) for saved in (straight, stopped)]
    (budget,) = (name for name in kept[0] if name.endswith("EnergyBudget"))
    assert kept[0][budget] == kept[1][budget]
    assert dict(kept[0][budget]["pairs"])["raised"] > 0
    columns = ("synaptic_operations", "energy_uj", "penalty_weight", "train_loss")
    rows = [[[row[name] for name in columns] for row in metrics(tmp_path / run)] for run in ("straight", "stopped")]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_run_can_be_resumed_with_a_penalty(small, tmp_path):
    train(small(), tmp_path / "run")
    train(small(train__epochs=3, train__rate_penalty=0.5), tmp_path / "run", resume=True)
    rows = metrics(tmp_path / "run")
    assert [bool(row["energy_uj"]) for row in rows] == [False, False, True]


def test_bad_values(small, tmp_path):
    for name in ("rate_penalty", "energy_budget"):
        for value in (-1, float("nan"), float("inf")):
            with pytest.raises(OnespikeError, match=f"train.{name}: expected"):
                TrainConfig(**{name: value})
        twin = small(**{f"train__{name}": 1.0, "model__preset": "ann", "model__encoding": "threshold"})
        for recipe in (twin, replace(twin, model=model_config("resnet18"))):
            with pytest.raises(OnespikeError, match=rf"{name}.*: expected a network of which some layers read spikes"):
                set_up(recipe)
    said = r"energy_budget: the layers that read real values take .* µJ an image.*--model.stem spiking"
    with pytest.raises(OnespikeError, match=said):
        train(small(train__energy_budget=0.001), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Falling(Callback):
    """Says that accuracy falls with each epoch."""

    def measure(self, trainer, row):  # noqa: ARG002
        row["valid_top1"] = 90.0 - 10 * row["epoch"]


@pytest.mark.slow
def test_epochs_of_unknown_energy_rank_below_those_that_keep_a_budget_which_came_later(small, tmp_path):
    train(small(train__epochs=1), tmp_path / "run", callbacks=[Falling()])
    budgeted = small(train__epochs=2, train__energy_budget=1000.0)
    assert train(budgeted, tmp_path / "run", resume=True, callbacks=[Falling()])["best_epoch"] == 2
    assert Checkpoint.load(tmp_path / "run" / "best").state["progress"]["epoch"] == 2


def test_earlier_epochs_are_compared_with_the_budget_of_now():
    rows = ({"energy_uj": 3.0, "energy_of_budget": 0.5}, {"energy_uj": 1.0, "energy_of_budget": 0.2}, {})
    progress = Progress(history=[{"epoch": n, "valid_top1": 90.0 - n, **row} for n, row in enumerate(rows, 1)])
    progress.compare_with(2.0)
    assert [row["energy_of_budget"] for row in progress.history] == [1.5, 0.5, None]
    assert max(progress.history, key=quality)["epoch"] == 2
    assert progress.best == quality(progress.history[0]) < 0
    assert progress.best_row()["epoch"] == 1, "the weights that are saved as the best"


def test_without_a_budget_earlier_epochs_count_by_their_accuracy(small, tmp_path):
    train(small(train__epochs=1, train__energy_budget=1000.0), tmp_path / "run")
    assert "energy_of_budget" in metrics(tmp_path / "run")[0]
    trainer = set_up(small(train__epochs=2))
    restore(trainer, Run.open(tmp_path / "run"))
    assert "energy_of_budget" not in trainer.progress.history[0]
    over = {"epoch": 1, "valid_top1": 90.0, "energy_of_budget": 2.0}
    progress = Progress(history=[over, over | {"epoch": 2, "valid_top1": 60.0, "energy_of_budget": 1.5}])
    for _ in range(2):  # by a second resumption, too
        progress.compare_with(0.0)
        assert progress.best == 60, "the best of those that were over the budget was the nearest to it"
    progress.compare_with(3.0)
    assert progress.best == -1, "its energy was not measured"


@pytest.mark.slow
def test_a_penalty_that_came_within_an_epoch_is_measured_on_the_rest_of_it(small, tmp_path, stop_after):
    penalised = small(train__epochs=1, train__rate_penalty=1e-6)
    train(penalised, tmp_path / "straight")
    stop_after(5)
    with pytest.raises(Stopped):
        train(small(train__epochs=1), tmp_path / "stopped")
    train(penalised, tmp_path / "stopped", resume=True)
    straight, late = (float(metrics(tmp_path / run)[0]["energy_uj"]) for run in ("straight", "stopped"))
    assert late == pytest.approx(straight, rel=0.05)


def test_the_weight_rises_and_falls_with_what_is_over_the_budget_but_not_below_0(small):
    trainer = set_up(small(train__energy_budget=1.0))
    (penalty,) = (one for one in trainer.callbacks if isinstance(one, EnergyBudget))
    steps, least = 2 * len(trainer.batches), penalty.meter.least

    def train_at(joules: float) -> float:
        for number in range(steps):
            penalty._step = [0.0, 16 * joules]  # the sum over a batch
            penalty.after_step(trainer, Step(number, 1.0, 16, 0.1))
        return penalty.raised

    assert train_at(1e-6) == pytest.approx(0.0, abs=1e-9), "the budget, in joule"
    assert train_at(least + 2 * (1e-6 - least)) == pytest.approx(ASCENT)
    assert train_at(least + 0.5 * (1e-6 - least)) == pytest.approx(ASCENT / 2)
    assert train_at(least) == 0.0


def test_the_sums_of_a_penalty_are_three_numbers(small):
    (penalty,) = (one for one in set_up(small(train__rate_penalty=0.1)).callbacks if isinstance(one, EnergyBudget))
    with pytest.raises(OnespikeError, match="expected 3 numbers"):
        penalty.load_state({"raised": 0.0, "epoch": [80.0, 4e-6]})
    penalty.load_state({"raised": 8.0, "epoch": []})
    assert penalty.raised == 0, "the budget that raised it is gone"
