import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import png, write_hub, write_parquet

from onespike.data.config import DataConfig
from onespike.data.dataset import open_dataset


@pytest.fixture
def hub(tmp_path, content):
    return write_hub(tmp_path / "hub", "cifar10", content["cifar10"])


@pytest.mark.parametrize("keep", [0, 3, 0.5, -1])
def test_a_truncated_file_is_named(hub, fails, keep):
    file = hub / "test-00000-of-00001.parquet"
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data))] if isinstance(keep, float) else data[:keep])
    fails("cifar10", hub, file, "truncated or damaged Parquet", "download it again")


def test_a_corrupt_image_is_named_by_file_and_row(hub, content, fails):
    images, labels = content["cifar10"]["test"]
    cells = [png(image) for image in images]
    cells[8] = cells[8][:100]
    file = write_parquet(hub / "test-00000-of-00001.parquet", cells, labels.tolist())
    fails("cifar10", hub, f"{file}: row 8", "corrupt image")
    cells[8] = b"not an image"
    write_parquet(file, cells, labels.tolist())
    fails("cifar10", hub, f"{file}: row 8", "corrupt image")


@pytest.mark.parametrize("lost", ["image", "label"])
def test_an_empty_cell_is_named(hub, content, fails, lost):
    images, labels = content["cifar10"]["test"]
    cells, marks = [png(image) for image in images], labels.tolist()
    (cells if lost == "image" else marks)[4] = None
    file = write_parquet(hub / "test-00000-of-00001.parquet", cells, marks)
    fails("cifar10", hub, f"{file}: row 4", "no image or no label")


def test_other_columns_are_named(hub, fails):
    fails("cifar100", hub, "columns img: struct<", "label: int64", "expected img: a struct", "fine_label: whole")
    file = hub / "test-00000-of-00001.parquet"
    pq.write_table(pa.table({"img": ["a"], "label": ["cat"]}), file)
    fails("cifar10", hub, file, "columns img: string, label: string", "expected img: a struct")


def test_a_missing_part_is_named(hub, fails):
    (hub / "test-00000-of-00001.parquet").unlink()
    fails("cifar10", hub, hub, "no test*.parquet")


def test_a_missing_shard_is_named(hub, fails):
    (hub / "train-00000-of-00001.parquet").rename(hub / "train-00000-of-00002.parquet")
    fails("cifar10", hub, "train-00000-of-00002.parquet", "one of 1 files", "expected 2")


def test_a_part_without_rows_is_named(hub, fails):
    write_parquet(hub / "test-00000-of-00001.parquet", [], [])
    fails("cifar10", hub, hub, "no images in the test part")


def test_shards_come_in_order(tmp_path, content):
    images, labels = content["cifar10"]["train"]
    folder = write_hub(tmp_path / "hub", "cifar10", content["cifar10"])
    (folder / "train-00000-of-00001.parquet").unlink()
    for i, part in enumerate((slice(20), slice(20, 30))):
        cells = [png(image) for image in images[part]]
        write_parquet(folder / f"train-0000{i}-of-00002.parquet", cells, labels[part].tolist())
    data = open_dataset(DataConfig("cifar10", str(folder), holdout=0))
    assert (data.train.images == images).all()


def test_an_own_validation_part_is_used(hub, content):
    images, labels = content["cifar10"]["test"]
    write_parquet(hub / "validation.parquet", [png(image) for image in images[:4]], labels[:4].tolist())
    data = open_dataset(DataConfig("cifar10", str(hub)))
    assert [len(data.train), len(data.validation), len(data.test)] == [30, 4, 10]
