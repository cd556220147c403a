"""Data sets that are not ours: of PyTorch, of Hugging Face, of somebody's class."""

import io
import pickle
import random
import sys
from types import ModuleType

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import pixels_of, png
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset, random_split
from torch.utils.data import Dataset as TorchDataset

from onespike.data import DataConfig, as_dataset
from onespike.data.items import ItemSet
from onespike.data.loader import EvalLoader, Share, TrainLoader, derive_seed
from onespike.data.sets import ImageSet
from onespike.errors import OnespikeError

SIDE = 8


class Own(TorchDataset):
    """Pairs of any image and any label."""

    def __init__(self, images, labels, seen=None):
        self.images, self.labels, self.seen = images, labels, seen

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if self.seen is not None:
            self.seen.append(index)
        return self.images[index], self.labels[index]


class Jittered(Own):
    """Floats with random draws from all three global generators."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        noise = torch.rand(1) + random.random() + np.random.rand()  # noqa: NPY002
        return image + noise.float(), label


def raw(count=20, channels=3, side=SIDE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), np.uint8)


def labels(count=20, classes=4):
    return [i % classes for i in range(count)]


def floats(count=20, side=SIDE):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


FORMS = {
    "Pillow": lambda x: [Image.fromarray(image.squeeze()) for image in x],
    "(H, W, C) array": lambda x: x,
    "(C, H, W) array": lambda x: x.transpose(0, 3, 1, 2),
    "(H, W, C) tensor": torch.from_numpy,
    "(C, H, W) tensor": lambda x: torch.from_numpy(x).permute(0, 3, 1, 2),
}


def fails(words, data, **options):
    with pytest.raises(OnespikeError) as raised:
        as_dataset(data, **options)
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [1, 3])
def test_raw_images_of_every_form_become_the_same_pixels(form, channels):
    train, test = raw(20, channels), raw(6, channels, seed=1)
    data = as_dataset(Own(FORMS[form](train), labels()), test=Own(FORMS[form](test), labels(6)), holdout=0)
    assert type(data.train) is ImageSet
    np.testing.assert_array_equal(pixels_of(data, "train"), train)
    np.testing.assert_array_equal(pixels_of(data, "test"), test)
    assert data.train.targets.tolist() == labels()
    assert (data.name, data.classes, data.note) == ("Own", ("0", "1", "2", "3"), "")
    assert (data.in_channels, data.image_size, len(data.validation)) == (channels, SIDE, 0)
    np.testing.assert_allclose(data.mean, train.mean((0, 1, 2)) / 255)


@pytest.mark.parametrize("number", [int, np.int64, np.uint8, torch.tensor, lambda i: torch.tensor([i])])
def test_whole_numbers_of_every_type_are_labels(number):
    source = Own(raw(), [number(i) for i in labels()])
    data = as_dataset((source, source), holdout=0)
    assert data.train.labels.tolist() == labels()


def test_grey_images_among_coloured_ones_are_read_in_colour():
    images = [*FORMS["Pillow"](raw(9, 1)), *FORMS["Pillow"](raw(1, 3))]
    data = as_dataset((Own(images, labels(10)), Own(raw(2, 1), [0, 1])), holdout=0)
    assert data.in_channels == 3
    np.testing.assert_array_equal(pixels_of(data, "train")[:9], raw(9, 1).repeat(3, 3))
    np.testing.assert_array_equal(pixels_of(data, "test"), raw(2, 1).repeat(3, 3))


def test_image_size_and_limit_and_holdout_are_those_of_named_data_sets():
    data = as_dataset(Own(raw(50), labels(50)), test=Own(raw(5), labels(5)), image_size=4, limit=40, holdout=0.5)
    assert (data.image_size, len(data.train), len(data.validation), len(data.test)) == (4, 20, 20, 5)
    assert np.bincount(data.train.targets).tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize("images", [raw(50), floats(50)])
def test_without_a_test_part_a_fixed_fifth_is_split_off(images):
    first, second = (as_dataset(Own(images, labels(50)), holdout=0) for _ in range(2))
    assert (len(first.train), len(first.test)) == (40, 10)
    assert np.bincount(first.test.targets).min() >= 2
    assert first.note == "a fixed fifth of the images (stratified, seed 0) is the test set"
    seen = {part.gather(np.arange(len(part)))[0].numpy().tobytes() for part in (first.train, first.test)}
    again = {part.gather(np.arange(len(part)))[0].numpy().tobytes() for part in (second.train, second.test)}
    assert len(seen) == 2
    assert seen == again


@settings(derandomize=True, deadline=None, max_examples=30)
@given(count=st.integers(2, 40), classes=st.integers(1, 5), holdout=st.sampled_from([0, 0.1, 0.5]))
def test_every_image_is_in_one_part(count, classes, holdout):
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    if holdout and count - max(1, round(count / 5)) < 2:
        return
    data = as_dataset(Own(images, labels(count, classes)), holdout=holdout)
    parts = [pixels_of(data, part)[:, 0, 0, 0].tolist() for part in ("train", "validation", "test")]
    assert sorted(index for part in parts for index in part) == list(range(count))
    assert len(parts[2]) == max(1, round(count / 5))


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("train", "validation", "test"), ("train", "valid", "test")]
)
def test_parts_come_as_tuple_mapping_or_arguments(names):
    parts = [Own(raw(n), labels(n)) for n in (20, 8, 4)]
    several = [
        as_dataset(tuple(parts)),
        as_dataset(dict(zip(names, parts, strict=True))),
        as_dataset(parts[0], validation=parts[1], test=parts[2]),
    ]
    for data in several:
        assert [len(data.train), len(data.validation), len(data.test)] == [20, 8, 4]
    lone = as_dataset({names[0]: parts[0], names[1]: parts[1]}, holdout=0)
    assert [len(lone.train), len(lone.validation), len(lone.test)] == [20, 0, 8]
    assert as_dataset(lone) is lone


def test_what_would_be_ignored_is_refused():
    train, test = Own(raw(), labels()), Own(raw(8), labels(8))
    for whole in ((train, test), {"train": train, "test": test}):
        fails(["mine: test=… beside its own test part"], whole, test=test, name="mine")
    fails(["mine: validation=… beside its own"], {"train": train, "dev": test}, validation=test, name="mine")
    assert len(as_dataset({"train": train, "test": None}, test=test).test) == 8
    for option in ({"test": test}, {"classes": list("abcd")}, {"limit": 3}, {"holdout": 0}, {"image_size": 4}):
        fails(["Own: a data set of the library", "no other argument"], as_dataset(train), **option)


def test_class_names_come_from_the_argument_or_the_data_set():
    source = Own(raw(), labels())
    source.classes = ["a", "b", "c", "d", "e"]
    assert as_dataset(source).classes == tuple("abcde")
    assert as_dataset(Subset(source, range(10))).classes == tuple("abcde")
    assert as_dataset(source, classes=tuple("stuvw"), name="mine").classes == tuple("stuvw")
    assert as_dataset(Subset(source, range(10))).name == "Own"


def test_parts_have_the_names_of_folders_and_others_are_named(capsys):
    train, test = Own(raw(), labels()), Own(raw(8), labels(8))
    for names in (("training", "eval"), ("train", "testing"), ("train", "evaluation")):
        data = as_dataset(dict(zip(names, (train, test), strict=True)), holdout=0)
        assert (len(data.train), len(data.test), data.note) == (20, 8, "")
    assert capsys.readouterr().err == ""
    assert len(as_dataset({"train": train, "test": test, "extra": train, "eval": train}, name="mine").test) == 8
    assert capsys.readouterr().err.startswith("warning: mine: left out: extra, eval; parts are called train, training,")


def test_a_module_of_ones_own_may_be_called_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", ModuleType("datasets"))
    assert len(as_dataset(Own(raw(), labels()), holdout=0).train) == 16


def test_labels_that_are_known_are_not_looked_for_in_the_images():
    data = as_dataset(TensorDataset(floats(), torch.tensor(labels())), holdout=0)
    assert data.train.labels.tolist() == labels()
    part = as_dataset(Subset(TensorDataset(floats(), torch.tensor(labels())), [1, 2, 5, 6, 7]), holdout=0)
    assert part.train.labels.tolist() == [1, 2, 1, 2, 3]


@pytest.mark.parametrize("kind", [Subset, TensorDataset])
def test_labels_that_a_subclass_changes_are_those_of_its_items(kind):
    class Halved(kind):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image, int(label) // 2

        def __getitems__(self, indices):
            return [self[index] for index in indices]

    whole = TensorDataset(floats(), torch.tensor(labels()))
    source = Halved(whole, range(20)) if kind is Subset else Halved(*whole.tensors)
    assert as_dataset((source, source), holdout=0).train.labels.tolist() == [label // 2 for label in labels()]


def test_a_pillow_image_whose_owner_has_turned_it_is_not_turned_again():
    upright = raw(1)[0]
    image = Image.fromarray(upright)
    image.getexif()[0x0112] = 6
    data = as_dataset((Own([image] * 4, labels(4)),) * 2, holdout=0)
    np.testing.assert_array_equal(pixels_of(data, "train")[0], upright)
    file = io.BytesIO()
    image.save(file, "PNG", exif=image.getexif())
    data = as_dataset((Own([Image.open(file)] * 4, labels(4)),) * 2, holdout=0)
    np.testing.assert_array_equal(pixels_of(data, "train")[0], np.rot90(upright, -1))


# floats


def test_floats_are_taken_as_they_are():
    train, test = floats(), floats(6) + 1
    data = as_dataset(Own(train, labels()), test=Own(test.double().numpy(), labels(6)), holdout=0)
    assert isinstance(data.train, ItemSet)
    assert (data.mean, data.std, data.in_channels, data.image_size) == ((0, 0, 0), (1, 1, 1), 3, SIDE)
    images, found = next(TrainLoader(data, DataConfig(workers=0, flip=1.0), 20, seed=0).epoch(0))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(derive_seed(0, 0)))
    torch.testing.assert_close(images, train[order], rtol=0, atol=0)
    assert found.tolist() == [labels()[i] for i in order]
    assert images.is_contiguous(memory_format=torch.channels_last)
    ((images, found),) = EvalLoader(data.test, (0.5,) * 3, (0.1,) * 3, 6, Share(dtype=torch.float64))
    torch.testing.assert_close(images, test.double(), rtol=0, atol=0)
    assert found.tolist() == labels(6)


def test_floats_are_made_when_a_batch_needs_them():
    seen = []
    data = as_dataset(Subset(Own(floats(), labels(), seen), range(20)), holdout=0.5, limit=10)
    assert (len(data.train), len(data.validation), len(data.test)) == (5, 5, 4)
    seen.clear()
    chosen = data.train.select(np.array([3, 1]))
    chosen.gather(np.array([0]))
    assert seen == [data.train.indices[3]]


def epoch_of(data, workers=0, start=0, epoch=1, seed=3, share=Share()):
    return list(TrainLoader(data, DataConfig(workers=workers), 4, seed, share).epoch(epoch, start))


class OneBuffer(Own):
    """Gives every image in the same memory."""

    def __init__(self, images, labels):
        super().__init__(images, labels)
        self.buffer = images[0].clone() if isinstance(images, torch.Tensor) else images[0].copy()

    def __getitem__(self, index):
        self.buffer[:] = self.images[index]
        return self.buffer, self.labels[index]


@pytest.mark.parametrize("workers", [0, 1])
def test_floats_that_come_in_one_buffer_are_trained_on_as_they_are(workers: int):
    images = torch.rand(20, 3, SIDE, SIDE)
    batches = [epoch_of(as_dataset(kind(images, labels())), workers) for kind in (OneBuffer, Own)]
    for (pixels, _, *_), (expected, _, *_) in zip(*batches, strict=True):
        assert torch.equal(pixels, expected)


def test_random_raw_images_that_come_in_one_buffer_are_refused():
    class Noise(OneBuffer):
        def __getitem__(self, index):
            self.buffer[:] = np.random.randint(0, 256, self.buffer.shape)  # noqa: NPY002
            return self.buffer, self.labels[index]

    with pytest.raises(OnespikeError, match=r"^mine, train: random transforms of raw images"):
        as_dataset(Noise(raw(), labels()), name="mine")


def test_labels_of_2_to_63_in_a_tensor_are_refused():
    most = (-torch.ones(20, dtype=torch.int64)).view(torch.uint64)
    with pytest.raises(OnespikeError, match=r"^mine, train: item 0: label .*a whole number of less than 2\^63"):
        as_dataset(Own(raw(), most), name="mine")


def test_random_transforms_of_raw_images_are_refused():
    class Flipped(Own):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return (image[:, ::-1] if random.random() < 0.5 else image), label

    with pytest.raises(OnespikeError, match=r"^mine, train: random transforms of raw images, .* would be drawn once; "):
        as_dataset(Flipped(raw(), labels()), name="mine")
    images = raw()
    images[0] = 0  # the same, flipped or not
    with pytest.raises(OnespikeError, match=r"^mine, train: random transforms of raw images, .* would be drawn once; "):
        as_dataset(Flipped(images, labels()), name="mine")


def test_images_in_dictionaries_are_refused():
    class Named(Own):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return {"pixels": image.copy()}, label

    with pytest.raises(OnespikeError, match=r"expected a Pillow image"):
        as_dataset(Named(raw(), labels()), name="mine")


@pytest.mark.parametrize(
    ("known", "names"),
    [
        (np.array(["a", "b", "c", "d"]), "abcd"),
        ({"d": 3, "b": 1, "a": 0, "c": np.int64(2)}, "abcd"),
        ({"a": 1, "b": 2, "c": 3, "d": 4}, "0123"),
        ({"a": 0, "b": 0, "c": 1, "d": 2}, "0123"),
        ({0: "a", 1: "b", 2: "c", 3: "d"}, "0123"),
        ({"d", "a", "c", "b"}, "0123"),
        ("dcba", "0123"),
        (np.array("dcba"), "0123"),
        (4, "0123"),
        (None, "0123"),
    ],
)
def test_classes_are_names_where_they_are_in_an_order(known, names):
    mine = Own(raw(), labels())
    mine.classes = known
    assert as_dataset(mine).classes == tuple(names)


def test_random_transforms_draw_by_seed_epoch_and_image_alone():
    data = as_dataset(Jittered(floats(), labels()), holdout=0)
    whole = epoch_of(data)
    torch.manual_seed(99)
    for (images, found), (again, found_again) in zip(whole[2:], epoch_of(data, start=2), strict=True):
        assert torch.equal(images, again)
        assert torch.equal(found, found_again)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(whole, epoch_of(data, workers=2), strict=True))
    halves = [epoch_of(data, share=Share(rank=rank, world=2)) for rank in (0, 1)]
    for (images, _), (one, _), (two, _) in zip(whole, *halves, strict=True):
        assert torch.equal(images, torch.cat([one, two]))
    for other in (epoch_of(data, epoch=2), epoch_of(data, seed=4)):
        assert not any(torch.equal(a, b) for (a, _), (b, _) in zip(whole, other, strict=True))


def test_evaluation_draws_the_same_whatever_the_batch_and_the_subset():
    data = as_dataset(Jittered(floats(), labels()), holdout=0)
    whole = torch.cat([images for images, _ in EvalLoader(data.train, data.mean, data.std, 5)])
    again = torch.cat([images for images, _ in EvalLoader(data.train, data.mean, data.std, 7)])
    assert torch.equal(whole, again)
    some = data.train.select(np.array([2, 9]))
    assert torch.equal(some.gather(np.arange(2))[0], whole[[2, 9]])


def test_the_global_generators_are_left_as_they_were():
    data = as_dataset(Jittered(floats(), labels()), holdout=0)
    torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
    expected = torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
    data.train.gather(np.arange(5))
    assert (torch.rand(1), random.random(), np.random.rand()) == expected  # noqa: NPY002


def test_an_empty_share_of_the_last_batch_has_its_shape():
    data = as_dataset(Own(floats(), labels()), test=Own(floats(5), labels(5)))
    *_, (images, found) = EvalLoader(data.test, data.mean, data.std, 4, Share(rank=1, world=2))
    assert (images.shape, found.shape) == ((0, 3, SIDE, SIDE), (0,))


def test_a_set_of_floats_goes_to_workers():
    data = as_dataset(Own(floats(), labels()), holdout=0)
    sent = pickle.loads(pickle.dumps(data.train))
    assert torch.equal(sent[3][0], data.train[3][0])


def test_what_does_nothing_to_floats_is_told_or_refused(capsys):
    data = as_dataset(Own(floats(), labels()))
    TrainLoader(data, DataConfig(crop_padding=0, flip=0.0), 4, seed=0)
    assert not capsys.readouterr().err
    with pytest.raises(OnespikeError, match=r"^data\.augmix_splits: Own gives floats"):
        TrainLoader(data, DataConfig(augmix_splits=3), 4, seed=0)
    TrainLoader(data, DataConfig(auto_augment="original", random_erasing=1.0, crop_padding=2), 4, seed=0)
    idle = "data.crop_padding, data.auto_augment, data.random_erasing: without effect"
    assert capsys.readouterr().err == f"warning: {idle}; Own gives floats, which are taken as they are\n"


def test_floats_of_two_channels_are_passed_over_by_what_is_for_grey_and_colour():
    data = as_dataset(Own(floats()[:, :2], labels()))
    TrainLoader(data, DataConfig(auto_augment="original"), 4, seed=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_other_precisions_are_taken_too(dtype):
    images, _ = next(TrainLoader(as_dataset(Own(floats().to(dtype), labels())), DataConfig(workers=0), 4, 0).epoch(0))
    assert images.dtype == torch.float32


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.numpy()[..., ::-1],
        lambda x: x.numpy().astype(">f4"),
        lambda x: x.numpy().astype(np.longdouble),
        lambda x: x.clone().requires_grad_(),
    ],
    ids=["mirrored", "big-endian", "long", "with a gradient"],
)
def test_floats_of_any_order_and_kind_go_through_workers(change):
    made = change(floats())
    data = as_dataset((Own(made, labels()),) * 2, holdout=0)
    ((images, _),) = TrainLoader(data, DataConfig(workers=1), len(data.train), 0).epoch(0)
    expected = np.asarray(made.detach() if isinstance(made, torch.Tensor) else made, np.float32)
    np.testing.assert_array_equal(np.sort(images.numpy(), 0), np.sort(expected, 0))


def test_floats_are_taken_as_they_are_whatever_is_asked_for_raw_images():
    data = as_dataset(Own(floats(), labels()), holdout=0)
    asked = DataConfig(alternate_flip=True, cutout=99, crop_padding=99, crop_fill="reflect", workers=0)
    for epoch in (0, 1):
        plain = next(TrainLoader(data, DataConfig(workers=0), 4, seed=0).epoch(epoch))[0]
        assert torch.equal(next(TrainLoader(data, asked, 4, seed=0).epoch(epoch))[0], plain)


# errors


@pytest.mark.parametrize("make", [raw, floats])
@pytest.mark.parametrize("wrong", [1.0, "cat", None, torch.tensor([0, 1]), [0.0, 1.0]])
def test_a_label_that_is_no_whole_number_is_named(make, wrong):
    marks = labels()
    marks[7] = wrong
    fails(["Own, train: item 7: label", "expected a whole number"], Own(make(), marks))


@pytest.mark.parametrize("make", [raw, floats])
def test_a_label_out_of_range_is_named(make):
    marks = labels()
    marks[7] = -1
    fails(["Own, train: item 7: label -1; expected 0 to 3"], Own(make(), marks))
    fails(["Own, train: item 2: label 2; expected 0 to 1"], Own(make(), labels()), classes=["a", "b"])
    fails(
        ["mine, test: item 4: label 4; expected 0 to 3"],
        (Own(make(), labels()), Own(make(), labels(20, 5))),
        name="mine",
    )


def test_a_data_set_without_labels():
    class Bare(TorchDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return floats()[index]

    fails(["Bare, train: item 0: a Tensor; expected an image and its label"], Bare())
    fails(["TensorDataset, train: item 0: a tuple; expected"], TensorDataset(floats()))
    fails(["dict; expected"], [{"image": 1}])
    fails(["TensorDataset, train: its length is none (tuple index out of range); expected"], TensorDataset())


def test_a_data_set_may_give_one_buffer_again_and_again():
    class Reused(Own):
        buffer = torch.zeros_like(floats()[0])

        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return self.buffer.copy_(image), label

    images, _ = as_dataset((Reused(floats(), labels()), Own(floats(), labels()))).train.gather(np.arange(3))
    torch.testing.assert_close(images, floats()[:3])


def test_images_of_different_sizes_are_named():
    images = [*raw(10), *raw(10, side=9)]
    fails(
        ["Own, train: item 10: 9x9 pixels; expected 8x8 as in Own, train: item 0"],
        Own(images, labels()),
        test=Own(raw(), labels()),
    )
    assert as_dataset(Own(images, labels()), image_size=8).image_size == 8
    oblong = [image[:6] for image in raw()]
    fails(["item 0: 8x6 pixels", "expected a square"], Own(oblong, labels()), test=Own(raw(), labels()))
    whole = "item 0: floats of shape {}; expected floats, (C, H, W) with H = W"  # also where a test part is split off
    fails([whole.format("(3, 8, 6)")], Own(floats()[..., :6], labels()))
    fails([whole.format("(24,)")], Own(floats().flatten(2)[:, 0, :24], labels()))
    fails([whole.format("(8, 8)")], Own(floats()[:, 0], labels()))
    fails([whole.format("(3, 8, 8)") + " = 4"], Own(floats(), labels()), image_size=4)
    fails(
        ["Own, test: item 0", "(3, 9, 9)", "(3, 8, 8), as in the training part"],
        (Own(floats(), labels()), Own(floats(4, 9), labels(4))),
    )
    late = [*floats(10), *floats(10, 9)]
    data = as_dataset(Own(late, labels()), test=Own(floats(), labels()), holdout=0)
    with pytest.raises(OnespikeError, match=r"Own, train: item 12: an image of torch.float32, shape \(3, 9, 9\)"):
        data.train.gather(np.array([3, 12]))


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_floats_that_are_not_finite_are_named(number):
    images = floats()
    images[12, 1, 2, 3] = number
    data = as_dataset(Own(images, labels()), test=Own(floats(), labels()), holdout=0)
    with pytest.raises(OnespikeError, match="Own, train: item 12: numbers that are not finite; expected pixels"):
        data.train.gather(np.array([3, 12]))


def test_raw_images_and_floats_do_not_mix():
    fails(["Own, test: item 0: an image of float32"], (Own(raw(), labels()), Own(floats(), labels())))
    fails(
        ["Own, test: item 0: a raw image; expected floats, (3, 8, 8)"], (Own(floats(), labels()), Own(raw(), labels()))
    )


@pytest.mark.parametrize("image", [np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.int64), "a path", None])
def test_what_is_no_image_is_named(image):
    fails(["Own, train: item 0: an image of", "expected a Pillow image or uint8"], Own([image] * 9, labels(9)))


def test_a_label_that_changes_is_named():
    source = Own(floats(), labels())
    data = as_dataset(source, holdout=0, test=source)
    source.labels = labels(20, 3)
    with pytest.raises(OnespikeError, match=r"Own, train: item 3: .* label 0; expected .* label 3"):
        data.train.gather(np.array([0, 3]))


def test_what_random_split_gives_are_parts():
    train, test = as_dataset(parts := random_split(Own(floats(), labels()), [15, 5]), holdout=0), parts[1]
    assert (len(train.train), len(train.test), train.name) == (15, len(test), "Own")
    assert torch.equal(train.test[2][0], test[2][0])


def test_what_is_no_map_style_data_set():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from ()

        def __len__(self):
            return 3  # some know it, for progress bars

    fails(["Stream, train: a Stream; expected a map-style data set"], Stream())
    fails(["int, train: a int; expected a map-style"], 3)
    fails(["a DataLoader; expected a map-style", "pass what it loads, its .dataset"], DataLoader(Own(raw(), labels())))
    fails(["Own, train: empty"], Own([], []))
    fails(["Own: the parts test; expected train"], {"test": Own(raw(), labels())})
    fails(["Own: 1 data sets; expected (train, test)"], (Own(raw(), labels()),))
    fails(["Own: a single image and no test part"], Own(raw(1), [0]))
    fails(["data.holdout: 1 training image"], Own(raw(2), [0, 0]))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (torch.zeros(3, 8, 8, device="meta"), "torch.float32, torch.strided, on meta"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8, device="meta"), "torch.uint8, torch.strided, on meta"),
        (torch.zeros(3, 8, 8).to_sparse(), "torch.sparse_coo, on cpu"),
        (torch.zeros(3, 8, 8).to(torch.float8_e5m2), "torch.float8_e5m2"),
    ],
    ids=["elsewhere", "raw, elsewhere", "sparse", "of 8 bits"],
)
def test_tensors_that_no_batch_can_be_made_of(image, said):
    fails(["Own, train: item 0: a tensor of", said, "expected a dense one"], Own([image] * 9, labels(9)))


def test_a_whole_data_set_elsewhere():
    there = TensorDataset(floats().to("meta"), torch.tensor(labels()))
    fails(["item 0: a tensor of torch.float32", "on meta"], there)
    fails(["item 0: a tensor of torch.float32", "on meta"], Subset(there, [0, 1]))
    fails(["item 0: a tensor of torch.int64", "on meta"], TensorDataset(floats(), torch.tensor(labels()).to("meta")))


def test_labels_and_indices_that_are_none():
    whole = TensorDataset(floats(), torch.tensor(labels()))
    fails(["item 0: label", "a whole number"], TensorDataset(floats(), torch.tensor(labels()).bfloat16()))
    fails(["item 1: not there", "out of bounds", "expected 2 items", "indices of a subset"], Subset(whole, [0, 20]))
    fails(["item 1: not there", "expected 2 items"], Subset(whole, [0, 1.5]))


# Hugging Face


@pytest.mark.parametrize("error", [KeyError, IndexError, ZeroDivisionError])
def test_a_bug_in_a_data_set_keeps_its_traceback_and_says_at_which_item(error):
    class Buggy(Own):
        def __getitem__(self, position):
            if position == 7:
                raise error("mine")
            return super().__getitem__(position)

    with pytest.raises(error, match="mine") as raised:
        as_dataset(Buggy(raw(), labels()), name="own")
    assert raised.value.__notes__ == ["own, train: item 7"]


def table(count=20, channels=3, seed=0, names="abcd", image="picture", label="kind"):
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=list(names))})
    images = FORMS["Pillow"](raw(count, channels, seed=seed))
    return datasets.Dataset.from_dict({image: images, label: labels(count)}, features)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_table_is_found_out_by_its_features(channels):
    data = as_dataset(table(channels=channels), test=table(6, channels, seed=1), holdout=0)
    np.testing.assert_array_equal(pixels_of(data, "train"), raw(20, channels))
    np.testing.assert_array_equal(pixels_of(data, "test"), raw(6, channels, seed=1))
    assert data.train.targets.tolist() == labels()
    assert data.classes == tuple("abcd")


def test_a_dictionary_of_tables(capsys):
    parts = datasets.DatasetDict({"train": table(), "validation": table(8), "test": table(6)})
    data = as_dataset(parts)
    assert [len(data.train), len(data.validation), len(data.test)] == [20, 8, 6]
    alone = as_dataset(datasets.DatasetDict({"train": table(), "validation": table(8)}), holdout=0)
    assert [len(alone.train), len(alone.validation), len(alone.test)] == [20, 0, 8]
    parts["test"] = parts["test"].map(lambda _: {"kind": -1})
    unlabelled = as_dataset(parts, holdout=0)
    assert "its test images have no labels (-1), and are left out: the validation part" in capsys.readouterr().err
    assert [len(unlabelled.train), len(unlabelled.validation), len(unlabelled.test)] == [20, 0, 8]
    split_off = as_dataset(datasets.DatasetDict({"train": table()}), holdout=0)
    assert [len(split_off.train), len(split_off.test)] == [16, 4]
    assert "fixed fifth" in split_off.note


def test_a_table_in_the_format_of_torch_or_shuffled_or_of_whole_numbers():
    data = as_dataset(table().with_format("torch"), holdout=0, test=table())
    np.testing.assert_array_equal(pixels_of(data, "train"), raw())
    order = [5, 3, 8, 0]
    data = as_dataset(table().select(order), holdout=0, test=table())
    np.testing.assert_array_equal(pixels_of(data, "train"), raw()[order])
    plain = datasets.Dataset.from_dict({"img": FORMS["Pillow"](raw()), "label": labels(), "id": list(range(20))})
    assert as_dataset(plain).classes == ("0", "1", "2", "3")


def test_a_table_that_says_grey_or_colour_is_read_so():
    grey = table().cast_column("picture", datasets.Image(mode="L"))
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L"))[:, :, None] for image in raw()])
    np.testing.assert_array_equal(pixels_of(as_dataset(grey, test=grey, holdout=0), "train"), expected)
    colour = table(channels=1).cast_column("picture", datasets.Image(mode="RGB"))
    assert as_dataset(colour).in_channels == 3


def test_the_images_of_a_table_may_be_files(tmp_path):
    paths = []
    for i, image in enumerate(raw()):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(image).save(paths[-1])
    source = datasets.Dataset.from_dict({"image": paths, "label": labels()}).cast_column("image", datasets.Image())
    np.testing.assert_array_equal(pixels_of(as_dataset(source, test=source, holdout=0), "train"), raw())
    (tmp_path / "4.png").unlink()
    fails(["item 4: its image cannot be read"], source, test=table())


def test_tables_that_will_not_do():
    fails(["columns kind, none of images", "cast_column"], table().remove_columns("picture"))
    text = table().cast_column("kind", datasets.Value("string"))
    fails(["columns picture, kind, none of labels", "text by class_encode_column"], text)
    assert as_dataset(text.class_encode_column("kind")).num_classes == 4
    twice = table().add_column("sort", labels(), feature=datasets.ClassLabel(names=list("wxyz")))
    fails(["the columns kind, sort of labels", "expected one"], twice)
    assert as_dataset(twice.rename_column("sort", "label")).classes == tuple("wxyz")
    fails(["a transform of its own"], table().with_transform(lambda batch: batch))
    unlabelled = table().map(lambda row, i: {"kind": -1 if i == 3 else row["kind"]}, with_indices=True)
    fails(["train: item 3: label -1; expected 0 to 3"], unlabelled)
    missing = datasets.Dataset.from_dict({"image": FORMS["Pillow"](raw(3)), "label": [0, None, 1]})
    fails(["train: item 1: label 'None'; expected a whole number"], missing)
    bad = [{"bytes": png(image), "path": None} for image in raw(3)]
    bad[2]["bytes"] = bad[2]["bytes"][:60]
    damaged = datasets.Dataset.from_dict({"image": bad, "label": [0, 1, 0]}).cast_column("image", datasets.Image())
    fails(["train: item 2: corrupt image"], damaged, test=damaged.select([0, 1]))
