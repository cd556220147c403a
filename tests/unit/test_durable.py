"""Files and folders are whole whoever writes them; what is written is on the disk before its name is."""

import errno
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from onespike.durable import expect_writable, is_full, read_whole, remove, write_whole
from onespike.errors import OnespikeError
from onespike.folders import expect_replaceable, read_folder, write_folder
from onespike.lock import held
from tests.running import PATIENCE, raising

#: Write a file, and a folder, many times.
WRITE = """
import pathlib, sys
from onespike.durable import write_whole
from onespike.folders import write_folder
for number in range(60):
    write_whole(pathlib.Path(sys.argv[1], "file"), sys.argv[2] * 100_000)
    write_folder(pathlib.Path(sys.argv[1], "folder"), {str(one): sys.argv[2].encode() for one in range(5)})
"""
LEFT = ".x.0123456789abcdef.new"


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is flushed to the disk and what is renamed, in order; a file only once it holds something."""
    done: list[str] = []

    def named(path: Path) -> str:
        return re.sub(r"[0-9a-f]{16}", "RANDOM", path.name)

    def fsync(descriptor: int) -> None:
        flushed = os.fstat(descriptor)
        (path,) = [one for one in (tmp_path, *tmp_path.rglob("*")) if os.path.samestat(one.stat(), flushed)]
        assert path.is_dir() or path.read_text() == "new"
        done.append(f"flush {'the folder' if path == tmp_path else named(path)}")

    def noting(move: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        return lambda path, target: done.append(f"rename {named(path)}") or move(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    for verb in ("rename", "replace"):
        monkeypatch.setattr(Path, verb, noting(getattr(Path, verb)))
    return done


def test_a_file_is_on_the_disk_before_its_name_is(done, tmp_path):
    write_whole(tmp_path / "x", "new")
    assert done == ["flush .x.RANDOM.new", "rename .x.RANDOM.new", "flush the folder"]


def test_a_folder_and_all_files_in_it_are_on_the_disk_before_its_name_is(done, tmp_path):
    for earlier in ([], ["rename x"]):
        done.clear()
        write_folder(tmp_path / "x", {"a": b"new", "b": b"new"})
        assert sorted(done[:2]) == ["flush a", "flush b"]
        assert done[2:] == ["flush .x.RANDOM.new", *earlier, "rename .x.RANDOM.new", "flush the folder"]


def test_two_processes_may_write_one_file_and_one_folder(start, tmp_path: Path):
    writers = [start("-c", WRITE, tmp_path, one, program=[sys.executable]) for one in "ab"]
    assert [one.communicate(timeout=PATIENCE)[1] for one in writers] == ["", ""]
    found = {(tmp_path / "folder" / str(one)).read_text() for one in range(5)}
    assert len(found) == 1
    assert (tmp_path / "file").read_text() in ("a" * 100_000, "b" * 100_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_that_another_process_puts_there_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    looks = iter([False, True])  # not there yet, and there
    monkeypatch.setattr(Path, "is_dir", lambda _: next(looks))
    remove(tmp_path)
    assert tmp_path.exists()


def test_of_a_link_to_a_folder_the_link_alone_is_removed(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to("mine")
    remove(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_is_read_of_a_folder_that_is_replaced_meanwhile_is_all_new(tmp_path: Path):
    def write(content: bytes) -> None:
        write_folder(tmp_path / "x", {"a": content, "b": content})

    def read(place: Path) -> list[bytes]:
        found = [(place / "a").read_bytes()]
        if found == [b"old"]:
            write(b"new")
        return [*found, (place / "b").read_bytes()]

    write(b"old")
    assert read_folder(tmp_path / "x", read) == [b"new"] * 2


def test_between_the_two_renames_the_old_folder_is_read(tmp_path: Path):
    write_folder(tmp_path / ".x.old", {"a": b"old"})
    assert read_folder(tmp_path / "x", lambda place: (place / "a").read_bytes()) == b"old"


@pytest.mark.parametrize(("number", "full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EACCES, False)])
def test_a_quota_that_is_used_up_is_a_full_disk(number: int, full: bool):
    assert is_full(OSError(number, os.strerror(number))) == full


@pytest.mark.parametrize("write", [write_whole, lambda path, text: write_folder(path, {"a": text.encode()})])
def test_what_a_killed_writer_left_is_removed_once_it_is_surely_dead(write, tmp_path: Path):
    for name in (".x.mine.new", ".x.new"):
        (tmp_path / name).write_text("mine")
    for name in (LEFT, LEFT.replace("0", "1")):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / LEFT, (0, 0))
    os.utime(tmp_path / LEFT.replace("0", "1"), (time.time() - 3600,) * 2)  # as of one who writes for long
    os.utime(tmp_path / ".x.mine.new", (0, 0))
    write(tmp_path / "x", "new")
    write(tmp_path / "y", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        LEFT.replace("0", "1"),
        ".x.mine.new",
        ".x.new",
        "x",
        "y",
    ]


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path):
    write_whole(tmp_path / "x", "old")
    (tmp_path / "x").chmod(0o640)
    write_whole(tmp_path / "x", "new")
    assert ((tmp_path / "x").read_text(), (tmp_path / "x").stat().st_mode & 0o777) == ("new", 0o640)
    (tmp_path / "strangers").touch(0o666)
    (tmp_path / "strangers").chmod(0o666)
    (tmp_path / "link").symlink_to("strangers")
    write_whole(tmp_path / "link", "new")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "link").stat().st_mode & 0o022 == 0


def test_what_a_killed_writer_left_is_in_nobodys_way(tmp_path: Path):
    (tmp_path / LEFT).write_text("")
    expect_replaceable(tmp_path, [], "export")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_descriptor_stays_open(tmp_path: Path):
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    with held(tmp_path):
        write_whole(tmp_path / "x", "new")
    with pytest.raises(OSError, match="not a regular file"):
        read_whole(tmp_path)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


@pytest.mark.parametrize("name", ["x" * 255, "日" * 85, os.fsdecode(b"\xff" * 255)])
def test_a_name_may_be_as_long_as_the_system_takes(name, tmp_path: Path):
    write_whole(tmp_path / name, "new")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("shell", [">", ">>"])
def test_the_standard_output_is_written_behind_what_is_there(shell, start, tmp_path: Path):
    place = tmp_path / "all"
    place.write_text("mine ")
    script = "import pathlib; from onespike.durable import write_whole; print('first', end=' ');"
    script += "[write_whole(pathlib.Path('/dev/stdout'), f'{one} ') for one in (1, 2)]; print('last')"
    with place.open("a" if shell == ">>" else "w") as out:
        assert start("-c", script, program=[sys.executable], stdout=out).wait(PATIENCE) == 0
    assert place.read_text() == ("mine " if shell == ">>" else "") + "first 1 2 last\n"


def test_a_pipe_takes_more_than_it_holds_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    end, found = os.open(tmp_path / "pipe", os.O_RDWR), bytearray()  # of both kinds, so that there is always a writer

    def read() -> None:
        while len(found) < 1_000_000:
            found.extend(os.read(end, 1_000_000))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    write_whole(tmp_path / "pipe", "x" * 1_000_000)
    reader.join(PATIENCE)
    os.close(end)
    assert found == b"x" * 1_000_000


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no file system in memory")
def test_a_file_in_memory_is_replaced_like_any_other(tmp_path: Path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        link, mine = Path(folder, "x"), tmp_path / "mine"
        mine.write_text("mine")
        link.symlink_to(mine)
        write_whole(link, "new")
        assert (link.read_text(), mine.read_text()) == ("new", "mine")
        with pytest.raises(OnespikeError, match="two things are to go there"):
            expect_writable(link, link)


def test_a_folder_in_which_somebody_writes_is_left_alone(tmp_path: Path):
    (tmp_path / LEFT).mkdir()
    (tmp_path / LEFT / "images.npy").write_text("it grows")
    os.utime(tmp_path / LEFT, (0, 0))
    write_whole(tmp_path / "y", "new")
    assert (tmp_path / LEFT).exists()


def test_a_write_that_is_interrupted_leaves_nothing(tmp_path: Path, monkeypatch):
    for module in ("durable", "folders"):
        monkeypatch.setattr(f"onespike.{module}.flush", raising(KeyboardInterrupt))
    for write in (lambda: write_whole(tmp_path / "x", "new"), lambda: write_folder(tmp_path / "x", {"a": b"new"})):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert not list(tmp_path.iterdir())
