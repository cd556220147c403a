"""Images, archives, recipes and tables from strangers: what does not end, is not there, or is not what it seems."""

import gzip
import io
import json
import shutil
import struct
import sys
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from onespike.configs import read_yaml
from onespike.data.cache import verify_cache
from onespike.data.config import DataConfig
from onespike.data.dataset import open_dataset
from onespike.data.sources.files import open_files
from onespike.data.sources.image import decode
from onespike.errors import OnespikeError
from onespike.training import load_recipe
from tests.hostile.harness import SPECIAL, as_nobody, fails, fine_or_a_line, in_time, link, make_tree

pytestmark = pytest.mark.usefixtures("fresh_cache")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "mine")


#: What may lie among images; folders may be there.
STRANGE = {name: put for name, put in SPECIAL.items() if name != "a folder"} | {
    "a link to /dev/stdin": link("/dev/stdin"),
    "a link to /proc": link("/proc/self/environ"),
    "a link to nowhere": link("/nowhere/at/all"),
    "a link outside": link("/etc/hostname"),
    "a link up": link("../../.."),
    "a link to the root": link("/"),
    "a link to its folder": link("."),
    "a link to the test images": link("../../test"),
    "a link to a test image": link("../../test/cat/0.png"),
    "a link to its neighbour": link("0.png"),
}


@pytest.mark.parametrize("name", ["x.png", "x"])
@pytest.mark.parametrize("what", STRANGE)
def test_regular_files_inside_the_root_each_once(what, name, tree):
    STRANGE[what](tree / "train" / "cat" / name)
    if name == "x" and what in ("a FIFO", "a socket"):  # is not taken for an image
        assert len(open_dataset(DataConfig("folder", str(tree), holdout=0)).train) == 8
        return
    fails(tree, "x")


@pytest.mark.parametrize("other", ["test/cat/0.png", "train/cat/0.png", "train/dog/0.png"])
def test_one_file_of_two_names(other, tree):
    (tree / "train" / "cat" / "x.png").hardlink_to(tree / other)
    fails(tree, "x.png", other, "one file")


@pytest.mark.parametrize("name", ["cat/x.txt", "cat/x", "cat/x.png.bak", "cat/deep/x.jfif", "x.png"])
def test_what_is_left_out_is_said(name, tree, capsys):
    (tree / "train" / "cat" / "deep").mkdir()
    (tree / "train" / name).write_bytes(_encoded("PNG"))
    (tree / "train" / "cat" / "._0.png").write_bytes(b"hidden")
    assert len(open_dataset(DataConfig("folder", str(tree), holdout=0)).train) == 8
    said = capsys.readouterr().err
    assert f"train/{name}: no image of a class by its name; 1 such file is left out" in said


EMPTY = {
    "nothing": lambda _: None,
    "text": lambda folder: (folder / "x.txt").write_text("x"),
    "an empty folder": lambda folder: (folder / "deep").mkdir(),
    "a hidden image": lambda folder: (folder / ".x.png").write_bytes(_encoded("PNG")),
}


@pytest.mark.parametrize("what", EMPTY)
@pytest.mark.parametrize("parts", [("train",), ("test",), ("train", "test")], ids=" and ".join)
@pytest.mark.parametrize("form", ["folder", "zip", "tar", "decoded before"])
def test_class_folders_without_images(form, parts, what, tree, tmp_path):
    if form == "decoded before":
        open_dataset(DataConfig("folder", str(tree), holdout=0))
    for part in parts:
        (tree / part / "bird").mkdir()
        EMPTY[what](tree / part / "bird")
    if form in ("zip", "tar"):
        tree = Path(shutil.make_archive(str(tmp_path / "packed"), form, tree))
    with in_time(), pytest.raises(OnespikeError, match=r"bird: no images of class 'bird'"):
        open_dataset(DataConfig("folder", str(tree), holdout=0))


@pytest.mark.parametrize("name", [".git", ".ipynb_checkpoints"])
@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_hidden_folders_are_no_classes(form, name, tree, tmp_path):
    (tree / "train" / name).mkdir()
    if form != "folder":
        tree = Path(shutil.make_archive(str(tmp_path / "packed"), form, tree))
    assert open_dataset(DataConfig("folder", str(tree), holdout=0)).classes == ("cat", "dog")


