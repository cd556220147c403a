"""Any network: what is counted, watched and reset, against what the equations say when they are written out here."""

import subprocess
import sys

import pytest
import torch
from foreign import STEPS, Jelly, Torch, ours, plain, ternary
from spikingjelly.activation_based.neuron import ILIFNode
from torch import Tensor, nn

import onespike
from onespike.audit import audit
from onespike.counting.operations import count_operations
from onespike.neurons import LIF, IntegrateFire
from onespike.neurons.watch import Fired, neuron_layers, reset_state, watch_neurons
from onespike.training.cost import CostMeter
from onespike.training.monitor import SpikeMonitor
from tests.forward import Forward
from tests.unit.metered import expect_meter_equals_audit

IMAGES = 5


def images() -> Tensor:
    return 4 * torch.randn(IMAGES, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def leaky(currents: list[Tensor], tau: float, soft: bool = False) -> tuple[Tensor, Tensor]:
    """SpikingJelly's LIF: V += (I - V) / tau, S = V >= 1, then V = 0 or V -= 1. Potentials before the reset, spikes."""
    v, potentials, spikes = torch.zeros_like(currents[0]), [], []
    for current in currents:
        v = v + (current - v) / tau
        s = (v >= 1).float()
        potentials.append(v)
        spikes.append(s)
        v = v - s if soft else v * (1 - s)
    return torch.stack(potentials), torch.stack(spikes)


def watched(net: nn.Module, x: Tensor) -> dict[str, list[Fired]]:
    seen: dict[str, list[Fired]] = {}
    with torch.no_grad(), watch_neurons(net, lambda call: seen.setdefault(call.path, []).append(call)):
        reset_state(net)
        net(x)
    return seen


def in_one(calls: list[Fired], of: str) -> Tensor:
    tensors = [getattr(call, of) for call in calls]
    return tensors[0] if calls[0].steps > 1 else torch.stack(tensors)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("mode", ["s", "m"])
def test_spikingjelly_watched(mode: str, soft: bool):
    torch.manual_seed(0)
    net = Jelly(mode, v_reset=None if soft else 0.0)
    seen = watched(net, images())
    assert list(seen) == ["first", "second"]
    with torch.no_grad():
        currents = nn.functional.conv2d(images(), net.conv.weight, padding=1)
        potentials, spikes = leaky([currents] * STEPS, 2.0, soft)
        potentials2, spikes2 = leaky([one.flatten(1) @ net.linear.weight.T for one in spikes], 2.0, soft)
    for path, v, s in (("first", potentials, spikes), ("second", potentials2, spikes2)):
        torch.testing.assert_close(in_one(seen[path], "potential"), v)
        assert torch.equal(in_one(seen[path], "spikes"), s)
        assert {call.threshold for call in seen[path]} == {1.0}
        assert {call.batch_axis for call in seen[path]} == {int(mode == "m")}
    assert spikes.sum() > 0
    assert type(net.first.surrogate_function).__name__ == "ATan", "what watched is gone"


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("delay", [True, False])
@pytest.mark.parametrize("hidden", [True, False])
def test_snntorch_watched(hidden: bool, delay: bool, reset: str):
    torch.manual_seed(0)
    net = Torch(hidden, reset_delay=delay, reset_mechanism=reset)
    seen = watched(net, images())
    assert list(seen) == ["lif1", "lif2"]
    current, m = images().flatten(1) @ net.fc1.weight.detach().T, torch.zeros(IMAGES, 12)
    for call in seen["lif1"]:
        r = (m > 1).float()
        v = 0.9 * m + current - r if reset == "subtract" else 0.9 * (1 - r) * m + current
        spikes = (v > 1).float()
        torch.testing.assert_close(call.potential, v)
        assert torch.equal(call.spikes, spikes)
        m = v if delay else v - (spikes - r) * (1 if reset == "subtract" else v)
    assert "fire" not in vars(net.lif1), "what watched is gone"


@pytest.mark.parametrize("make", [lambda: Jelly("s"), lambda: Jelly("m"), lambda: Torch(True), lambda: Torch(False)])
def test_counted_as_its_spikes_say(make):
    torch.manual_seed(0)
    net = make()
    first, second = list(neuron_layers(net))
    spikes = in_one(watched(net, images())[first], "spikes")
    operations = count_operations(net, [images(), images()])  # state of the first batch must not reach the second
    values = spikes[0, 0].numel()
    product = operations.products[-1]
    assert (product.arrives, product.step) == ("binary", 1.0)
    assert product.macs == STEPS * 10 * values
    assert product.operations == pytest.approx(10 * spikes.sum().item() / IMAGES)
    kept = {layer.path: layer.potentials for layer in operations.layers}
    assert kept[first] == ((STEPS - 1) * values, (STEPS - 1) * values)
    assert kept[second] == ((STEPS - 1) * 10, (STEPS - 1) * 10)
    rates = {neurons.path: neurons.firing_rate for neurons in operations.neurons}
    assert rates[first] == pytest.approx(spikes.mean().item())
    assert all(neurons.threshold == 1 and len(neurons.potentials) == 5 for neurons in operations.neurons)
    found = audit(net, [images()])
    assert found.energy("field").total > 0
    assert (operations.steps, found.variants) == (STEPS, ("network", "binary"))


def test_a_threshold_may_be_a_whole_number():
    operations = count_operations(Torch(True, threshold=1), [images()])
    assert [neurons.threshold for neurons in operations.neurons] == [1, 1]


def test_one_step_at_a_time_or_all_at_once_is_the_same_count():
    found = []
    for mode in ("s", "m"):
        torch.manual_seed(0)
        operations = count_operations(Jelly(mode).double(), [images().double()])  # alike to all digits that are kept
        found.append((operations.products, operations.elementwise, operations.neurons, operations.potentials))
    assert found[0] == found[1]


@pytest.mark.parametrize("make", [lambda: Jelly("s"), lambda: Jelly("m"), lambda: Torch(True)])
def test_a_batch_knows_nothing_of_the_one_before(make):
    torch.manual_seed(0)
    net = make()
    x = images().requires_grad_()
    out = []
    for _ in range(2):
        reset_state(net)
        out.append(net(x))
        out[-1].sum().backward()  # a graph that reached into the batch before would have been freed
    assert torch.equal(out[0], out[1])
    assert not torch.equal(net(x), out[0]), "without a reset it remembers"


def test_ours_have_nothing_to_forget():
    net = ours()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    reset_state(net)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(("make", "paths"), [(plain, []), (ours, ["1"])])
def test_plain_networks(make, paths):
    torch.manual_seed(0)
    net = make()
    operations = count_operations(net, [images()])
    assert operations.macs == 4 * 9 * 16 + 64 * 10
    assert [neurons.path for neurons in operations.neurons] == paths
    assert operations.products[-1].arrives == ("binary" if paths else "real")
    assert operations.potentials == (0, 0)


@pytest.mark.parametrize(
    "make", [lambda: Jelly("s"), lambda: Jelly("m"), lambda: Torch(True), lambda: Torch(False), ours]
)
def test_monitored(make):
    torch.manual_seed(0)
    net = make()
    seen = watched(net, images())
    monitor = SpikeMonitor(net)
    assert monitor.labels == tuple(neuron_layers(net))
    for _ in range(2):
        reset_state(net)
        with monitor.watch(), torch.no_grad():
            net(images())
    for label, activity in monitor.summary().items():
        spikes = in_one(seen[label], "spikes")  # (T, B, …)
        rates = spikes.mean((0, 1))
        assert activity.firing_rate == pytest.approx(rates.mean().item())
        assert activity.layers == (pytest.approx(rates.mean().item()),)
        assert activity.dead == pytest.approx((rates == 0).float().mean().item())
        assert activity.always_firing == pytest.approx((rates == 1).float().mean().item())
        if make is ours:
            distances = seen[label][0].potential - net[1].threshold
            assert activity.in_support == pytest.approx((distances.abs() < 0.5).float().mean().item(), abs=1e-6)
        else:
            assert activity.in_support is None
    assert SpikeMonitor(plain()).summary() == {}


def test_a_network_may_name_its_groups():
    net = Jelly("m")
    net.neuron_groups = lambda: {"both": [net.first, net.second]}
    monitor = SpikeMonitor(net)
    with monitor.watch():
        net(images())
    (activity,) = monitor.summary().values()
    assert (monitor.labels, len(activity.layers)) == (("both",), 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Jelly("s"),
        lambda: Jelly("m"),
        lambda: Torch(True),
        ours,
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), ternary(), nn.Conv2d(4, 6, 2, 2, "valid", 2, groups=2)),
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), ternary(), nn.ConvTranspose2d(4, 6, 3, 2, 2, 1, dilation=2)),
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), ternary(), nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular")),
        lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 4, 3), ternary(), nn.Conv1d(4, 6, 3, padding="same")),
        lambda: nn.Sequential(nn.Flatten(2), ternary(), nn.LSTM(36, 5, batch_first=True, bidirectional=True)),
    ],
)
def test_the_meter_of_training_counts_as_the_audit_does(make):
    torch.manual_seed(0)
    expect_meter_equals_audit(make().eval(), images())


