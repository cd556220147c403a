"""Neurons: their constants and learnable parameters, what they hand on, and what a hook sees."""

import numpy as np
import pytest
import torch

from onespike import OnespikeError
from onespike.functional import SURROGATES
from onespike.neurons import LIF, NEURONS, Incoming, Neuron, NeuronConfig, make_neuron
from onespike.units import ConvUnit, UnitConfig

LEARNABLE = {"layer": (), "channel": (3, 1, 1)}
constants = pytest.mark.parametrize("constant", ["threshold", "decay"])


def potentials():
    return torch.rand(4, 2, 3, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 - 0.5


@constants
def test_by_default_threshold_and_decay_are_the_given_numbers_exact_in_every_dtype(constant):
    neuron = LIF(3, NeuronConfig(threshold=0.7, decay=0.3)).double()
    assert not neuron.state_dict()
    assert getattr(neuron, constant) == {"threshold": 0.7, "decay": 0.3}[constant]
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        v = torch.ones(4, 2, 3, 2, 2, dtype=dtype)
        assert neuron(v).dtype == neuron.charge(v, Incoming())[0].dtype == dtype


@constants
@pytest.mark.parametrize(("learnable", "shape"), LEARNABLE.items())
@pytest.mark.parametrize("value", [0.1, 0.5, 0.9])
def test_a_learnable_constant_is_one_parameter_that_starts_at_the_given_value(constant, learnable, shape, value):
    neuron = LIF(3, NeuronConfig(**{constant: value, f"learnable_{constant}": learnable}))
    (parameter,) = neuron.parameters()
    assert parameter.shape == shape
    torch.testing.assert_close(getattr(neuron, constant), torch.full(shape, value))


@pytest.mark.parametrize(("learnable", "shape"), LEARNABLE.items())
def test_learnable_constants_get_gradients_and_stay_in_their_range_however_far_they_are_driven(learnable, shape):
    neuron = LIF(3, NeuronConfig(learnable_threshold=learnable, learnable_decay=learnable))
    v, _ = neuron.charge(potentials(), Incoming())
    neuron(v).sum().backward()
    assert len(list(neuron.parameters())) == 2
    for parameter in neuron.parameters():
        assert parameter.grad.shape == shape
        assert parameter.grad.abs().min() > 0
    for far in (-10, 10):
        with torch.no_grad():
            for parameter in neuron.parameters():
                parameter.fill_(far)
        assert (neuron.threshold > 0).all()
        assert ((neuron.decay > 0) & (neuron.decay < 1)).all()


@pytest.mark.parametrize("learnable", LEARNABLE)
def test_the_layers_of_a_unit_learn_constants_of_their_own(learnable):
    unit = ConvUnit(3, UnitConfig(NeuronConfig(learnable_threshold=learnable, learnable_decay=learnable)))
    own = [name for name, _ in unit.named_parameters() if "threshold" in name or "decay" in name]
    assert len(own) == 4
    assert len({name.split(".")[0] for name in own}) == 2


@pytest.mark.parametrize(
    ("reset", "expected"), [("none", [0.2, 0.5, 0.9]), ("zero", [0.2, 0.5, 0.0]), ("subtract", [0.2, 0.5, 0.4])]
)
def test_the_reset_touches_the_potentials_of_neurons_that_fire_and_no_others(reset, expected):
    neuron = LIF(1, NeuronConfig(reset=reset))
    assert neuron.handed_on(torch.tensor([0.2, 0.5, 0.9])).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_the_reset_goes_by_the_spikes_that_go_out(reset):
    torch.manual_seed(0)
    draws = {"fire": lambda _, potential: torch.rand_like(potential).round()}
    neuron = type("Drawing", (Neuron,), draws)(3, NeuronConfig(reset=reset))
    v, spikes = neuron.charge_and_fire(currents := potentials(), Incoming())
    assert 0.3 < spikes.mean() < 0.7
    torch.testing.assert_close(v[1:], currents[1:] + 0.4 * neuron.handed_on(v[:-1], spikes[:-1]))


def test_of_a_neuron_whose_spikes_have_a_sign_either_counts_as_fired():
    v = torch.tensor([-2.0, 0.0, 2.0])
    signs = {"signed": True, "fire": lambda _, potential: potential.sign()}
    neuron = type("Signs", (Neuron,), signs)(1, NeuronConfig(reset="zero"))
    assert neuron.fired(neuron(v)).tolist() == [1, 0, 1]
    assert not neuron.kept(v, neuron(v)).any()
    assert not neuron.handed_on(v).any()


def test_a_ternary_neuron_fires_by_bytes_as_by_floats():
    currents = torch.tensor([[0, 1, 2]])
    neuron = make_neuron(3, NeuronConfig(name="ternary"))
    torch.testing.assert_close(neuron(currents.byte()), neuron(currents.float()))


@pytest.mark.parametrize("way", ["kept", "handed_on"])
def test_below_the_threshold_a_reset_of_signed_spikes_has_the_gradient_of_their_surrogate(way: str):
    gradients = []
    for sign, name in ((1, "lif"), (1, "ternary"), (-1, "ternary")):
        neuron = make_neuron(1, NeuronConfig(name, threshold=0.5, surrogate_width=0.8, reset="zero"))
        v = (sign * torch.tensor([0.05, 0.2, 0.45, 0.55, 0.7, 0.95])).requires_grad_()
        spikes = neuron(v)
        out = neuron.kept(v, spikes) if way == "kept" else neuron.handed_on(v, spikes)
        assert torch.equal(out, v * (v.abs() <= 0.5))
        gradients.append(torch.autograd.grad(out.sum(), v)[0])
    assert 0 < gradients[0][1] < 1, "the surrogate reaches below the threshold"
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])


