"""The page about extending says what is so: its code is run, from top to bottom."""

import re
from pathlib import Path

import pytest
import torch

from onespike import OnespikeError
from onespike.functional import FUSIONS
from onespike.models import MODELS
from onespike.neurons import NEURONS, NeuronConfig
from onespike.units import UNITS, UnitConfig

pytestmark = pytest.mark.slow
PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()


@pytest.fixture(scope="module")
def scope(tmp_path_factory: pytest.TempPathFactory):
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    found: dict[str, object] = {"__name__": "page"}
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        patch.setenv("ONESPIKE_CACHE", "cache")
        patch.setitem(UNITS, "separable", None)
        patch.setitem(FUSIONS, "softened", None)
        patch.setitem(NEURONS, "graded", None)
        for name in ("small", "small-wide"):
            patch.setitem(MODELS, name, None)
        exec(compile(code, "extending.md", "exec"), found)
        yield found


def test_the_new_fusion_is_the_one_it_says(scope):
    x = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    y = torch.tensor([0.1, 0.5, 0.7], dtype=torch.float64)
    expected = torch.tanh(torch.pi / 4 * (x + y))
    torch.testing.assert_close(scope["fuse"](x, y, "softened", theta=0.5), expected, rtol=1e-12, atol=1e-12)


def test_the_new_neuron_fires_in_steps(scope):
    neuron = scope["make_neuron"](1, scope["NeuronConfig"]("graded", threshold=0.25))
    potential = torch.tensor([[-1.0], [0.2], [0.3], [0.6], [9.0]], requires_grad=True)
    assert neuron(potential).flatten().tolist() == [0, 0, 1, 2, 3]
    neuron(potential).sum().backward()
    assert potential.grad.flatten().tolist() == [0, 4, 4, 4, 0]
    assert scope["neuron"].most == 2


def test_graded_spikes_are_refused_where_they_would_be_cut_or_are_not_strict(scope):
    for name, options, message in (
        ("conv-tiny", {}, "neuron graded: expected region_threshold null, since a threshold makes 1 of all"),
        (
            "conv-tiny",
            {"preset": "strict", "region_threshold": None},
            "preset strict: expected a neuron that spikes, by 1",
        ),
        ("spiking-vgg-xs", {}, "neuron graded: behind the stem a layer would read real values"),
        ("spiking-vgg-xs", {"preset": "windows", "strict": False}, "neuron graded: expected region_threshold null"),
    ):
        with pytest.raises(OnespikeError, match=message):
            scope["create_model"](name, neuron="graded", **options)
    assert scope["create_model"]("spiking-vgg-xs", neuron="graded", width=4, strict=False)


def test_the_new_model_has_its_variants_and_presets(scope):
    wide = scope["wide"]
    assert (wide[0].out_channels, type(wide[1]).__name__, wide[1].threshold) == (64, "Ternary", 0.3)


def test_the_new_unit_fires_and_trains(scope):
    unit = scope["SeparableUnit"](3)
    spikes = (torch.rand(4, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    output = unit(spikes)
    assert set(output.spikes.unique().tolist()) <= {0.0, 1.0}
    output.spikes.sum().backward()
    assert all(parameter.grad is not None for parameter in unit.parameters())
    assert scope["summary"]["epochs"] == 1


@pytest.mark.parametrize("neuron", ["lif", "adaptive"])
@pytest.mark.parametrize("steps", [1, 2])
def test_its_traffic_is_every_value_that_its_neurons_pass_on(scope, neuron, steps):
    unit = scope["SeparableUnit"](3, UnitConfig(NeuronConfig(neuron)))
    spikes = (torch.rand(4, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    values, memory = NEURONS[neuron].values_kept * spikes.numel(), None
    for step in range(steps):
        out = unit(spikes, None, memory)
        read = 3 / 4 * values + step * values  # from the window before, and from the step before
        assert unit.potential_traffic(None, memory, out) == (read, values if step else 3 / 4 * values)
        memory = out.memory


def test_its_potentials_follow_the_equation_of_the_page(scope):
    unit = scope["SeparableUnit"](3).double()
    spikes = (torch.rand(4, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    ((v, s),) = unit(spikes).memory
    expected = [unit.layer(spikes[0])]
    for window in spikes[1:]:
        expected.append(0.4 * expected[-1] + unit.layer(window))
    torch.testing.assert_close(v, torch.stack(expected), rtol=1e-12, atol=1e-12)
    assert torch.equal(s, (v > 0.5).double())
