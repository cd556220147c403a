import shutil

import numpy as np
import pytest
from layouts import pack, pixels_of, save_image
from PIL import Image, ImageOps

from onespike.data.config import DataConfig
from onespike.data.dataset import open_dataset
from onespike.errors import OnespikeError
from tests.running import raising


def test_classes_are_the_folders_and_images_come_sorted(tree):
    save_image(tree / "train" / "cat" / "deeper" / "still" / "x.jpg", seed=9)
    (tree / "train" / "cat" / "notes.txt").write_text("not an image")
    (tree / "train" / "cat" / "._0.png").write_bytes(b"hidden")
    (tree / "train" / "readme.png").write_bytes(b"in no class")
    save_image(tree / "train" / "cat" / "@eaDir" / "0.png" / "THUMB.jpg", seed=8)
    (tree / "test" / "@eaDir").mkdir()
    data = open_dataset(DataConfig("folder", str(tree), holdout=0))
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [0] * 6 + [1] * 5
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    expected = np.asarray(Image.open(tree / "train" / "dog" / "3.png"))
    np.testing.assert_array_equal(pixels_of(data, "train")[9], expected)


def test_val_alone_is_the_test_set_and_with_test_it_is_the_validation_set(tree):
    (tree / "test").rename(tree / "val")
    data = open_dataset(DataConfig("folder", str(tree), holdout=0.2))
    assert [len(data.train), len(data.validation), len(data.test)] == [8, 2, 4]
    shutil.copytree(tree / "val", tree / "test")
    data = open_dataset(DataConfig("folder", str(tree), holdout=0.2))
    assert [len(data.train), len(data.validation), len(data.test)] == [10, 4, 4]
    assert data.validation.images is not data.train.images


@pytest.mark.parametrize("name", ["testing", "eval", "evaluation"])
def test_the_test_part_may_be_called_otherwise(tree, name):
    (tree / "test").rename(tree / name)
    assert len(open_dataset(DataConfig("folder", str(tree))).test) == 4


@pytest.mark.parametrize("name", ["validation", "valid", "dev"])
def test_the_validation_part_may_be_called_otherwise(tree, name):
    shutil.copytree(tree / "test", tree / name)
    data = open_dataset(DataConfig("folder", str(tree), holdout=0.2))
    assert [len(data.train), len(data.validation), len(data.test)] == [10, 4, 4]


def test_two_folders_for_one_part_are_refused(tree):
    for name in ("val", "validation"):
        shutil.copytree(tree / "test", tree / name)
    with pytest.raises(OnespikeError, match=r"validation and .*val: each is the validation part by its name; expected"):
        open_dataset(DataConfig("folder", str(tree)))


def test_a_folder_that_is_no_part_is_left_out_with_a_warning(tree, capsys):
    shutil.copytree(tree / "test", tree / "extra")
    (tree / "README.md").write_text("of no folder")
    open_dataset(DataConfig("folder", str(tree)))
    assert "extra/cat/0.png: no image of a class by its name; 4 such files are left out" in capsys.readouterr().err


def test_linked_folders_and_archives_will_do(tree, tmp_path):
    direct = open_dataset(DataConfig("folder", str(tree)))
    linked = tmp_path / "linked"
    linked.mkdir()
    for part in ("train", "test"):
        (linked / part).symlink_to(tree / part)
    packed = [pack(tree, tmp_path / f"mine.{form}") for form in ("zip", "tar", "tar.gz")]
    capitals = [path.rename(path.with_name(path.name.upper())) for path in packed[::2]]
    for root in (linked, packed[1], *capitals):
        data = open_dataset(DataConfig("folder", str(root)))
        np.testing.assert_array_equal(data.train.images, direct.train.images)


def test_all_grey_stays_grey_and_one_colour_image_makes_all_colour(tmp_path):
    root = tmp_path / "grey"
    for part in ("train", "test"):
        for name in ("a", "b"):
            for i in range(3):
                save_image(root / part / name / f"{i}.png", grey=True, seed=i)
    assert open_dataset(DataConfig("folder", str(root))).in_channels == 1
    save_image(root / "test" / "b" / "colour.png")
    data = open_dataset(DataConfig("folder", str(root)))
    assert data.in_channels == 3
    first = data.train.images[0]
    assert (first[..., 0] == first[..., 1]).all()


