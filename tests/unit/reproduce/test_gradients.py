from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from onespike.errors import OnespikeError
from onespike.models import create_model
from onespike.training import load_recipe
from onespike.training.trainer import Trainer
from reproduce.gradients import Gradients, _norms, gradients, measure
from reproduce.report import read_rows


@pytest.fixture
def table(tmp_path: Path) -> list[dict[str, str]]:
    gradients(("conv",), (12,), steps=20, batch_size=8, channels=(4, 4, 4, 4), recipe="digits", out=tmp_path)
    return read_rows(tmp_path / "gradients.csv")


@pytest.mark.slow
def test_every_block_has_a_gradient_at_the_start_and_after_the_steps(table, tmp_path: Path):
    assert [(row["model"], int(row["block"])) for row in table] == [("conv12", block) for block in range(1, 13)]
    assert all(float(row["norm_start"]) > 0 and float(row["norm_end"]) > 0 for row in table)
    assert "conv12" in (tmp_path / "gradients.md").read_text()
    assert (tmp_path / "gradients.png").stat().st_size > 1000


def test_the_norm_is_that_of_all_the_gradients_of_a_block():
    torch.manual_seed(0)
    network = create_model("conv12", channels=(4, 4, 4, 4), encoding="threshold", dropout=0.0)
    nn.init.normal_(network.head.weight)
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)

    class Stub:
        optimizer = torch.optim.SGD(network.parameters())

    norms = _norms(Stub(), network, images, labels)
    nn.functional.cross_entropy(network(images), labels).backward()
    for block, norm in zip(network.blocks(), norms, strict=True):
        squares = sum(parameter.grad.double().square().sum().item() for parameter in block.parameters())
        assert norm == pytest.approx(squares**0.5, rel=1e-5)


def test_a_head_is_drawn_for_the_first_measurement_alone(monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[str, bool, torch.Tensor]] = []

    def note(what: str, network: nn.Module, images: torch.Tensor) -> None:
        seen.append((what, bool(network.head.weight.any()), images))

    def step(self: Trainer, number: int, images: torch.Tensor, _: torch.Tensor) -> tuple[float, float]:
        note("step", self.network, images)
        return float(number), 0.0

    monkeypatch.setattr("reproduce.gradients._norms", lambda _, *given: note("norms", *given[:2]) or [float(len(seen))])
    monkeypatch.setattr(Trainer, "step", step)
    budget = {"data.limit": 240, "train.batch_size": 8, "train.epochs": 1, "model.channels": [4, 4, 4, 4]}
    found = measure("conv12", "digits", budget, 22)
    assert [what for what, *_ in seen] == ["norms", *["step"] * 22, "norms"]
    assert [drawn for _, drawn, _ in seen] == [True] + [False] * 23
    assert torch.equal(seen[0][2], seen[1][2])
    assert torch.equal(seen[-1][2], seen[-2][2])
    assert (found.start, found.end, found.first_loss, found.last_loss) == ([1.0], [24.0], 4.5, 16.5)


def test_too_few_steps_are_refused(tmp_path: Path):
    with pytest.raises(OnespikeError, match="steps: expected at least 20, got 5"):
        gradients(steps=5, out=tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": ()}, "units and depths: expected at least one of each"),
        ({"depths": ()}, "units and depths: expected at least one of each"),
        ({"units": ("conv",), "depths": (12,), "recipe": "cifar10/conv12-augmix"}, r"has data\.augmix_splits"),
    ],
)
def test_nothing_to_measure_and_batches_of_several_parts_are_refused(options, message: str, tmp_path: Path):
    with pytest.raises(OnespikeError, match=message):
        gradients(**options, out=tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_tenth_is_held_out_whatever_the_recipe_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found: list[tuple[float, int]] = []

    def measure(model: str, recipe: str, overrides: dict[str, Any], _: int) -> Gradients:
        data = load_recipe(recipe, overrides).data
        found.append((data.holdout, data.limit))
        return Gradients(model, [1.0], [1.0], 1.0, 1.0)

    monkeypatch.setattr("reproduce.gradients.measure", measure)
    gradients(("conv",), (12,), batch_size=9, recipe="cifar10/conv12-improved", out=tmp_path)
    assert found == [(0.1, 1000)]


def test_more_steps_than_the_images_give_are_refused(tmp_path: Path):
    with pytest.raises(OnespikeError, match=r"expected at most 20, the batches of 64 .* digits give, got 21"):
        gradients(("conv",), (12,), steps=21, batch_size=64, channels=(4, 4, 4, 4), recipe="digits", out=tmp_path)
    assert not list(tmp_path.iterdir())
