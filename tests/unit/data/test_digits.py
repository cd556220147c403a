import numpy as np
from sklearn.datasets import load_digits

from onespike.data.config import DataConfig
from onespike.data.dataset import open_dataset


def test_digits():
    data = open_dataset(DataConfig(holdout=0))
    assert [len(data.train), len(data.validation), len(data.test)] == [1437, 0, 360]
    assert (data.in_channels, data.image_size, data.classes) == (1, 32, tuple("0123456789"))
    assert np.bincount(data.test.labels).min() >= 34
    # Averaged over each original pixel the enlarged images are the originals, nearly.
    original = {bytes(image.astype(np.uint8)) for image in load_digits().images}
    assert len(original) > 1700
    means = data.train.images.reshape(-1, 8, 4, 8, 4).mean((2, 4)) * 16 / 255
    error = [np.abs(load_digits().images - mean).mean((1, 2)).min() for mean in means[:20]]
    assert max(error) < 1.5


def test_digits_take_no_root(tmp_path, fails):
    fails("digits", tmp_path, tmp_path, "leave it out")
