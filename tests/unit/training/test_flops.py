"""FLOPs: 6 x multiply-accumulates x images, by the counter of the audit."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from onespike.audit import audit
from onespike.models import create_model
from onespike.training import Run, Stopped, train
from onespike.training.checkpoint import read_state
from onespike.training.flops import Flops
from onespike.training.progress import Progress, counted
from onespike.training.saving import draw_curves
from onespike.training.set_up import set_up
from onespike.training.trainer import Trainer
from tests.running import read_rows, thorough


def pflops(run: Path) -> list[str]:
    return [row["pflop"] for row in read_rows(run / "metrics.csv")]


def steps(trainer: Trainer, sides: list[int], images: int = 4) -> int | None:
    """FLOPs of one step at each side."""
    for callback in trainer.callbacks:
        callback.start(trainer)
    for number, side in enumerate(sides):
        labels = torch.zeros(images, dtype=torch.long)
        trainer.after_step(number, *trainer.step(number, torch.randn(images, 1, side, side), labels))
    return trainer.progress.flops


class Anywhere(nn.Module):
    """A convolution of 1 to 4 channels, a linear layer: 36 multiply-accumulates a pixel, 40 more."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(self.convolution(images).relu().mean((-2, -1)))


class Uncountable(Anywhere):
    """It transforms rows, which the counter does not know."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.fft.rfft(images).abs())


@pytest.mark.parametrize("precision", thorough(["fp32", "bf16"], 1))
def test_it_is_six_times_macs_times_images(small, tmp_path: Path, precision):
    recipe = small(train__precision=precision)
    summary = train(recipe, tmp_path / "run")
    network = create_model("conv-tiny", in_channels=1, depths=(1, 1), channels=(8, 12))
    macs = audit(network.eval(), [torch.randn(2, 1, 32, 32)]).operations.macs
    images = 2 * (135 // 16) * 16  # epochs of whole batches of what is not held out
    assert summary["pflop"] == 6 * macs * images / 1e15
    assert [float(value) for value in pflops(tmp_path / "run")] == [summary["pflop"] / 2, summary["pflop"]]
    assert summary["pflop_before"] == 0


def test_training_multiplies_once_for_all_neurons_that_are_tied(small):
    sizes = {"num_classes": 10, "in_channels": 1, "image_size": 32, "width": 4, "head": "mean"}
    options = ({"population": 1}, {"population": 3, "tied": True}, {"population": 3})
    networks = [create_model("spiking-resnet-xs", **sizes, **one) for one in options]
    one, tied, own = (steps(set_up(small(train__mixup=0.0), model=network), [32]) for network in networks)
    assert one == tied < own
    taught = [Flops(networks[0], teacher)._count((1, 32, 32)) for teacher in networks]
    assert taught[0] == taught[1] < taught[2]


def test_each_size_of_images_has_its_own_cost(small):
    trainer = set_up(small(train__mixup=0.0), model=Anywhere())
    macs = {side: 36 * side**2 + 40 for side in (16, 32)}
    assert steps(trainer, [32, 16, 32]) == 6 * 4 * (2 * macs[32] + macs[16])


def test_parts_and_splits_of_a_batch_count_each(small):
    whole, parts = (steps(set_up(small(train__accumulate=n)), [32], 16) for n in (1, 2))
    assert whole == parts
    trainer = set_up(small(data__augmix_splits=2, data__workers=0, train__mixup=0.0))
    trainer.flops.start(trainer)
    trainer.after_step(0, *trainer.step(0, *next(trainer.batches.epoch(0))))
    assert trainer.progress.flops == 2 * whole


def test_blocks_that_run_again_are_counted_again(small):
    plain, again = (steps(set_up(small(train__recompute=value)), [32], 16) for value in (False, True))
    network = set_up(small()).network
    products = audit(network.eval(), [torch.randn(2, 1, 32, 32)]).operations.layers
    # Stem, patch merging and head run once; the blocks are layers 0 and 2.
    inside = sum(p.macs for one in products if one.path.startswith(("layers.0.", "layers.2.")) for p in one.products)
    assert again - plain == 2 * inside * 16


@pytest.mark.slow
def test_a_resumed_run_goes_on_counting_and_one_that_starts_from_weights_knows_theirs(
    small, tmp_path, monkeypatch, stop_after
):
    recipe = small()
    straight = train(recipe, tmp_path / "straight")
    stop_after(11)
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "stopped")
    monkeypatch.undo()
    assert train(recipe, tmp_path / "stopped", resume=True)["pflop"] == straight["pflop"]
    assert pflops(tmp_path / "stopped") == pflops(tmp_path / "straight")
    second = train(recipe, tmp_path / "second", init_from=tmp_path / "straight")
    third = train(recipe, tmp_path / "third", init_from=tmp_path / "second")
    assert [one["pflop_before"] for one in (second, third)] == [straight["pflop"], 2 * straight["pflop"]]


def test_however_many_they_are_a_checkpoint_can_be_read():
    many = counted(2**62 + 1), counted(2**63)
    assert many == (2**62 + 1, 2.0**63)
    state = {"progress": {"epoch": 0, "history": [], "flops": many[1], "flops_before": many[0]}, "sha256": {}}
    assert read_state(json.loads(json.dumps(state))) == state
    trainer = SimpleNamespace(progress=Progress(flops=2**63 - 1), accelerator=SimpleNamespace(num_processes=1))
    flops = Flops(torch.nn.Identity())
    flops._step, flops._costs = [(4, 1, 8, 8)], {(1, 8, 8): 3}
    flops.after_step(trainer, None)
    assert isinstance(trainer.progress.flops, float)


def test_a_network_that_cannot_be_counted_is_trained_and_it_is_said_once(small, tmp_path, capsys):
    summary = train(small(), tmp_path / "run", model=Uncountable())
    assert (summary["epochs"], summary["pflop"]) == (2, None)
    assert pflops(tmp_path / "run") == ["", ""]
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("FLOPs are not counted: the model itself (Uncountable) does aten._fft") == 1
    assert "PFLOP" not in printed
    assert train(small(), tmp_path / "behind", model=Uncountable(), init_from=tmp_path / "run")["pflop_before"] is None


def test_the_end_line_names_them_and_accuracy_is_drawn_over_them(small, tmp_path, capsys, monkeypatch):
    labels = []
    from matplotlib.axes import Axes

    monkeypatch.setattr("onespike.training.saving.draw_curves", draw_curves)
    set_ = Axes.set
    monkeypatch.setattr(Axes, "set", lambda self, **values: (labels.append(values.get("xlabel")), set_(self, **values)))
    summary = train(small(train__epochs=1), tmp_path / "run")
    assert f" s and {summary['pflop']:.3g} PFLOP in all" in " ".join(capsys.readouterr().out.split())
    assert labels == ["epoch", "PFLOP of training", "epoch", "epoch"]
    assert Run.open(tmp_path / "run").flops() == round(summary["pflop"] * 1e15)
