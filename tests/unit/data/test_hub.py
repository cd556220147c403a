from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from layouts import png, save_image, write_hub, write_parquet

from onespike.data.config import DataConfig
from onespike.data.dataset import open_dataset
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
