"""Small data sets in every layout."""

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from onespike.data.dataset import Dataset

Content = dict[str, tuple[np.ndarray, np.ndarray]]


def pixels_of(data: Dataset, part: str) -> np.ndarray:
    images = getattr(data, part)
    return images.images[images.indices]


def files_of(name: str, content: Content) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Official file name, images and labels; CIFAR-10's training images come in five files."""
    images, labels = content["train"]
    if name == "cifar10":
        parts = zip(np.split(images, 5), np.split(labels, 5), strict=True)
        yield from ((f"data_batch_{i}", x, y) for i, (x, y) in enumerate(parts, 1))
    else:
        yield "train", images, labels
    yield "test_batch" if name == "cifar10" else "test", *content["test"]


def planar(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def write_binary(folder: Path, name: str, content: Content) -> Path:
    folder.mkdir(parents=True)
    for file, images, labels in files_of(name, content):
        columns = [labels[:, None]] if name == "cifar10" else [labels[:, None] // 5, labels[:, None]]
        (folder / f"{file}.bin").write_bytes(np.hstack([*columns, planar(images)]).astype(np.uint8).tobytes())
    return folder


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, text: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(text)) + text)
        self.memoize(text)

    dispatch[bytes] = save_string


def dump_python2(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core", b"numpy.core")


def dump_python3(value: object) -> bytes:
    return pickle.dumps(value, protocol=2)


def write_pickled(folder: Path, name: str, content: Content, dump: Callable[[object], bytes] = dump_python2) -> Path:
    folder.mkdir(parents=True)
    for file, images, labels in files_of(name, content):
        batch = {b"batch_label": b"a batch", b"data": planar(images), b"filenames": [b"a.png"] * len(labels)}
        if name == "cifar10":
            batch[b"labels"] = labels.tolist()
        else:
            batch |= {b"fine_labels": labels.tolist(), b"coarse_labels": (labels // 5).tolist()}
        (folder / file).write_bytes(dump(batch))
    return folder


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def write_parquet(
    path: Path,
    images: list[bytes | None],
    labels: list[int | None],
    columns: tuple[str, str] = ("img", "label"),
    names: list[str] | None = None,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = pa.array([{"bytes": image, "path": None} for image in images], kind)
    table = pa.table({columns[0]: cells, columns[1]: pa.array(labels, pa.int64())})
    if names:
        features = {columns[0]: {"_type": "Image"}, columns[1]: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=8)
    return path


def write_hub(folder: Path, name: str, content: Content, names: list[str] | None = None) -> Path:
    label = {"cifar10": "label", "cifar100": "fine_label"}[name]
    for part, (images, labels) in content.items():
        path = folder / f"{part}-00000-of-00001.parquet"
        write_parquet(path, [png(image) for image in images], labels.tolist(), ("img", label), names)
    return folder


def pack(folder: Path, archive: Path) -> Path:
    """Pack a folder, itself included, into a .zip, .tar or .tar.gz."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in files:
                file.write(path, path.relative_to(folder.parent))
    else:
        with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as file:
            for path in reversed(files):
                file.add(path, path.relative_to(folder.parent))
    return archive


def save_image(path: Path, size: tuple[int, int] = (8, 8), grey: bool = False, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], *(() if grey else (3,))), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def netpbm(root: Path, seed: int = 0) -> Path:
    """Image files whose bytes no library decides: train/, val/ and test/ of two classes, some of the images grey."""
    rng = np.random.default_rng(seed)
    for number, part in enumerate(("train", "val", "test")):
        for name in ("cat", "dog"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(6 - number):
                colour = i % 3 > 0
                header, size = (b"P6 8 8 255\n", 192) if colour else (b"P5 8 8 255\n", 64)
                (folder / f"{i}.ppm").write_bytes(header + rng.integers(0, 256, size, np.uint8).tobytes())
    return root


def official(root: Path) -> Path:
    """Tiny-ImageNet as it is shipped, of three classes. The files hold Netpbm whatever their ending."""
    rng = np.random.default_rng(1)

    def image(name: str) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"P6 8 8 255\n" + rng.integers(0, 256, 192, np.uint8).tobytes())

    wnids, lines = ["n03", "n01", "n02"], []
    for wnid in wnids:
        for i in range(4):
            image(f"train/{wnid}/images/{wnid}_{i}.JPEG")
        image(f"val/images/val_{wnid}.JPEG")
        lines.append(f"val_{wnid}.JPEG\t{wnid}\t0\t0\t7\t7\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(wnids))
    (root / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tbullfrog\n")
    return root
