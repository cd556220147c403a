"""What `onespike train` trains, by its options."""

from pathlib import Path

import pytest

from onespike.training import Recipe, Run


@pytest.mark.parametrize(("named", "epochs"), [((), 7), (("--recipe", "cifar10/finetune"), 3)])
def test_a_run_from_old_weights_goes_by_the_old_recipe(named, epochs, small, command, tmp_path: Path, monkeypatch):
    seen: list[tuple[Recipe, Path]] = []
    monkeypatch.setattr("onespike.training.loop.train", lambda recipe, out, *_, **__: seen.append((recipe, out)))
    old = Run(tmp_path / "old")
    old.begin(small(train__epochs=7))
    assert command("train", "--init-from", old.folder, *named, "--train.lr", 0.5)[0] == 0
    ((recipe, out),) = seen
    assert (recipe.model, recipe.train.epochs, recipe.train.lr) == (old.recipe.model, epochs, 0.5)
    assert out.name.startswith("old-" if not named else "cifar10-finetune-")
