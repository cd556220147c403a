"""Parquet files and folders for Hugging Face `datasets` from strangers: they lead nowhere, and import nothing."""

import errno
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import onespike
from onespike.classpath import installed_only
from onespike.data import as_dataset
from onespike.data.config import DataConfig
from onespike.data.dataset import open_dataset
from onespike.errors import OnespikeError
from tests.hostile.harness import fails, in_time, make_tree

pytestmark = pytest.mark.usefixtures("fresh_cache")
BINARY = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
LETTERS = list("abcdefghij")


def image(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def cells(content=None, values=None, paths=None, text=None):
    values = pa.array([image(seed) for seed in range(20)] if values is None else values, content or pa.binary())
    return pa.StructArray.from_arrays([values, text or pa.array(paths or [None] * 20, pa.string())], ["bytes", "path"])


def table(images=None, labels=None, names=LETTERS, columns=("img", "label")):
    images = cells() if images is None else images
    labels = pa.array([number % 10 for number in range(20)], pa.int64()) if labels is None else labels
    features = {columns[0]: {"_type": "Image"}, columns[1]: {"names": names, "_type": "ClassLabel"}}
    said = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    return pa.Table.from_arrays([images, labels], columns).replace_schema_metadata(said)


def make(root: Path, train: pa.Table | None = None, test: pa.Table | None = None) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    train = table() if train is None else train
    for part, rows in (("train", train), ("test", train if test is None else test)):
        with (root / f"{part}.parquet").open("wb") as file:
            pq.write_table(rows, file)
    return root


def opened(root, name="hub"):
    with in_time():
        data = open_dataset(DataConfig(name, str(root), holdout=0))
    return len(data.train), len(data.test), data.classes


WHOLE = (20, 20, tuple(LETTERS))


def _card(train: str) -> str:
    files = f"[{{split: train, path: {train}}}, {{split: test, path: test.parquet}}]"
    return f"---\nconfigs: [{{config_name: default, data_files: {files}}}]\n---\n"


BESIDE = {
    **{
        f"a card that leads to {where}": ("README.md", _card(f"'{where}'"))
        for where in (
            *(
                "../other/train.parquet",
                "s3://a/b.parquet",
                "hf://datasets/a/b/x.parquet",
                "http://127.0.0.1:9/x.parquet",
            ),
            *("github://a:b@c/x.parquet", "zip://x.parquet::a.zip", "reference://x.parquet", "x.y://z", "test.parquet"),
        )
    },
    "a card that is no YAML": ("README.md", "---\na: [\n---\n"),
    "a card that names code": ("README.md", "---\na: !!python/object/apply:os.system ['true']\n---\n"),
    "a card without end": ("README.md", "---\n" + "[" * 100_000 + "\n---\n"),
    "a card with NUL": ("README.md", "---\na: \0\n---\n"),
    "a card with numbers": ("README.md", "---\nconfigs: [3]\ndataset_info: [3]\n---\n"),
    "a card of features": ("README.md", "---\ndataset_info: {features: 3}\n---\n"),
    "a table many times": ("README.md", _card("[" + ",".join(["train.parquet"] * 6000) + "]")),
    "infos that are a number": ("dataset_infos.json", "3"),
    "infos without end": ("dataset_infos.json", "[" * 100_000),
    "infos of features": ("dataset_infos.json", '{"default": {"features": 3}}'),
    "YAML of the Hub": (".huggingface.yaml", "["),
    "a script": ("mine.py", "raise SystemExit"),
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_lies_beside_tables_is_not_read(what, tmp_path, monkeypatch):
    name, content = BESIDE[what]
    make(tmp_path / "other", table(names=[letter * 3 for letter in LETTERS]))
    root = make(tmp_path / "mine")
    (root / name).write_text(content)
    for module in ("s3fs", "requests", "aiohttp"):
        (root / f"{module}.py").write_text("raise SystemExit('imported')")
    (root / "named.py").touch()
    monkeypatch.chdir(root)
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.delitem(sys.modules, "named", raising=False)
    onespike.allow_imports("named")
    assert opened(".") == WHOLE


def test_the_folder_one_is_in_is_looked_in_for_named_modules_alone(tmp_path, monkeypatch, refused):
    (tmp_path / "named.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.delitem(sys.modules, "named", raising=False)
    refused("train", "--data.root", tmp_path, "--out", tmp_path / "out")
    assert str(tmp_path) not in sys.path
    onespike.allow_imports("named")
    assert str(tmp_path) in sys.path
    with installed_only():
        assert str(tmp_path) not in sys.path
    assert str(tmp_path) in sys.path


def _tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    "ending", ["cbor", "pth", "pt", "pyd", "pickle", "npy", "npz", "ten", "mp", "gz", "png.cbor", ""]
)
def test_archives_hold_images_and_text(ending, tmp_path, fresh_cache, monkeypatch):
    images = [(f"{number}.png", image(number)) for number in range(4)]
    labels = [(f"{number}.cls", b"%d" % (number % 2)) for number in range(4)]
    rows = [one for pair in zip(images, labels, strict=True) for one in pair]
    for part in ("train", "test"):
        _tar(tmp_path / f"{part}.tar", rows)
    assert opened(tmp_path)[:2] == (4, 4)
    shutil.rmtree(fresh_cache)
    (tmp_path / f"{ending.split('.')[-1]}.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    _tar(tmp_path / "train.tar", [*rows, (f"9.{ending}".rstrip("."), b"\xff" * 9)])
    fails(tmp_path, "train.tar: 9", "expected only .bmp", name="hub")


@pytest.mark.parametrize("hidden", [".h/z.png", ".h/z.pth", "._0.png"])
def test_hidden_members_of_archives_are_refused_since_datasets_would_read_them(hidden, tmp_path):
    _tar(tmp_path / "train.tar", [("0.png", image()), ("0.cls", b"1"), (hidden, image())])
    fails(tmp_path, f"train.tar: {hidden}", "expected only .bmp", name="hub")


@pytest.mark.parametrize("again", ["0.png", "./0.png", "../0.png"])
def test_members_of_archives_are_inside_and_there_once(again, tmp_path):
    _tar(tmp_path / "train.tar", [("0.png", image()), ("0.cls", b"1"), (again, image())])
    fails(tmp_path, "train.tar", "pack it anew", name="hub")


@pytest.mark.parametrize("content", [b"x", b"9" * 5000])
def test_labels_of_archives_that_are_none(content, tmp_path):
    _tar(tmp_path / "train.tar", [("0.png", image()), ("0.cls", content)])
    fails(tmp_path, tmp_path, "not read by Hugging Face datasets", name="hub")


OUTSIDE = (
    "{other}/x.png",
    "{root}/../other/x.png",
    "../other/x.png",
    "x.png",
    "/etc/hostname",
    "a\0b",
    "",
    "http://a/x.png",
)


@pytest.mark.parametrize("path", OUTSIDE)
def test_images_by_their_path_lie_inside(path, tmp_path, monkeypatch):
    for folder in ("other", "mine"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes(image())
    paths = [path.format(other=tmp_path / "other", root=tmp_path / "mine")] * 20
    root = make(tmp_path / "mine", table(cells(values=[None] * 20, paths=paths)))
    monkeypatch.chdir(root)
    fails(root, "mine, train: ", name="hub")


def _no_text() -> pa.Array:
    offsets = np.arange(0, 21, dtype=np.int32) * 2
    return pa.StringArray.from_buffers(20, pa.py_buffer(offsets), pa.py_buffer(b"\xff\xfe" * 20))


def test_paths_that_are_no_text(tmp_path):
    fails(make(tmp_path / "mine", table(cells(values=[None] * 20, text=_no_text()))), "cannot be read", name="hub")


@pytest.mark.parametrize(
    "rows",
    [
        ["0.png", "0.png"],
        ["0.png", "./0.png"],
        ["../test/0.png"],
        ["../../other/0.png"],
        ["a\0b"],
        ["9.png"],
        [3],
        [None],
        [],
    ],
    ids=str,
)
def test_lists_of_images(rows, tmp_path):
    for place in ("mine/train", "mine/test", "other"):
        (tmp_path / place).mkdir(parents=True)
        for number in range(3):
            (tmp_path / place / f"{number}.png").write_bytes(image(number))
    for part, names in (("train", rows), ("test", ["0.png"])):
        lines = [json.dumps({"file_name": name, "label": 0}) for name in names]
        (tmp_path / "mine" / part / "metadata.jsonl").write_text("\n".join(lines))
    fails(tmp_path / "mine", "mine", name="hub")


LINKS = {
    "out of the folder": lambda train, _, other: (train.unlink(), train.symlink_to(other)),
    "to the training part": lambda train, test, _: (test.unlink(), test.symlink_to(train.name)),
    "as a hard link": lambda train, test, _: (test.unlink(), test.hardlink_to(train)),
    "to nowhere": lambda _, test, __: (test.unlink(), test.symlink_to("nowhere")),
}


@pytest.mark.parametrize("form", ["cifar10", "hub", "binary"])
@pytest.mark.parametrize("how", LINKS)
def test_files_of_known_data_sets_are_inside_and_there_once(how, form, tmp_path):
    root, other = make(tmp_path / "mine"), make(tmp_path / "other")
    names = "train.parquet", "test.parquet"
    if form == "binary":
        for folder in (root, other):
            shutil.rmtree(folder)
            folder.mkdir()
            for batch in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
                (folder / batch).write_bytes(bytes(3073))
        names = "data_batch_1.bin", "test_batch.bin"
    LINKS[how](root / names[0], root / names[1], other / names[0])
    fails(root, root, name="hub" if form == "hub" else "cifar10")


@pytest.mark.parametrize("name", ["cifar10", "hub"])
@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00002"],
        ["train-00000-of-00002", "train-00000-of-00002 (copy)"],
        ["train-00000-of-00002", "train-00001-of-00003"],
        ["train-00002-of-00003", "train-00003-of-00003"],
        ["train-00000-of-00001", "train-old"],
        ["train-0-of-" + "9" * 200],
    ],
    ids=str,
)
def test_parts_of_which_a_file_is_missing(names, name, tmp_path):
    root = make(tmp_path)
    for file in names:
        shutil.copy(root / "train.parquet", root / f"{file}.parquet")
    (root / "train.parquet").unlink()
    fails(root, names[0], f"one of {len(names)} files", name=name)


def test_several_data_sets_in_a_folder_are_not_mixed(tmp_path):
    for name in ("one", "two"):
        make(tmp_path / name)
    fails(tmp_path, tmp_path / "one", tmp_path / "two", "hold files of one part", name="hub")


ROOTS = "data[12]", "data?", "data*", "data**", "{a,b}", "zip:", "file:", "a#b", "a%20b", "train", "a\nb", " x"


@pytest.mark.parametrize("name", [*ROOTS, "parquet", "csv", "json", "text", "imagefolder", "webdataset", "arrow"])
def test_roots_by_any_name(name, tmp_path, fresh_cache, monkeypatch):
    others = table(names=[letter * 3 for letter in LETTERS])
    for other in ("data1", "dataX", "a", "zip", "file", "a b", "."):
        make(tmp_path / other, others)
    make(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert opened(name) == WHOLE
    shutil.rmtree(fresh_cache)
    assert opened(tmp_path / name) == WHOLE
    shutil.rmtree(fresh_cache)
    monkeypatch.chdir(tmp_path / name)
    assert opened(".") == WHOLE


def test_a_root_that_is_a_chain(tmp_path):
    fails(make(tmp_path / "x::y"), "x::y", "'::' in its name", name="hub")


NAMES = {
    "one twice": ["a", "a"],
    "empty": ["", "b"],
    "blank": [" ", "b"],
    "NUL": ["a\0", "b"],
    "a line": ["a\nb", "b"],
    "colour": ["\x1b[31m", "b"],
    "half a character": ["\ud800", "b"],
    "too long": ["x" * 10_000, "b"],
    "too many": [str(number) for number in range(40_000)],
}


@pytest.mark.parametrize("form", ["cifar10", "hub", "raw", "floats"])
@pytest.mark.parametrize("what", NAMES)
def test_names_of_classes(what, form, tmp_path):
    names = NAMES[what]
    if form in ("cifar10", "hub"):
        labels = pa.array([number % 2 for number in range(20)])
        remedy = "correct them" if what == "too many" else "rename it"
        if (what, form) == ("one twice", "hub"):
            remedy = "names are duplicated"  # which `datasets` says
        fails(make(tmp_path / "mine", table(labels=labels, names=names)), remedy, name=form)
        return
    item = np.zeros((8, 8), np.uint8) if form == "raw" else np.zeros((1, 8, 8), np.float32)
    with in_time(), pytest.raises(OnespikeError) as caught:
        as_dataset([(item, number % 2) for number in range(20)], name="mine", classes=names)
    assert str(caught.value).isprintable()
    assert "mine: " in str(caught.value)


@pytest.mark.parametrize("name", ["cifar10", "hub"])
@pytest.mark.parametrize("number", [100_000, 3_000_000])
def test_metadata_of_too_many_names(number, name, tmp_path):
    fails(make(tmp_path, table(names=[str(one) for one in range(number)])), "expected", name=name)


@pytest.mark.parametrize("name", ["cifar10", "hub"])
@pytest.mark.parametrize("where", ["test", "train-00001-of-00002"])
@pytest.mark.parametrize("names", [LETTERS[::-1], [*LETTERS[:-1], "x"], [*LETTERS, "x"], None])
def test_names_that_differ_between_files(names, where, name, tmp_path):
    root = make(tmp_path)
    if where != "test":
        (root / "train.parquet").rename(root / "train-00000-of-00002.parquet")
    pq.write_table(table(names=names), root / f"{where}.parquet")
    fails(root, f"{where}.parquet: other c", name=name)


class _Named(list):
    def __init__(self, classes: list[str]) -> None:
        super().__init__((np.zeros((8, 8), np.uint8), number % 2) for number in range(20))
        self.classes = classes


def test_names_of_somebodys_parts():
    with pytest.raises(OnespikeError, match="test: class 0 is called 'b'; expected 'a'"):
        as_dataset((_Named(["a", "b"]), _Named(["b", "a"])))
    assert as_dataset(_Named(["crane", "crane"])).classes == ("crane (0)", "crane (1)")


def _beside(name: str) -> pa.Table:
    return table(names=None).append_column(name, pa.array([0] * 20))


TABLES = {
    "bytes that are text": table(cells(pa.string(), ["x"] * 20)),
    "bytes that are no text": table(
        pa.StructArray.from_arrays([_no_text(), pa.nulls(20, pa.string())], ["bytes", "path"])
    ),
    "bytes that are time": table(cells(pa.duration("s"), [2**55] * 20)),
    "bytes that are numbers": table(cells(pa.int64(), [2**40] * 20)),
    "labels from 2^63": table(labels=pa.array([2**63] * 20, pa.uint64()), names=None),
    "the last label": table(labels=pa.array([2**64 - 1] * 20, pa.uint64()), names=None),
    "bytes twice": table(pa.StructArray.from_arrays([cells().field(0), cells().field(0)], ["bytes", "bytes"])),
    "images twice": _beside("img"),
    "labels twice": _beside("label"),
}


@pytest.mark.parametrize("name", ["cifar10", "hub"])
@pytest.mark.parametrize("what", TABLES)
def test_tables_of_no_images(what, name, tmp_path):
    fails(make(tmp_path / "mine", TABLES[what]), "mine", name=name)


def test_a_struct_with_two_fields_of_bytes_is_named(tmp_path):
    fails(make(tmp_path, TABLES["bytes twice"]), "train.parquet: columns img: struct<", "each once", name="cifar10")


def test_a_column_that_is_called_like_a_part_of_another(tmp_path):
    assert opened(make(tmp_path, _beside("img.bytes")), "cifar10")[:2] == (20, 20)


@pytest.mark.parametrize("name", ["cifar10", "hub"])
def test_extension_types_that_are_none(name, tmp_path):
    import datasets  # noqa: F401 - it is what knows the type

    kind = {"ARROW:extension:name": "datasets.features.features.Array2DExtensionType", "ARROW:extension:metadata": "{"}
    schema = pa.schema([pa.field("img", BINARY, metadata=kind), pa.field("label", pa.int64())])
    rows = pa.Table.from_arrays([cells(), table()["label"]], schema=schema)
    fails(make(tmp_path, rows), "train.parquet: truncated or damaged", name=name)


SAID = (
    b"[1]",
    b"{",
    b'{"info": {"features": 3}}',
    b"\xff",
    b"[" * 99_999,
    b"null",
    b'{"info":{"features":{"img":' + b'{"a":' * 500,
)


@pytest.mark.parametrize("said", SAID, ids=lambda said: said[:30])
def test_metadata_that_make_no_sense(said, tmp_path):
    root = make(tmp_path, table().replace_schema_metadata({"huggingface": said}))
    fails(root, name="hub")


def test_what_is_left_out_of_a_folder_is_said(tmp_path, capsys):
    root = make_tree(tmp_path)
    (root / "train" / "cat" / "0.png").rename(root / "logo.png")
    assert opened(root)[:2] == (7, 4)
    assert "logo.png: no image of a part by its name; 1 such file is left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), OSError("Not enough disk space. Needed: 1 GB")], ids=str
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_full_disk_is_not_taken_for_bad_data(inside, error, tmp_path, monkeypatch):
    def full(*_args, **_options):
        if not inside:
            raise error
        raise datasets.exceptions.DatasetGenerationError("An error occurred") from error

    monkeypatch.setattr(datasets.DatasetBuilder, "download_and_prepare", full)
    fails(make(tmp_path / "mine"), "disk full", "$TMPDIR", name="hub")