def test_a_constant_that_is_learned_is_not_shown_as_one():
    learns = NeuronConfig(learnable_threshold="layer", learnable_decay="channel")
    shown = ("threshold=0.5, decay=0.4", "threshold=learned, decay=learned")
    assert [LIF(3, one).extra_repr() for one in (NeuronConfig(), learns)] == [*shown]
    assert LIF(3, learns, integrates=False).extra_repr() == "threshold=learned, decay=0.4"


def test_options_are_known_by_their_names_wherever_they_stand(monkeypatch):
    class Graded(Neuron):
        def __init__(self, *args, most=3, **more):
            super().__init__(*args, **more)
            self.most = most

    monkeypatch.setitem(NEURONS, "graded", Graded)
    assert make_neuron(3, NeuronConfig("graded", options={"most": 2})).most == 2
    for name in ("channels", "integrates", "args", "more", "least"):
        with pytest.raises(OnespikeError, match=f"unknown option of the neuron graded '{name}'"):
            NeuronConfig("graded", options={name: 1})


def test_charging_adds_the_decayed_incoming_and_own_potentials_to_the_currents():
    neuron = LIF(3, NeuronConfig(decay=0.25))
    currents, own = potentials(), torch.full((4, 2, 3, 2, 2), 8.0)
    before = own, torch.zeros_like(own)  # what did not fire keeps its potential
    torch.testing.assert_close(neuron.charge_and_fire(currents)[0], currents)
    torch.testing.assert_close(neuron.charge_and_fire(currents, None, before)[0], currents + 2)
    expected = [currents[0] + 2]
    for current in currents[1:]:
        expected.append(current + 2 + 0.25 * expected[-1])
    torch.testing.assert_close(neuron.charge_and_fire(currents, Incoming(), before)[0], torch.stack(expected))


@pytest.mark.parametrize("before", [None, (torch.full((4, 2, 3, 2, 2), 0.25), torch.zeros(4, 2, 3, 2, 2))])
@pytest.mark.parametrize("incoming", [None, Incoming(), Incoming(potentials().sin(), 1, "sinsum", 0.3)])
@pytest.mark.parametrize(
    "changes",
    [{}, {"reset": "zero"}, {"learnable_threshold": "channel"}, {"learnable_decay": "layer"}, {"name": "relu"}],
)
def test_to_charge_and_fire_is_to_charge_then_to_fire(changes, incoming, before):
    neuron = make_neuron(3, NeuronConfig(**changes))
    v, _ = neuron.charge(neuron.driven(potentials(), before), incoming)
    torch.testing.assert_close(neuron.charge_and_fire(potentials(), incoming, before), (v, neuron(v)))


