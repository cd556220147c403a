import errno
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from layouts import write_binary
from made import Made

from onespike import durable
from onespike.data.cache import channel_statistics, open_cache, verify_cache
from onespike.data.config import DataConfig
from onespike.data.dataset import open_dataset
from onespike.data.sources import HubUnreachableError
from onespike.errors import OnespikeError
from tests.running import raising


def test_the_second_time_nothing_is_decoded(cache):
    source = Made()
    first, second = open_cache(source, cache), open_cache(source, cache)
    assert len(source.decoded) == 12
    assert isinstance(second.train.images, np.memmap)
    assert not second.train.images.flags.writeable
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert second.train.labels.dtype == np.int64
    assert second.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert second.classes == ("x", "y")
    assert len(second.validation) == 0


def test_another_content_or_size_is_another_entry(cache):
    source = Made()
    open_cache(source, cache)
    open_cache(source, cache, image_size=2)
    open_cache(Made("b"), cache)
    assert len(list(cache.iterdir())) == 3


def test_an_edited_file_is_decoded_anew(tmp_path, content, cache):
    folder = write_binary(tmp_path / "bin", "cifar10", content["cifar10"])
    open_dataset(DataConfig("cifar10", str(folder)))
    file = folder / "test_batch.bin"
    data = bytearray(file.read_bytes())
    data[1] ^= 255
    file.write_bytes(data)
    edited = open_dataset(DataConfig("cifar10", str(folder)))
    assert len(list(cache.iterdir())) == 2
    assert edited.test.images[0, 0, 0, 0] == data[1]


def test_a_moved_data_set_is_not_decoded_anew(tmp_path, content, cache):
    folder = write_binary(tmp_path / "bin", "cifar10", content["cifar10"])
    open_dataset(DataConfig("cifar10", str(folder)))
    open_dataset(DataConfig("cifar10", str(folder.rename(tmp_path / "moved"))))
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OnespikeError])
def test_an_exception_while_decoding_leaves_nothing(cache, error):
    def fail(index):
        if index == 3:
            raise error("stop")

    with pytest.raises(error, match="stop"):
        open_cache(Made(before=fail), cache)
    assert list(cache.iterdir()) == []
    assert len(open_cache(Made(), cache).train.labels) == 6


@pytest.mark.slow
def test_a_killed_process_leaves_no_entry_and_does_no_harm(cache, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from made import Made\n"
        "from onespike.data.cache import open_cache, verify_cache\n"
        "def kill(index):\n"
        "    if index == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "open_cache(Made(before=kill), Path(sys.argv[1]))\n"
    )
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])  # noqa: PTH120
    done = subprocess.run([sys.executable, script, cache], env={**os.environ, "PYTHONPATH": path}, check=False)
    assert done.returncode == -signal.SIGKILL
    (leftover,) = cache.iterdir()
    assert leftover.name.startswith(".made-")
    source = Made()
    open_cache(source, cache)
    assert len(source.decoded) == 12
    assert leftover.is_dir()  # it is young, so its process may still be alive
    old = time.time() - 2 * 86_400
    for one in (leftover, *leftover.iterdir()):
        os.utime(one, (old, old))
    open_cache(Made("b"), cache)
    assert not leftover.is_dir()


def test_files_are_on_the_disk_before_the_entry_has_its_name(cache, monkeypatch):
    done = []
    for name in ("flush_folder", "flush"):
        monkeypatch.setattr(f"onespike.data.cache.{name}", lambda path: done.append(path))
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, target: done.append(target) or rename(path, target))
    open_cache(Made(), cache)
    (entry,) = cache.iterdir()
    assert [path.name.startswith(".made-") for path in done] == [True, False, False]
    assert done[1:] == [entry, cache]


def test_without_its_hub_the_newest_entry_of_a_source_is_opened(cache):
    entries = {}
    for name, age in (("old", 9), ("new", 1), ("older", 99)):
        entries[name] = Path(open_cache(Made(name), cache).train.images.filename).parent
        os.utime(entries[name] / "meta.json", (time.time() - age,) * 2)

    class Away(Made):
        def key(self):
            raise HubUnreachableError("no network")

    assert Path(open_cache(Away(), cache).train.images.filename).parent == entries["new"]
    meta = json.loads((entries["new"] / "meta.json").read_text())
    (entries["new"] / "meta.json").write_text(json.dumps(meta | {"format": 3}))
    assert Path(open_cache(Away(), cache).train.images.filename).parent == entries["old"]
    assert entries["new"] not in verify_cache(cache), "nobody opens it any more"


