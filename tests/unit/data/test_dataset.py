import hashlib
import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from layouts import save_image, write_binary

from onespike.data.config import DataConfig
from onespike.data.dataset import Dataset, open_dataset
from onespike.data.sets import ImageSet, split
from onespike.data.sources import EVENTS, SOURCES
from onespike.errors import OnespikeError
from tests.unit.data.recordings import events


@pytest.fixture
def cifar(tmp_path, content):
    folder = write_binary(tmp_path / "cifar", "cifar100", content["cifar100"])

    def open_(**config):
        return open_dataset(DataConfig("cifar100", str(folder), **config))

    return open_


def labels(images):
    return images.labels[images.indices]


def test_the_holdout_is_disjoint_stratified_and_always_the_same():
    first, second = open_dataset(DataConfig(holdout=0.2)), open_dataset(DataConfig(holdout=0.2))
    np.testing.assert_array_equal(first.validation.indices, second.validation.indices)
    everything = np.concatenate([first.train.indices, first.validation.indices])
    np.testing.assert_array_equal(np.sort(everything), np.arange(1437))
    assert len(first.validation) == round(0.2 * 1437)
    expected = 0.2 * np.bincount(first.train.labels)
    assert np.abs(np.bincount(labels(first.validation)) - expected).max() <= 1


def test_the_memory_map_is_shared_not_copied():
    data = open_dataset(DataConfig(limit=100))
    assert data.train.images is data.validation.images
    assert isinstance(data.train.images, np.memmap)
    assert len(data.train.images) == 1437


def test_the_limit_includes_the_holdout_and_spares_the_test_set():
    whole = open_dataset(DataConfig())
    for limit, holdout in itertools.product([0, 10, 100, 1436, 1437, 5000], [0, 0.1, 0.5, 0.999]):
        data = open_dataset(DataConfig(limit=limit, holdout=holdout))
        total = min(limit or 1437, 1437)
        assert len(data.train) + len(data.validation) == total
        assert len(data.validation) == (min(max(1, round(holdout * total)), total - 1) if holdout else 0)
        assert len(data.train) > 0
        assert len(data.test) == 360
        assert not set(data.train.indices) & set(data.validation.indices)
        assert (data.mean, data.std) == (whole.mean, whole.std)


def test_the_limit_is_stratified():
    data = open_dataset(DataConfig(limit=100, holdout=0.5))
    assert np.bincount(labels(data.train), minlength=10).min() >= 4
    assert np.bincount(labels(data.validation), minlength=10).min() >= 4


