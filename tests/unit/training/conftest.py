import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from onespike.training import Recipe, load_recipe
from onespike.training.trainer import Trainer

#: A network and a data set so small that an epoch takes a fraction of a second, with everything that draws switched on.
SMALL = {
    "data.limit": 150,
    "model.depths": [1, 1],
    "model.channels": [8, 12],
    "model.encoding": "bernoulli",
    "model.dropout": 0.1,
    "train.epochs": 2,
    "train.batch_size": 16,
    "train.mixup": 0.2,
    "train.warmup_epochs": 0,
    "train.monitor_every": 4,
}


@pytest.fixture
def small(cache: Path):
    def make(**overrides: object) -> Recipe:
        changed = {key.replace("__", "."): value for key, value in overrides.items()}
        return load_recipe("digits", {**SMALL, "data.cache": str(cache), **changed})

    return make


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Request a stop, as Ctrl-C does, during the given step, those of a teacher counted as well."""

    def patch(steps: int) -> None:
        step, done = Trainer.step, []

        def counted(self: Trainer, number: int, *batch: object) -> tuple[float, float]:
            done.append(number)
            if len(done) == steps:
                os.kill(os.getpid(), signal.SIGINT)
            return step(self, number, *batch)

        monkeypatch.setattr(Trainer, "step", counted)

    return patch
