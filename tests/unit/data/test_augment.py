import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onespike.data.augment import BatchAugment, PolicyAugment, _policy, are_as_given, cut_out, mirror
from onespike.data.config import _POLICY, DataConfig
from onespike.data.sets import ImageSet
from onespike.errors import OnespikeError


def plain(image: np.ndarray, down: int, right: int, flipped: int, padding: int, mean, std, fill) -> np.ndarray:
    """One image, one operation after the other."""
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), fill)
    cropped = padded[down : down + image.shape[0], right : right + image.shape[1]]
    turned = cropped[:, ::-1] if flipped else cropped
    return ((turned / 255 - np.array(mean)) / np.array(std)).transpose(2, 0, 1)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    batch=st.integers(1, 6),
    side=st.integers(1, 9),
    channels=st.sampled_from([1, 3]),
    padding=st.integers(0, 4),
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    reflect=st.booleans(),
    seed=st.integers(0, 999),
)
def test_a_batch_equals_its_images_one_by_one(batch, side, channels, padding, flip, reflect, seed):
    mean, std = [0.4, 0.5, 0.6][:channels], [0.2, 0.3, 0.1][:channels]
    padding, fill = (min(padding, side - 1), "reflect") if reflect else (padding, "constant")
    augment = BatchAugment(mean, std, padding, flip, dtype=torch.float64, reflect=reflect)
    images = np.random.default_rng(seed).integers(0, 256, (batch, side, side, channels), dtype=np.uint8)
    draws = augment.draw(batch, torch.Generator().manual_seed(seed))
    got = augment(torch.from_numpy(images), draws).numpy()
    assert got.shape == (batch, channels, side, side)
    for image, (down, right, flipped), result in zip(images, draws.tolist(), got, strict=True):
        assert 0 <= down <= 2 * padding
        assert 0 <= right <= 2 * padding
        np.testing.assert_allclose(result, plain(image, down, right, flipped, padding, mean, std, fill), atol=1e-12)


def test_draws_are_each_images_own_and_cover_their_range():
    draws = BatchAugment([0.5], [0.5], padding=4, flip=0.5).draw(20_000, torch.Generator().manual_seed(0))
    for column in (0, 1):
        counts = draws[:, column].bincount(minlength=9)
        assert counts.min() > 0.9 * 20_000 / 9
        assert counts.max() < 1.1 * 20_000 / 9
    assert draws[:, 2].float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert torch.corrcoef(draws.T.float()).triu(1).abs().max() < 0.03


def test_evaluation_only_normalises_and_the_result_is_channels_last():
    augment = BatchAugment([0.5, 0.5, 0.5], [0.25, 0.25, 0.25], padding=4, flip=1.0)
    images = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    got = augment(images)
    assert torch.allclose(got, (images.movedim(-1, 1) / 255 - 0.5) / 0.25, atol=1e-6)
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("side", [1, 4, 5, 8])
def test_a_square_around_any_pixel_is_cut_out_and_nothing_else(side):
    centres = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    images = (torch.rand(64, 3, 8, 8) + 1).contiguous(memory_format=torch.channels_last)
    got = cut_out(images.clone(memory_format=torch.preserve_format), centres, side)
    assert got.is_contiguous(memory_format=torch.channels_last)
    for image, (down, right), result in zip(images, centres.tolist(), got, strict=True):
        expected = image.clone()
        top, left = down - side // 2, right - side // 2
        expected[:, max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = 0
        assert torch.equal(result, expected)
        assert (result[:, down, right] == 0).all()


def test_only_those_that_are_named_are_mirrored():
    images = torch.rand(3, 2, 4, 4).contiguous(memory_format=torch.channels_last)
    got = mirror(images, torch.tensor([True, False, True]))
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got, torch.stack([images[0].flip(2), images[1], images[2].flip(2)]))


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=60)
@given(policy=st.from_regex(_POLICY, fullmatch=True).filter(bool))
def test_timm_builds_every_policy_that_a_config_takes(policy):
    assert callable(_policy(DataConfig(auto_augment=policy), (0.5, 0.5, 0.5)))


def test_a_policy_fills_with_the_mean_and_augmix_has_its_own():
    colour, grey = (_policy(DataConfig(auto_augment="rand-m9"), mean) for mean in ((0.2, 0.4, 0.6), (0.5,)))
    assert [one.ops[0].hparams["img_mean"] for one in (colour, grey)] == [(51, 102, 153), 128]
    mixed = _policy(DataConfig(augmix_splits=3), (0.5,) * 3)
    assert (mixed.width, mixed.ops[0].magnitude) == (3, 3)
    assert _policy(DataConfig(), (0.5,)) is None


@pytest.mark.parametrize("policy", ["augmix-a0", "augmix-m30", "rand-n16-tweights"])
def test_a_policy_that_timm_builds_but_cannot_apply_is_refused_in_one_line(policy):
    images = ImageSet(np.zeros((1, 8, 8, 3), dtype=np.uint8), np.zeros(1, dtype=np.int64), np.arange(1))
    with pytest.raises(OnespikeError, match=f"data.auto_augment: timm cannot apply '{policy}': .*; expected such as"):
        PolicyAugment(images, DataConfig(auto_augment=policy), [0.5] * 3, [0.2] * 3)


def test_trying_a_policy_draws_nothing_from_the_global_generators():
    images = ImageSet(np.zeros((1, 8, 8, 1), dtype=np.uint8), np.zeros(1, dtype=np.int64), np.arange(1))
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    PolicyAugment(images, DataConfig(auto_augment="rand-m9-mstd0.5"), [0.5], [0.2])
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_floats_have_mean_0_and_deviation_1_in_all_channels():
    assert are_as_given((0.0, 0.0), (1.0, 1.0))
    for mean, std in (((0.5,), (1.0,)), ((0.0,), (0.5,)), ((0.0, 0.5), (1.0, 1.0)), ((0.0, 0.0), (1.0, 0.5))):
        assert not are_as_given(mean, std)  # raw images that never differ have a deviation of 1, too
