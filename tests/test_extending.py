"""The page about extending says what is so: its code is run, from top to bottom."""

import re
from pathlib import Path

import pytest
import torch

from onespike.functional import FUSIONS
from onespike.units.registry import UNITS

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
        exec(compile(code, "extending.md", "exec"), found)
        yield found


def test_the_new_fusion_is_the_one_it_says(scope):
    x = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    y = torch.tensor([0.1, 0.5, 0.7], dtype=torch.float64)
    expected = torch.tanh(torch.pi / 4 * (x + y))
    torch.testing.assert_close(scope["fuse"](x, y, "softened", theta=0.5), expected, rtol=1e-12, atol=1e-12)


def test_the_new_unit_fires_and_trains(scope):
    unit = scope["SeparableUnit"](3)
    spikes = (torch.rand(4, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    output = unit(spikes)
    assert set(output.spikes.unique().tolist()) <= {0.0, 1.0}
    output.spikes.sum().backward()
    assert all(parameter.grad is not None for parameter in unit.parameters())
    assert scope["summary"]["epochs"] == 1


def test_its_potentials_follow_the_equation_of_the_page(scope):
    unit = scope["SeparableUnit"](3).double()
    spikes = (torch.rand(4, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    ((v, s),) = unit(spikes).memory
    expected = [unit.layer(spikes[0])]
    for window in spikes[1:]:
        expected.append(0.4 * expected[-1] + unit.layer(window))
    torch.testing.assert_close(v, torch.stack(expected), rtol=1e-12, atol=1e-12)
    assert torch.equal(s, (v > 0.5).double())
