import numpy as np
import pyarrow.parquet as pq
import pytest
from layouts import write_binary, write_parquet

from onespike.data.config import DataConfig
from onespike.data.dataset import open_dataset


@pytest.mark.slow
def test_cifar10_has_the_published_statistics(shared_data):
    data = open_dataset(DataConfig("cifar10", str(shared_data / "cifar10")))
    assert [len(data.train), len(data.validation), len(data.test)] == [45_000, 5_000, 10_000]
    assert np.round(data.mean, 4).tolist() == [0.4914, 0.4822, 0.4465]
    assert np.round(data.std, 4).tolist() == [0.2470, 0.2435, 0.2616]
    assert data.classes[:3] == ("airplane", "automobile", "bird")
    assert (np.bincount(data.train.labels) == 5_000).all()
    assert (np.bincount(data.validation.labels[data.validation.indices]) == 500).all()
    assert (np.bincount(data.test.labels) == 1_000).all()


def test_cifar10_in_the_binary_version_is_the_same(shared_data, tmp_path):
    table = pq.read_table(shared_data / "cifar10" / "test-00000-of-00001.parquet").slice(0, 500)
    for part in ("train", "test"):
        pq.write_table(table, tmp_path / f"{part}.parquet")
    hub = open_dataset(DataConfig("cifar10", str(tmp_path), holdout=0))
    assert not (hub.train.images[0] == hub.train.images[1]).all()
    content = {part: (getattr(hub, part).images, getattr(hub, part).labels) for part in ("train", "test")}
    folder = write_binary(tmp_path / "bin", "cifar10", content)
    binary = open_dataset(DataConfig("cifar10", str(folder), holdout=0))
    np.testing.assert_array_equal(binary.train.images, hub.train.images)
    np.testing.assert_array_equal(binary.test.labels, hub.test.labels)


def test_cifar100_has_the_official_classes(shared_data, tmp_path):
    path = shared_data / "cifar100" / "test-00000-of-00001.parquet"
    rows = pq.read_table(path, columns=["img", "fine_label"]).slice(0, 300).to_pylist()
    images, labels = [row["img"]["bytes"] for row in rows], [row["fine_label"] for row in rows]
    opened = {}
    for names in (pq.read_schema(path), None):
        folder = tmp_path / ("bare" if names is None else "named")
        for part in ("train", "test"):
            file = write_parquet(folder / f"{part}.parquet", images, labels, ("img", "fine_label"))
            if names is not None:
                pq.write_table(pq.read_table(file).replace_schema_metadata(names.metadata), file)
        opened[folder.name] = open_dataset(DataConfig("cifar100", str(folder), holdout=0)).classes
    assert len(opened["named"]) == 100
    assert opened["bare"] == opened["named"]


@pytest.mark.slow
def test_tiny_imagenet_from_the_archive(shared_data):
    data = open_dataset(DataConfig("tiny-imagenet", str(shared_data / "tiny-imagenet-200-subset.tar")))
    assert [len(data.train), len(data.validation), len(data.test)] == [7_200, 800, 2_000]
    assert (data.num_classes, data.in_channels, data.image_size) == (200, 3, 64)
    assert (np.bincount(data.train.labels) == 40).all()
    assert (np.bincount(data.test.labels) == 10).all()
    assert data.classes[0] == "goldfish"
    assert len(set(data.classes)) == 200
