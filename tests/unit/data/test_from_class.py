import hashlib
import pickle

import numpy as np
import pytest
import torch
import torchvision
from layouts import pixels_of, save_image, write_pickled
from test_own import Own, floats, labels, raw
from torch.utils.data import Subset
from torchvision.transforms import v2

from onespike.data.config import DataConfig
from onespike.data.dataset import as_dataset, from_class, open_dataset
from onespike.errors import OnespikeError

PLAIN = DataConfig(holdout=0)


class ByTrain(Own):
    def __init__(self, count, train: bool = True):
        super().__init__(raw(count, seed=int(train)), labels(count))


class BySplit(Own):
    known, refusal = ("train", "val", "test"), ValueError

    def __init__(self, split="train", side=8):
        if split not in self.known:
            raise self.refusal(f"unknown split {split}")
        super().__init__(floats(20 + len(split), side), labels(20 + len(split)))


def test_a_class_that_takes_train_is_made_twice():
    data = from_class(ByTrain, {"count": 12}, PLAIN)
    np.testing.assert_array_equal(pixels_of(data, "train"), raw(12, seed=1))
    np.testing.assert_array_equal(pixels_of(data, "test"), raw(12, seed=0))
    assert (data.name, data.note) == ("ByTrain", "")
    lone = from_class(ByTrain, {"count": 20, "train": False}, PLAIN)
    assert (len(lone.train), len(lone.test)) == (16, 4)


@pytest.mark.parametrize(
    ("known", "sizes"),
    [
        (("train", "val", "test"), (25, 23, 24)),
        (("train", "validation", "test"), (25, 30, 24)),
        (("train", "valid", "test"), (25, 25, 24)),
        (("train", "dev", "test"), (25, 23, 24)),
        (("train", "test"), (25, 0, 24)),
        (("train", "val"), (25, 0, 23)),
        (("train",), (20, 0, 5)),
    ],
)
def test_a_class_that_takes_split_is_asked_for_those_it_knows(known, sizes):
    data = from_class(type("Mine", (BySplit,), {"known": known}), {"side": 4}, PLAIN)
    assert (len(data.train), len(data.validation), len(data.test)) == sizes
    assert data.image_size == 4


def test_a_class_may_refuse_a_split_by_a_runtime_error():
    data = from_class(type("Mine", (BySplit,), {"known": ("train", "test"), "refusal": RuntimeError}), {}, PLAIN)
    assert (len(data.train), len(data.validation), len(data.test)) == (25, 0, 24)
    with pytest.raises(OnespikeError, match="unknown split test"):  # torchvision's way to say that files are missing
        from_class(type("Mine", (BySplit,), {"known": ("train",), "refusal": RuntimeError}), {}, PLAIN)


@pytest.mark.parametrize("refusal", [TypeError, IndexError, AttributeError])
def test_a_class_may_refuse_a_split_by_any_error(refusal):
    data = from_class(type("Mine", (BySplit,), {"known": ("train", "test"), "refusal": refusal}), {}, PLAIN)
    assert (len(data.train), len(data.validation), len(data.test)) == (25, 0, 24)


def test_a_bug_in_a_validation_part_is_not_taken_for_a_split_that_is_unknown():
    class Buggy(BySplit):
        def __init__(self, split="train"):
            super().__init__(split)
            if split == "val":
                raise AttributeError("a bug")

    with pytest.raises(OnespikeError, match=r"Buggy refuses \{\}: a bug"):
        from_class(Buggy, {}, PLAIN)


def test_a_function_may_have_nothing_for_a_split():
    def mine(split="train"):
        return {"train": Own(raw(), labels()), "dev": Own(raw(4), labels(4)), "test": Own(raw(8), labels(8))}.get(split)

    data = from_class(mine, {}, PLAIN)
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 4, 8)


def test_a_class_that_looks_for_a_folder_of_the_splits_name(tmp_path):
    for part, count in (("train", 10), ("validation", 4), ("test", 6)):
        for i in range(count):
            save_image(tmp_path / part / "ab"[i % 2] / f"{i}.png", seed=i)

    def images(root, split):
        return torchvision.datasets.ImageFolder(root / split)

    data = from_class(images, {"root": tmp_path}, PLAIN)
    assert (len(data.train), len(data.validation), len(data.test)) == (10, 4, 6)


def test_a_class_that_takes_any_word_for_the_test_part_does_not_give_it_for_validation():
    def loose(split="train"):
        return Own(raw(20 if split == "train" else 6), labels(20 if split == "train" else 6))

    data = from_class(loose, {}, DataConfig(holdout=0.5))
    assert (data.name, len(data.train), len(data.validation), len(data.test)) == ("loose", 10, 10, 6)


def test_a_function_may_return_all_parts():
    data = from_class(lambda n: {"train": Own(raw(n), labels(n)), "test": Own(raw(5), labels(5))}, {"n": 10}, PLAIN)
    assert (len(data.train), len(data.test)) == (10, 5)


