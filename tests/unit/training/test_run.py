"""Where a run may begin."""

from pathlib import Path

import pytest

from onespike.errors import OnespikeError
from onespike.training.run import Run


@pytest.mark.parametrize("left", [".last.new", ".last.0123456789abcdef.new", ".config.yaml.0123456789abcdef.new"])
def test_a_run_may_begin_where_one_was_killed_while_it_wrote_its_first_checkpoint(left, tmp_path: Path):
    (tmp_path / left).mkdir()
    Run(tmp_path).expect_free()


@pytest.mark.parametrize("text", ["", "model: {}\n"])
def test_a_folder_of_something_else_is_no_run(text, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(OnespikeError, match=r"config.yaml lacks the line resolved_by"):
        Run.open(tmp_path)
