"""Where a run may begin."""

from pathlib import Path

import pytest

from onespike.data.config import DataConfig
from onespike.errors import OnespikeError
from onespike.models import model_config
from onespike.training.recipe import Recipe
from onespike.training.run import Run
from tests.unit.written_run import write_run


@pytest.mark.parametrize("left", [".last.new", ".last.0123456789abcdef.new", ".config.yaml.0123456789abcdef.new"])
def test_a_run_may_begin_where_one_was_killed_while_it_wrote_its_first_checkpoint(left, tmp_path: Path):
    (tmp_path / left).mkdir()
    Run(tmp_path).expect_free()


@pytest.mark.parametrize("left", ["last/config.yaml", "last"])
def test_a_run_that_is_called_last_is_not_replaced_by_one_around_it(left, tmp_path: Path):
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).touch()
    with pytest.raises(OnespikeError, match=r"is not empty"):
        Run(tmp_path).expect_free()


def test_a_run_does_not_begin_in_a_full_folder_whatever_it_is_called(tmp_path: Path):
    (tmp_path / "mine").touch()
    with pytest.raises(OnespikeError, match=r"/new/\.\. is not empty"):
        Run(tmp_path / "new" / "..").expect_free()


@pytest.mark.parametrize("text", ["", "model: {}\n"])
def test_a_folder_of_something_else_is_no_run(text, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(OnespikeError, match=r"config.yaml lacks the line resolved_by"):
        Run.open(tmp_path)


def test_a_run_that_begins_again_is_complete_no_more_and_rid_of_what_killed_writers_left(tmp_path: Path):
    run = Run(tmp_path)
    run.begin(recipe := Recipe())
    run.finish({})
    left = [tmp_path / f".{name}.0123456789abcdef.new" for name in ("best", "last", "mine")]
    for one in left:
        one.mkdir()
    run.begin(recipe)
    assert ([one.exists() for one in left], run.is_complete) == ([False, False, True], False)
    run.withdraw()
    assert run.is_complete


def test_a_folder_in_the_place_of_a_file_is_found_before_anything_is_lost(tmp_path: Path):
    run = Run(tmp_path)
    run.begin(recipe := Recipe())
    run.finish({})
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(OnespikeError, match=r"cannot write the run folder .*: curves.png is a folder"):
        run.begin(recipe)
    assert run.is_complete


def test_what_a_complete_run_took_does_not_depend_on_its_last_checkpoint(tmp_path: Path, capsys):
    run = write_run(tmp_path, model_config("conv-tiny", depths=[1], channels=[4]), DataConfig(), tuple("ab"))
    assert run.epochs() == 1
    scores = {"test_top1": 50.0, "test_top5": 100.0, "test_loss": 1.0, "seconds": 1.0, "valid_top1": 50.0}
    counts = {"test_images": 2, "epochs": 5, "best_epoch": 1, "parameters": 9}
    run.finish({**scores, **counts, "epochs_before": 2, "pflop": 0.25, "pflop_before": 0.5})
    capsys.readouterr()
    assert (run.epochs(), run.flops()) == (7, 750 * 10**12)
    assert capsys.readouterr().err == ""
    run.finish({**scores, **counts, "epochs_before": 2, "pflop": None, "pflop_before": 0.5})
    assert run.flops() is None