def test_a_class_of_one_image_goes_with_the_largest():
    for sizes in ([50, 49, 1], [500, 490, 10, 1, 1]):
        labels = np.repeat(np.arange(len(sizes)), sizes)
        chosen, others = split(labels, len(labels) // 2)
        assert np.array_equal(np.sort([*chosen, *others]), np.arange(len(labels)))
        found = np.bincount(labels[chosen], minlength=len(sizes))
        assert np.abs(found[:2] - np.array(sizes[:2]) / 2).max() <= 1


def test_few_images_of_many_classes_are_split_all_the_same(cifar):
    data = cifar(holdout=0.1)  # 2 images a class: 20 held-out images cannot hold 100 classes
    assert (len(data.train), len(data.validation)) == (180, 20)
    np.testing.assert_array_equal(data.validation.indices, cifar(holdout=0.1).validation.indices)
    data = cifar(limit=30)
    assert (len(data.train), len(data.validation)) == (27, 3)


def test_one_image_cannot_be_split(cifar):
    with pytest.raises(OnespikeError, match=r"^data\.holdout: 1 training image .*--data\.holdout 0$"):
        cifar(limit=1)
    assert len(cifar(limit=1, holdout=0).train) == 1


def test_a_set_knows_images_labels_and_subsets(content, cifar):
    data = cifar(holdout=0.5)
    images, all_labels = content["cifar100"]["train"]
    some = data.train.select(np.array([3, 1]))
    assert len(some) == 2
    image, label = some[0]
    np.testing.assert_array_equal(image, images[data.train.indices[3]])
    assert label == all_labels[data.train.indices[3]]
    assert isinstance(label, int)
    assert some.images is data.train.images


def test_an_own_validation_part_is_not_limited(tmp_path):
    for part, count in (("train", 9), ("val", 3), ("test", 2)):
        for i in range(count):
            save_image(tmp_path / "mine" / part / "a" / f"{i}.png")
    data = open_dataset(DataConfig("folder", str(tmp_path / "mine"), limit=5, holdout=0.5))
    assert [len(data.train), len(data.validation), len(data.test)] == [5, 3, 2]


@pytest.mark.parametrize(
    ("name", "nearest"), [("cifar-10", "cifar10"), ("digit", "digits"), ("tinyimagenet", "tiny-imagenet"), ("", "")]
)
def test_an_unknown_name_gets_the_nearest_and_all(fails, name, nearest):
    fails(name, None, repr(name), nearest, f"known: {', '.join(sorted([*SOURCES, *EVENTS]))}")


def test_where_the_cache_is(tmp_path, cache, monkeypatch):
    open_dataset(DataConfig())
    assert list(cache.glob("digits-*"))
    open_dataset(DataConfig(cache=str(tmp_path / "mine")))
    assert list((tmp_path / "mine").glob("digits-*"))
    monkeypatch.delenv("ONESPIKE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    open_dataset(DataConfig())
    assert list((tmp_path / "home" / ".cache" / "onespike").glob("digits-*"))


def test_a_test_set_is_known_by_what_it_holds():
    def made(images: np.ndarray, classes: tuple[str, ...] = ("a", "b"), name: str = "folder") -> Dataset:
        part = ImageSet(images, np.arange(len(images)) % 2, np.arange(len(images)))
        return Dataset.of({"train": part, "test": part}, name=name, classes=classes, mean=(0.0,), std=(1.0,))

    pixels = np.arange(4 * 9, dtype=np.uint8).reshape(4, 3, 3, 1)
    others = [made(pixels + 1), made(pixels[:3]), made(pixels, ("a", "c"))]
    assert made(pixels).test_set() == made(pixels, name="other").test_set()
    assert made(pixels).test_set() not in [one.test_set() for one in others]
    many = np.arange(200 * 9, dtype=np.uint64).reshape(200, 3, 3, 1).astype(np.uint8)
    some = np.linspace(0, 199, 64).round().astype(int)
    seen = json.dumps(["a", "b"]).encode(), (np.arange(200) % 2).tobytes(), many[some].tobytes()
    assert made(many).test_set() == hashlib.sha256(b"".join(seen)).hexdigest(), "as runs and reports have it"


def test_a_test_set_of_recordings_is_known_by_their_events(tmp_path):
    pytest.importorskip("tonic")

    def digest(seed: int, **options: Any) -> str:
        root = tmp_path / str(seed)
        for part, (number, name) in itertools.product(() if root.exists() else ("train", "test"), enumerate("ab")):
            (folder := root / part / name).mkdir(parents=True)
            np.save(folder / "1.npy", events(3000, 12, 10 * seed + number))
        options = {"root": str(root), "cache": str(tmp_path / "cache"), "sensor": (12, 12), "holdout": 0} | options
        return open_dataset(DataConfig("events-folder", **options)).test_set(of_events=True)

    same = {digest(0), digest(0, frames=4), digest(0, image_size=6), digest(0, denoise=1000.0)}
    assert len(same) == 1
    assert digest(1) not in same, "though each pixel has events in both"
    one = open_dataset(DataConfig("events-folder", str(tmp_path / "1"), str(tmp_path / "cache"), sensor=(12, 12)))
    parts = [replace(one, test=one.test.select(np.array([number]))).test_set(of_events=True) for number in (0, 1)]
    assert len({*parts, one.test_set(of_events=True)}) == 3
