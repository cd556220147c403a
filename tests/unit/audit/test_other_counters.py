"""Synaptic operations against those of other libraries, on a plain spiking convolutional network."""

import pytest
import torch
from torch import Tensor, nn

from onespike.counting.operations import Operations, count_operations
from onespike.models import create_model


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return create_model("spiking-vgg11", num_classes=5, in_channels=2, width=4, time_steps=2).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Spikes already: other libraries leave out, or put apart, the first layer's real values."""
    return (torch.rand(3, 2, 32, 32, generator=torch.Generator().manual_seed(3)) < 0.3).float()


@pytest.fixture(scope="module")
def ours(network: nn.Module, images: Tensor) -> Operations:
    operations = count_operations(network, [images])
    assert 0 < operations.synaptic_operations < operations.macs
    return operations


def test_spikingjelly(network: nn.Module, images: Tensor, ours: Operations):
    counters = pytest.importorskip("spikingjelly.activation_based.op_counter")
    counter = counters.SynOpCounter()
    with torch.no_grad(), counters.DispatchCounterMode([counter]):
        network(images)
    assert counter.get_total() == pytest.approx(ours.synaptic_operations * len(images), rel=1e-12)


def test_neurobench(network: nn.Module, images: Tensor, ours: Operations):
    layers = pytest.importorskip("neurobench.metrics.utils.layers")
    weighted = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    arrived: dict[nn.Module, list[Tensor]] = {module: [] for module in weighted}  # at each time step
    hooks = [m.register_forward_hook(lambda m, inputs, _: arrived[m].append(inputs[0])) for m in weighted]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    calls = [(module, torch.cat(arrived[module])) for module in weighted]
    head, spikes = calls.pop()
    plain = nn.Linear(head.in_features, head.out_features)  # what the head does at each place of the map
    calls.append((plain, spikes.movedim(1, -1)))
    counted = [layers.single_layer_MACs(spikes, module) for module, spikes in calls]
    assert all(spiking for _, spiking in counted)
    assert sum(operations for operations, _ in counted) == pytest.approx(
        ours.synaptic_operations * len(images), rel=1e-12
    )
    dense = sum(layers.single_layer_MACs(spikes, module, total=True)[0] for module, spikes in calls)
    assert dense == sum(product.reached for product in ours.products) * len(images)
