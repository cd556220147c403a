"""Networks over time, of whatever make: their time steps, and what is kept from one step to the next."""

import pytest
import snntorch
import torch
from spikingjelly.activation_based import layer
from spikingjelly.activation_based.neuron import PSN, GatedLIFNode, IFNode
from torch import Tensor, nn

from onespike import convert
from onespike.audit import audit
from onespike.counting.operations import Operations, count_operations
from onespike.models import create_model
from onespike.neurons import NeuronConfig, OverTime, make_neuron
from tests.forward import Forward

STEPS = 4


def own(neuron: str = "lif", as_module: bool = True) -> nn.Module:
    """Patches of an image as tokens, embedded once; then `STEPS` time steps of neurons, all steps as one batch."""

    def forward(net, x):
        currents = net.embed(x).mean(1).expand(STEPS, len(x), 6)
        spikes = net.neurons(currents) if as_module else net.neurons.over_time(currents)
        return net.mix(spikes.flatten(0, 1)).unflatten(0, (STEPS, -1)).mean(0)

    neurons = make_neuron(6, NeuronConfig(neuron))
    parts = {"neurons": OverTime(neurons) if as_module else neurons}
    return Forward(forward, embed=nn.Linear(8, 6), mix=nn.Linear(6, 5), **parts)


def counted(network: nn.Module, *shape: int) -> Operations:
    torch.manual_seed(0)
    return count_operations(network.eval(), [torch.rand(*shape)])


@pytest.mark.parametrize(("shape", "steps"), [((2, 3, 16, 16), 4), ((2, 3, 3, 16, 16), 2)], ids=["images", "frames"])
def test_a_network_inside_another_takes_its_time_steps(shape, steps):
    inner = create_model("spiking-vgg-xs", image_size=16, width=8, time_steps=4)
    found = audit(Forward(lambda net, x: net.inner(x), inner=inner), [torch.rand(shape)])
    assert (found.operations.steps, found.variants) == (steps, ("network", "binary"))


@pytest.mark.parametrize("as_module", [True, False])
def test_neurons_in_a_network_of_ones_own_tell_its_time_steps(as_module):
    network = own(as_module=as_module)
    operations = counted(network, 3, 16, 8)
    assert operations.steps == STEPS
    assert "over_time" not in vars(network.neurons), "what watched is gone"
    embed, mix = operations.products
    assert (embed.time_steps, mix.time_steps) == (1, STEPS)  # 16 tokens are no time steps


@pytest.mark.parametrize("as_module", [True, False])
def test_a_neuron_keeps_all_that_it_needs_at_the_next_step(as_module):
    kept = {name: counted(own(name, as_module), 3, 16, 8).potentials for name in ("lif", "adaptive")}
    assert kept["lif"] == ((STEPS - 1) * 6,) * 2
    assert kept["adaptive"] == ((STEPS - 1) * 2 * 6,) * 2  # its threshold's rise as well
    strict = {
        name: counted(
            create_model("spiking-vgg-xs", image_size=16, width=8, time_steps=4, neuron={"name": name}), 2, 3, 16, 16
        )
        for name in ("lif", "adaptive")
    }
    assert strict["adaptive"].potentials.reads == 2 * strict["lif"].potentials.reads > 0


def by_hand(net, frames: Tensor) -> Tensor:
    """Neurons that the library does not know."""
    potential, spikes = 0.0, []
    for frame in frames:
        potential = potential / 2 + net.first(frame.flatten(1))
        spikes.append((potential > 1).float())
    return net.head(torch.stack(spikes).mean(0))


@pytest.mark.parametrize("batch", [3, 4, 5])
def test_frames_are_time_steps_whatever_the_neurons_are(batch):
    found = audit(Forward(by_hand, first=nn.Linear(64, 8), head=nn.Linear(8, 5)), [torch.randn(STEPS, batch, 1, 8, 8)])
    assert (found.operations.images, found.operations.steps, found.variants) == (batch, STEPS, ("network", "binary"))
    network = Forward(by_hand, first=nn.Linear(64, 8), head=nn.Linear(8, 5))
    assert count_operations(network, [torch.randn(STEPS, batch, 1, 8, 8)], batch_axis=-4).steps == STEPS


@pytest.mark.parametrize("batch", [STEPS - 1, STEPS, STEPS + 1])
def test_logits_of_each_time_step_tell_how_many_there_are(batch):
    def loop(net, x):
        return by_hand(net, x.expand(STEPS, *x.shape)).expand(STEPS, batch, 5)

    found = audit(Forward(loop, first=nn.Linear(64, 8), head=nn.Linear(8, 5)), [torch.randn(batch, 1, 8, 8)])
    assert (found.operations.images, found.operations.steps, found.variants) == (batch, STEPS, ("network", "binary"))
    tokens = Forward(lambda net, x: net.head(x), head=nn.Linear(64, 5))  # (B, N, F) to (B, N, K)
    if batch != STEPS:
        assert count_operations(tokens, [torch.randn(batch, STEPS, 64)]).steps == 1