def test_other_modes_are_converted(tree):
    image = Image.open(tree / "train" / "cat" / "0.png")
    image.convert("RGBA").save(tree / "train" / "cat" / "rgba.png")
    image.convert("P").save(tree / "train" / "cat" / "palette.gif")
    data = open_dataset(DataConfig("folder", str(tree), holdout=0))
    np.testing.assert_array_equal(data.train.images[6], np.asarray(image))


@pytest.mark.parametrize("size", [(12, 8), (8, 12), (10, 10)])
def test_another_size_is_named_unless_image_size_is_given(tree, fails, size):
    odd = save_image(tree / "train" / "dog" / "4.png", size)
    width, height = size
    fails("folder", tree, odd, f"{width}x{height} pixels", "--data.image_size")
    data = open_dataset(DataConfig("folder", str(tree), image_size=6, holdout=0))
    assert data.train.images.shape == (10, 6, 6, 3)
    expected = ImageOps.fit(Image.open(odd), (6, 6), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(data.train.images[9], np.asarray(expected))


def test_images_that_are_all_the_same_oblong_are_refused(tmp_path, fails):
    for part in ("train", "test"):
        first = save_image(tmp_path / "oblong" / part / "a" / "0.png", (8, 6))
    first = tmp_path / "oblong" / "train" / "a" / "0.png"
    fails("folder", tmp_path / "oblong", first, "8x6 pixels", "expected a square", "--data.image_size")


def test_a_corrupt_image_is_named(tree, fails):
    path = tree / "test" / "cat" / "1.png"
    data = path.read_bytes()
    for damaged in (b"", b"no image", data[:60], data[:-30]):
        path.write_bytes(damaged)
        fails("folder", tree, path, "corrupt image")


def test_a_lack_of_memory_is_no_corrupt_image(tree, monkeypatch):
    monkeypatch.setattr("onespike.data.sources.image._upright", raising(MemoryError))
    with pytest.raises(MemoryError):
        open_dataset(DataConfig("folder", str(tree)))


@pytest.mark.parametrize("ending", ["bmp", "gif", "jpeg", "jpg", "pbm", "pgm", "png", "ppm", "tif", "tiff", "webp"])
def test_every_ending_is_read(tree, ending):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tree / "train" / "dog" / f"x.{ending}")
    assert len(open_dataset(DataConfig("folder", str(tree), holdout=0)).train) == 11


@pytest.mark.parametrize("form", ["eps", "pcx"])
def test_another_format_is_not_read_whatever_its_ending(tree, fails, form):
    path = tree / "train" / "cat" / "0.png"
    Image.open(path).save(path, form)
    fails("folder", tree, path, "corrupt image")


def test_sixteen_bits_are_not_clipped_in_silence(tree, fails):
    path = tree / "train" / "cat" / "deep.png"
    Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(path)
    fails("folder", tree, path, "more than 8 bits")


def test_classes_must_agree_between_parts(tree, fails):
    save_image(tree / "test" / "emu" / "0.png")
    fails("folder", tree, tree / "train" / "emu", "'emu'")
    shutil.rmtree(tree / "test" / "emu")
    shutil.rmtree(tree / "test" / "dog")
    fails("folder", tree, tree / "test" / "dog", "'dog'")


def test_a_part_without_images_or_without_folder(tree, fails):
    shutil.rmtree(tree / "test" / "cat")
    shutil.rmtree(tree / "test" / "dog")
    fails("folder", tree, tree / "test", "no images")
    (tree / "test").rmdir()
    fails("folder", tree, tree / "test", "no such folder, nor val")
    shutil.rmtree(tree / "train")
    (tree / "x").mkdir()
    fails("folder", tree, "not recognised as folder", "train/<class>/", "<class>/ alone with --data.name hub")


def test_a_root_is_needed(fails):
    fails("folder", None, "no root given", "--data.root")