def test_torchvisions_own(tmp_path, content):
    folder = write_pickled(tmp_path / "cifar-10-batches-py", "cifar10", content["cifar10"])
    names = [f"class {i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))

    class Unchecked(torchvision.datasets.CIFAR10):
        meta = {
            **torchvision.datasets.CIFAR10.meta,
            "md5": hashlib.md5((folder / "batches.meta").read_bytes()).hexdigest(),
        }

        def _check_integrity(self):
            return True

    data = from_class(Unchecked, {"root": str(tmp_path)}, PLAIN)
    np.testing.assert_array_equal(pixels_of(data, "train"), content["cifar10"]["train"][0])
    np.testing.assert_array_equal(pixels_of(data, "test"), content["cifar10"]["test"][0])
    assert data.classes == tuple(names)


def test_torchvisions_image_folder_with_transforms(tmp_path):
    for i in range(20):
        save_image(tmp_path / "ab"[i % 2] / f"{i}.png", seed=i)
    transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    data = from_class(torchvision.datasets.ImageFolder, {"root": tmp_path, "transform": transform}, PLAIN)
    assert data.classes == ("a", "b")
    assert (len(data.train), len(data.test), data.mean) == (16, 4, (0, 0, 0))
    seen = data.test[0][0]
    assert 0 <= seen.min() < seen.max() <= 1
    arguments = {"root": tmp_path, "transform": transform, "target_transform": lambda label: 1 - label}
    turned = from_class(torchvision.datasets.ImageFolder, arguments, PLAIN)
    assert np.array_equal(turned.train.labels, 1 - data.train.labels), "what changes labels is asked for each"
    assert turned.classes == ("0", "1"), "and they have other names"
    same = from_class(torchvision.datasets.ImageFolder, arguments | {"target_transform": torch.tensor}, PLAIN)
    assert same.classes == ("a", "b")


def test_an_image_folder_whose_samples_were_changed_has_their_labels(tmp_path):
    for i in range(20):
        save_image(tmp_path / "abcd"[i % 4] / f"{i}.png", seed=i)
    folder = torchvision.datasets.ImageFolder(tmp_path)
    folder.samples = [(path, label // 2) for path, label in folder.samples]
    data = as_dataset(folder, test=folder, holdout=0)
    assert data.train.labels.tolist() == [folder[i][1] for i in range(20)] != folder.targets
    assert data.classes == ("0", "1")


class Halved(Subset):
    """A subset that changes labels."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, label // 2

    def __getitems__(self, indices):
        return [self[index] for index in indices]


class Twice(Subset):
    """A subset that shows each item twice."""

    def __len__(self):
        return 2 * len(self.indices)

    def __getitem__(self, index):
        return super().__getitem__(index % len(self.indices))

    def __getitems__(self, indices):
        return [self[index] for index in indices]


def test_a_subset_that_changes_labels_has_names_of_its_own(tmp_path):
    for i in range(20):
        save_image(tmp_path / "abcd"[i % 4] / f"{i}.png", seed=i)
    folder = torchvision.datasets.ImageFolder(tmp_path)
    plain, halved = Subset(folder, [*range(3, 20)]), Halved(folder, [*range(3, 20)])
    assert as_dataset(plain, test=plain).classes == ("a", "b", "c", "d")
    assert as_dataset(halved, test=halved).classes == ("0", "1")
    twice = Twice(folder, [*range(3, 20)])
    assert as_dataset(twice, test=twice).classes == ("a", "b", "c", "d"), "how its indices are meant is not known"
    folder.samples = folder.samples[2:]  # as to leave some out
    assert as_dataset(folder, test=folder).classes == ("a", "b", "c", "d")


@pytest.mark.parametrize("arguments", [{}, {"count": 3, "colour": "red"}, {"size": 3}])
def test_arguments_that_do_not_fit(arguments):
    with pytest.raises(OnespikeError) as raised:
        from_class(ByTrain, arguments, PLAIN)
    message = str(raised.value)
    assert message.startswith("data.init_args: ")
    assert "ByTrain(count, train: bool = True)" in message
    assert "\n" not in message


@pytest.mark.parametrize("refusal", [ValueError, RuntimeError, TypeError, AttributeError])
def test_arguments_that_the_class_refuses(refusal):
    with pytest.raises(OnespikeError, match=r"^data.init_args: Mine refuses {'split': 'x'}: unknown split x$"):
        from_class(type("Mine", (BySplit,), {"refusal": refusal}), {"split": "x"}, PLAIN)


def test_too_little_memory_is_no_refusal():
    def large(count):  # noqa: ARG001 - bound, not read
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(RuntimeError, match="memory"):
        from_class(large, {"count": 1}, PLAIN)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limit": 10}, "data.limit: Own was opened with 20 training images; got 10; open it with that, or set"),
        ({"image_size": 4}, "data.image_size: Own was opened with images of 8 pixels a side; got 4; open it with that"),
    ],
)
def test_a_data_set_of_the_library_keeps_to_the_options_or_is_refused(options, said):
    def made():
        return as_dataset((Own(raw(20), labels(20)), Own(raw(5), labels(5))), holdout=0)

    assert len(from_class(made, {}, PLAIN).train) == 20
    with pytest.raises(OnespikeError, match=f"^{said}"):
        from_class(made, {}, DataConfig(**options))


def test_an_error_of_the_class_itself_is_not_hidden():
    def broken(count):  # noqa: ARG001 - bound, not read
        raise ZeroDivisionError("a bug of its own")

    with pytest.raises(ZeroDivisionError, match="a bug of its own"):
        from_class(broken, {"count": 1}, PLAIN)


def test_a_root_that_no_class_would_be_given():
    with pytest.raises(OnespikeError, match=r"^data.root: pkg.Data takes arguments of its own, such as --data.init"):
        open_dataset(DataConfig(class_path="pkg.Data", root="x"))
