"""What each source gave when it was written down: entries of the cache, pixels, labels, class names and splits."""

import hashlib
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from layouts import pack, write_binary, write_hub, write_pickled
from PIL import Image

from onespike.data import DataConfig, as_dataset, open_dataset

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))


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


ROOTS = {
    "digits": lambda _, __: ("digits", None),
    "cifar10 binary": lambda path, content: ("cifar10", write_binary(path / "a", "cifar10", content["cifar10"])),
    "cifar100 binary": lambda path, content: ("cifar100", write_binary(path / "a", "cifar100", content["cifar100"])),
    "cifar10 pickled": lambda path, content: ("cifar10", write_pickled(path / "a", "cifar10", content["cifar10"])),
    "folder": lambda path, _: ("folder", netpbm(path / "mine")),
    "folder as hub": lambda path, _: ("hub", netpbm(path / "mine")),
    "tiny-imagenet": lambda path, _: ("tiny-imagenet", official(path / "tiny").parent),
}


def described(data) -> str:
    lines = [data.name, *data.classes, str(data.mean), str(data.std), data.note]
    for part in (data.train, data.validation, data.test):
        pixels, labels = part.gather(np.arange(len(part)))
        lines += [str(tuple(pixels.shape)), str(part.indices.tolist()), str(labels.tolist())]
        lines.append(hashlib.sha256(pixels.numpy().tobytes()).hexdigest())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("options", [{}, {"image_size": 5, "limit": 7, "holdout": 0.3}], ids=["whole", "cut"])
@pytest.mark.parametrize("which", ROOTS)
def test_a_source_gives_what_it_always_gave(which, options, tmp_path, content, cache):
    name, root = ROOTS[which](tmp_path, content)
    data = open_dataset(DataConfig(name, str(root) if root else None, **options))
    (entry,) = cache.iterdir()
    assert [entry.name, described(data)] == GOLDEN[f"{which}, {'cut' if options else 'whole'}"]


def entry_of(name: str, key: str) -> str:
    return f"{name}-{hashlib.sha256(f'{key} None 4'.encode()).hexdigest()[:16]}"


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
def test_the_key_of_an_archive_is_its_digest(ending, tmp_path, cache):
    archive = pack(netpbm(tmp_path / "mine"), tmp_path / f"mine{ending}")
    data = open_dataset(DataConfig("folder", str(archive)))
    (entry,) = cache.iterdir()
    assert entry.name == entry_of("folder", hashlib.sha256(archive.read_bytes()).hexdigest())
    assert described(data) == GOLDEN["folder, whole"][1]


def test_the_key_of_parquet_files_is_over_names_and_digests(tmp_path, content, cache):
    folder = write_hub(tmp_path / "hub", "cifar10", content["cifar10"])
    data = open_dataset(DataConfig("cifar10", str(folder)))
    (entry,) = cache.iterdir()
    files = [folder / f"{part}-00000-of-00001.parquet" for part in ("train", "test")]
    lines = [f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n" for file in files]
    assert entry.name == entry_of("cifar10", hashlib.sha256("".join(lines).encode()).hexdigest())
    assert described(data) == GOLDEN["cifar10 binary, whole"][1]


def test_own_data_sets_give_what_they_always_gave(content):
    images, labels = content["cifar10"]["train"]
    pairs = list(zip(map(Image.fromarray, images), labels.tolist(), strict=True))
    table = datasets.Dataset.from_dict({"image": [image for image, _ in pairs], "label": labels.tolist()})
    floats = [
        (image.transpose(2, 0, 1).astype(np.float32), label) for image, (_, label) in zip(images, pairs, strict=True)
    ]
    for which, source in {"own pairs": pairs, "own table": table, "own floats": floats}.items():
        data = as_dataset(source, name="own", limit=20, holdout=0.3)
        assert described(data) == GOLDEN[which]
