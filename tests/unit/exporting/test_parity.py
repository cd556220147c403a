"""What a proof takes for the same: targets that answer as the network does, and such as do not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from onespike import export
from onespike.exporting import Export
from onespike.exporting.contract import Contract
from onespike.exporting.parity import BATCH, FAR, Parity, compare
from onespike.neurons import LIF, NeuronConfig
from onespike.neurons.adaptive import AdaptiveLIF
from onespike.neurons.base import Neuron
from onespike.neurons.watch import answer_and_calls, watch_neurons
from onespike.training.losses import over_time

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
        (1e-5, lambda logits, spikes: (logits + 5e-7, spikes), True),
    ],
)
def test_what_holds(scale: float, change: Callable[[Tensor, list[Tensor]], Answer], holds: bool) -> None:
    assert proof(scale, change).holds is holds


@pytest.mark.parametrize(("potential", "holds"), [(0.50001, True), (0.501, False)])
def test_a_spike_may_differ_at_the_threshold_alone(potential: float, holds: bool) -> None:
    assert proof(1.0, flipped_once, potential=potential).holds is holds


@pytest.mark.parametrize(("potential", "holds"), [(1.00001e-5, True), (1.5e-5, False)])
def test_small_potentials_are_excused_less(potential: float, holds: bool) -> None:
    assert proof(1.0, flipped_once, potential=potential, threshold=1e-5).holds is holds


@pytest.mark.parametrize(
    ("scale", "change", "holds"),
    [
        (1.0, lambda logits, spikes: (logits, spikes), True),
        (1.0, lambda logits, spikes: (logits + 1e-5, spikes), True),
        (1.0, flipped_once, False),
        (1.0, lambda logits, spikes: (logits + 1e-3, spikes), False),
        (1.0, lambda logits, spikes: (logits.flip(1), spikes), False),
        (1e-5, lambda logits, spikes: (logits.roll(1, 1), spikes), False),  # another class, by less than the resolution
    ],
)
def test_an_exact_target_is_excused_nothing(
    scale: float, change: Callable[[Tensor, list[Tensor]], Answer], holds: bool
) -> None:
    assert proof(scale, change, resolution=1e-4).holds is holds


def test_accuracies_are_those_of_each_and_all_batches_count() -> None:
    shares, classes = [10, 20, 23], list[int]()

    def turned(logits: Tensor, spikes: list[Tensor]) -> Answer:
        """All images are alike: the network puts them into one class, the target into another."""
        classes[:] = int(logits[0].argmax()), int(logits[0].argmin())
        return -logits, [1 - one for one in spikes]

    found = proof(1.0, turned, labels=torch.arange(3).repeat_interleave(torch.tensor(shares)))
    assert [found.top1, found.target_top1] == [100 * shares[one] / 53 for one in classes]
    assert (found.same_class, found.spikes, found.differing) == (0.0, 53 * 4, 53 * 4)


def test_an_export_holds_if_all_its_targets_do() -> None:
    good, bad = (proof(1.0, lambda logits, spikes, by=by: (logits + by, spikes)) for by in (0, 1))
    assert [Export(Path(), (), targets).holds for targets in ((good, good), (good, bad))] == [True, False]


@pytest.mark.parametrize(("by", "holds"), [(-0.01, False), (-0.5, False), (0.0, True), (0.01, True)])
def test_beside_a_masked_class_the_others_are_compared(by: float, holds: bool) -> None:
    network = nn.Sequential(nn.Flatten(), LIF(4), nn.Linear(4, 3)).eval()
    with torch.no_grad():
        network[2].weight.zero_()
        network[2].bias.copy_(torch.tensor([0.5, 0.495, -1e9]))

    def target(raw: Tensor) -> Answer:
        logits, calls = answer_and_calls(network, CONTRACT.normalise(raw))
        return logits + torch.tensor([by, 0.0, 0.0]), [call.spikes for call in calls]

    assert compare("target", network, target, CONTRACT, IMAGES).holds is holds


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
    threshold: float = 0.5,
    labels: Tensor | None = None,
) -> Parity:
    """Compare a network with a target that answers as it does, but for the change."""
    torch.manual_seed(0)
    neuron = LIF(1, NeuronConfig(threshold=threshold))
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), neuron, nn.Flatten(), nn.Linear(4, 3)).eval()
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
    return compare("target", network, target, contract, images, labels, resolution)


CONTRACT = Contract("net", "", ("a", "b", "c"), 1, 2, (0.0,), (1.0,), "fp32", False)
IMAGES = torch.randint(0, 256, (6, 2, 2, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("flips", "holds", "first"),
    [
        ([(0, 1, 1)], False, ("3", 1)),
        ([(0, 0, 0), (0, 1, 1)], True, ("1", 1)),  # the second one may come of the first one, which is excused
        ([(0, 0, 0), (1, 1, 1)], False, ("1", 1)),  # not in another image
        ([(0, 0, 0), (0, 1, 1), (1, 1, 0)], True, ("1", 1)),
        ([(0, 1, 0), (52, 0, 0)], True, ("1", 1)),  # in the second batch it is another layer
        ([(0, 0, 0), (52, 0, 0), (52, 1, 1)], True, ("1", 2)),
    ],
)
def test_what_comes_of_an_excused_spike_is_excused(
    flips: list[tuple[int, int, int]], holds: bool, first: tuple[str, int]
) -> None:
    """Two layers whose potentials are at the threshold in pixel 0, and far from it elsewhere: (image, layer, pixel)."""
    conv, another = (nn.Conv2d(1, 1, 1, bias=False) for _ in range(2))
    network = nn.Sequential(conv, LIF(1), another, LIF(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    for one in (conv, another):
        nn.init.constant_(one.weight, 0.50001)
    images, seen = torch.zeros(BATCH + 3, 2, 2, 1, dtype=torch.uint8), list[int]()
    images[:, 0, 0] = 255

    def target(raw: Tensor) -> Answer:
        logits, calls = answer_and_calls(network, CONTRACT.normalise(raw))
        spikes = [call.spikes.flatten(1).clone() for call in calls]
        for image, layer, pixel in flips:
            if 0 <= image - sum(seen) < len(raw):
                spikes[layer][image - sum(seen), pixel] -= 1
        seen.append(len(raw))
        return logits, spikes

    found = compare("target", network, target, CONTRACT, images)
    assert (found.holds, (found.first, found.differing)) == (holds, first)


class Rows(nn.Module):
    """Neurons that see each pixel as a row of its own, and neurons that see a constant, one row for all images."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.constant = LIF(1), LIF(3)
        self.head, self.prompt = nn.Linear(4, 3), nn.Parameter(torch.tensor([[0.2, 0.7, 0.9]]))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.rows(images.view(-1, 1)).view(-1, 4)) + self.constant(self.prompt)


