"""Where a run may begin."""

from pathlib import Path

import pytest

from onespike.training.run import Run


@pytest.mark.parametrize("left", [".last.new", ".last.0123456789abcdef.new", ".config.yaml.0123456789abcdef.new"])
def test_a_run_may_begin_where_one_was_killed_while_it_wrote_its_first_checkpoint(left, tmp_path: Path):
    (tmp_path / left).mkdir()
    Run(tmp_path).expect_free()