def test_a_faster_process_wins(cache):
    def other(index):
        if index == 5 and not list(cache.glob("made-*")):
            open_cache(Made(), cache)

    entry = open_cache(Made(before=other), cache)
    assert len(entry.train.labels) == 6
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("step", ["images", "labels", "meta", "sync"])
def test_a_full_disk_is_said_so_and_leaves_nothing(cache, monkeypatch, step):
    where = {
        "images": (np.lib.format, "write_array_header_1_0"),
        "labels": (np, "save"),
        "meta": (json, "dumps"),
        "sync": (durable.os, "fsync"),
    }
    monkeypatch.setattr(*where[step], raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(OnespikeError) as raised:
        open_cache(Made(), cache)
    message = str(raised.value)
    assert message.startswith(str(cache))
    assert "No space left on device" in message
    assert "--data.cache" in message
    assert "\n" not in message
    assert list(cache.iterdir()) == []


def test_images_that_will_not_fit_are_not_begun(cache, monkeypatch):
    free = shutil.disk_usage("/")._replace(free=6 * 48 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(OnespikeError, match=r"288 bytes of train images, 287 free"):
        open_cache(Made(), cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=6 * 48))
    assert len(open_cache(Made(), cache).train) == 6


def test_a_file_that_cannot_grow_is_reported_by_the_system(cache):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        with pytest.raises(OnespikeError, match=r"File too large.*--data\.cache"):
            open_cache(Made(), cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(cache.iterdir()) == []


def test_a_cache_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OnespikeError, match=r"file/cache: cannot write.*--data\.cache"):
        open_cache(Made(), tmp_path / "file" / "cache")


@pytest.mark.parametrize(
    "file",
    [f"{name}.npy" for name in ("train-images", "test-images", "train-labels", "train-sums")]
    + ["train-events.npy", "train-bounds.npy", "meta.json"],
)
@pytest.mark.parametrize("damage", ["flipped", "shorter", "gone"])
def test_a_damaged_entry_is_named_and_made_anew(cache, file, damage, capsys):
    source = Made(recorded=True)
    opened = open_cache(source, cache).train
    whole = [getattr(opened, name)[:].copy() for name in ("images", "events", "bounds")]
    (entry,) = cache.iterdir()
    assert verify_cache(cache) == {entry: ""}
    path = entry / file
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.unlink() if damage == "gone" else path.write_bytes(content if damage == "flipped" else content[:-1])
    assert "damaged" in verify_cache(cache)[entry]
    again = open_cache(source, cache).train
    assert all(np.array_equal(*both) for both in zip((again.images, again.events, again.bounds), whole, strict=True))
    assert f"{entry.name}: damaged cache entry" in capsys.readouterr().err
    assert verify_cache(cache) == {entry: ""}
    assert list(cache.iterdir()) == [entry]


BYTES = np.zeros((6, 4, 4, 3), np.uint8)
#: Arrays that do not fit the others, and what is said of them.
ODD = {
    "images of floats": ("images", BYTES / 1, "train images: float64"),
    "images of two axes": ("images", BYTES[..., 0, 0], "train images: uint8, \\(6, 4\\)"),
    "an image too many": ("images", np.zeros((7, 4, 4, 3), np.uint8), "train images: uint8"),
    "a label too many": ("labels", np.zeros(7, np.int64), "train images: .*, of 7 labels"),
    "a label of no class": ("labels", np.full(6, 2), "train labels: labels of no class"),
    "a sum too many": ("sums", np.zeros(7, np.uint32), "train images: "),
    "events of another kind": ("events", np.zeros(18), "train events: 18 events, 7 bounds"),
    "a bound too many": ("bounds", np.array([0, *range(0, 19, 3)]), "train events: 18 events, 8 bounds"),
    "an event too few": ("bounds", np.arange(1, 22, 3), "train events: 18 events, 7 bounds"),
}


@pytest.mark.parametrize("what", ODD)
def test_an_entry_whose_arrays_do_not_fit_is_damaged_whatever_its_checksums_say(cache, what):
    open_cache(Made(recorded=True), cache)
    (entry,) = cache.iterdir()
    name, array, message = ODD[what]
    np.save(entry / f"train-{name}.npy", array)
    meta = json.loads((entry / "meta.json").read_text())
    meta["sha256"][f"train-{name}.npy"] = durable.file_digest(entry / f"train-{name}.npy")
    meta["sha256"]["meta"] = durable.digest_of(meta)
    (entry / "meta.json").write_text(json.dumps(meta))
    assert re.search(rf"damaged cache entry \({message}", verify_cache(cache)[entry])


def test_two_processes_that_meet_damage_make_it_anew(cache, monkeypatch):
    open_cache(Made(), cache)
    (entry,) = cache.iterdir()
    (entry / "meta.json").write_text("{}")

    def other(path):
        shutil.rmtree(path)  # as a faster process does
        return path.with_name(".aside")

    monkeypatch.setattr("onespike.data.cache.beside", other)
    assert len(open_cache(Made(), cache).train.labels) == 6


def test_recordings_are_read_once_for_their_frames_and_once_for_their_events(cache):
    source = Made(recorded=True)
    opened = open_cache(source, cache).train
    assert len(source.decoded) == 12
    assert source.read == [0, 1, 2, 3, 4, 5] * 2
    assert opened.bounds.tolist() == [0, 3, 6, 9, 12, 15, 18]
    assert opened.events["t"].tolist() == [one // 3 for one in range(18)]


def test_what_is_too_large_to_hash_at_opening_is_noticed_when_it_is_fetched(cache, monkeypatch):
    monkeypatch.setattr("onespike.data.cache._CHEAP", 0)
    whole = open_cache(Made(), cache).train
    positions = np.array([1, 4, 5])
    np.testing.assert_array_equal(whole.gather(positions)[0], np.stack([whole[one][0] for one in positions]))
    (entry,) = cache.iterdir()
    content = bytearray((entry / "train-images.npy").read_bytes())
    content[-5] ^= 1
    (entry / "train-images.npy").write_bytes(content)
    assert "train-images.npy is not what was written" in verify_cache(cache)[entry]
    opened = open_cache(Made(), cache)
    for images in (opened.train, pickle.loads(pickle.dumps(opened.train)), opened.train.select(np.arange(1, 6))):
        images.gather(np.array([0, 1]))
        last = len(images) - 1
        for fetch in (lambda at, images=images: images.gather(np.array([0, at])), images.__getitem__):
            with pytest.raises(OnespikeError, match=rf"image 5 in train-images.npy.*{entry}"):
                fetch(last)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 700])
