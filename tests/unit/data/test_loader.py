import multiprocessing
import os
import pickle
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from onespike.data.config import DataConfig
from onespike.data.dataset import Dataset
from onespike.data.loader import EvalLoader, Share, TrainLoader, derive_seed
from onespike.data.sets import ImageSet
from onespike.errors import OnespikeError
from tests.running import thorough

PLAIN = DataConfig(crop_padding=2, flip=0.5)
#: What else is done to images, by the loader itself.
MORE = {"alternate_flip": True, "cutout": 3, "crop_fill": "reflect"}


def images_of(count: int, channels: int = 3, side: int = 8) -> ImageSet:
    """Images that can be told apart by their label."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    return ImageSet(pixels, np.arange(count), np.arange(count))


@pytest.fixture
def data() -> Dataset:
    some = images_of(23)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    return Dataset("some", tuple(map(str, range(23))), some, images_of(0), images_of(10), mean, std)


def labels_of(loader: TrainLoader, epoch: int = 0) -> list[int]:
    return torch.cat([labels for _, labels in loader.epoch(epoch)]).tolist()


@pytest.mark.parametrize(
    ("count", "chosen"), [(0, []), (1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, [*range(10)]), (99, [*range(10)])]
)
def test_some_images_are_spread_evenly(count: int, chosen: list[int]):
    assert images_of(10).spread(count).indices.tolist() == chosen
    assert len(images_of(0).spread(count)) == 0


def test_an_epoch_has_every_image_at_most_once_and_whole_batches_only(data):
    loader = TrainLoader(data, PLAIN, 4, seed=0)
    labels = labels_of(loader)
    assert len(loader) == 5
    assert len(labels) == len(set(labels)) == 20
    assert labels != labels_of(loader, epoch=1)
    assert labels == labels_of(TrainLoader(data, PLAIN, 4, seed=0))
    assert labels != labels_of(TrainLoader(data, PLAIN, 4, seed=1))


def test_an_epoch_begins_without_the_seeds_of_all_its_images(data, monkeypatch):
    derived = list[tuple[int, ...]]()
    noted = lambda *numbers: derived.append(numbers) or derive_seed(*numbers)  # noqa: E731
    monkeypatch.setattr("onespike.data.loader.derive_seed", noted)
    next(TrainLoader(data, replace(PLAIN, workers=0, auto_augment="original"), 2, seed=0).epoch(5))
    assert len(derived) == 2 + 2  # the order, the batch, and its two images


@pytest.mark.parametrize(
    "policy", [{}, MORE, {"auto_augment": "original"}, {"augmix_splits": 3, **MORE}, {"random_erasing": 1.0}]
)
def test_an_epoch_can_be_entered_at_any_batch(data, policy):
    loader = TrainLoader(data, replace(PLAIN, workers=0, **policy), 4, seed=0)
    whole = list(loader.epoch(2))
    for start in (1, 4):
        rest = list(loader.epoch(2, start))
        assert len(rest) == len(whole) - start
        for (images, labels), (again, labels_again) in zip(whole[start:], rest, strict=True):
            assert torch.equal(images, again)
            assert torch.equal(labels, labels_again)


@pytest.mark.parametrize(
    "policy", [{}, MORE, {"auto_augment": "rand-m9-mstd0.5"}, {"auto_augment": "original", **MORE}]
)
def test_processes_see_together_what_one_would_see(data, policy):
    config = replace(PLAIN, workers=0, **policy)
    alone = list(TrainLoader(data, config, 4, seed=0).epoch(0))
    shares = [TrainLoader(data, config, 4, 0, Share(rank=rank, world=2)).epoch(0) for rank in (0, 1)]
    for (images, labels), first, second in zip(alone, *shares, strict=True):
        assert torch.equal(images, torch.cat([first[0], second[0]]))
        assert torch.equal(labels, torch.cat([first[1], second[1]]))


@pytest.fixture
def spawned(monkeypatch):
    """Workers that are no forks, as on macOS."""
    monkeypatch.setattr("onespike.data.loader.START", "spawn")


@pytest.mark.parametrize("start", thorough(["fork", "spawn"], 1))
def test_draws_do_not_depend_on_the_number_of_workers(data, start, request):
    if start == "spawn":
        request.getfixturevalue("spawned")
    config = replace(PLAIN, auto_augment="original", random_erasing=0.5)
    alone, helped = (TrainLoader(data, replace(config, workers=n), 4, seed=0).epoch(0) for n in (0, 2))
    for (images, _), (again, _) in zip(alone, helped, strict=True):
        assert torch.equal(images, again)


@pytest.mark.usefixtures("spawned")
def test_images_that_no_other_process_can_be_sent_are_one_line(data):
    class Local(ImageSet):
        pass

    train = Local(data.train.images, data.train.labels, data.train.indices)
    loader = TrainLoader(replace(data, train=train), replace(PLAIN, auto_augment="original", workers=1), 4, seed=0)
    with pytest.raises(OnespikeError, match=r"^data.workers: other processes .*Local.*; .* --data.workers 0$"):
        next(loader.epoch(0))
    assert not multiprocessing.active_children()


def test_loaders_leave_the_workers_of_others_alone(data):
    config = replace(PLAIN, auto_augment="original", workers=1)
    first, second = (TrainLoader(data, config, 2, seed=0).epoch(0) for _ in range(2))
    next(first)
    next(second)
    first.close()
    assert len(list(second)) == len(data.train) // 2 - 1
    assert not multiprocessing.active_children()


def test_a_handler_of_signals_that_python_does_not_know_is_left_alone(data, monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda _: None)  # of the program that embeds Python
    assert len(list(TrainLoader(data, replace(PLAIN, auto_augment="original", workers=1), 10, seed=0).epoch(0)))


def test_a_worker_that_is_killed_is_one_line_whatever_the_main_process_does_meanwhile(data, monkeypatch):
    waits = torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(waits, "__defaults__", (0.05,))  # seconds after which it looks for its workers
    batches = TrainLoader(data, replace(PLAIN, auto_augment="original", workers=1), 2, seed=0).epoch(0)
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # a signal tells of its end here, as in a training step
    with pytest.raises(
        OnespikeError, match=r"^data.workers: a process .* has died \(.*\); .* or pass --data.workers 0$"
    ):
        list(batches)
    assert not multiprocessing.active_children()


def test_augmix_puts_the_clean_images_first_and_all_splits_share_a_crop(data):
    config = DataConfig(crop_padding=2, flip=0.5, augmix_splits=3, random_erasing=1.0, workers=0)
    images, labels = next(TrainLoader(data, config, 4, seed=0).epoch(0))
    clean, one, two = images.chunk(3)
    assert len(labels) == 4
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(one, two)
    mean, std = (torch.tensor(v)[:, None, None] for v in (data.mean, data.std))
    for image, label in zip(clean, labels.tolist(), strict=True):
        pixels = ((image * std + mean) * 255).round().byte().movedim(0, -1).numpy()
        padded = np.pad(data.train.images[label], ((2, 2), (2, 2), (0, 0)))
        crops = [padded[i : i + 8, j : j + 8] for i in range(5) for j in range(5)]
        assert any(np.array_equal(pixels, c) or np.array_equal(pixels, c[:, ::-1]) for c in crops)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_images_take_every_policy(channels, data):
    some = images_of(8, channels)
    mean, std = data.mean[:channels], data.std[:channels]
    shown = Dataset("some", tuple("abcdefgh"), some, images_of(0), some, mean, std)
    for policy in ({"auto_augment": "original"}, {"augmix_splits": 2}, {"random_erasing": 1.0}):
        loader = TrainLoader(shown, replace(PLAIN, workers=0, **policy), 4, seed=0)
        for epoch in range(3):
            for images, _ in loader.epoch(epoch):
                assert images.shape[1:] == (channels, 8, 8)
                assert images.isfinite().all()


@pytest.mark.parametrize(
    ("policy", "share"),
    [
        ({"auto_augment": "original"}, 0.3),
        ({"auto_augment": "rand-m9-mstd0.5"}, 0.3),
        ({"random_erasing": 1.0}, 0.9),
    ],
    ids=str,
)
def test_policies_change_images(policy, share, data):
    config = DataConfig(crop_padding=0, flip=0.0, workers=0)
    plain, changed = (
        [images for epoch in range(5) for images, _ in TrainLoader(data, one, 4, 0).epoch(epoch)]
        for one in (config, replace(config, **policy))
    )
    differ = torch.cat([(a - b).abs().amax((1, 2, 3)) > 0.02 for a, b in zip(plain, changed, strict=True)])
    assert differ.float().mean() > share


@pytest.mark.parametrize("policy", [{"auto_augment": "original"}, {"random_erasing": 0.5}, {"augmix_splits": 2}])
def test_policies_are_for_grey_and_colour_alone(policy, data):
    two = replace(data, train=images_of(8, channels=2), mean=data.mean[:2], std=data.std[:2])
    with pytest.raises(
        OnespikeError, match=f"^data.{next(iter(policy))}: some has images of 2 channels; it is for grey"
    ):
        TrainLoader(two, replace(PLAIN, **policy), 4, seed=0)


def test_a_batch_larger_than_the_set_is_an_error(data):
    with pytest.raises(OnespikeError, match=r"24 is more than the 23 training images"):
        TrainLoader(data, PLAIN, 24, seed=0)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_meets_every_image_once_in_all_processes_together(data, world):
    loaders = [EvalLoader(data.train, data.mean, data.std, 5, Share(rank=r, world=world)) for r in range(world)]
    labels = [label for loader in loaders for _, batch in loader for label in batch.tolist()]
    assert sorted(labels) == list(range(23))
    assert len({len(list(loader)) for loader in loaders}) == 1  # no process waits for another one's batch


def test_neighbouring_seeds_are_unrelated():
    seeds = {derive_seed(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, 1) != derive_seed(1, 0)


def test_the_training_set_is_never_copied(data, tmp_path: Path):
    np.save(tmp_path / "images.npy", data.train.images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    some = ImageSet(mapped, data.train.labels, np.array([3, 5, 7]))
    loader = TrainLoader(replace(data, train=some), PLAIN, 3, seed=0)
    assert loader.images.images is mapped
    assert set(labels_of(loader)) == {3, 5, 7}


def test_a_memory_map_goes_to_workers_by_name_not_by_content(data, tmp_path: Path):
    np.save(tmp_path / "images.npy", np.zeros((1000, 32, 32, 3), np.uint8))
    mapped = ImageSet(np.load(tmp_path / "images.npy", mmap_mode="r"), np.arange(1000), np.arange(5, 15))
    sent = pickle.dumps(mapped)
    assert len(sent) < 20_000
    received = pickle.loads(sent)
    assert isinstance(received.images, np.memmap)
    assert np.array_equal(received.indices, mapped.indices)
    assert np.array_equal(pickle.loads(pickle.dumps(data.train)).images, data.train.images)


@pytest.mark.parametrize("policy", [{}, {"augmix_splits": 2}], ids=["batches", "singly"])
def test_alternating_flips_mirror_each_image_in_every_other_epoch(policy, data):
    config = DataConfig(crop_padding=0, alternate_flip=True, workers=0, **policy)
    mean, std = (torch.tensor(v)[:, None, None] for v in (data.mean, data.std))

    def mirrored(seed: int) -> list[dict[int, bool]]:
        epochs = []
        for epoch in range(6):
            epochs.append({})
            for images, labels in TrainLoader(data, config, 4, seed).epoch(epoch):
                for image, label in zip(images[: len(labels)], labels.tolist(), strict=True):
                    pixels = ((image * std + mean) * 255).round().byte().movedim(0, -1).numpy()
                    original = data.train.images[label]
                    assert np.array_equal(pixels, original) != np.array_equal(pixels, original[:, ::-1])
                    epochs[-1][label] = not np.array_equal(pixels, original)
        return epochs

    epochs = mirrored(seed=0)
    first = {label: which ^ bool(epoch % 2) for epoch, seen in enumerate(epochs) for label, which in seen.items()}
    for epoch, seen in enumerate(epochs):
        assert len(seen) == 20
        assert all(which == first[label] ^ bool(epoch % 2) for label, which in seen.items())
    assert 5 < sum(first.values()) < 18
    other = mirrored(seed=1)[0]
    assert any(other[label] != first[label] for label in other)


@pytest.mark.parametrize("policy", [{}, {"auto_augment": "original"}, {"augmix_splits": 3}])
def test_cutout_changes_a_square_of_each_image_and_no_other_draw(policy, data):
    config = replace(PLAIN, workers=0, **policy)
    for (whole, labels), (cut, others) in zip(
        TrainLoader(data, config, 4, seed=0).epoch(1),
        TrainLoader(data, replace(config, cutout=4), 4, seed=0).epoch(1),
        strict=True,
    ):
        assert torch.equal(labels, others)
        assert cut.is_contiguous(memory_format=torch.channels_last)
        masks = (whole != cut).any(1)
        for image, mask in zip(cut, masks, strict=True):
            down, right = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
            assert 2 <= down[-1] - down[0] + 1 <= 4
            assert 2 <= right[-1] - right[0] + 1 <= 4
            assert (image[:, down[0] : down[-1] + 1, right[0] : right[-1] + 1] == 0).all()
            assert (image[:, ~mask] != 0).any()
        assert len({tuple(mask.nonzero().flatten().tolist()) for mask in masks[:4]}) > 1  # each image has its own


@pytest.mark.parametrize("policy", [{}, {"augmix_splits": 2}], ids=["batches", "singly"])
def test_a_reflected_border_holds_pixels_of_the_image(policy, data):
    white = replace(data, train=ImageSet(np.full((8, 8, 8, 3), 255, np.uint8), np.arange(8), np.arange(8)))

    def darkest(fill: str) -> float:
        config = DataConfig(crop_padding=4, crop_fill=fill, workers=0, **policy)
        images, labels = next(TrainLoader(white, config, 8, seed=0).epoch(0))
        return images[: len(labels)].min().item()

    lowest, highest = (
        min(-m / s for m, s in zip(data.mean, data.std, strict=True)),
        min((1 - m) / s for m, s in zip(data.mean, data.std, strict=True)),
    )
    assert darkest("zero") == pytest.approx(lowest)
    assert darkest("reflect") == pytest.approx(highest)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_padding": 8, "crop_fill": "reflect"}, "data.crop_padding: expected at most 7 for images of 8 pixels"),
        (
            {"crop_padding": 9},
            "data.crop_padding: expected at most 8 for images of 8 pixels a side, got 9; lower --data",
        ),
        ({"cutout": 9}, "data.cutout: expected at most 8 for images of 8 pixels a side, got 9; lower --data.cutout"),
    ],
)
def test_what_is_larger_than_the_images_is_an_error(options, message, data):
    with pytest.raises(OnespikeError, match=f"^{message}"):
        TrainLoader(data, DataConfig(**options), 4, seed=0)


@pytest.mark.parametrize("options", [{"crop_padding": 1}, {"cutout": 1}])
def test_of_a_single_pixel_nothing_is_cropped_or_cut_out(options, data):
    pixels, plain = replace(data, train=images_of(8, side=1)), {"crop_padding": 0, "cutout": 0}
    TrainLoader(pixels, DataConfig(**plain), 4, seed=0)
    with pytest.raises(OnespikeError, match=r"expected at most 0 for images of 1 pixels a side, got 1; lower --data"):
        TrainLoader(pixels, DataConfig(**plain | options), 4, seed=0)
