import dataclasses

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
    ],
)
def test_a_value_out_of_range_is_named(key, value):
    with pytest.raises(OnespikeError, match=rf"^data\.{key}: expected .*, got {value}.*--data\.{key}$"):
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


def test_keys_of_arguments_are_texts():
    with pytest.raises(OnespikeError, match=r"^data.init_args: checkpoints know no keys but texts, got .*0: 'a'"):
        DataConfig(class_path="pkg.Data", init_args={"names": [{0: "a"}]})
