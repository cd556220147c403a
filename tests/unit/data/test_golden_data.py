"""What each source gave when it was written down: entries of the cache, pixels, labels, class names and splits."""

import hashlib
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from layouts import netpbm, official, pack, write_binary, write_hub, write_pickled
from PIL import Image

from onespike.data import DataConfig, as_dataset, open_dataset

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))


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