def test_the_penalty_reaches_the_weights_of_a_foreign_network():
    torch.manual_seed(0)
    net = Jelly("m")
    meter = CostMeter(net, (1, 6, 6))
    with meter.watch():
        net(images())
    (gradient,) = torch.autograd.grad(meter.read(IMAGES).operations, net.conv.weight)
    assert gradient.abs().sum() > 0


def test_a_ternary_neuron_fires_spikes_with_a_sign():
    net = nn.Sequential(nn.Linear(36, 8), ternary(), nn.Linear(8, 10))
    x = images().flatten(1)
    spikes = net[1](net[0](x))
    operations = count_operations(net, [x])
    product = operations.products[-1]
    assert set(spikes.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert (product.arrives, product.step, product.levels) == ("signed", 1.0, 1)
    assert product.operations == pytest.approx(10 * spikes.count_nonzero().item() / IMAGES)
    assert operations.macs_of("signed") == operations.synaptic_operations / product.rate
    # 8 values of two bits are written and read from the smallest memory: 64 bits cost 10 pJ.
    table = audit(net, [x]).table
    energy = table.layer(operations.layers[-1], operations, "memory", "network")
    assert energy.activations == pytest.approx(1e-12 * 2 * 8 * 2 / 64 * 10)
    assert count_operations(Jelly("m", "TernaryLIFNode"), [images()]).products[-1].arrives == "signed"


@pytest.mark.slow
def test_other_packages_are_not_imported():
    code = (
        "import sys, torch; from onespike.audit import audit; audit(torch.nn.Linear(3, 2), [torch.rand(2, 3)]);"
        "print([name for name in sys.modules if name.split('.')[0] in ('spikingjelly', 'snntorch')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_meter_counts_spikes_of_each_channels_own_size():
    """What conversion makes has thresholds for channels, and spikes as large as these."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 10))
    net = onespike.convert(ann, images()).network
    operations = expect_meter_equals_audit(net, torch.randn(64, 1, 6, 6), rel=1e-5)
    assert {product.step for product in operations.products[1:]} == {None}


@pytest.mark.parametrize("count", [3, 4])
def test_a_population_lies_before_the_images_however_many_they_are(count: int):
    network = nn.Sequential(IntegrateFire(None, 1, 1, "rectangle", population=4))
    seen: list[Fired] = []
    with watch_neurons(network, seen.append):
        network(torch.rand(count, 5))
    assert seen[0].batch_axis == 1


@pytest.mark.parametrize("kind", ["TernaryIFNode", "TernaryLIFNode"])
def test_a_ternary_neuron_of_spikingjellys_fires_beyond_either_threshold(kind: str):
    (call,) = watched(Jelly("m", kind), images())["first"]
    assert set(call.spikes.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert torch.equal(call.distance >= 0, call.spikes != 0)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_neuron_may_fire_several_spikes_at_once(mode: str):
    x = images() if mode == "s" else images().expand(STEPS, *images().shape)
    network = Forward(lambda net, x: net.head(net.neuron(x).flatten(-3)), neuron=ILIFNode(step_mode=mode))
    network.head = nn.Linear(36, 10)
    spikes = in_one(watched(network, x)["neuron"], "spikes")
    assert spikes.max() == 4
    operations = count_operations(network, [x])
    product = operations.products[-1]
    assert (product.arrives, product.levels) == ("graded", 4)
    assert product.operations == pytest.approx(10 * spikes.sum().item() / IMAGES)
    assert operations.neurons[0].firing_rate == pytest.approx((spikes > 0).float().mean().item())


@pytest.mark.parametrize("channels", [3, 4])
def test_images_are_told_from_channels_where_parts_of_them_are_images_too(channels: int):
    network = nn.Sequential(nn.Unflatten(1, (2, 1)), nn.Flatten(0, 1), nn.Conv2d(1, channels, 1), LIF(channels))
    seen: list[Fired] = []
    with watch_neurons(network, seen.append):
        network(torch.rand(4, 2, 6, 6))
    assert seen[0].batch_axis == 0


@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_neuron_may_ask_its_surrogate_for_attributes(mode: str):
    network = Jelly(mode, "ComplementaryLIFNode")
    spikes = in_one(watched(network, images())["first"], "spikes")
    rates = {neurons.path: neurons.firing_rate for neurons in count_operations(network, [images()]).neurons}
    assert rates["first"] == pytest.approx(spikes.mean().item()) != 0


@pytest.mark.parametrize("keep", [lambda made: made, nn.Parameter], ids=["tensor", "parameter"])
def test_a_weight_that_is_made_once_and_kept_is_one_in_every_batch(keep):
    class Binary(nn.Linear):
        def __init__(self, *sizes: int) -> None:
            super().__init__(*sizes)
            self.made = None

        def forward(self, x: Tensor) -> Tensor:
            self.made = keep(self.weight.detach().sign()) if self.made is None else self.made
            return nn.functional.linear(x, self.made, self.bias)

    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), LIF(8), Binary(8, 4)).eval()
    x = 9 * torch.rand(12, 1, 6, 6)
    found = count_operations(network, x.split(4))
    assert [product.name for product in found.products] == ["linear 36 -> 8", "linear 8 -> 4"]
    network[3].made = None
    assert found.products == count_operations(network, [x]).products


@pytest.mark.parametrize(
    "weights",
    [
        lambda w: torch.where(w > 0, 1.0, -1.0),
        lambda w: torch.where(w > 0, torch.tensor(1.0), torch.tensor(-1.0)),
        lambda w: torch.where(w.abs() > 0.1, w, 0.0),
        lambda w: torch.maximum(w, torch.zeros(())),
    ],
    ids=["binary", "tensors", "pruned", "maximum"],
)
def test_numbers_in_the_code_that_meet_weights_make_weights(weights):
    class Made(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, weights(self.weight), self.bias)

    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), LIF(8), Made(8, 4)).eval()
    plain = nn.Sequential(*network[:3], nn.Linear(8, 4)).eval()
    x = 9 * torch.rand(12, 1, 6, 6)
    found, expected = count_operations(network, [x]), count_operations(plain, [x])
    assert found.products == expected.products
    assert found.elementwise == expected.elementwise