def test_mean_and_deviation_are_exact(channels, count):
    images = np.random.default_rng(1).integers(0, 256, (count, 64, 64, channels), np.uint8)
    images[..., 0] //= 3
    mean, std = channel_statistics(images)
    units = np.ascontiguousarray(images.reshape(-1, channels).T).astype(np.float64) / 255  # rows are summed pairwise
    np.testing.assert_allclose(mean, units.mean(1), rtol=1e-13)
    np.testing.assert_allclose(std, units.std(1), rtol=1e-13)


def test_a_constant_channel_has_a_deviation_to_divide_by():
    assert channel_statistics(np.full((3, 2, 2, 1), 51, np.uint8)) == ((0.2,), (1.0,))


def test_the_command_tells_damage(command, cache, tmp_path):
    open_cache(Made(), cache)
    assert command("cache", "verify", "--cache", cache)[0] == 0
    path = next(cache.glob("*/test-images.npy"))
    path.write_bytes(path.read_bytes()[:-1])
    code, printed, complaint = command("cache", "verify", "--cache", cache)
    assert (code, complaint.count("\n")) == (2, 1)
    assert path.parent.name in complaint
    assert "damaged" in printed
    assert "no such folder" in command("cache", "verify", "--cache", tmp_path / "absent")[2]
