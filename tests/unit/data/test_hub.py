import gzip
import tarfile
from pathlib import Path
from types import SimpleNamespace

import datasets
import httpx
import huggingface_hub
import numpy as np
import pytest
from layouts import png, save_image, write_hub, write_parquet

from onespike.data.cache import verify_cache
from onespike.data.config import DataConfig
from onespike.data.dataset import open_dataset
from onespike.data.sources.files import Files
from onespike.data.sources.local import _chosen
from onespike.errors import OnespikeError


@pytest.fixture
def hub(tmp_path, content, monkeypatch):
    """A Hub with CIFAR-10 alone; `revision` None is no network."""
    state = SimpleNamespace(revision="a1", downloads=0, error=None)
    snapshot = tmp_path / "snapshot"
    write_hub(snapshot / "plain_text", "cifar10", content["cifar10"])

    def dataset_info(_, repo_id, timeout):
        assert "/" in repo_id
        assert timeout <= 10
        if state.revision is None:
            raise ConnectionError("Name or service not known\nand a second line")
        return SimpleNamespace(sha=state.revision)

    def snapshot_download(repo_id, **options):
        state.downloads += 1
        assert (repo_id, options["revision"]) == ("uoft-cs/cifar10", state.revision)
        if state.error:
            raise state.error
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return state


def test_each_revision_is_downloaded_once(hub, content):
    for revision, downloads in (("a1", 1), ("a1", 1), ("b2", 2)):
        hub.revision = revision
        data = open_dataset(DataConfig("cifar10", holdout=0))
        assert (data.train.images == content["cifar10"]["train"][0]).all()
        assert hub.downloads == downloads


def test_without_network_the_error_is_one_line(hub, fails):
    hub.revision = None
    for name in ("cifar10", "cifar100", "tiny-imagenet"):
        fails(name, None, name, "no network", "Hub could not be reached", "--data.root")


def test_without_network_an_earlier_entry_is_used(hub):
    before = open_dataset(DataConfig("cifar10"))
    hub.revision = None
    after = open_dataset(DataConfig("cifar10"))
    assert (after.train.images == before.train.images).all()
    with pytest.raises(OnespikeError, match="no network"):
        open_dataset(DataConfig("cifar10", image_size=16))


def test_without_network_an_entry_from_a_folder_is_not_mistaken_for_the_hubs(hub, tmp_path):
    open_dataset(DataConfig("cifar10", str(tmp_path / "snapshot")))
    hub.revision = None
    with pytest.raises(OnespikeError, match="no network"):
        open_dataset(DataConfig("cifar10"))


def test_a_download_that_breaks_off(hub, fails):
    hub.error = TimeoutError("timed out")
    fails("cifar10", None, "could not be reached", "timed out")
    hub.error = OSError(28, "No space left on device")
    fails("cifar10", None, "disk full")


@pytest.fixture
def local(tmp_path, content):
    """A folder that `datasets` reads, with splits and columns of other names than the Hub's CIFAR-10."""
    for part, (images, labels) in content["cifar10"].items():
        path = tmp_path / "local" / "data" / f"{part}-00000-of-00001.parquet"
        write_parquet(path, [png(image) for image in images], labels.tolist(), ("photo", "kind"), list("abcdefghij"))
    return tmp_path / "local"


def test_any_folder_that_datasets_reads(local, content, cache):
    data = open_dataset(DataConfig("hub", str(local), holdout=0))
    assert (data.name, data.classes, len(data.validation)) == ("local", tuple("abcdefghij"), 0)
    for part in ("train", "test"):
        images, labels = content["cifar10"][part]
        np.testing.assert_array_equal(getattr(data, part).images, images)
        assert getattr(data, part).targets.tolist() == labels.tolist()
    open_dataset(DataConfig("hub", str(local), holdout=0))
    (entry,) = cache.iterdir()
    assert entry.name.startswith("local-")


def test_a_folder_of_image_files_through_datasets(tree, tmp_path):
    ours, theirs = (open_dataset(DataConfig(name, str(tree), holdout=0)) for name in ("folder", "hub"))
    assert theirs.classes == ours.classes
    np.testing.assert_array_equal(theirs.test.images, ours.test.images)
    (tree / "test").rename(tmp_path / "away")
    data = open_dataset(DataConfig("hub", str(tree), holdout=0))
    assert (len(data.train), len(data.test)) == (8, 2)
    assert "fixed fifth" in data.note
    assert open_dataset(DataConfig("hub", str(tree), holdout=0)).note == data.note


@pytest.mark.parametrize("name", [".mine", "é" * 120, "..."])
def test_a_folder_of_any_name_has_an_entry_that_is_verified(name, tree, cache):
    root = tree.rename(tree.with_name(name))
    for _ in range(2):
        assert open_dataset(DataConfig("hub", str(root), holdout=0)).name == name
    (entry,) = cache.iterdir()
    assert verify_cache(cache) == {entry: ""}


