"""Where a run may begin."""

from pathlib import Path

from onespike.training.run import Run


def test_a_run_may_begin_where_one_was_killed_while_it_wrote_its_first_checkpoint(tmp_path: Path):
    (tmp_path / ".last.new").mkdir()
    Run(tmp_path).expect_free()
