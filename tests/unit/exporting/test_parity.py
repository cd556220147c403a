"""What a proof takes for the same: targets that answer as the network does, and such as do not."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from onespike.exporting.contract import Contract
from onespike.exporting.parity import BATCH, FAR, Parity, compare
from onespike.neurons import LIF
from onespike.neurons.watch import watch_neurons

Answer = tuple[Tensor, list[Tensor]]


def flipped_everywhere(logits: Tensor, spikes: list[Tensor]) -> Answer:
    """One spike of each image at its threshold, which is excused; and then anything at all."""
    return torch.full_like(logits, 100), [1 - one for one in spikes]


def flipped_once(logits: Tensor, spikes: list[Tensor]) -> Answer:
    logits[0], spikes[0][0] = 100, 1 - spikes[0][0]
    return logits, spikes


@pytest.mark.parametrize(
    ("scale", "change", "holds"),
    [
        (1.0, flipped_everywhere, False),
        (1.0, flipped_once, True),
        (1.0, lambda logits, spikes: (logits * 1.00001, spikes), True),
        (1.0, lambda logits, spikes: (logits * 1.0005, spikes), False),
        (1e-5, lambda logits, spikes: (-logits, spikes), False),
    ],
)
def test_what_holds(scale: float, change: Callable[[Tensor, list[Tensor]], Answer], holds: bool) -> None:
    assert proof(scale, change).holds is holds


@pytest.mark.parametrize(("potential", "holds"), [(0.50001, True), (0.501, False)])
def test_a_spike_may_differ_at_the_threshold_alone(potential: float, holds: bool) -> None:
    assert proof(1.0, flipped_once, potential=potential).holds is holds


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        (lambda logits, spikes: (logits, spikes), True),
        (lambda logits, spikes: (logits + 1e-5, spikes), True),
        (flipped_once, False),
        (lambda logits, spikes: (logits + 1e-3, spikes), False),
        (lambda logits, spikes: (logits.flip(1), spikes), False),
    ],
)
def test_an_exact_target_is_excused_nothing(change: Callable[[Tensor, list[Tensor]], Answer], holds: bool) -> None:
    assert proof(1.0, change, resolution=1e-4).holds is holds


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_a_target_that_answers_no_numbers_is_far_from_the_network(wrong: float) -> None:
    found = proof(1.0, lambda logits, spikes: (torch.full_like(logits, wrong), spikes))
    assert (found.holds, found.logit_error) == (False, FAR)
    assert not proof(1e20, lambda logits, spikes: (torch.full_like(logits, wrong), spikes)).holds
    json.dumps(found.to_json(), allow_nan=False)


def proof(
    scale: float,
    change: Callable[[Tensor, list[Tensor]], Answer],
    resolution: float | None = None,
    potential: float = 0.50001,  # just above the threshold
) -> Parity:
    """Compare a network with a target that answers as it does, but for the change."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), LIF(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    contract = Contract("net", "", ("a", "b", "c"), 1, 2, (0.0,), (1.0,), "fp32", False)
    with torch.no_grad():
        network[0].weight.fill_(potential)
        network[3].weight.mul_(scale)
        network[3].bias.mul_(scale)

    def target(raw: Tensor) -> Answer:
        calls: list[Tensor] = []
        with watch_neurons(network, lambda call: calls.append(call.spikes.clone())):
            logits = network(contract.normalise(raw))
        return change(logits, calls)

    images = torch.full((BATCH + 3, 2, 2, 1), 255, dtype=torch.uint8)  # more than one batch
    return compare("target", network, target, contract, images, resolution=resolution)
