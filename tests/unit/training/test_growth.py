"""Progressive resizing: which size when, and what becomes of the images."""

from collections import Counter

import pytest
import torch
from torch import nn

from onespike.errors import OnespikeError
from onespike.training import TrainConfig, train
from onespike.training.growth import resize, size_at, sizes
from onespike.training.set_up import set_up


class Looking(nn.Module):
    """Takes images of any size, and keeps the sizes of those it is trained and evaluated with."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 10)
        self.trained, self.evaluated = list[int](), list[int]()

    def forward(self, images):
        (self.trained if self.training else self.evaluated).append(images.shape[-1])
        assert images.is_contiguous(memory_format=torch.channels_last)
        return self.head(self.layer(images).relu().mean((-2, -1)))


@pytest.mark.parametrize(
    ("start", "image_size", "expected"),
    [
        (0, 32, [32]),
        (16, 32, [16, 32]),
        (24, 32, [24, 32]),
        (20, 32, [20, 24, 28, 32]),
        (128, 224, [128, 160, 192, 224]),
        (30, 32, [30, 32]),
    ],
)
def test_sizes_are_multiples_of_the_greatest_common_divisor(start, image_size, expected):
    assert sizes(TrainConfig(start_size=start), image_size) == expected


def test_images_grow_linearly_for_three_quarters_of_the_steps():
    config = TrainConfig(start_size=20)
    each = [size_at(config, 32, number, 400) for number in range(400)]
    assert each == sorted(each)
    assert Counter(each) == {20: 100, 24: 100, 28: 100, 32: 100}
    assert {size_at(TrainConfig(), 32, number, 7) for number in range(7)} == {32}
    few = [size_at(config, 32, number, 5) for number in range(5)]  # more sizes than fit evenly
    assert few == [20, 20, 24, 28, 32]


def test_resizing_is_bilinear_with_a_filter_as_wide_as_the_step_between_pixels():
    images = torch.rand(2, 3, 12, 12, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    scale = 12 / 8
    weights = torch.tensor(
        [[max(0.0, 1 - abs((j + 0.5) - (i + 0.5) * scale) / scale) for j in range(12)] for i in range(8)],
        dtype=torch.float64,
    )
    weights /= weights.sum(1, keepdim=True)
    got = resize(images, 8)
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, weights @ images @ weights.T, rtol=0, atol=1e-12)
    assert resize(images, 12) is images
    assert resize(images[:1], 8).stride() == got.stride(), "a single image also lies channels last"


def test_training_sees_the_sizes_of_its_steps_and_evaluation_whole_images(small, tmp_path):
    network, recipe = Looking(), small(train__start_size=24, train__accumulate=2)
    train(recipe, tmp_path / "run", model=network)
    steps = 2 * 8
    expected = [size_at(recipe.train, 32, number, steps) for number in range(steps) for _ in range(2)]
    assert network.trained == expected
    assert Counter(expected) == {24: 24, 32: 8}
    # Tried before training begins: for its layout, for its logits, for what it depends on, at the smallest size.
    assert network.evaluated[:7] == [32, 32, 32, 32, 32, 32, 24]
    assert Counter(network.evaluated[7:])[24] == 1  # its multiply-accumulates are counted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"train__start_size": 16},
            r"^train.start_size: model: with the images of digits, .* does not take .*\(2, 1, 16, 16\), .*; choose",
        ),
        ({"train__start_size": 32}, r"^train.start_size: expected less than the 32 pixels of the images, or 0, got 32"),
        ({"train__start_size": -1}, r"^train.start_size: expected at least 0, got -1"),
        ({"train__start_size": 4, "train__energy_budget": 1.0}, r"^train.start_size and train.rate_penalty or"),
    ],
)
def test_a_size_that_does_not_suit_is_an_error_before_training(small, options, message, tmp_path):
    with pytest.raises(OnespikeError, match=message) as error:
        train(small(**options), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_network_that_asserts_its_size_is_refused_like_others(small):
    import timm

    network = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=4, in_chans=1, num_classes=10, depth=1)
    with pytest.raises(OnespikeError, match=r"^train.start_size: model: .*\(2, 1, 24, 24\).* Input height \(24\)"):
        set_up(small(train__start_size=24), network)


def test_trying_sizes_leaves_the_network_as_it_was(small):
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    made = set_up(small(train__start_size=24), network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.network.state_dict().items())
    assert made.network.training
