import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ONESPIKE_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data sets are absent: {folder} (set ONESPIKE_DATA)")
    return folder
