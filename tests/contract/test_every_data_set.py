"""What every data set that is opened by name promises, on small ones in its own layout."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from onespike.data import DataConfig, open_dataset
from onespike.data.events.saccades import simulate
from onespike.data.sets import RecordingSet
from onespike.data.sources import EVENTS, SOURCES
from onespike.errors import OnespikeError
from tests.unit.data.layouts import netpbm, official, write_binary
from tests.unit.data.recordings import aedat2_bytes, events, write_gesture, write_nmnist, write_shd

OBJECTS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def cifar(folder, name, classes):
    images = np.random.default_rng(0).integers(0, 256, (2 * classes, 32, 32, 3), np.uint8)
    labels = np.arange(2 * classes) % classes
    parts = {"train": (images, labels), "test": (images[:classes], labels[:classes])}
    return {"root": write_binary(folder / name, name, parts)}


def nmnist(folder):
    write_nmnist(folder, [events(seed=seed) for seed in range(40)])
    return {"root": folder}


def gesture(folder):
    train, test = (events(200, 128, seed, 1_000_000) for seed in (0, 1))
    write_gesture(folder, train, test, [(1, 0, 400_000), (11, 400_000, 1_000_000)])
    return {"root": folder}


def cifar10_dvs(folder):
    for label, name in enumerate(OBJECTS):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            content = aedat2_bytes(events(30, 128, 10 * label + number), swapped=True)
            (folder / name / f"cifar10_{name}_{number}.aedat").write_bytes(content)
    return {"root": folder}


def shd(folder):
    folder.mkdir()
    for part in ("train", "test"):
        write_shd(folder / f"shd_{part}.h5", [(np.array([0.0, 0.25, 0.5]), np.array([699, n, 0])) for n in range(4)])
    return {"root": folder}


def events_folder(folder):
    for number, name in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (folder / name).mkdir(parents=True)
        np.save(folder / name / "0.npy", events(30, 16, number))
    return {"root": folder, "sensor": (16, 16)}


#: A small data set of each name, written into a new folder; the options that open it.
MAKERS = {
    "digits": lambda _: {},
    "cifar10": lambda folder: cifar(folder, "cifar10", 10),
    "cifar100": lambda folder: cifar(folder, "cifar100", 100),
    "tiny-imagenet": lambda folder: {"root": official(folder)},
    "folder": lambda folder: {"root": netpbm(folder)},
    "hub": lambda folder: {"root": netpbm(folder)},
    "digits-saccades": lambda _: {},
    "nmnist": nmnist,
    "dvs-gesture": gesture,
    "cifar10-dvs": cifar10_dvs,
    "shd": shd,
    "events-folder": events_folder,
}


def test_every_data_set_has_a_maker():
    assert MAKERS.keys() == {*SOURCES, *EVENTS}


@pytest.fixture(scope="module", params=list(MAKERS))
def config(request, tmp_path_factory) -> Iterator[DataConfig]:
    folder = tmp_path_factory.mktemp("data")
    options = MAKERS[request.param](folder / "mine")
    root = str(options.pop("root")) if "root" in options else None
    with pytest.MonkeyPatch.context() as patch:
        # The simulator takes seconds, and has tests of its own: here all samples of a block are its first.
        once = lambda digits, seeds: simulate(digits[:1], seeds[:1]) * len(digits)  # noqa: E731
        patch.setattr("onespike.data.events.saccades.simulate", once)
        yield DataConfig(request.param, root, str(folder / "cache"), holdout=0, **options)


def test_it_is_decoded_once_into_square_bytes_with_labels_of_its_classes(config):
    first, second = open_dataset(config), open_dataset(config)
    (entry,) = Path(config.cache).iterdir()
    assert (entry / "meta.json").is_file()
    assert (first.classes, first.test_set()) == (second.classes, second.test_set())
    for part in ("train", "test"):
        images, again = getattr(first, part), getattr(second, part)
        assert len(images) > 0
        assert np.array_equal(images.targets, again.targets)
        assert set(images.targets.tolist()) <= set(range(first.num_classes))
        pixels = images.gather(np.arange(min(len(images), 4)))[0].numpy()
        assert pixels.dtype == np.uint8
        assert pixels.shape[1:] == (first.image_size, first.image_size, first.in_channels)
        assert pixels.any()
    assert len(np.unique(first.train.targets)) == first.num_classes or config.name == "dvs-gesture", "eleven gestures"


def test_frames_of_events_are_an_axis_and_changed_events_are_kept(config):
    if config.name not in EVENTS:
        with pytest.raises(OnespikeError, match=f"^data.frames: {config.name} has images, no events"):
            open_dataset(DataConfig(config.name, frames=2))
        return
    options = {key: getattr(config, key) for key in ("name", "root", "cache", "holdout", "sensor")}
    data = open_dataset(DataConfig(**options, frames=2, drop_events=0.5))
    assert isinstance(data.train, RecordingSet)
    for images in (data.train, data.test):
        assert images.images.shape == (len(images), data.image_size, data.image_size, 2, data.in_channels)
    assert data.test_set(of_events=True) == open_dataset(config).test_set(of_events=True)


def test_a_root_that_is_not_there_is_named_in_one_line(config, tmp_path):
    root = tmp_path / "absent"
    with pytest.raises(OnespikeError, match=f"^{re.escape(str(root))}: ") as caught:
        open_dataset(DataConfig(config.name, str(root), str(tmp_path / "cache"), sensor=config.sensor))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_it_is_in_the_documents(config):
    assert f"`{config.name}`" in inspect.getdoc(DataConfig)
    if config.name in EVENTS:
        page = Path(__file__).parents[2] / "docs" / "events.md"
        assert f"| `{config.name}` |" in page.read_text(encoding="utf-8")