OVERRIDES = {
    "leak": (Neuron, {"leak": lambda _, current, arriving: current + 10 * arriving}, [1, 11, 111, 1111]),
    "handed_on": (Neuron, {"handed_on": lambda _, potential, *_spikes: 0 * potential}, [1, 1, 1, 1]),
    "decay": (Neuron, {"decay": property(lambda _: 2.0)}, [1, 3, 7, 15]),
    "leak of lif": (LIF, {"leak": lambda _, current, arriving: current - arriving}, [1, 0, 1, 0]),
}


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize(("base", "overridden", "expected"), OVERRIDES.values(), ids=OVERRIDES)
def test_in_windows_a_neuron_charges_by_what_it_overrides(base, overridden, expected, gradients):
    neuron = type("Mine", (base,), overridden)(1)
    with torch.set_grad_enabled(gradients):
        potentials, spikes = neuron.charge_and_fire(torch.ones(4, 1, 1, 1, 1), Incoming())
        assert torch.equal(neuron.charge(torch.ones(4, 1, 1, 1, 1), Incoming())[0], potentials)
    assert potentials.flatten().tolist() == expected
    assert torch.equal(spikes, (potentials > 0.5).float())


@pytest.mark.parametrize("overridden", [{"threshold": 7.0}, {"fire": lambda _, potential: (potential > 7).float()}])
def test_in_windows_a_neuron_fires_by_what_it_overrides(overridden):
    spikes = type("Mine", (LIF,), overridden)(1).charge_and_fire(5 * torch.ones(4, 1, 1, 1, 1), Incoming())[1]
    assert spikes.flatten().tolist() == [0, 0, 1, 1]  # of potentials 5, 7, 7.8, 8.12


@pytest.mark.parametrize("width", [1.0, 2.0])
@pytest.mark.parametrize("surrogate", ["rectangle", "triangle", "sigmoid", "arctan"])
def test_firing_uses_the_threshold_and_the_surrogate_of_its_dynamics(surrogate, width):
    neuron = LIF(3, NeuronConfig(threshold=0.8, surrogate=surrogate, surrogate_width=width))
    v = (0.8 + width * torch.tensor([[[-0.1]], [[0.0]], [[0.1]]])).requires_grad_()
    assert neuron(v).flatten().tolist() == [0, 0, 1]
    neuron(v).sum().backward()
    slope = {"rectangle": 1, "triangle": 0.9, "sigmoid": 0.961, "arctan": 0.910}[surrogate]  # a distance of 0.1 away
    assert (width * v.grad).flatten().tolist() == pytest.approx([slope, 1, slope], abs=1e-3)


