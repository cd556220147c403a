from pathlib import Path

import pytest

from onespike.models import MODELS
from reproduce import sizes
from reproduce.report import read_rows

ROOT = Path(__file__).parents[3]


def rows(path: Path) -> dict[str, dict[str, str]]:
    return {row["model"]: row for row in read_rows(path)}


def test_the_committed_table_has_every_family_and_the_counts_that_are_known():
    found = rows(ROOT / "results" / "models.csv")
    ours = {name: family for name, family in MODELS.items() if family.builder.__module__.startswith("onespike.")}
    assert {id(ours[name]) for name in found} == {id(family) for family in ours.values()}
    assert list(found["conv12"].values())[1:3] == ["13885402", "246992640"]  # both by hand, from the paper's layers
    assert found["spiking-resnet-m"]["multiply-accumulates"] == "127900320"


def test_it_counts_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = "spiking-vgg-xs"
    monkeypatch.setattr(sizes, "MODELS", {name: MODELS[name], "conv36": MODELS["conv36"]})
    sizes.models(tmp_path)
    assert rows(tmp_path / "models.csv") == {name: rows(ROOT / "results" / "models.csv")[name]}
    assert (tmp_path / "models.png").stat().st_size > 5_000
