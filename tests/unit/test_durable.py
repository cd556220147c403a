"""A folder has one writer."""

import subprocess
import sys
from pathlib import Path

import pytest

from onespike.durable import held
from onespike.errors import OnespikeError

HOLD = "import sys, pathlib, onespike.durable as d\nwith d.held(pathlib.Path(sys.argv[1])): pass"


def test_a_second_hold_is_refused_and_leaves_the_lock_to_the_first(tmp_path: Path):
    folder, link = tmp_path / "run", tmp_path / "link"
    link.symlink_to(folder)
    with held(folder):
        for name in (folder, link):
            with pytest.raises(OnespikeError, match=r"is being written by process \d+, this one"), held(name):
                pass
        other = subprocess.run([sys.executable, "-c", HOLD, folder], capture_output=True, text=True, check=False)
        assert "is being written by process" in other.stderr
    subprocess.run([sys.executable, "-c", HOLD, folder], check=True)