def test_a_forward_hook_sees_the_potentials_that_come_in_and_the_spikes_that_go_out():
    torch.manual_seed(0)
    unit, seen = ConvUnit(3), []
    layers = [module for module in unit.modules() if isinstance(module, Neuron)]
    for layer in layers:
        layer.register_forward_hook(lambda layer, inputs, spikes: seen.append((layer, inputs[0], spikes)))
    output = unit((potentials() > 0.5).float())
    assert [layer for layer, _, _ in seen] == layers, "each layer of neurons fires once"
    for (_, v, s), (potential, spikes) in zip(seen, output.memory, strict=True):
        assert torch.equal(v, potential)
        assert torch.equal(s, spikes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 0}, "threshold: .* 1e6, got 0"),
        ({"threshold": -0.5}, "threshold: .*got -0.5"),
        ({"threshold": float("inf")}, "threshold: .*got inf"),
        ({"threshold": float("nan")}, "threshold: .*got nan"),
        ({"decay": -0.1}, "decay: expected 0 <= decay <= 1, got -0.1"),
        ({"decay": 1.1}, "decay: .*got 1.1"),
        ({"decay": float("nan")}, "decay: .*got nan"),
        ({"name": "lief"}, "unknown neuron 'lief': did you mean 'lif'"),
        ({"options": {"beta": 1.0}}, "unknown option of the neuron lif 'beta': known: none$"),
        ({"options": {"channels": 1.0}}, "unknown option of the neuron lif 'channels': known: none$"),
        ({"options": {"integrates": 1.0}}, "unknown option of the neuron lif 'integrates': known: none$"),
        ({"name": "adaptive", "options": {"adaption": 1.0}}, "did you mean 'adaptation'"),
        (
            {"name": "adaptive", "options": {"adaptation": -1.0}},
            "expected 0 <= adaptation <= 1e6, got -1.0",
        ),
        ({"name": "adaptive", "options": {"adaptation": 1e7}}, "expected 0 <= adaptation <= 1e6, got 10000000.0"),
        ({"name": "adaptive", "options": {"adaptation_decay": 1.5}}, "adaptation_decay <= 1, got 1.5"),
        ({"name": "relu", "reset": "zero"}, "neuron relu: .*nothing to reset"),
        ({"name": "relu", "learnable_threshold": "layer"}, "neuron relu: it has no threshold to learn"),
        ({"decay": 0, "learnable_decay": "layer"}, "decay: to be learnable .*got 0"),
        ({"decay": 1, "learnable_decay": "channel"}, "decay: to be learnable .*got 1"),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_the_field_and_the_value(changes, message):
    with pytest.raises(OnespikeError, match=message):
        NeuronConfig(**changes)


@pytest.mark.parametrize("changes", [{"decay": 0}, {"decay": 1}, {"threshold": 1e-3}])
def test_the_ends_of_the_ranges_are_allowed(changes):
    NeuronConfig(**changes)


@pytest.mark.parametrize("channels", [0, -1, 4.0, "4", True])
def test_channels_are_a_whole_number_above_0(channels):
    with pytest.raises(OnespikeError, match=f"channels: expected a whole number above 0, got {channels!r}"):
        LIF(channels)


def test_channels_may_be_a_number_of_numpy():
    config = NeuronConfig(learnable_threshold="channel")
    assert LIF(np.prod([2, 2]), config)(torch.ones(1, 4)).equal(torch.ones(1, 4))


@pytest.mark.parametrize("config", ["plif", {"name": "plif"}, LIF])
@pytest.mark.parametrize("make", [make_neuron, *NEURONS.values()])
def test_a_config_is_no_name_alone(make, config):
    with pytest.raises(OnespikeError, match=r"^config: expected a NeuronConfig, such as NeuronConfig\('plif'\), got "):
        make(4, config)


def test_over_no_time_step_there_is_nothing_to_run():
    with pytest.raises(ValueError, match="time steps: expected one at least"):
        LIF(4).over_time(torch.zeros(0, 2, 4))


@pytest.mark.parametrize("theta", [0, 1.5])
def test_a_theta_out_of_range_is_an_error(theta):
    with pytest.raises(OnespikeError, match=f"theta: expected 0 < theta <= 1, got {theta}"):
        UnitConfig(theta=theta)


@pytest.mark.parametrize("mine", [lambda _: None, lambda d: d.sum(), lambda d: 1 / d])
def test_a_surrogate_that_gives_no_number_for_a_distance_is_named(mine, monkeypatch):
    monkeypatch.setitem(SURROGATES, "mine", mine)
    with pytest.raises(OnespikeError, match=r"^surrogate mine: expected finite numbers of the shape of its distances"):
        NeuronConfig(surrogate="mine")


def test_what_is_no_neuron_is_named(monkeypatch):
    monkeypatch.setitem(NEURONS, "mine", torch.nn.ReLU)
    with pytest.raises(OnespikeError, match=r"^neuron mine: expected a subclass of Neuron, NEURONS has <class"):
        NeuronConfig("mine")
