from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from layouts import Content, save_image

from onespike.data.config import DataConfig
from onespike.data.dataset import open_dataset
from onespike.errors import OnespikeError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ONESPIKE_CACHE", str(folder))
    return folder


@pytest.fixture
def fails(cache: Path) -> Callable[..., None]:
    """Opening fails with one line that holds all these words, and leaves nothing in the cache."""

    def check(name: str, root: Path | None, *words: object, **config) -> None:
        with pytest.raises(OnespikeError) as raised:
            open_dataset(DataConfig(name, str(root) if root else None, **config))
        message = str(raised.value)
        assert "\n" not in message
        for word in words:
            assert str(word) in message, message
        assert not cache.is_dir() or not list(cache.iterdir())

    return check


@pytest.fixture
def content() -> dict[str, Content]:
    """Images (N, 32, 32, 3) and labels of two small data sets, by part."""
    rng = np.random.default_rng(0)

    def part(count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.integers(0, 256, (count, 32, 32, 3), np.uint8), np.arange(count) * 7 % classes

    return {
        "cifar10": {"train": part(30, 10), "test": part(10, 10)},
        "cifar100": {"train": part(200, 100), "test": part(100, 100)},
    }


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The official layout of Tiny-ImageNet with 3 classes, 4 training and 2 validation images each."""
    root = tmp_path / "tiny-imagenet-200"
    wnids = ["n03", "n01", "n02"]
    lines = []
    for label, wnid in enumerate(wnids):
        for i in range(4):
            save_image(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", grey=i == 0, seed=10 * label + i)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("boxes\n")
        for i in range(2):
            save_image(root / "val" / "images" / f"val_{3 * i + label}.JPEG", seed=100 + 10 * label + i)
            lines.append(f"val_{3 * i + label}.JPEG\t{wnid}\t0\t0\t7\t7\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in wnids))
    (root / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tbullfrog\nn03\ttailed frog\nn04\tother\n")
    save_image(root / "test" / "images" / "test_0.JPEG")
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with train/ and test/, two classes of 5 + 2 colour images."""
    root = tmp_path / "mine"
    for label, name in enumerate(["cat", "dog"]):
        for part, count in (("train", 5), ("test", 2)):
            for i in range(count):
                save_image(root / part / name / f"{i}.png", seed=100 * label + 10 * count + i)
    return root
