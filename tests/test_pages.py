"""The Python of the pages about single subjects runs, each page from top to bottom."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from onespike.training.penalties import EnergyBudget
from onespike.training.recipe import load_recipe

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def run_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONESPIKE_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)

    def run(name: str, **scope: Any) -> dict[str, Any]:
        code = "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL))
        exec(compile(code, name, "exec"), scope)
        return scope

    return run


def test_tables_of_options_are_the_packages_alone():
    assert "| option |" not in (DOCS / "options.md").read_text(), "a table is made where a comment names it"


def test_the_audit_counts_the_network_of_the_page(run_page):
    result = run_page("audit.md")["result"]
    assert result.operations.macs == 8 * 6 * 6 * 27 + 8 * 6 * 6 * 10


def test_the_conversion_of_the_page_is_saved_and_loaded_to_the_bit(run_page, monkeypatch):
    real = timm.create_model  # the page's network is larger, and its weights would be downloaded
    monkeypatch.setattr(timm, "create_model", lambda _, pretrained=False: real("resnet10t", num_classes=10))  # noqa: ARG005
    scope = run_page("conversion.md", images=torch.randn(16, 3, 32, 32))
    assert scope["network"](scope["images"]).equal(scope["logits"])
    assert len(scope["conversion"].layers) == 11


def test_a_batch_goes_through_the_network_of_the_page(run_page, capsys):
    run_page("dataflow.md")
    assert capsys.readouterr().out == "torch.Size([2, 10])\n"


def test_the_energy_budget_of_the_page_is_above_what_the_stem_takes():
    (budget,) = re.findall(r"--train.energy_budget (\d+)", (DOCS / "training.md").read_text())
    network = load_recipe("cifar10/fast").model.build(10, 3, 32)
    EnergyBudget(network, (3, 32, 32), 0.0, float(budget))  # refuses one that is out of reach


def test_the_exports_of_the_page_hold_and_return_what_it_says(run_page):
    scope = run_page("export.md")
    assert scope["made"].holds
    torch.testing.assert_close(scope["logits"], scope["net"].eval()(scope["normalised"]))
    assert [one.shape for one in scope["spikes"]] == [(20, 8, 6, 6)]
    assert torch.export.load("exported/model.pt2").module()(scope["normalised"][:1])[0].shape == (1, 10)
    assert Path("exported/model.c").is_file()
    assert Path("travelling/model.safetensors").is_file()