@pytest.mark.parametrize("name", ["folder", "hub"])
def test_what_hidden_folders_hold_is_not_looked_at(name, tree):
    for folder in (tree, tree / "train" / "cat"):
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "python").symlink_to(sys.executable)
        (folder / ".cache").symlink_to("/")
    (tree / ".git").mkdir()
    (tree / "train" / "cat" / "0.png").rename(tree / ".git" / "object")
    (tree / "train" / "cat" / "0.png").symlink_to("../../.git/object")  # as git-annex and DataLad keep files
    with in_time():
        assert len(open_dataset(DataConfig(name, str(tree), holdout=0)).train) == 8


RECORDING = np.zeros(8, [(key, np.int64) for key in "xytp"])
RECORDINGS = {
    "in capitals": ({"train/a/0.NPY", "train/b/0.npy", "test/a/0.npy", "test/b/0.NPY"}, (), ""),
    "of a class that train lacks": ({"train/a/0.npy", "test/a/0.npy", "test/b/0.npy"}, (), "train/b"),
    "of a class that test lacks": ({"train/a/0.npy", "train/b/0.npy", "test/a/0.npy"}, (), "test/b"),
    "and an empty class": ({"train/a/0.npy", "test/a/0.npy"}, ("train/b", "test/b"), "/b: no recordings"),
    "and an empty class of one part": ({"train/a/0.npy", "test/a/0.npy"}, ("test/b",), "test/b: no recordings"),
}


@pytest.mark.parametrize("what", RECORDINGS)
def test_recordings_in_class_folders(what, tmp_path):
    names, folders, words = RECORDINGS[what]
    for folder in folders:
        (tmp_path / "mine" / folder).mkdir(parents=True)
    for name in names:
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.save(content, RECORDING)
        path.write_bytes(content.getvalue())
    if words:
        fails(tmp_path / "mine", words, name="events-folder", sensor=(8, 8))
    else:
        opened = open_dataset(DataConfig("events-folder", str(tmp_path / "mine"), sensor=(8, 8), holdout=0))
        assert opened.classes == ("a", "b")


def _saved(**arrays: object) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def _hdf5(how: str, path: Path) -> bytes:
    """Events of which some lie elsewhere, in a file that holds 64 bytes."""
    import h5py

    path.write_bytes(bytes(64))
    with h5py.File(path.with_name("x.h5"), "w") as file:
        for key in "typ" if how != "an array of two axes" else "":
            file[f"events/{key}"] = np.zeros(8, np.int64)
        if how == "elsewhere":
            file.create_dataset("events/x", (8,), "i8", external=[(str(path), 0, 64)])
        elif how == "a view of another file":
            layout = h5py.VirtualLayout((8,), "i8")
            layout[:] = h5py.VirtualSource(str(path), "x", (8,))
            file.create_virtual_dataset("events/x", layout)
        elif how == "an array of two axes":
            for key in "txyp":
                file[f"events/{key}"] = np.zeros((4, 2), np.int64)
        else:
            file["events/x"] = h5py.SoftLink("/events/y") if how == "a link" else h5py.ExternalLink(str(path), "/x")
    return path.with_name("x.h5").read_bytes()


EIGHT = dict.fromkeys("xytp", np.zeros(8, np.int64))
EVENT_FILES = {
    "a header without end.raw": (b"% evt 2.0\n" + b"%\n" * 1_000_000, "no events"),
    "a header without end.aedat": (b"#!AER-DAT2.0\n" + b"#\n" * 1_000_000 + b"\0\0\x7f\xfe" + bytes(4), ""),
    "no AEDAT 4.aedat4": (b"#!AER-DAT4.0\r\n" + bytes(100), "not read by tonic"),
    "two axes.npz": (_saved(**dict.fromkeys("xytp", np.zeros((3, 2), np.int64))), "whole numbers"),
    "a single number.npz": (_saved(**EIGHT | {"t": np.int64(3)}), "whole numbers"),
    "single numbers.npz": (_saved(**dict.fromkeys("xytp", np.int64(3))), "t is int64 of shape (); expected 1 whole"),
    "the end of time.npz": (_saved(**EIGHT | {"t": np.array([-(2**63), *[2**63 - 1] * 7])}), "a time of"),
    "behind the end of time.npz": (_saved(**EIGHT | {"t": np.full(8, 2**64 - 1, np.uint64)}), "a time of"),
}
HDF5 = dict.fromkeys(("elsewhere", "a view of another file", "a link to another file"), "lies in another file")
HDF5 |= {"an array of two axes": "whole numbers", "a link": ""}


