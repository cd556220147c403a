"""Hoyer regularisation of potentials, and the schedule of the surrogates' width."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from onespike.errors import OnespikeError
from onespike.functional import charge
from onespike.neurons import Incoming, IntegrateFire, Neuron, NeuronConfig, make_neuron
from onespike.training import Callback, train
from onespike.training.penalties import Hoyer, SurrogateWidth
from onespike.training.set_up import set_up


def by_hand(potentials: Tensor, threshold: float | Tensor) -> Tensor:
    """The equation, written as loops over images and neurons: potentials (B, N)."""
    total = torch.zeros((), dtype=torch.float64)
    for image in potentials:
        clipped = [v for v in image if v > 0]
        clipped = [v if v < threshold else v * 0 + threshold for v in clipped]
        if clipped:
            total = total + sum(clipped) ** 2 / sum(v**2 for v in clipped)
    return total / len(potentials)


def penalty_of(network: nn.Module, currents: Tensor, small) -> Tensor:
    hoyer = Hoyer(network, 0.7)
    with hoyer.forward():
        network(currents)
    penalty = hoyer.penalty(set_up(small()), len(currents))
    assert isinstance(penalty, Tensor)
    return penalty


@pytest.mark.parametrize("options", [{}, {"learnable_threshold": "layer"}, {"learnable_threshold": "channel"}])
def test_the_equation_and_its_gradient(small, options):
    neurons = nn.Sequential(*(make_neuron(6, NeuronConfig(threshold=0.4, **options)) for _ in range(2))).double()
    v = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    penalty = penalty_of(neurons, v, small)
    spikes = (v > 0.4).double()  # all that the second layer sees: with real potentials of its own it has no gradient
    expected = 0.7 * (by_hand(v, 0.4) + by_hand(spikes, 0.4))
    torch.testing.assert_close(penalty, expected)
    gradient = torch.autograd.grad(0.7 * by_hand(v, 0.4), v)
    alone = penalty_of(nn.Sequential(neurons[0]), v, small)
    torch.testing.assert_close(torch.autograd.grad(alone, v), gradient)
    assert gradient[0][(v > 0) & (v < 0.4)].any()  # but for images whose neurons above 0 are all the same
    assert not gradient[0][(v < 0) | (v > 0.4)].any()


def test_a_learned_threshold_gets_the_gradient_of_the_clipping(small):
    neuron = make_neuron(6, NeuronConfig(threshold=0.4, learnable_threshold="layer")).double()
    v = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    penalties = penalty_of(nn.Sequential(neuron), v, small), 0.7 * by_hand(v, neuron.threshold)
    gradients = [torch.autograd.grad(one, neuron.raw_threshold)[0] for one in penalties]
    torch.testing.assert_close(*gradients)
    assert gradients[0] != 0


def test_windows_of_one_image_belong_together(small):
    neuron = make_neuron(2, NeuronConfig()).double()
    currents = torch.randn(4, 3, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    network = nn.Sequential(neuron)
    expected = 0.7 * by_hand(currents.transpose(0, 1).flatten(1), 0.5)
    torch.testing.assert_close(penalty_of(network, currents, small), expected)


def test_a_signed_neuron_counts_both_ways_and_an_artificial_one_not_at_all(small):
    v = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ternary, relu = (make_neuron(6, NeuronConfig(name)) for name in ("ternary", "relu"))
    torch.testing.assert_close(penalty_of(nn.Sequential(ternary, relu), v, small), 0.7 * by_hand(v.abs(), 0.5))


def test_silent_neurons_cost_nothing_and_give_no_gradient_that_is_no_number(small):
    v = torch.full((3, 6), -1.0).requires_grad_()
    v.data[0, 0] = 1e-20
    penalty = penalty_of(nn.Sequential(make_neuron(6)), v, small)
    (gradient,) = torch.autograd.grad(penalty, v)
    assert penalty < 1e-6
    assert gradient.abs().max() < 1


def test_potentials_handed_on_get_their_gradient(small):
    neuron = make_neuron(2, NeuronConfig(threshold=0.4)).double()
    currents = torch.randn(4, 3, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    currents.requires_grad_()

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.neuron = neuron

        def forward(self, currents: Tensor) -> Tensor:
            return self.neuron.charge_and_fire(currents, Incoming())[1]

    (gradient,) = torch.autograd.grad(penalty_of(Chain(), currents, small), currents)
    potentials = charge(currents, 0.4)
    (expected,) = torch.autograd.grad(0.7 * by_hand(potentials.transpose(0, 1).flatten(1), 0.4), currents)
    torch.testing.assert_close(gradient, expected)


def test_no_potential_is_kept_from_step_to_step(small):
    trainer = set_up(small(train__hoyer=1e-3))
    trainer.step(0, *next(trainer.batches.epoch(0)))
    (hoyer,) = (one for one in trainer.callbacks if isinstance(one, Hoyer))
    assert not hoyer._calls


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"train__recompute": True}, {"train__accumulate": 2}])
def test_training_with_it_leaves_fewer_potentials_between_0_and_the_threshold(small, tmp_path, options):
    found = {}
    for weight in (0.0, 3e-2):

        class Between(Callback):
            def finish(self, trainer, summary, weight=weight):  # noqa: ARG002
                hoyer = Hoyer(trainer.network, 1.0)
                trainer.network.eval()
                torch.manual_seed(0)
                with torch.no_grad(), hoyer.forward():
                    trainer.network(next(iter(trainer.test))[0])
                found[weight] = hoyer.penalty(trainer, 1)

        plain = {"model__neuron__surrogate": "triangle", "model__neuron__learnable_threshold": "channel"}
        recipe = small(train__hoyer=weight, train__epochs=4, **plain, **options)
        train(recipe, tmp_path / str(weight), callbacks=[Between()], quiet=True)
    assert found[3e-2] < 0.8 * found[0.0]


class Widths(Callback):
    """Notes the width of each step."""

    def __init__(self) -> None:
        self.seen: dict[int, set[float]] = {}

    def before_step(self, trainer, number):
        neurons = [one for one in trainer.network.modules() if isinstance(one, Neuron)]
        self.seen[number] = {one.surrogate.width for one in neurons}


def test_the_width_moves_geometrically_from_the_configs_to_the_last_steps(small, tmp_path):
    widths = Widths()
    recipe = small(train__surrogate_width_end=0.25, model__neuron__surrogate_width=4.0)
    trainer = set_up(recipe)
    train(recipe, tmp_path / "run", callbacks=[widths], quiet=True)
    steps = 2 * len(trainer.batches)
    assert list(widths.seen) == list(range(steps))
    assert (widths.seen[0], widths.seen[steps - 1]) == ({4.0}, {0.25})
    values = [min(each) for each in widths.seen.values()]
    assert all(len(each) == 1 for each in widths.seen.values())
    ratios = [two / one for one, two in pairwise(values)]
    assert ratios == pytest.approx([(0.25 / 4) ** (1 / (steps - 1))] * (steps - 1))


def test_after_training_neurons_have_their_own_width_again():
    network = nn.Sequential(make_neuron(3, NeuronConfig(surrogate_width=2.0)), IntegrateFire(None, 1, 1, "triangle"))
    schedule = SurrogateWidth(network, 8.0)

    class Trainer:
        config, batches = type("Config", (), {"epochs": 1}), range(1)

    trainer = Trainer()
    schedule.before_step(trainer, 0)  # type: ignore[arg-type]
    assert [network[0].surrogate.width, network[1].firing.surrogate.width] == [2.0, 1.0], "of a single step"
    trainer.batches = range(3)
    schedule.before_step(trainer, 1)  # type: ignore[arg-type]
    assert [network[0].surrogate.width, network[1].firing.surrogate.width] == pytest.approx([4.0, 8**0.5])
    schedule.close()
    assert [network[0].surrogate.width, network[1].firing.surrogate.width] == [2.0, 1.0]


@pytest.mark.parametrize("option", ["hoyer", "surrogate_width_end"])
def test_a_network_without_spiking_neurons_is_refused(small, option):
    with pytest.raises(OnespikeError, match=f"train.{option}: expected a network with spiking neurons"):
        set_up(small(**{"model__preset": "ann", f"train__{option}": 1.0, "model__encoding": "direct"}))
