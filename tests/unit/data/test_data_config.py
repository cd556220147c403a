import dataclasses
import re

import pytest

from onespike.data.config import DataConfig
from onespike.errors import OnespikeError


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("limit", -1),
        ("holdout", 1.0),
        ("holdout", -0.1),
        ("image_size", 0),
        ("crop_padding", -1),
        ("flip", 1.5),
        ("random_erasing", -0.5),
        ("cutout", -1),
        ("augmix_splits", 1),
        ("augmix_splits", 7),
        ("workers", -1),
        ("workers", 10**6),
        ("image_size", 10**11),
        ("auto_augment", "rand-foo"),
        ("crop_padding", 8193),
        ("flip", -0.1),
        ("random_erasing", 1.1),
        ("frames", 0),
        ("frames", 1001),
        ("sensor", (346, 0)),
        ("sensor", (8193, 260)),
        ("denoise", -1.0),
        ("spatial_jitter", -0.1),
        ("temporal_jitter", -1.0),
        ("drop_events", 1.0),
        ("drop_events", -0.1),
    ],
)
def test_a_value_out_of_range_is_named(key, value):
    with pytest.raises(OnespikeError, match=rf"^data\.{key}: expected .*, got {re.escape(str(value))}.*--data\.{key}$"):
        DataConfig(**{key: value})


def test_flips_that_alternate_mirror_half_of_all_images():
    assert DataConfig(alternate_flip=True).alternate_flip
    with pytest.raises(
        OnespikeError,
        match=r"^data.alternate_flip: expected a flip of 0.5, .* got 0; pass --data.alternate_flip false",
    ):
        DataConfig(alternate_flip=True, flip=0)


def test_an_unknown_border_is_named():
    with pytest.raises(OnespikeError, match=r"^unknown data.crop_fill 'reflekt': did you mean 'reflect'\?"):
        DataConfig(crop_fill="reflekt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "much", None])
def test_a_value_that_is_no_number_is_named(value):
    with pytest.raises(OnespikeError, match=r"^data\.holdout: expected a (finite )?number, got "):
        DataConfig(holdout=value)


def test_defaults_are_valid_and_frozen():
    config = DataConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.name = "cifar10"
    assert DataConfig(augmix_splits=6, holdout=0, image_size=1, limit=5).augmix_splits == 6


OTHERS = {
    "name": "cifar10",
    "image_size": 16,
    "class_path": "pkg.Data",
    "init_args": {"a": 1},
    "frames": 2,
    "frames_by": "count",
    "representation": "voxel",
    "sensor": (8, 8),
    "denoise": 1.0,
}


@pytest.mark.parametrize("key", OTHERS)
def test_test_images_are_those_of_the_options_that_choose_and_change_them(key):
    assert not DataConfig(**{key: OTHERS[key]}).shows_as(DataConfig())
    alike = {"limit": 9, "holdout": 0.5, "crop_padding": 1, "workers": 0, "cache": "c", "drop_events": 0.5, "root": "r"}
    assert DataConfig(**alike).shows_as(DataConfig())


@pytest.mark.parametrize("name", ["folder", "hub", "events-folder"])
def test_test_images_of_a_folder_are_those_of_its_root(name):
    assert not DataConfig(name, "one").shows_as(DataConfig(name, "other"))
    assert DataConfig(name, "one", class_path="pkg.Data").shows_as(DataConfig(name, "other", class_path="pkg.Data"))


def test_keys_of_arguments_are_texts():
    with pytest.raises(OnespikeError, match=r"^data.init_args: checkpoints know no keys but texts, got .*0: 'a'"):
        DataConfig(class_path="pkg.Data", init_args={"names": [{0: "a"}]})