@pytest.mark.parametrize(("change", "near", "same_class"), [(None, True, True), (0, False, False), (1, False, False)])
def test_rows_that_are_no_images_are_compared_as_a_whole(change: int | None, near: bool, same_class: bool) -> None:
    torch.manual_seed(0)
    network = Rows().eval()

    def target(raw: Tensor) -> Answer:
        logits, calls = answer_and_calls(network, CONTRACT.normalise(raw))
        spikes = [call.spikes.clone() for call in calls]
        if change is not None:
            spikes[change][0] = 1 - spikes[change][0]
        return logits, spikes

    found = compare("target", network, target, CONTRACT, IMAGES)
    assert (found.holds, found.first is None) == (near, same_class)
    assert (found.layers, found.spikes) == (2, 6 * 4 + 3)


@pytest.mark.parametrize("to", ["pt2", "c"])
def test_rows_whose_order_is_not_known_are_left_out(to: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.manual_seed(0)
    (proof,) = export(Rows().eval(), tmp_path / "out", to, images=IMAGES, weights="fp32").parity
    assert proof.holds
    said = "warning: c: the spikes of rows, constant have no row for each image: they were not compared\n"
    assert (proof.layers, capsys.readouterr().err) == {"pt2": (2, ""), "c": (0, said)}[to]


def test_a_target_that_drops_a_layer_does_not_pass() -> None:
    network = Rows().eval()

    def target(raw: Tensor) -> Answer:
        logits, calls = answer_and_calls(network, CONTRACT.normalise(raw))
        return logits, [call.spikes for call in calls[:-1]]

    with pytest.raises(ValueError, match="shorter"):  # our own mistake
        compare("target", network, target, CONTRACT, IMAGES[:2])


class EachImage(nn.Module):
    """Calls its neurons once for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.fire, self.head = LIF(4, NeuronConfig(threshold=0.5)), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.cat([self.fire(image.flatten()[None]) for image in images]))


@pytest.mark.parametrize("to", ["nir", "c"])
def test_neurons_that_are_called_for_each_image_are_left_out(
    to: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.manual_seed(0)
    images = IMAGES[torch.arange(BATCH + 1) % len(IMAGES)]  # the last batch is one image
    (proof,) = export(EachImage().eval(), tmp_path / "out", to, images=images, weights="fp32").parity
    assert proof.holds
    assert (proof.layers, proof.spikes) == (0, 0)
    said = f"warning: {to}: the spikes of fire have no row for each image: they were not compared\n"
    assert capsys.readouterr().err == said


class Graded(Neuron):
    """How often the threshold goes into the potential, 3 at most."""

    levels = 3

    def fire(self, potential: Tensor) -> Tensor:
        return (potential / self.threshold).clamp(0, self.levels).floor()


class OverTime(nn.Module):
    """Neurons whose second step has a threshold that the first one's spikes have raised."""

    def __init__(self) -> None:
        super().__init__()
        self.fire, self.head = AdaptiveLIF(4, NeuronConfig(threshold=0.5), adaptation=0.5), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.fire.over_time(torch.stack([images.flatten(1)] * 2)))


def at_its_threshold(neuron: Neuron, weight: float) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), neuron, nn.Flatten(), nn.Linear(4, 3))
    nn.init.constant_(network[0].weight, weight)
    return network


GRADED = Graded(1, NeuronConfig(threshold=0.5))


@pytest.mark.parametrize(
    ("network", "call", "instead", "holds"),
    [
        (at_its_threshold(GRADED, 1.0), 0, 1, True),  # the second level
        (at_its_threshold(GRADED, 1.2), 0, 1, False),  # between the levels; its spike is 2
        (OverTime(), 1, 1, True),  # 0.5 of the config, and a rise of 0.5
        (OverTime(), 0, 0, False),
    ],
)
def test_spikes_are_excused_at_their_own_thresholds(network: nn.Module, call: int, instead: int, holds: bool) -> None:
    def target(raw: Tensor) -> Answer:
        answer, calls = answer_and_calls(network, CONTRACT.normalise(raw))
        spikes = [call.spikes.clone() for call in calls]
        spikes[call].flatten()[0] = instead
        return over_time(answer), spikes

    found = compare("target", network.eval(), target, CONTRACT, torch.full((2, 2, 2, 1), 255, dtype=torch.uint8))
    assert (found.differing, found.holds) == (1, holds)
