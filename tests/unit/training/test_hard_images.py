"""Shorter epochs, of images that are hard and of others at random."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onespike.errors import OnespikeError
from onespike.training import Stopped, train, trainer
from onespike.training.callbacks import Callback
from onespike.training.checkpoint import Checkpoint
from onespike.training.hard_images import HardImages

SHORT = {"train__epoch_share": 0.5, "train__mixup": 0.0, "train__epochs": 3}


class Seen(Callback):
    """Notes what each step showed, and what the network said of it."""

    def __init__(self) -> None:
        self.steps: list[tuple[Tensor, list[Tensor]]] = []
        self.logits: list[Tensor] = []
        self.hooked = False

    def before_step(self, trainer: trainer.Trainer, number: int) -> None:  # noqa: ARG002
        """Look at the logits from now on."""
        if not self.hooked:
            trainer.network.register_forward_hook(lambda *given: self.logits.append(given[2].detach()))
        self.hooked, self.logits = True, []

    def after_step(self, trainer: trainer.Trainer, step: object) -> None:  # noqa: ARG002
        """Note them."""
        self.steps.append((trainer.batches.shown.clone(), [*self.logits]))


def network(time_steps: int = 1) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return layers if time_steps == 1 else nn.Sequential(layers, nn.Unflatten(0, (1, -1)))


@pytest.mark.parametrize(("accumulate", "time_steps", "splits"), [(1, 1, 0), (2, 1, 3), (2, 2, 0)])
def test_an_image_is_known_by_the_cross_entropy_that_it_had_when_it_was_last_shown(
    small, tmp_path, accumulate, time_steps, splits
):
    seen, kept = Seen(), []
    more = {"train__accumulate": accumulate, "data__augmix_splits": splits, "data__workers": 0}
    recipe = small(**SHORT, **more)

    class Keep(Callback):
        def after_epoch(self, trainer: trainer.Trainer, row: object) -> None:  # noqa: ARG002
            (own,) = (one for one in trainer.callbacks if isinstance(one, HardImages))
            kept.append((own.state()["hardness"].clone(), torch.from_numpy(trainer.data.train.targets)))

    train(recipe, tmp_path, model=network(time_steps), callbacks=[seen, Keep()], quiet=True)
    hardness, targets = kept[-1]
    steps = len(seen.steps)
    assert steps == 3 * (len(targets) // 2 // recipe.train.batch_size)
    expected = torch.full_like(hardness, torch.inf)
    for shown, logits in seen.steps:
        parts = [part.mean(0) if part.ndim == 3 else part[: len(shown) // accumulate] for part in logits]
        expected[shown] = F.cross_entropy(torch.cat(parts), targets[shown], reduction="none")
    torch.testing.assert_close(hardness, expected, rtol=1e-5, atol=1e-6)
    assert len(set(torch.cat([shown for shown, _ in seen.steps[: steps // 3]]).tolist())) > recipe.train.batch_size


@pytest.mark.parametrize("steps", [3, 4, 6])  # within the first epoch of 4 steps, at its very end, in the second one
def test_interrupted_and_resumed_it_shows_the_same_images(small, tmp_path, monkeypatch, stop_after, steps):
    recipe = small(**SHORT)
    train(recipe, tmp_path / "straight", model=network(), quiet=True)
    stop_after(steps)
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "stopped", model=network(), quiet=True)
    monkeypatch.undo()
    train(recipe, tmp_path / "stopped", model=network(), resume=True, quiet=True)
    one, other = (Checkpoint.load(tmp_path / name / "last") for name in ("straight", "stopped"))
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_the_share_of_a_run_cannot_change_and_a_run_of_an_older_version_has_all(small, tmp_path, monkeypatch):
    recipe = small(train__epochs=1, train__mixup=0.0)
    with monkeypatch.context() as older:
        older.setattr(trainer, "FIXED", tuple(name for name in trainer.FIXED if name != "epoch_share"))
        train(recipe, tmp_path, model=network(), quiet=True)
    with pytest.raises(OnespikeError, match=r"train.epoch_share was 1.0, now 0.5"):
        train(small(**SHORT), tmp_path, model=network(), resume=True, quiet=True)
    longer = small(train__epochs=2, train__mixup=0.0)
    assert train(longer, tmp_path, model=network(), resume=True, quiet=True)["epochs"] == 2
