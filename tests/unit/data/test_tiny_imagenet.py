import tarfile

import numpy as np
import pytest
from layouts import pack, pixels_of, save_image
from PIL import Image

from onespike.data.config import DataConfig
from onespike.data.dataset import open_dataset


@pytest.mark.parametrize("form", ["folder", "above", ".zip", ".tar", ".tar.gz", "flat .tar"])
def test_every_form_gives_the_same_images(tiny, tmp_path, form):
    if form == "flat .tar":
        root = tmp_path / "flat.tar"
        with tarfile.open(root, "w") as archive:
            archive.add(tiny, ".")
    elif form.startswith("."):
        root = pack(tiny, tmp_path / f"tiny{form}")
    else:
        root = tiny if form == "folder" else tiny.parent
    data = open_dataset(DataConfig("tiny-imagenet", str(root), holdout=0))
    assert data.classes == ("goldfish", "bullfrog", "tailed frog")
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test.labels.tolist() == [2, 2, 0, 0, 1, 1]
    paths = sorted((tiny / "train").glob("*/images/*.JPEG"))
    expected = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    np.testing.assert_array_equal(pixels_of(data, "train"), expected)
    first = np.asarray(Image.open(tiny / "val" / "images" / "val_0.JPEG"))
    np.testing.assert_array_equal(pixels_of(data, "test")[0], first)


def test_a_class_that_words_txt_lacks_keeps_its_number(tiny):
    (tiny / "words.txt").write_text("n01\tgoldfish\n")
    assert open_dataset(DataConfig("tiny-imagenet", str(tiny))).classes == ("goldfish", "n02", "n03")


def test_a_corrupt_image_is_named(tiny, tmp_path, fails):
    path = tiny / "train" / "n02" / "images" / "n02_2.JPEG"
    path.write_bytes(path.read_bytes()[:200])
    fails("tiny-imagenet", tiny, path, "corrupt image")
    archive = pack(tiny, tmp_path / "tiny.zip")
    fails("tiny-imagenet", archive, f"{archive}: tiny-imagenet-200/train/n02/images/n02_2.JPEG", "corrupt image")


@pytest.mark.parametrize("keep", [0, 1, 10, 100, 500, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
def test_a_truncated_archive_is_named(tiny, tmp_path, fails, ending, keep):
    archive = pack(tiny, tmp_path / f"tiny{ending}")
    data = archive.read_bytes().rstrip(b"\0")  # with which a .tar is filled up
    archive.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    fails("tiny-imagenet", archive, archive, "truncated or damaged archive")


@pytest.mark.parametrize("rest", [0, 100, 512])
def test_a_tar_that_ends_within_or_before_a_header_is_named(tiny, tmp_path, fails, rest):
    archive = pack(tiny, tmp_path / "tiny.tar")
    with tarfile.open(archive) as file:
        last = file.getmembers()[-1]
    assert last.name.endswith("test_0.JPEG")  # without it, the data set looks whole
    archive.write_bytes(archive.read_bytes()[: last.offset + rest])
    fails("tiny-imagenet", archive, archive, "truncated or damaged archive")


def test_a_damaged_member_is_named(tiny, tmp_path, fails):
    archive = pack(tiny, tmp_path / "tiny.zip")
    image = (tiny / "val" / "images" / "val_1.JPEG").read_bytes()
    archive.write_bytes(archive.read_bytes().replace(image, image[:-9] + bytes(9)))
    fails("tiny-imagenet", archive, f"{archive}: tiny-imagenet-200/val/images/val_1.JPEG", "damaged archive")


def test_lists_that_do_not_agree_with_the_files(tiny, fails):
    annotations = tiny / "val" / "val_annotations.txt"
    before = annotations.read_text()
    annotations.write_text(before + "val_9.JPEG\tn01\t0\t0\t7\t7\n")
    fails("tiny-imagenet", tiny, tiny / "val" / "images" / "val_9.JPEG", "no such file")
    for name in ("val_0.JPEG", "../images/val_0.JPEG", "../../train/n01/images/n01_0.JPEG", "/etc/passwd", "\0"):
        annotations.write_text(f"{before}{name}\tn02\t0\t0\t7\t7\n")
        fails("tiny-imagenet", tiny, "listed twice" if name == "val_0.JPEG" else "no such file")
    annotations.write_text(before + "val_0.JPEG\tn99\t0\t0\t7\t7\n")
    fails("tiny-imagenet", tiny, f"{annotations}: line 7", "class 'n99'", "wnids.txt")
    annotations.write_text("")
    fails("tiny-imagenet", tiny, annotations, "empty")
    annotations.write_text(before)
    save_image(tiny / "train" / "n77" / "images" / "n77_0.JPEG")
    fails("tiny-imagenet", tiny, "n77_0.JPEG", "class 'n77'")


def test_a_class_without_images_is_named(tiny, fails):
    (tiny / "wnids.txt").write_text("n01\nn02\nn03\nn05\n")
    fails("tiny-imagenet", tiny, tiny / "train" / "n05", "no images")


def test_an_unrecognised_root(tmp_path, fails):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("x")
    fails("tiny-imagenet", tmp_path / "other", "not recognised as tiny-imagenet", "wnids.txt")