@pytest.mark.parametrize("node", [GatedLIFNode, PSN])
def test_spikingjellys_layers_over_all_steps_tell_how_many_there_are(node):
    def forward(net, x):
        return net.head(net.node(net.first(x.expand(STEPS, *x.shape)))).mean(0)

    network = Forward(forward, first=layer.Conv2d(1, 4, 3, step_mode="m"), node=node(STEPS), head=nn.Linear(6, 5))
    network.step_mode = "m"  # its own input has no axis of time
    assert counted(network, 2, 1, 8, 8).steps == STEPS


def test_a_neuron_that_pools_keeps_what_it_pools():
    def forward(net, x):
        state = net.neuron.reset_mem()
        for _ in range(STEPS):
            spikes, *state = net.neuron(x, *state)
        return net.head(spikes.flatten(1))

    network = Forward(forward, neuron=snntorch.SConv2dLSTM(1, 2, 3, max_pool=2), head=nn.Linear(32, 5))
    assert counted(network, 3, 1, 8, 8).potentials == ((STEPS - 1) * 2 * 2 * 64,) * 2  # its membrane, and its synapses


def test_a_layer_that_runs_more_often_than_another_makes_no_time_steps():
    def forward(net, x):
        return net.second(sum(net.first(x) for _ in range(3)))

    network = Forward(forward, first=IFNode(), second=IFNode())
    assert count_operations(network, [torch.rand(2, 4)]).steps == 1


@pytest.mark.parametrize("batch", [3, 4, 5])
def test_a_layer_that_sees_all_frames_at_once_holds_those_of_one_step(batch):
    network = Forward(lambda net, x: net.head(x.flatten(2)).mean(0), head=nn.Linear(64, 5))
    assert [product.time_steps for product in counted(network, STEPS, batch, 1, 8, 8).products] == [STEPS]


def test_a_twin_without_windows_is_the_network_itself():
    found = audit(create_model("spiking-vgg-xs", image_size=16, width=8, time_steps=4), [torch.rand(2, 3, 16, 16)])
    assert found.energy("memory", "binary") == found.energy("memory")
    assert found.energy("memory").potentials > 0
    assert len(repr(found)) < 500  # a notebook prints no product of a layer


def test_a_cell_of_an_lstm_is_kept_from_step_to_step():
    options = {"image_size": 4, "width": 6, "depth": 1, "time_steps": STEPS}
    reads = {
        unit: counted(create_model("spiking-mlp", unit=unit, **options), 2, 3, 4, 4).potentials.reads
        for unit in ("gru", "lstm")
    }
    assert reads == {"gru": (STEPS - 1) * 6, "lstm": (STEPS - 1) * 2 * 6}  # h is what the product "state" reads


def test_a_conversion_keeps_sums_and_counts_from_step_to_step():
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5), nn.Softmax(1)]
    network = convert(nn.Sequential(*layers), torch.rand(8, 3, 8, 8), time_steps=STEPS, allow_real=True).network
    kept = {layer.type: layer.potentials for layer in counted(network, 2, 3, 8, 8).layers if layer.potentials.writes}
    assert kept == {
        "IntegrateFire": ((STEPS - 1) * 4 * 36,) * 2,
        "PoolSpikes": ((STEPS - 1) * 4 * (36 + 9),) * 2,  # counts, and the highest of each window
        "OverMeans": ((STEPS - 1) * (5 + 5),) * 2,  # sums, and what came out so far
    }


def test_as_many_images_as_time_steps_are_counted_like_any_other_number():
    def forward(net, x):
        return net.head(net.neurons(x.expand(STEPS, *x.shape)).flatten(2)).mean(0)

    network = Forward(forward, neurons=OverTime(make_neuron(2, NeuronConfig())), head=nn.Linear(2 * 36, 5)).eval()
    images = torch.rand(2 * STEPS, 2, 6, 6)
    found = [audit(network, images.split(size)) for size in (STEPS - 1, STEPS, 2 * STEPS)]
    assert [one.operations.products[0].time_steps for one in found] == [STEPS] * 3
    assert len({one.energy("memory").total for one in found}) == 1


def test_a_neuron_that_is_called_twice_in_each_step_makes_no_more_of_them():
    def forward(net, x):
        return sum(net.head(net.both(net.both(net.other(net.conv(x)))).flatten(1)) for _ in range(STEPS)) / STEPS

    parts = {"conv": nn.Conv2d(1, 4, 3), "other": IFNode(), "both": IFNode(), "head": nn.Linear(4 * 36, 5)}
    assert counted(Forward(forward, **parts), 3, 1, 8, 8).steps == STEPS


def test_a_stem_of_anothers_neurons_that_fires_once_hides_no_time_steps():
    def forward(net, x):
        spikes = net.first(net.stem(x))
        return sum(net.head(net.second(net.conv(spikes)).flatten(1)) for _ in range(STEPS)) / STEPS

    parts = {"stem": nn.Conv2d(1, 4, 3), "first": IFNode(), "conv": nn.Conv2d(4, 4, 3), "second": IFNode()}
    operations = counted(Forward(forward, **parts, head=nn.Linear(4 * 16, 5)), 3, 1, 8, 8)
    assert operations.steps == STEPS
    assert [product.time_steps for product in operations.products] == [1, STEPS, STEPS]
