"""Run folders that look as training leaves them, and a command line that runs in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onespike.data.config import DataConfig
from onespike.models import model_config
from onespike.training.run import Run
from tests.unit.written_run import write_run

MakeRun = Callable[..., Run]


#: A complete summary.
SUMMARY = {"test_top1": 0.0, "test_top5": 0.0, "test_loss": 0.0, "test_images": 10, "epochs": 1, "valid_top1": None}
SUMMARY |= {"best_epoch": 1, "seconds": 1.0, "parameters": 1}


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make a run on the digits with random weights; `top1` is what its summary says."""

    def make(folder: str = "run", top1: float | None = None, size: int = 32, **overrides: Any) -> Run:
        config = model_config("conv-tiny", channels=(4, 6, 8), depths=(1, 1, 1), **overrides)
        data = DataConfig(cache=str(tmp_path / "cache"))
        run = write_run(tmp_path / folder, config, data, tuple("0123456789"), side=size, settle=lambda _: None)
        if top1 is not None:
            run.finish(SUMMARY | {"test_top1": top1})
        return run

    return make