@pytest.mark.parametrize("what", [*EVENT_FILES, *HDF5])
def test_recordings_that_are_none(what, tmp_path, capfd):
    content, words = EVENT_FILES.get(what, (b"", HDF5.get(what, "")))
    name = Path(what).name if what in EVENT_FILES else "x.h5"
    for part in ("train", "test"):
        path = tmp_path / "mine" / part / "a" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content or _hdf5(what, tmp_path / "elsewhere"))
    if words:
        fails(tmp_path / "mine", name, words, name="events-folder", sensor=(8, 8))
    else:
        with in_time():
            open_dataset(DataConfig("events-folder", str(tmp_path / "mine"), sensor=(8, 8), holdout=0))
    assert capfd.readouterr().err == ""


SPOKEN: dict[str, dict[str, object]] = {
    "nothing": {},
    "a label without end": {"labels": np.full(2, 2**64 - 1, np.uint64)},
    "labels that are no whole numbers": {"labels": np.array([0.7, 0.7])},
    "labels of two axes": {"labels": np.zeros((2, 1), np.int64)},
    "one time for each recording": {"spikes/times": np.zeros(2)},
    "times in microseconds": {"spikes/times": np.full((2, 1), 500_000)},
    "times without end": {"spikes/times": np.full((2, 1), 1e300)},
    "a label too many": {"labels": np.array([0, 1, 1])},
    "labels beyond memory": {"labels": 1 << 40},
    "units of two axes": {"spikes/units": np.zeros((2, 1, 1), np.int64)},
}


def test_spoken_digits_outside_are_not_read(tmp_path):
    import h5py

    (tmp_path / "root").mkdir()
    for name in ("shd_train.h5", "shd_test.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            file["extra/keys"] = np.array(["secret"], "S6")
        (tmp_path / "root" / name).symlink_to(tmp_path / name)
    fails(tmp_path / "root", "outside of", name="shd")


@pytest.mark.parametrize("what", SPOKEN)
def test_spoken_digits_that_are_none(what, tmp_path):
    import h5py

    whole = {"spikes/times": np.zeros((2, 1)), "spikes/units": np.zeros((2, 1), np.int64), "labels": np.arange(2)}
    for part in ("train", "test"):
        with h5py.File(tmp_path / f"shd_{part}.h5", "w") as file:
            for key, value in {**whole, "extra/keys": np.array(["a", "b"], "S1"), **SPOKEN[what]}.items():
                if isinstance(value, int):  # so many, of which none is written
                    file.create_dataset(key, (value,), np.int64, chunks=(1 << 20,))
                else:
                    file[key] = value
    if what == "nothing":
        assert open_dataset(DataConfig("shd", str(tmp_path), holdout=0)).classes == ("a", "b")
    else:
        fails(tmp_path, "shd_train.h5", name="shd")


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_an_array_whose_header_says_more_than_there_is(ending, tmp_path):
    head = io.BytesIO()
    kind = np.dtype([(name, np.int64) for name in "xytp"])
    np.lib.format.write_array_header_1_0(head, {"descr": kind.descr, "fortran_order": False, "shape": (10**13,)})
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        path = tmp_path / part / "a" / f"0.{ending}"
        path.write_bytes(head.getvalue())
        if ending == "npz":
            with zipfile.ZipFile(path, "w") as archive:
                for name in "xytp":
                    archive.writestr(f"{name}.npy", head.getvalue())
    fails(tmp_path, f"0.{ending}", "its header says", name="events-folder", sensor=(8, 8))


def test_arrays_of_one_name(tmp_path):
    content = io.BytesIO(_saved(**EIGHT))
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr("x", archive.read("x.npy"))
    for part in ("train", "test"):
        (tmp_path / "mine" / part / "a").mkdir(parents=True)
        (tmp_path / "mine" / part / "a" / "0.npz").write_bytes(content.getvalue())
    fails(tmp_path / "mine", "x is there twice", name="events-folder", sensor=(8, 8))


@pytest.mark.parametrize("line", ["../out.aedat", "/out.aedat", "user01_led.aedat", "user24_led.aedat", "\0.aedat"])
def test_lists_that_lead_out_of_a_data_set_or_name_a_recording_twice(line, tmp_path):
    for name in ("user01_led", "user24_led", "../out"):
        path = tmp_path / "mine" / name
        path.parent.mkdir(exist_ok=True)
        path.with_name(f"{path.name}.aedat").write_bytes(b"#!AER-DAT3.1\n")
        path.with_name(f"{path.name}_labels.csv").write_text("class,start,end\n1,0,9\n")
    (tmp_path / "mine" / "trials_to_train.txt").write_text(f"user01_led.aedat\n{line}\n")
    (tmp_path / "mine" / "trials_to_test.txt").write_text("user24_led.aedat\n")
    fails(tmp_path / "mine", "listed twice" if line.startswith("user") else "no such file", name="dvs-gesture")


@pytest.mark.parametrize("where", ["train", "train/cat", "train/cat/deep"])
@pytest.mark.parametrize("target", ["..", ".", "../..", "/", "/proc"])
def test_loops_of_links(where, target, tree):
    (tree / where).mkdir(exist_ok=True)
    for name in ("one", "two"):
        (tree / where / name).symlink_to(target)
    if (where, target) == ("train", "/proc"):
        pytest.skip("a class that is linked from elsewhere is read")
    fails(tree)


@pytest.mark.parametrize("where", ["train", "train/cat", "train/cat/deep", "train/cat/0.png", ""])
def test_what_may_not_be_read(where, anybodys, monkeypatch):
    tree = make_tree(anybodys / "mine")
    (tree / "train" / "cat" / "deep").mkdir()
    shutil.copy(tree / "train" / "cat" / "0.png", tree / "train" / "cat" / "deep")
    monkeypatch.setenv("ONESPIKE_CACHE", str(anybodys / "cache"))
    for mode in (0, 0o444):  # 0o444: a folder that may be listed, and not entered
        (tree / where).chmod(mode if not (tree / where).is_file() else 0)
        with as_nobody():
            fails(tree, "ermission denied")


@pytest.mark.parametrize("place", ["run", "out", "cache", "json"])
def test_folders_without_rights(place, anybodys, command, monkeypatch):
    closed = anybodys / "closed"
    closed.mkdir()
    monkeypatch.setenv("ONESPIKE_CACHE", str(closed if place == "cache" else anybodys / "cache"))
    arguments = {
        "run": ["evaluate", closed / "run"],
        "out": ["train", "--out", closed / "run"],
        "cache": ["train", "--out", anybodys / "run", "--data.limit", 60],
        "json": ["audit", "conv-tiny", "--json", closed / "audit.json"],
    }[place]
    (closed / "run").mkdir(mode=0o000) if place == "run" else None
    closed.chmod(0o500)
    with as_nobody(), in_time():
        code, _, error = command(*arguments)
    assert code == 2
    assert error.count("\n") == 1
    assert "closed" in error
    assert not (anybodys / "run").exists()


def _png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    start = b"\x89PNG\r\n\x1a\n" + _header(width, height)
    return start + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def _header(width: int, height: int, interlaced: int = 0) -> bytes:
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, interlaced)
    return struct.pack(">I", 13) + content + struct.pack(">I", zlib.crc32(content))