def test_a_folder_that_datasets_cannot_read(local, tmp_path, fails):
    fails("hub", None, "no data set given", "owner/name", "--data.root")
    fails("hub", tmp_path / "none", tmp_path / "none", "no such folder", "owner/name")
    (tmp_path / "empty").mkdir()
    fails("hub", tmp_path / "empty", tmp_path / "empty", "no images", "expected images, Parquet files")
    file = local / "data" / "test-00000-of-00001.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    fails("hub", local, file, "truncated or damaged Parquet")
    file.with_suffix(".parquet.gz").write_bytes(gzip.compress(whole))
    file.unlink()
    fails("hub", local, file, "of the kind gzip", "unpack or")
    file.with_suffix(".parquet.gz").unlink()
    for name, mode in (("x.tar.gz", "w:gz"), ("x.tar.xz", "w:xz")):
        with tarfile.open(local / name, mode) as archive:
            archive.add(local / "data" / "train-00000-of-00001.parquet", "train.parquet")
        fails("hub", local, local / name, "of the kind tar", "plain .tar")
        (local / name).unlink()
    (local / "x.arrow").write_bytes(b"ARROW1")
    fails("hub", local, local / "x.arrow", "of the kind arrow", "convert it")


def test_a_row_that_is_no_image_is_named(local, content, fails):
    images, labels = content["cifar10"]["test"]
    cells = [png(image) for image in images]
    cells[8] = cells[8][:60]
    path = local / "data" / "test-00000-of-00001.parquet"
    write_parquet(path, cells, labels.tolist(), ("photo", "kind"), list("abcdefghij"))
    fails("hub", local, "local, test: item 8: corrupt image")


def test_any_data_set_of_the_hub(local, content, hub, monkeypatch):
    asked = []
    load = datasets.load_dataset

    def load_dataset(path, **options):
        asked.append((path, options))
        return load(str(local), cache_dir=str(local.parent / "arrow"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = open_dataset(DataConfig("hub", "some/one:tiny"))
    assert asked == [("some/one", {"name": "tiny", "revision": "a1"})]
    assert (data.train.images == content["cifar10"]["train"][0]).all()
    hub.revision = None
    assert open_dataset(DataConfig("hub", "some/one:tiny")).name == data.name == "one-tiny"
    assert len(asked) == 1
    with pytest.raises(OnespikeError, match="one: no network, or the Hugging Face Hub could not be reached"):
        open_dataset(DataConfig("hub", "some/one"))


def test_a_name_that_the_hub_does_not_know(monkeypatch, fails):
    def dataset_info(*_, **__):
        response = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co"))
        raise huggingface_hub.errors.RepositoryNotFoundError("404", response=response)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    fails("hub", Path("some/none"), "some/none: not on the Hugging Face Hub, or not open to you")


def test_a_folder_that_is_not_there_and_no_name_of_the_hub(fails):
    fails("hub", Path("my images/set"), "my images/set: no such folder, and no name that the Hugging Face Hub takes")


@pytest.mark.parametrize("error", [RuntimeError, ImportError, NotImplementedError, TypeError])
@pytest.mark.usefixtures("hub")
def test_what_datasets_does_not_read_is_not_taken_for_no_network(error, monkeypatch, fails):
    def load_dataset(*_, **__):
        raise error("Dataset scripts are no longer supported")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    fails("hub", Path("some/one"), "some/one: not read by Hugging Face datasets (Dataset scripts are no longer")


@pytest.mark.usefixtures("hub")
def test_a_download_that_breaks_off_is_one_of_the_network(monkeypatch, fails):
    def load_dataset(*_, **__):
        raise RuntimeError("Data processing error: CAS service error")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    fails("hub", Path("some/one"), "no network, or the Hugging Face Hub could not be reached")


def test_too_little_memory_is_not_taken_for_no_network(hub):
    hub.error = MemoryError()
    with pytest.raises(MemoryError):
        open_dataset(DataConfig("cifar10"))


@pytest.mark.usefixtures("hub")
def test_tiny_imagenet_of_the_hub(tmp_path, monkeypatch):
    image = save_image(tmp_path / "a.png").read_bytes()
    grey = png(np.zeros((8, 8), np.uint8))
    names = [f"n{i:02}" for i in range(3)]
    for part in ("train", "valid"):
        path = tmp_path / "tiny" / "data" / f"{part}-00000-of-00001-abc.parquet"
        write_parquet(path, [image, grey, image], [0, 1, 2], ("image", "label"), names)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path / "tiny"))
    data = open_dataset(DataConfig("tiny-imagenet", holdout=0))
    assert data.classes == tuple(names)
    assert (len(data.train), len(data.test), data.in_channels) == (3, 3, 3)


@pytest.mark.parametrize(
    ("train", "test", "other"),
    [
        ("train/{}/0.png", "test/{}/0.png", "logo.png"),
        ("train/{}/test 0.png", "my-eval/{}/0.png", "{}/0.png"),
        ("{}/training_0.png", "{}/0-test-0.png", "{}/latest.png"),
        ("a/train/test/{}/0.png", "a/val/train/{}/0.png", "a/x/{}/0.png"),  # the first word tells
        ("Training/{}/0.png", "Testing/{}/0.png", "Meta/{}/0.png"),
    ],
)
def test_parts_are_found_by_words_in_names(train, test, other, tmp_path, capsys):
    for number, name in enumerate((train, test, other)):
        for kind in ("cat", "dog"):
            save_image(tmp_path / name.format(kind), seed=number)
    data = open_dataset(DataConfig("hub", str(tmp_path), holdout=0))
    assert (len(data.train), len(data.test)) == (2, 2)
    assert f"{tmp_path / other.format('cat')}: no image of a part" in capsys.readouterr().err


def test_a_class_whose_name_is_that_of_a_part_is_a_class(tmp_path):
    for kind in ("Bus", "Car", "Train"):
        save_image(tmp_path / kind / "0.png", seed=0)
    parts = _chosen(Files(tmp_path))[1]
    assert {part: len(paths) for part, paths in parts.items()} == {"train": 3}
