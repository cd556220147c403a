import numpy as np
import pytest
from layouts import (
    dump_python2,
    dump_python3,
    pack,
    pixels_of,
    planar,
    write_binary,
    write_hub,
    write_pickled,
)

from onespike.data.config import DataConfig
from onespike.data.dataset import open_dataset

NAMES = ["cifar10", "cifar100"]
FOLDERS = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}
WRITERS = {
    "binary": write_binary,
    "python 2": write_pickled,
    "python 3": lambda *args: write_pickled(*args, dump=dump_python3),
    "parquet": write_hub,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("above", [False, True])
def test_every_form_gives_the_same_images(tmp_path, content, name, form, above):
    folder = WRITERS[form](tmp_path / "above" / "inner", name, content[name])
    data = open_dataset(DataConfig(name, str(folder.parent if above else folder), holdout=0))
    for part in ("train", "test"):
        images, labels = content[name][part]
        np.testing.assert_array_equal(pixels_of(data, part), images)
        np.testing.assert_array_equal(getattr(data, part).labels, labels)
    assert data.num_classes == {"cifar10": 10, "cifar100": 100}[name]
    assert data.classes[0] == {"cifar10": "airplane", "cifar100": "apple"}[name]
    assert (data.in_channels, data.image_size, len(data.validation)) == (3, 32, 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["binary", "python 2"])
@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
def test_official_archives_need_not_be_unpacked(tmp_path, content, name, form, ending):
    archive = pack(WRITERS[form](tmp_path / FOLDERS[name], name, content[name]), tmp_path / f"{name}{ending}")
    data = open_dataset(DataConfig(name, str(archive), holdout=0))
    np.testing.assert_array_equal(pixels_of(data, "train"), content[name]["train"][0])
    np.testing.assert_array_equal(pixels_of(data, "test"), content[name]["test"][0])


def test_class_names_come_from_the_parquet_file_if_it_has_them(tmp_path, content):
    folder = write_hub(tmp_path / "hub", "cifar10", content["cifar10"], [f"class {i}" for i in range(10)])
    assert open_dataset(DataConfig("cifar10", str(folder))).classes[3] == "class 3"


def test_image_size_resizes(tmp_path, content):
    folder = write_binary(tmp_path / "bin", "cifar10", content["cifar10"])
    data = open_dataset(DataConfig("cifar10", str(folder), image_size=16))
    assert data.image_size == 16
    assert data.train.images.shape == (30, 16, 16, 3)


def test_missing_empty_and_unrecognised_roots(tmp_path, fails):
    fails("cifar10", tmp_path / "none", tmp_path / "none", "no such file or folder", "--data.root")
    (tmp_path / "empty").mkdir()
    fails("cifar10", tmp_path / "empty", tmp_path / "empty", "empty folder")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    fails("cifar10", tmp_path / "other", "not recognised as cifar10", "data_batch_1.bin", "data_batch_1 ", "parquet")
    fails("cifar100", tmp_path / "other", "not recognised as cifar100", "train.bin", "train*.parquet")
    fails("cifar10", tmp_path / "other" / "notes.txt", "notes.txt", "expected a folder, .zip, .tar")


def test_two_data_sets_in_one_folder_are_ambiguous(tmp_path, content, fails):
    for inner in ("a", "b"):
        write_binary(tmp_path / "both" / inner, "cifar10", content["cifar10"])
    fails("cifar10", tmp_path / "both", "a, b all hold data_batch_1.bin", "--data.root")


@pytest.mark.parametrize("length", [3073 * 5 + 100, 0])
def test_a_truncated_binary_file_says_both_sizes(tmp_path, content, fails, length):
    folder = write_binary(tmp_path / "bin", "cifar10", content["cifar10"])
    file = folder / "data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:length])
    fails("cifar10", folder, file, f"{length:,} bytes", "expected", "3,073 bytes")


def test_half_an_official_file_is_found_out_by_the_files_beside_it(tmp_path, fails):
    folder = tmp_path / "bin"
    folder.mkdir()
    sizes = {"train.bin": 50_000 * 3074, "test.bin": 5_000 * 3074}
    for name, size in sizes.items():
        with (folder / name).open("wb") as file:
            file.truncate(size)
    fails("cifar100", folder, folder / "test.bin", "15,370,000 bytes", "expected 30,740,000 bytes")


@pytest.mark.parametrize("form", ["binary", "python 2"])
def test_a_missing_batch_is_named(tmp_path, content, fails, form):
    folder = WRITERS[form](tmp_path / "cifar", "cifar10", content["cifar10"])
    file = folder / ("data_batch_4.bin" if form == "binary" else "data_batch_4")
    file.unlink()
    fails("cifar10", folder, file, "cannot be read")


@pytest.mark.parametrize("form", WRITERS)
def test_a_label_out_of_range_is_named(tmp_path, content, fails, form):
    content["cifar10"]["train"][1][7] = 12
    folder = WRITERS[form](tmp_path / "cifar", "cifar10", content["cifar10"])
    where = {"binary": "data_batch_2.bin: image 1", "parquet": "train-00000-of-00001.parquet: row 7"}
    fails("cifar10", folder, where.get(form, "data_batch_2: image 1"), "label 12", "expected 0 to 9")


@pytest.mark.parametrize(
    "batch",
    [
        ["a list"],
        {b"labels": [1, 2]},
        {b"data": np.zeros((2, 3072), np.uint8)},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": [10**30]},
        {b"data": np.zeros((2, 99), np.uint8), b"labels": [1, 2]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, b"2"]},
        {b"data": np.zeros((0, 3072), np.uint8), b"labels": []},
    ],
)
def test_a_pickle_that_is_no_batch(tmp_path, content, fails, batch):
    folder = write_pickled(tmp_path / "py", "cifar10", content["cifar10"])
    (folder / "data_batch_1").write_bytes(dump_python2(batch))
    fails("cifar10", folder, folder / "data_batch_1", "not a batch of cifar10", "expected data")


def test_planar_layout_is_red_then_green_then_blue():
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[..., 1] = 9
    assert planar(image)[0, 1024:2048].min() == 9