def _encoded(form: str, **options: object) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(content, form, **options)
    return content.getvalue()


FORMS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
IMAGES = {
    "a bomb": _png(13_000, 13_000),
    "a large bomb": _png(2**31 - 1, 2**31 - 1),
    "without pixels": _png(0, 0),
    "empty": b"",
    "zeros": bytes(1000),
    "html": b"<html><script>alert(1)</script>",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "sizes of thousands of digits": b"P5 " + b"9" * 5000 + b" 8 255 ",
    "a PPM without end": b"P6 100000 100000 255 x",
    "two rows of eight": _png(8, 8, bytes(18)),
    "a PNG without end": _encoded("PNG")[:-12],
    "a TIFF without end": _encoded("TIFF", compression="tiff_deflate")[:-30],
} | {f"half a {form}": _encoded(form)[: len(_encoded(form)) // 2] for form in FORMS if form != "JPEG"}


@pytest.mark.parametrize("what", IMAGES)
def test_images_that_are_none(what, tree):
    (tree / "train" / "cat" / "x.png").write_bytes(IMAGES[what])
    fails(tree, "x.png")


def _deep_png(kind: int, channels: int) -> bytes:
    """A PNG of 16 bits a channel: Pillow cuts colours to 8 without a word."""
    grey = _png(8, 8, b"".join(b"\0" + bytes(16 * channels) for _ in range(8)))
    header = struct.pack(">IIBBBBB", 8, 8, 16, kind, 0, 0, 0)
    return grey[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + grey[33:]


DEEP = {
    "colour": _deep_png(2, 3),
    "grey and alpha": _deep_png(4, 2),
    "colour and alpha": _deep_png(6, 4),
    "PPM": b"P6 2 2 65535 " + bytes(24),
    "PPM of 10 bits": b"P6 2 2 1023 " + bytes(24),
    "plain PPM": b"P3 2 2 65535 " + b"1000 " * 12,
    "PGM": b"P5 2 2 65535 " + bytes(8),
    "TIFF": (lambda image: (lambda out: (image.save(out, "TIFF"), out.getvalue())[1])(io.BytesIO()))(
        Image.fromarray(np.zeros((8, 8), np.uint16))
    ),
}


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_whole_pngs_of_every_kind_are_read(mode):
    content = io.BytesIO()
    Image.fromarray(np.arange(273, dtype=np.uint8).reshape(7, 13, 3)).convert(mode).save(content, "PNG")
    assert decode(content.getvalue(), "x.png").shape[:2] == (7, 13)


@pytest.mark.parametrize("cut", [b"", bytes(26)])
def test_an_interlaced_png(cut):
    sides = [(-(-(13 - x) // dx), -(-(7 - y) // dy)) for x, y, dx, dy in ADAM7]
    rows = b"".join(bytes(1 + wide) * high for wide, high in sides if wide)
    data = _png(13, 7, rows[: len(rows) - len(cut)]).replace(_header(13, 7, 0), _header(13, 7, 1))
    if cut:
        with pytest.raises(OnespikeError, match="corrupt image"):
            decode(data, "x.png")
    else:
        assert decode(data, "x.png").shape == (7, 13, 1)


@pytest.mark.parametrize("what", DEEP)
def test_images_of_more_than_8_bits(what):
    with pytest.raises(OnespikeError, match="more than 8 bits"):
        decode(DEEP[what], "x")


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PNG"])
def test_several_images_in_one_file(form, tree):
    more = [Image.new("RGB", (8, 8), (30 * number, 0, 0)) for number in range(1, 4)]
    Image.new("RGB", (8, 8)).save(tree / "train" / "cat" / f"x.{form.lower()}", form, save_all=True, append_images=more)
    fails(tree, "several images")


def test_the_second_image_of_a_camera_is_left_out(tree):
    Image.new("RGB", (8, 8)).save(
        tree / "train" / "cat" / "x.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (4, 4))]
    )
    assert len(open_dataset(DataConfig("folder", str(tree), holdout=0)).train) == 9


@given(st.sampled_from(FORMS), st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_damaged_images_are_pixels_or_a_line(form, data):
    content = bytearray(_encoded(form))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    with fine_or_a_line("x: "), in_time(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert decode(bytes(content), "x").dtype == np.uint8


@pytest.mark.parametrize("what", ["a bomb", "a large bomb"])
def test_images_that_are_too_large_are_not_called_corrupt(what):
    with pytest.raises(OnespikeError, match=r"^x: too many pixels .*; expected at most [\d,]+; shrink it$"):
        decode(IMAGES[what], "x")


def test_an_image_is_read_though_its_exif_is_broken():
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    tag = struct.pack(">HHI", 0x011A, 5, 1)  # the resolution: a fraction, and then a text
    damaged = exif.tobytes().replace(tag, struct.pack(">HHI", 0x011A, 2, 1))
    assert damaged != exif.tobytes()
    upright = np.asarray(Image.open(io.BytesIO(_encoded("PNG"))))
    np.testing.assert_array_equal(decode(_encoded("PNG", exif=damaged), "x"), np.rot90(upright, -1))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_the_turn_that_exif_says_is_made(turn, form):
    exif = Image.Exif()
    exif[0x0112] = turn
    upright = np.asarray(Image.open(io.BytesIO(_encoded("PNG"))))
    made = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2)}
    made |= {6: np.rot90(upright, -1), 7: upright.transpose(1, 0, 2)[::-1, ::-1], 8: np.rot90(upright, 1)}
    np.testing.assert_array_equal(decode(_encoded(form, exif=exif), "x"), made[turn])


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _members(tree: Path) -> dict[str, bytes]:
    return {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*.png")}


def test_a_zip_of_a_few_bytes_that_holds_gigabytes(tree, tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _members(tree).items():
            archive.writestr(name, content)
        with archive.open("train/cat/x.png", "w", force_zip64=True) as file:
            for _ in range(300):
                file.write(bytes(1 << 20))
    fails(path, "x.png", "bytes")


def test_a_tar_of_a_few_bytes_that_holds_gigabytes(tmp_path):
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(300):
            file.write(bytes(1 << 20))
    fails(path, "bomb.tar.gz", "bytes")


def test_a_member_of_an_archive_may_be_as_large_as_its_reader_says(tree, tmp_path):
    path = tmp_path / "mine.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tree / "train/cat/0.png", "0.png")
    size = (tree / "train/cat/0.png").stat().st_size
    with open_files(path) as files:
        assert len(files.read("0.png", size)) == size
        with pytest.raises(OnespikeError, match=f"more than {size - 1:,}"):
            files.read("0.png", size - 1)


def test_rows_beyond_those_of_an_image_are_not_unpacked(monkeypatch):
    pieces, made = list[int](), zlib.decompressobj

    class Counted:
        def __init__(self) -> None:
            self.one = made()

        def decompress(self, *given: Any) -> bytes:
            pieces.append(1)
            return self.one.decompress(*given)

        unconsumed_tail = property(lambda self: self.one.unconsumed_tail)

    monkeypatch.setattr(zlib, "decompressobj", Counted)
    assert decode(_png(8, 8, bytes(1 << 25)), "here").shape == (8, 8, 1)
    assert len(pieces) == 1


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_members_that_are_no_files_are_none(kind, tree, tmp_path):
    path = tmp_path / "mine.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(tree, "")
        one = tarfile.TarInfo("train/cat/x.png")
        one.type, one.linkname = kind, "/etc/hostname"
        archive.addfile(one)
    assert len(open_dataset(DataConfig("folder", str(path), holdout=0)).train) == 8


@pytest.mark.parametrize(
    "name", ["train/cat/0.png", "./train/cat/0.png", "train/dog/../cat/0.png", "../x", "a/../../x"]
)
@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_members_are_inside_and_there_once(ending, name, tree, tmp_path):
    path = tmp_path / f"mine.{ending}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile knows of a name that is there twice
        if ending == "zip":
            with zipfile.ZipFile(_zip(path, _members(tree)), "a") as archive:
                archive.write(tree / "train" / "dog" / "0.png", name)
        else:
            with tarfile.open(path, "w") as archive:
                archive.add(tree, "")
                archive.add(tree / "train" / "dog" / "0.png", name)
    fails(path, path.name, "out of the archive" if name.endswith("x") else "twice")


def _tar_with(
    path: Path, number: int = 1, kind: bytes = b"", size: int | None = None, pax: dict[str, str] | None = None
) -> None:
    """A .tar of three images; a header of one is changed, as the library would write none."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT) as archive:
        for one in range(3):
            info, content = tarfile.TarInfo(f"train/cat/{one}.png"), _encoded("PNG")
            info.size = len(content)
            if one == number:
                info.pax_headers = pax or {}
            archive.addfile(info, io.BytesIO(content))
    if not pax:
        content = bytearray(path.read_bytes())
        start = content.index(f"train/cat/{number}.png".encode())
        header = bytearray(content[start : start + 512])
        if size is not None:
            header[124:136] = b"\xff" + (size % 2**88).to_bytes(11, "big")
        header[156:157] = kind or header[156:157]
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        content[start : start + 512] = header
        path.write_bytes(content)


def _zip_with(path: Path, kind: int = zipfile.ZIP_STORED, **changes: tuple[int, bytes]) -> None:
    """A .zip of an image; bytes behind a mark are changed: of its header, its data or its entry in the list."""
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("train/cat/0é.png", _encoded("PNG"))
    content = bytearray(path.read_bytes())
    marks = {"name": "é".encode(), "data": b".png", "entry": b"PK\1\2"}
    for where, (offset, new) in changes.items():
        found = [one for one in range(len(content)) if content.startswith(marks[where], one)]
        for at in found:
            content[at + offset : at + offset + len(new)] = new
    path.write_bytes(content)


def _zip_far(path: Path) -> None:
    """A .zip whose only member begins at byte 2^63."""
    _zip_with(path, entry=(42, b"\xff" * 4))
    content, extra = path.read_bytes(), struct.pack("<HHQ", 1, 8, 2**63 + 5)
    entry, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    listed = bytearray(content[entry:end]) + extra
    struct.pack_into("<H", listed, 30, len(extra))
    closing = bytearray(content[end:])
    struct.pack_into("<I", closing, 12, len(listed))
    path.write_bytes(content[:entry] + listed + closing)


ARCHIVES = {
    "tar: a size below 0": lambda path: _tar_with(path, size=-1024),
    "tar: a first size below 0": lambda path: _tar_with(path, 0, size=-512),
    "tar: a size below 0 in a further header": lambda path: _tar_with(path, pax={"size": "-1536"}),
    "tar: a size of 30 digits": lambda path: _tar_with(path, pax={"size": "9" * 30}),
    "tar: a sparse map of letters": lambda path: _tar_with(path, pax={"GNU.sparse.map": "a,b"}),
    "tar: a sparse size of letters": lambda path: _tar_with(path, pax={"GNU.sparse.size": "a"}),
    "tar: a real size of letters": lambda path: _tar_with(path, pax={"GNU.sparse.realsize": "a"}),
    "tar: a sparse map without end": lambda path: _tar_with(path, 2, b"S"),
    "tar: a long name below 0": lambda path: _tar_with(path, 0, b"L", -1024),
    "tar: a further header below 0": lambda path: _tar_with(path, 0, b"x", -512),
    "zip: a name that is no UTF-8": lambda path: _zip_with(path, name=(0, b"\xff\xff")),
    "zip: damaged LZMA": lambda path: _zip_with(path, zipfile.ZIP_LZMA, data=(8, b"\xff" * 9)),
    "zip: a member at byte 2^63": _zip_far,
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_archives_whose_headers_make_no_sense(what, tmp_path):
    path = tmp_path / f"mine.{what[:3]}"
    ARCHIVES[what](path)
    fails(path, path.name)


@pytest.mark.parametrize("what", ["a FIFO", "a link to /dev/zero"])
@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
def test_an_archive_without_end(ending, what, tmp_path):
    SPECIAL[what](tmp_path / f"mine.{ending}")
    fails(tmp_path / f"mine.{ending}", "mine")


@pytest.mark.parametrize("what", ["a FIFO", "a socket", "a link to /dev/zero", "a link to itself", "a folder"])
@pytest.mark.parametrize("name", ["meta.json", "train-images.npy", "test-labels.npy", "train-sums.npy"])
def test_special_files_in_the_cache(name, what, tree, fresh_cache, capsys):
    config = DataConfig("folder", str(tree), holdout=0)
    whole = np.array(open_dataset(config).train.images)
    (entry,) = fresh_cache.iterdir()
    (entry / name).unlink()
    SPECIAL[what](entry / name)
    with in_time():
        assert verify_cache(fresh_cache)[entry]
        np.testing.assert_array_equal(open_dataset(config).train.images, whole)
    assert "decoding the images again" in capsys.readouterr().err
    assert not verify_cache(fresh_cache)[entry]


def test_a_damaged_entry_that_cannot_be_deleted(tree, fresh_cache, monkeypatch):
    config = DataConfig("folder", str(tree), holdout=0)
    open_dataset(config)
    (entry,) = fresh_cache.iterdir()
    (entry / "meta.json").unlink()
    monkeypatch.setattr("onespike.durable.shutil.rmtree", lambda *_, **__: None)  # as where it is another user's
    open_dataset(config)
    assert verify_cache(fresh_cache) == {entry: ""}


def test_entries_that_changed_places(tmp_path, fresh_cache, capsys):
    roots = [make_tree(tmp_path / name) for name in ("one", "two")]
    for path in roots[1].rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    whole = [np.array(open_dataset(DataConfig("folder", str(root))).train.images) for root in roots]
    one, two = fresh_cache.iterdir()
    one.rename(fresh_cache / "x")
    two.rename(one)
    (fresh_cache / "x").rename(two)
    for root, images in zip(roots, whole, strict=True):
        np.testing.assert_array_equal(open_dataset(DataConfig("folder", str(root))).train.images, images)
    assert capsys.readouterr().err.count("under another name") == 2


def test_metadata_of_a_table_are_not_trusted(tmp_path):
    rows = {"img": [{"bytes": _encoded("PNG"), "path": None}] * 20, "label": [i % 10 for i in range(20)]}
    table = pa.table(rows)
    for number, odd in enumerate((b"[1]", b"{", b'{"info": []}', b'{"info": {"features": 3}}', b"\xff", b"[" * 99_999)):
        folder = tmp_path / str(number)
        folder.mkdir()
        for part in ("train", "test"):
            pq.write_table(table.replace_schema_metadata({b"huggingface": odd}), folder / f"{part}.parquet")
        assert open_dataset(DataConfig("cifar10", str(folder), holdout=0)).classes[0] == "airplane"


BOMBS = {"rows": (1_000_000, 10), "rows of an image": (20_000, 3000), "a large value": (100, 1_000_000)}


@pytest.mark.parametrize("name", ["cifar10", "hub"])
@pytest.mark.parametrize("what", BOMBS)
def test_tables_far_larger_inside_are_not_read(what, name, tmp_path, refused):
    rows, length = BOMBS[what]
    for part, number in (("train", rows), ("test", 10)):
        content = pa.DictionaryArray.from_arrays(pa.array([0] * number, pa.int32()), pa.array([b"x" * length]))
        images = pa.StructArray.from_arrays(
            [content.cast(pa.binary()), pa.nulls(number, pa.string())], ["bytes", "path"]
        )
        table = pa.table({"img": images, "label": [0] * number})
        pq.write_table(table, tmp_path / f"{part}.parquet", compression="zstd")
    words = (".parquet", "far larger inside")
    refused("train", "--data.name", name, "--data.root", tmp_path, "--out", tmp_path / "out", words=words)


YAML = {
    "an alias": "a: &a [1]\nb: *a\n",
    "a bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)),
    "a loop": "&a [*a]",
    "a key twice": "train:\n  lr: 1\n  lr: 2\n",
    "a section twice": "train: {}\ntrain: {}\n",
    "merged": "a: &a {b: 1}\nc:\n  <<: *a\n",
    "python": "train: !!python/object/apply:os.system ['touch hacked']\n",
    "binary": "train: !!binary aGVsbG8=\n",
    "a set": "train: !!set {a, b}\n",
    "a tag that does not fit": 'train: {seed: !!int ""}\n',
    "a tag of a list": "train: {seed: !!int {}}\n",
    "another tag of a list": "train: {lr: !!float []}\n",
    "a tag of no truth": "train: !!bool zzz\n",
    "deep": "[" * 100_000,
    "deep mappings": "{a: " * 3000,
    "deep blocks": "\n".join(" " * i + "a:" for i in range(600)),
    "keys of lists": "? [1, 2]\n: 3\n",
    "no text": "\x00\x01",
    "half a character": b"\xff\xfe\x00",
    "many documents": "---\na: 1\n---\nb: 2\n",
    "a tab": "train:\n\tlr: 1\n",
    "too long": "# " + "x" * (2 << 20),
    "a list": "- 1\n",
    "a number": "3\n",
    "a text": "x\n",
    "numbers for keys": "1: 2\n",
    "sections that are none": "train: 3\n",
    "null": "train: null\n",
    "an unknown section": "trane: {}\n",
    "escapes": '"\\e[31m": 1\n',
}


@pytest.mark.parametrize("what", YAML)
@pytest.mark.parametrize("line", ["train --out OUT --recipe", "audit conv-tiny --energy"])
def test_recipes_and_tables_of_energy(line, what, refused, tmp_path):
    path, content = tmp_path / "strange.yaml", YAML[what]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(*line.replace("OUT", str(tmp_path / "out")).split(), path, words=("strange.yaml",))
    assert not Path("hacked").exists()


@pytest.mark.parametrize("line", ["epochs: 1:2:3", "epochs: 1_0", "lr: 1_0.5", "lr: 1:2.5", "epochs: 010"])
def test_what_only_old_yaml_takes_for_a_number(line, refused, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"train:\n  {line}\n")
    refused("train", "--recipe", path, "--out", tmp_path / "out", words=tuple(line.split(": ", 1)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("model: {'neuron.decay': 0.3}", ("model.neuron.decay", "nest it")),
        ("model: {neuron: {'options.adaptation': 0.3}}", ("unknown", "model.neuron.options.adaptation")),
        ("model: {name: conv12, class_path: pkg.Net}", ("model.name and model.class_path", "name one")),
    ],
)
def test_names_of_recipes_that_say_two_things(content, words, refused, tmp_path):
    (tmp_path / "recipe.yaml").write_text(content)
    refused("train", "--recipe", tmp_path / "recipe.yaml", "--out", tmp_path / "out", words=words)


@pytest.mark.parametrize("name", ["recipe.YAML", "recipe.json", "recipe", "."])
def test_a_recipe_by_another_ending(name, refused, tmp_path):
    if name != ".":
        (tmp_path / name).write_text("train: {epochs: 1}")
    words = ("unknown recipe", "has to end in .yaml")
    refused("train", "--recipe", tmp_path / name, "--out", tmp_path / "out", words=words)


@pytest.mark.parametrize("what", ["a FIFO", "a socket", "a link to /dev/zero", "a link to nowhere", "a link to itself"])
@pytest.mark.parametrize("command_line", ["train --recipe", "audit conv-tiny --energy", "inspect RUN --image"])
def test_files_that_are_none(command_line, what, refused, tmp_path, run):
    path = tmp_path / "x.yaml"
    STRANGE[what](path)
    refused(*(run if word == "RUN" else word for word in command_line.split()), path, words=("x.yaml",))


#: What YAML and JSON can hold, with the words of a recipe among the keys.
WORDS = st.sampled_from(
    ["data", "model", "train", "loss", "conversion", "resolved_by", "name", "lr", "neuron", "class_path"]
)
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
TREES = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(), inner, max_size=4)
)


@given(st.dictionaries(WORDS | st.text(max_size=8), TREES, max_size=4))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_tree_is_a_recipe_or_a_line(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    path.write_text(json.dumps(tree))  # YAML takes JSON
    with fine_or_a_line():
        load_recipe(path)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_are_yaml_or_a_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    path.write_bytes(content)
    with fine_or_a_line():
        read_yaml(path)
