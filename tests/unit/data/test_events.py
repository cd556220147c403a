"""Data sets of events: their official bytes become the very events; what is damaged is named."""

import io
import re
import resource
import shutil
import tempfile
import time
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from onespike.data import DataConfig, open_dataset
from onespike.data.events.frames import Framing, jittered
from onespike.data.events.readers import read_aedat4, read_arrays, read_dvs128, read_gesture_array, read_ibm, read_mnist
from onespike.data.events.saccades import simulate
from onespike.data.events.stream import EVENT, Sensor, recording
from onespike.data.loader import EvalLoader
from onespike.data.sources import open_source
from onespike.data.sources.files import Files, open_files
from onespike.errors import OnespikeError
from tests.unit.data.recordings import (
    aedat2_bytes,
    aedat3_bytes,
    events,
    mnist_bytes,
    write_gesture,
    write_nmnist,
    write_shd,
)

DVS128 = Sensor(128, 128)
OBJECTS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def recordings_of(name, root, **options):
    """All recordings of a data set, part -> (label, events), unframed."""
    with open_source(DataConfig(name=name, drop_events=0.5, **options), root) as source:
        content = source.content()
        train = content.parts["train"]
        return content, [(int(train.labels[i]), train.events(i)) for i in range(len(train.labels))]


def test_nmnist_is_read_to_the_very_events(tmp_path):
    made = [events(seed=seed) for seed in range(40)]
    write_nmnist(tmp_path / "NMNIST", made)
    content, found = recordings_of("nmnist", tmp_path)
    assert content.classes == tuple("0123456789")
    expected = sorted((n // 2 % 10, n) for n in range(0, 40, 2))
    assert [label for label, _ in found] == [label for label, _ in expected]
    assert all(np.array_equal(one, made[n]) for (_, one), (_, n) in zip(found, expected, strict=True))


def test_gesture_is_cut_by_its_csv(tmp_path):
    whole = events(200, 128, 1, 10_000_000)
    cuts = [(1, int(whole["t"][10]), int(whole["t"][30])), (11, int(whole["t"][50]), int(whole["t"][60]))]
    write_gesture(tmp_path, whole, events(200, 128, 2, 10_000_000), [*cuts])
    content, found = recordings_of("dvs-gesture", tmp_path)
    assert [label for label, _ in found] == [0, 10]
    assert np.array_equal(found[0][1], whole[10:31])
    assert np.array_equal(found[1][1], whole[50:61])
    assert content.classes[10] == "other gestures"


@pytest.mark.parametrize("name", ["user01_led_labels.csv", "trials_to_test.txt", "user24_led.aedat"])
def test_the_cache_knows_every_file_of_gesture(name, tmp_path):
    write_gesture(tmp_path, *(events(20, 128, seed) for seed in (1, 2)), [(1, 0, 300_000)])
    keys = set()
    for _ in range(2):
        with open_source(DataConfig(name="dvs-gesture"), tmp_path) as source:
            keys.add(source.key())
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(
            content.replace(b"300000", b"200000") if name.endswith("csv") else content + b"\n"
        )
    assert len(keys) == 2


def test_times_go_on_where_the_clock_of_aedat_3_overflows(tmp_path):
    made = events(4, 128)
    made["t"] = [5, 2**31 - 10, 2**31 + 20, 2**32 + 7]
    (tmp_path / "a.aedat").write_bytes(aedat3_bytes(made, packet=1))
    assert np.array_equal(read_ibm(Files(tmp_path), "a.aedat", DVS128), made)


def test_the_row_that_marks_overflows_is_no_pixel_of_nmnist(tmp_path):
    made = events(4, 34)
    (tmp_path / "a.bin").write_bytes(mnist_bytes(made))
    assert np.array_equal(read_mnist(Files(tmp_path), "a.bin", Sensor(256, 240)), made)
    with pytest.raises(OnespikeError, match=r"^.*a.bin: .bin of a sensor of 256x241 pixels; expected at most 240 rows"):
        read_mnist(Files(tmp_path), "a.bin", Sensor(256, 241))


def test_overflows_of_the_clock_are_what_tonic_makes_of_them_at_once(tmp_path):
    made = events(4_000, 34, duration=1 << 23)
    rows = np.frombuffer(mnist_bytes(made), np.uint8).reshape(-1, 5).copy()
    rows[::100, 1] = 240
    data = rows.tobytes()
    (tmp_path / "a.bin").write_bytes(data)
    found = read_mnist(Files(tmp_path), "a.bin", Sensor(34, 34))
    dtype = np.dtype([(name, np.int64) for name in "xytp"])
    expected = pytest.importorskip("tonic.io").read_mnist_file(io.BytesIO(data), dtype, is_stream=True)
    assert found["t"][-1] > made["t"][-1] + 39 * 8192
    assert all(np.array_equal(found[name], expected[name]) for name in "txyp")
    (tmp_path / "b.bin").write_bytes(bytes([0, 240, 0, 0, 0]) * 1_000_000 + bytes(5))  # tonic takes a minute
    started = time.process_time()
    assert read_mnist(Files(tmp_path), "b.bin", Sensor(34, 34))["t"].tolist() == [8192 * 1_000_000]
    assert time.process_time() - started < 10


def test_no_room_to_copy_aedat4_out_of_an_archive_is_not_the_caches_fault(tmp_path, monkeypatch):
    pytest.importorskip("aedat")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.aedat4", b"#!AER-DAT4.0\r\n")
    full = partial(
        pytest.raises, OnespikeError, match=r"a.aedat4: cannot be copied into .* \(.+\); expected room; free"
    )
    with open_files(tmp_path / "a.zip") as files:
        with monkeypatch.context() as patch, full():
            patch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
            read_aedat4(files, "a.aedat4", DVS128)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))  # as if the disk were full
        try:
            with full():
                read_aedat4(files, "a.aedat4", DVS128)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["7.npy", "7.NPY"])
def test_gesture_as_tonic_downloads_it(name, tmp_path):
    made = events(50, 128, 3, 5000)
    for part in ("Train", "Test"):
        folder = tmp_path / "DVSGesture" / f"ibmGesture{part}" / "user01_led"
        folder.mkdir(parents=True)
        with (folder / name).open("wb") as file:  # by its name alone, numpy would add an ending
            np.save(file, np.stack([made[key] / (1000 if key == "t" else 1) for key in "xypt"], 1))
    _, ((label, found),) = recordings_of("dvs-gesture", tmp_path)
    assert label == 7
    assert np.array_equal(found, made), "fractions of milliseconds count"


def test_gesture_arrays_of_whole_milliseconds_and_of_no_whole_pixels(tmp_path):
    rows = np.array([[1, 2, 0, 5], [3, 4, 1, 7]])
    np.save(tmp_path / "1.npy", rows)
    assert read_gesture_array(Files(tmp_path), "1.npy", DVS128)["t"].tolist() == [5000, 7000]
    np.save(tmp_path / "1.npy", rows + np.array([[0], [0.5]]))
    with pytest.raises(OnespikeError, match=r"1.npy: event 1 has x, y, p = 3.5, 4.5, 1.5; expected whole numbers"):
        read_gesture_array(Files(tmp_path), "1.npy", DVS128)


def test_cifar10_dvs_holds_out_the_last_of_each_class(tmp_path):
    made = {}
    for label, name in enumerate(OBJECTS):
        (tmp_path / name).mkdir()
        for number in (0, 9, 10):
            made[label, number] = events(30, 128, 100 * label + number)
            content = aedat2_bytes(made[label, number], swapped=True)
            (tmp_path / name / f"cifar10_{name}_{number}.aedat").write_bytes(content)
    content, found = recordings_of("cifar10-dvs", tmp_path)
    assert [label for label, _ in found] == [label for label in range(10) for _ in range(2)]
    assert np.array_equal(found[3][1], made[1, 9])
    assert content.parts["test"].origins[0].endswith("cifar10_airplane_10.aedat")
    assert "last tenth" in content.note


def test_cifar10_dvs_of_tonic_has_the_same_test_part(tmp_path):
    for name in OBJECTS:
        (tmp_path / name).mkdir()
        for number in range(20):
            (tmp_path / name / f"cifar10_{name}_{number}.aedat4").write_bytes(b"not read here")
    config = DataConfig(name="cifar10-dvs", root=str(tmp_path))
    with open_source(config, tmp_path) as source:
        origins = source.content().parts["test"].origins
    assert [Path(one).stem for one in origins[:2]] == ["cifar10_airplane_18", "cifar10_airplane_19"]


def test_an_address_of_a_dvs128_counts_from_the_lower_right(tmp_path):
    event = bytes([0, 0, 5, 7 << 1 | 1]) + bytes([0, 0, 0, 9])  # y = 5 from the bottom, x = 7 from the right
    content = b"#!AER-DAT2.0\r\n" + event
    assert read_dvs128(*files(tmp_path, content, "a.aedat"), DVS128).tolist() == [(9, 120, 122, 0)]
    assert read_dvs128(*files(tmp_path, content, "a.aedat"), DVS128, swapped=True).tolist() == [(9, 122, 120, 0)]
    brighter = content.replace(event, bytes([0, 0, 5, 7 << 1]) + event[4:])
    assert read_dvs128(*files(tmp_path, brighter, "a.aedat"), DVS128).tolist() == [(9, 120, 122, 1)]


def test_shd_has_a_channel_for_each_nerve_and_tonic_reads_the_same(tmp_path, monkeypatch):
    tonic = pytest.importorskip("tonic")
    (tmp_path / "SHD").mkdir()
    made = [(np.linspace(0, 0.5, 20), np.arange(20) * 30), (np.array([0.0, 0.25]), np.array([699, 0]))]
    for part in ("train", "test"):
        write_shd(tmp_path / "SHD" / f"shd_{part}.h5", made)
    content, found = recordings_of("shd", tmp_path)
    assert content.classes == ("null", "eins")
    monkeypatch.setattr(tonic.datasets.SHD, "_check_exists", lambda _: True)
    for (label, ours), (its, target) in zip(found, tonic.datasets.SHD(str(tmp_path)), strict=True):
        assert label == target
        assert np.array_equal(ours["t"], its["t"])
        assert np.array_equal(ours["p"], its["x"])
    data = open_dataset(DataConfig(name="shd", root=str(tmp_path), frames=5, holdout=0))
    assert (data.train.shape, data.frames) == ((700, 1, 1), 5)
    assert data.train.images[0].sum() == 20
    assert data.train.images[1, 0, 0, [0, 4], [699, 0]].tolist() == [1, 1]


FORMS = {
    "npy": np.save,
    "npz": lambda path, made: np.savez(path, **{name: made[name] for name in "xytp"}),
    "bin": lambda path, made: path.write_bytes(mnist_bytes(made)),
    "AEDAT": lambda path, made: path.write_bytes(aedat2_bytes(made)),
    "aedat": lambda path, made: path.write_bytes(aedat3_bytes(made)),
}


def folder_of(root, made, ending="npy"):
    for part in ("train", "test"):
        for label in "ab":
            (root / part / label).mkdir(parents=True)
            for number, one in enumerate(made):
                FORMS[ending](root / part / label / f"{number}.{ending}", one)


@pytest.mark.parametrize("ending", FORMS)
def test_a_folder_of_ones_own(tmp_path, ending):
    made = [events(30, 24, seed) for seed in range(3)]
    folder_of(tmp_path, made, ending)
    content, found = recordings_of("events-folder", tmp_path, sensor=(24, 24))
    assert content.classes == ("a", "b")
    assert all(np.array_equal(one, made[n % 3]) for n, (_, one) in enumerate(found))


def test_recordings_of_other_names_are_left_out_with_a_warning(tmp_path, capsys):
    root = tmp_path / "data"
    folder_of(root, [events(30, 24)])
    (root / "train").joinpath("a", "1.dat").write_bytes(b"x")
    (root / "test").rename(root / "valid")
    data = open_dataset(DataConfig("events-folder", str(root), sensor=(24, 24), holdout=0))
    assert (len(data.train), len(data.test)) == (2, 2)
    assert "a/1.dat: no recording of a class by its name; 1 such file is left out" in capsys.readouterr().err


def test_the_cache_knows_recordings_whose_names_end_in_capitals(tmp_path):
    keys = set()
    for seed in (1, 2):
        write_nmnist(tmp_path / str(seed), [events(seed=seed)] * 20)
        for path in tmp_path.rglob("*.bin"):
            path.rename(path.with_suffix(".BIN"))
        with open_source(DataConfig(name="nmnist"), tmp_path / str(seed)) as source:
            keys.add(source.key())
    assert len(keys) == 2


@pytest.mark.parametrize("part", ["Train", "Test"])
def test_nmnist_has_every_digit(tmp_path, part):
    write_nmnist(tmp_path, [events()] * 20)
    shutil.rmtree(tmp_path / part / "3")
    with pytest.raises(OnespikeError, match=rf"{part}/3: no recordings; expected some of each digit"):
        recordings_of("nmnist", tmp_path)


@pytest.mark.parametrize("digit", ["10", "0003", "²", "three"])
def test_nmnist_has_no_other_class(tmp_path, digit):
    write_nmnist(tmp_path, [events()] * 20)
    (tmp_path / "Train" / "3").rename(tmp_path / "Train" / digit)
    with pytest.raises(OnespikeError, match=rf"{digit}/00006.bin: class '{digit}'; expected 0 to 9; move it"):
        recordings_of("nmnist", tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((1, 5, 4), "class 1, from 5 to 4; expected a class of 1 to 11, and an end behind the start; correct it"),
        ((0, 4, 5), "class 0, from 4 to 5; expected a class of 1 to 11"),
        ((12, 4, 5), "class 12, from 4 to 5; expected a class of 1 to 11"),
        ((1, 4), "not three whole numbers; expected class, start, end"),
        ((1, 400_000, 400_000), "no events"),
    ],
)
def test_gestures_have_a_class_and_a_time(tmp_path, row, message):
    write_gesture(tmp_path, *(events(200, 128, seed) for seed in (1, 2)), [row])
    with pytest.raises(OnespikeError, match=f"user01_led_labels.csv: line 2: {re.escape(message)}"):
        recordings_of("dvs-gesture", tmp_path)


def test_cifar10_dvs_has_two_recordings_of_a_class(tmp_path):
    for name in OBJECTS:
        (tmp_path / name).mkdir()
        for number in range(1 if name == "frog" else 2):
            (tmp_path / name / f"{number}.aedat").write_bytes(b"not read here")
    with pytest.raises(OnespikeError, match="frog: a single recording; expected more"):
        recordings_of("cifar10-dvs", tmp_path)


@pytest.mark.parametrize("name", ["events-folder", "cifar10-dvs"])
def test_a_recording_beside_what_it_was_converted_to_is_refused(name, tmp_path):
    folders, ending = (OBJECTS, ".aedat4") if name == "cifar10-dvs" else (("train/a", "test/a"), ".raw")
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        for file in ("1.aedat", "2.aedat", f"2{ending}"):
            (tmp_path / folder / file).write_bytes(b"not read here")
    with pytest.raises(OnespikeError, match=rf"2.aedat and .*2{ending} are one recording by their names; expected it"):
        recordings_of(name, tmp_path, sensor=(8, 8))


def test_shd_is_read_only_to_be_decoded(tmp_path):
    for part in ("train", "test"):
        (tmp_path / f"shd_{part}.h5").write_bytes(b"not read here")
    with open_source(DataConfig(name="shd"), tmp_path) as source:
        assert source.key()
        with pytest.raises(OnespikeError, match=r"shd_train.h5: not read as HDF5"):
            source.content()


def test_the_words_of_shd_are_in_one_order(tmp_path):
    made = [(np.array([0.0, 0.25]), np.array([699, 0]))] * 2
    write_shd(tmp_path / "shd_train.h5", made)
    write_shd(tmp_path / "shd_test.h5", made, ("eins", "null"))
    with pytest.raises(OnespikeError, match=r"shd_test.h5: its words are eins, null; expected those of shd_train.h5"):
        recordings_of("shd", tmp_path)


# Frames


def framed(made, side=8, **options):
    framing = Framing(Sensor(side, side), **options)
    return framing.make(framing.fitted(made))


def test_every_event_is_in_exactly_one_frame():
    made = events(500, 8, 1)
    for frames in (1, 2, 7):
        for by in ("time", "count"):
            counts = framed(made, frames=frames, frames_by=by)
            assert counts.sum() == 500
            assert counts.shape == ((8, 8, 2) if frames == 1 else (8, 8, frames, 2))
    by_count = framed(made, frames=7, frames_by="count").sum((0, 1, 3))
    assert by_count.max() - by_count.min() <= 1


@pytest.mark.parametrize(("count", "frames"), [(10, 4), (7, 5), (50, 49)])
def test_borders_of_frames_are_exact(count, frames):
    made = np.zeros(count, EVENT)
    made["t"], made["x"] = np.arange(count), np.arange(count)
    for by, span in (("count", count), ("time", count - 1)):
        found = framed(made, count, frames=frames, frames_by=by)[0, :, :, 0].argmax(1)
        assert found.tolist() == [min(n * frames // span, frames - 1) for n in range(count)], by
    first, *_, last = (framed(made, count, frames=2, frames_by=by, representation="voxel") for by in ("time", "count"))
    np.testing.assert_array_equal(first, last)  # these events are even in time


def test_a_histogram_is_tonics_where_that_leaves_nothing_out():
    pytest.importorskip("tonic")
    from tonic.functional import to_frame_numpy

    made = events(300, 8, 2, 4000)
    made["t"][0], made["t"][-1] = 0, 4000
    its = to_frame_numpy(made.copy(), (8, 8, 2), n_time_bins=4)  # (T, P, H, W); its last slice ends before the last
    ours = framed(made[:-1], frames=4)  # so ours ends there too
    expected = framed(made, frames=4).astype(int)
    last = made[-1]
    expected[last["y"], last["x"], 3, last["p"]] -= 1
    assert np.array_equal(its.transpose(2, 3, 0, 1), expected)
    assert ours.sum() == 299


def test_representations_against_plain_loops():
    made = events(60, 4, 3)
    when = (made["t"] - made["t"][0]) / (made["t"][-1] - made["t"][0])
    voxel, surface = np.zeros((4, 4, 3, 2)), np.zeros((4, 4, 3, 2))
    for one, t in zip(made, when, strict=True):
        for frame in range(3):
            voxel[one["y"], one["x"], frame, one["p"]] += max(0, 1 - abs(t * 2 - frame))
            if t <= (frame + 1) / 3 + 1e-12 and (t < (frame + 1) / 3 or frame == 2):
                value = 255 * np.exp(-3 * ((frame + 1) / 3 - t))
                surface[one["y"], one["x"], frame, one["p"]] = value
    assert np.array_equal(framed(made, 4, frames=3, representation="voxel"), np.rint(16 * voxel))
    assert np.abs(framed(made, 4, frames=3, representation="timesurface") - surface).max() <= 0.5 + 1e-9
    counts = framed(made, 4, frames=3)
    assert np.array_equal(framed(made, 4, frames=3, representation="binary"), 255 * (counts > 0))


@pytest.mark.parametrize(("count", "frames"), [(5, 3), (60, 3), (4, 4), (1, 2)])
def test_surfaces_by_count_are_of_events_before_the_end_of_the_frame(count, frames):
    made = np.zeros(count, EVENT)
    made["t"], made["x"] = np.arange(count) ** 2, np.arange(count)  # a pixel each
    found = framed(made, count, frames=frames, frames_by="count", representation="timesurface")[0, :, :, 0]
    age = np.arange(1, frames + 1) - frames * np.arange(count)[:, None] / count  # in frames, (N, T)
    assert np.abs(found - np.where(age > 0, 255 * np.exp(-age), 0)).max() <= 0.5 + 1e-9


def test_recordings_that_denoising_leaves_empty_are_counted(tmp_path, capsys):
    pytest.importorskip("tonic")
    crowded = np.zeros(9, EVENT)
    crowded["x"] = np.arange(9) % 2
    for part, name, slow in (("train", "a", 1), ("train", "b", 1000), ("test", "a", 1), ("test", "b", 1)):
        (folder := tmp_path / "root" / part / name).mkdir(parents=True)
        crowded["t"] = np.arange(9) * slow
        np.save(folder / "1.npy", crowded)
    options = {"root": str(tmp_path / "root"), "cache": str(tmp_path / "cache"), "sensor": (8, 8), "holdout": 0}
    open_dataset(DataConfig("events-folder", **options, denoise=10.0))
    assert "train: 1 of 2 recordings have no events left, denoised and cut to a square\n" in capsys.readouterr().err
    expected = (
        r"train: 2 of 2 recordings have no events left.*data.denoise is in microseconds: raise it, or set it to 0"
    )
    with pytest.raises(OnespikeError, match=expected):
        open_dataset(DataConfig("events-folder", **options, denoise=0.5))


def test_a_wide_sensor_is_cut_and_shrunk():
    made = events(400, 8, 4)
    made["x"] += np.random.default_rng(0).integers(0, 2, 400).astype(np.int16) * 4  # 12 wide
    framing = Framing(Sensor(12, 8), image_size=4)
    counts = framing.make(framing.fitted(made))
    inside = made[(made["x"] >= 2) & (made["x"] < 10)]
    expected = np.zeros((4, 4, 2), int)
    for one in inside:
        expected[one["y"] // 2, (one["x"] - 2) // 2, one["p"]] += 1
    assert np.array_equal(counts, expected)
    made["x"], made["y"] = made["y"].copy(), made["x"].copy()
    high = Framing(Sensor(8, 12), image_size=4)
    assert np.array_equal(high.make(high.fitted(made)), expected.transpose(1, 0, 2))
    with pytest.raises(OnespikeError, match="12x8 pixels is no square"):
        Framing.of(DataConfig(), Sensor(12, 8))
    with pytest.raises(OnespikeError, match="at most 8"):
        Framing.of(DataConfig(image_size=9), Sensor(12, 8))


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("representation", ["histogram", "binary", "voxel", "timesurface"])
def test_frames_are_empty_where_no_event_is_left(representation, frames):
    assert not framed(np.empty(0, EVENT), representation=representation, frames=frames).any()


@pytest.mark.parametrize(("option", "lacks"), [("denoise", "neighbours"), ("spatial_jitter", "place to move to")])
def test_a_single_pixel_has_no_neighbours(option, lacks):
    with pytest.raises(OnespikeError, match=f"^data.{option}: a sensor of 700 channels has no {lacks}.*leave it at 0$"):
        Framing.of(DataConfig(**{option: 5.0}), Sensor(1, 1, 700))


@pytest.mark.parametrize("representation", ["histogram", "voxel"])
def test_a_pixel_counts_to_255(representation):
    made = np.zeros(300, EVENT)
    made["t"] = np.arange(300)
    found = framed(made, representation=representation)
    assert (found[0, 0, 0], found.sum()) == (255, 255)


def test_denoising_leaves_out_what_is_alone():
    pytest.importorskip("tonic")
    made = np.zeros(3, EVENT)
    made["t"], made["x"], made["y"] = [1000, 1010, 1020], [1, 2, 6], [1, 1, 6]
    assert framed(made, denoise=100.0).sum() == 1
    made["t"] -= 1000  # nothing was there before time 0
    assert framed(made, denoise=100.0).sum() == 1
    assert made["t"].tolist() == [0, 10, 20]


def test_changed_events_are_in_order_and_the_same_for_a_seed():
    config = DataConfig(drop_events=0.25, spatial_jitter=0.5, temporal_jitter=2000.0, crop_padding=0, flip=0)
    made = events(2000, 16, 5)
    one, again, other = (jittered(made, 16, config, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one[:50], other[:50])
    assert (np.diff(one["t"]) >= 0).all()
    assert 1200 < len(one) < 1550
    assert one["x"].min() >= 0
    assert one["x"].max() < 16
    flipped = jittered(made, 16, DataConfig(flip=1.0, crop_padding=0), np.random.default_rng(0))
    assert np.array_equal(flipped["x"], 15 - made["x"])
    assert np.array_equal(made, events(2000, 16, 5))


def test_events_are_moved_together_and_jittered_each_by_itself():
    made = events(2000, 8, 7)
    made["x"], made["y"], made["t"] = made["x"] + 28, made["y"] + 28, np.arange(2000) * 1_000_000

    def moved(seed, count=5, **options):
        config = DataConfig(**({"crop_padding": 0, "flip": 0} | options))
        found = jittered(made[:count], 64, config, np.random.default_rng(seed))
        return np.stack([found[key].astype(float) - made[key][:count] for key in "txy"])

    steps = {tuple(np.unique(moved(seed, crop_padding=1), axis=1).T.ravel()) for seed in range(100)}
    assert steps == {(0, x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)}
    assert not any(moved(seed, flip=0.5, alternate_flip=True).any() for seed in range(20)), "the loader mirrors"
    t, x, y = moved(0, 2000, temporal_jitter=500.0, spatial_jitter=3.0)
    assert (t.std(), x.std(), y.std()) == pytest.approx((500, 3, 3), rel=0.1)
    assert np.abs(np.corrcoef([t, x, y]) - np.eye(3)).max() < 0.1


# digits-saccades


def test_the_saccades_are_those_of_their_description():
    from sklearn.datasets import load_digits

    digit, draws, field = load_digits().images[8], np.random.default_rng(1), np.zeros((40, 40))
    grey = Image.fromarray(np.rint(digit * 255 / 16).astype(np.uint8))
    field[8:32, 8:32] = np.asarray(grey.resize((24, 24), Image.Resampling.BICUBIC)) / 255
    thresholds = np.maximum(draws.normal(0.4, 0.04, (32, 32)), 0.1)
    count = draws.poisson(32 * 32 * 0.3 / 3)
    x, y, p = draws.integers(0, (32, 32, 2), (count, 3)).T
    expected = [*zip(x, y, draws.uniform(0, 300_000, count).astype(int), p, strict=True)]  # the noise
    corners = np.array([(2, 2), (4, 6), (6, 2), (2, 2)])  # of the field of view in the field

    def light(x, y, t):
        number = min(t // 100_000, 2)
        right, down = corners[number] + (t / 1e5 - number) * (corners[number + 1] - corners[number])
        row, column = int(down), int(right)
        down, right = down - row, right - column
        four = field[y + row : y + row + 2, x + column : x + column + 2]
        return np.log(0.1 + np.array([1 - down, down]) @ four @ np.array([1 - right, right]))

    seen = [*range(4, 32, 6)]
    for y in seen:
        for x in seen:
            last = before = light(x, y, 0)
            for t in range(4000, 300_001, 4000):
                now = light(x, y, t)
                while abs(now - last) >= thresholds[y, x]:
                    last += np.sign(now - last) * thresholds[y, x]
                    at = t - 4000 + 4000 * (last - before) / (now - before)
                    expected.append((x, y, int(at), int(now > before)))
                before = now
    [found] = simulate(digit[None], [1])
    found = sorted(one for one in zip(*(found[key].tolist() for key in "xytp"), strict=True) if {*one[:2]} <= {*seen})
    expected = sorted(one for one in expected if {*one[:2]} <= {*seen})
    assert len(found) > 60
    assert np.abs(np.array(found) - expected).max(0).tolist() in ([0, 0, 0, 0], [0, 0, 1, 0])  # of a microsecond's part


def test_augmented_recordings_are_cached_and_drawn_from_a_seed(tmp_path):
    folder_of(tmp_path / "data", [events(50, 16, seed) for seed in range(6)])
    options = {"name": "events-folder", "root": str(tmp_path / "data"), "sensor": (16, 16)}
    config = DataConfig(**options, frames=3, drop_events=0.5, holdout=0)
    open_dataset(replace(config, drop_events=0.0))  # which keeps no events
    data = [open_dataset(config) for _ in range(2)][1]
    (a, label), (b, _), (c, _) = (data.train.drawn(1, seed) for seed in (1, 1, 2))
    assert a.shape == (3, 2, 16, 16)
    assert label == 0
    assert (a == b).all()
    assert not (a == c).all()
    plain = open_dataset(DataConfig(**options, holdout=0))
    assert type(plain.train).__name__ == "ImageSet"
    assert plain.train.images.shape == (12, 16, 16, 2)
    small = open_dataset(DataConfig(**options, holdout=0, image_size=8, frames=3))
    assert small.train.images.shape == (12, 8, 8, 3, 2)
    assert small.train.images.sum() == plain.train.images.sum()


def test_events_that_do_not_change_become_the_frames_of_a_test(tmp_path):
    folder_of(tmp_path / "data", [events(50, 16, seed) for seed in range(3)])
    made = {"name": "events-folder", "root": str(tmp_path / "data"), "sensor": (16, 16), "frames": 3, "holdout": 0}
    data = open_dataset(DataConfig(**made, drop_events=1e-9, crop_padding=0, flip=0))
    ((frames, _),) = EvalLoader(data.train, data.mean, data.std, 6)
    np.testing.assert_allclose(np.stack([data.train.drawn(one, 0)[0] for one in range(6)], 1), frames, atol=1e-5)


# What is wrong is named by path, in one line


def files(tmp_path, content, name="a.bin"):
    (tmp_path / name).write_bytes(content)
    return Files(tmp_path), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: mnist_bytes(e)[:-1], "truncated, 199 bytes"),
        (lambda _: b"", "no events"),
        (lambda e: mnist_bytes(e[::-1].copy()), "time runs backwards at event 1,"),
        (lambda e: mnist_bytes(e) + bytes([34, 0, 127, 255, 255]), "event 40 has x = 34; expected 0 to 33"),
        (lambda e: mnist_bytes(e) + bytes([0, 250, 127, 255, 255]), "event 40 has y = 250; expected 0 to 33"),
    ],
)
def test_damaged_nmnist(tmp_path, change, message):
    with pytest.raises(OnespikeError, match=re.escape(message)) as caught:
        read_mnist(*files(tmp_path, change(events())), Sensor(34, 34))
    assert str(tmp_path / "a.bin") in str(caught.value)


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_dvs128, lambda e: aedat2_bytes(e)[:-3], "truncated, 317 bytes"),
        (read_dvs128, lambda e: aedat3_bytes(e), "AEDAT 3.1; expected 2.0"),
        (read_dvs128, lambda e: aedat2_bytes(e, b"#!AER-DAT1.0\r\n"), "AEDAT 1; expected 2.0"),
        (read_dvs128, lambda e: aedat2_bytes(e, b""), "no AEDAT header"),
        (read_dvs128, lambda e: aedat2_bytes(e[:0]), "no events"),
        (read_dvs128, lambda e: aedat2_bytes(e) + b"\0\1\0\0\0\0\0\0", "the address 0x10000"),
        (read_ibm, lambda e: aedat2_bytes(e), "AEDAT 2; expected 3.1"),
        (read_ibm, lambda e: aedat3_bytes(e).replace(b"DAT3.1", b"DAT4.0"), "AEDAT 4; expected 3.1"),
        (read_ibm, lambda e: aedat3_bytes(e)[:-3], "truncated, "),
        (read_ibm, lambda e: aedat3_bytes(e)[: -(8 * 8 + 3)], "truncated, "),
        (read_ibm, lambda e: aedat3_bytes(e[:0]), "no events"),
        (read_ibm, lambda e: aedat3_bytes(e, kind=2), "no events"),
        (read_ibm, lambda e: aedat3_bytes(e, kind=99), "a packet of events of kind 99"),
        (read_ibm, lambda e: aedat3_bytes(e, size=4), "a packet of events of kind 1, 4 bytes each"),
        (read_ibm, lambda e: aedat3_bytes(np.roll(e, 1)), "time runs backwards"),
    ],
)
def test_damaged_aedat(tmp_path, read, content, message):
    with pytest.raises(OnespikeError, match=re.escape(message)):
        read(*files(tmp_path, content(events(40, 128)), "a.aedat"), DVS128)


def test_of_aedat3_the_valid_polarity_events_count(tmp_path):
    made = events(40, 128)
    header, *rest = (aedat3_bytes(one) for one in (made[:0], made[:30], made[30:]))
    of_an_imu = aedat3_bytes(made[:5], kind=3).removeprefix(header)
    content = bytearray(rest[0] + of_an_imu + rest[1].removeprefix(header))
    assert np.array_equal(read_ibm(*files(tmp_path, bytes(content), "a.aedat"), DVS128), made)
    content[len(header) + 28] &= 0xFE  # a filter found the first event invalid
    assert np.array_equal(read_ibm(*files(tmp_path, bytes(content), "a.aedat"), DVS128), made[1:])


def test_what_comes_from_outside_a_dvs128_is_no_event(tmp_path):
    made = events(40, 128)
    content = aedat2_bytes(made[:20]) + bytes([0, 0, 0x80, 0]) + aedat2_bytes(made[19:20], b"")[4:]
    found = read_dvs128(*files(tmp_path, content + aedat2_bytes(made[20:], b""), "a.aedat"), DVS128)
    assert np.array_equal(found, made)


def arrays(**changes):
    made = {name: events(20, 16)[name] for name in "xytp"}
    return made | {name: change(made[name]) for name, change in changes.items()}


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (arrays(p=lambda p: p * 2), "polarities of 0 and 1"),
        (arrays(p=lambda _: np.arange(20) % 3 - 1), "polarities of -1 and 0; expected two"),
        (arrays(p=lambda _: np.where(np.arange(20) % 3, 7, -1)), "polarities of -1 and 7; expected two"),
        (arrays(x=lambda x: x + 10), "for a sensor of 16x16 pixels"),
        (arrays(t=lambda t: t[::-1]), "time runs backwards"),
        (arrays(t=lambda t: t / 1e6), "t is float64"),
        (arrays(x=lambda x: x[:5]), "x is int16 of shape (5,); expected 20 whole numbers"),
        ({"x": np.zeros(3, int)}, "y is missing"),
        ({name: np.zeros(0, int) for name in "xytp"}, "no events"),
        (arrays(p=lambda _: np.array([SimpleNamespace()] * 20)), "not numpy's plain arrays"),
    ],
)
def test_damaged_arrays(tmp_path, made, message):
    np.savez(tmp_path / "a.npz", **made)
    with pytest.raises(OnespikeError, match=re.escape(message)):
        read_arrays(Files(tmp_path), "a.npz", Sensor(16, 16))


def test_arrays_without_names(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 4), np.int64))
    with pytest.raises(
        OnespikeError, match=r"a\.npy: x is missing, it has no names; expected x, y, t and p; convert it"
    ):
        read_arrays(Files(tmp_path), "a.npy", Sensor(16, 16))


def test_arrays_may_be_columns_but_are_no_larger_than_a_file(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", **{name: one[:, None] for name, one in arrays().items()})
    assert np.array_equal(read_arrays(Files(tmp_path), "a.npz", Sensor(16, 16)), events(20, 16))
    monkeypatch.setattr("onespike.data.events.readers.MOST", 700)
    with pytest.raises(OnespikeError, match=r"a\.npz: not numpy's plain arrays.*[\d,]+ bytes come out of it"):
        read_arrays(Files(tmp_path), "a.npz", Sensor(16, 16))


def test_two_polarities_may_be_minus_one_and_one(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays(p=lambda p: 2 * p - 1))
    assert np.array_equal(read_arrays(Files(tmp_path), "a.npz", Sensor(16, 16)), events(20, 16))


def test_a_nerve_has_no_polarity():
    nothing = np.zeros(2, np.int64)
    with pytest.raises(OnespikeError, match=r"event 1 has p = -1; expected 0 to 699, for a sensor of 700 channels"):
        recording((nothing, nothing, nothing, np.array([5, -1])), Sensor(1, 1, 700), "a.h5")


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_time_is_one_whose_differences_are_times(sign):
    nothing, largest = np.zeros(1, np.int64), sign * ((1 << 62) - 1)
    assert recording((nothing + largest, nothing, nothing, nothing), Sensor(1, 1), "a.npy")["t"] == largest
    with pytest.raises(OnespikeError, match=r"a\.npy: a time of 4,611,686,018,427,387,904 microseconds; expected less"):
        recording((nothing + largest + sign, nothing, nothing, nothing), Sensor(1, 1), "a.npy")


def test_a_command_says_it_in_one_line(tmp_path, command):
    root = tmp_path / "data"
    folder_of(root, [events(30, 16)])
    broken = root / "train" / "a" / "0.npy"
    broken.write_bytes(broken.read_bytes()[:-9])
    data = ["--data.name", "events-folder", "--data.root", root, "--data.sensor", "16,16"]
    code, _, complaint = command("train", *data, "--model.name", "spiking-mlp", "--out", tmp_path / "run")
    assert code == 2
    assert complaint.count("\n") == 1
    assert str(broken) in complaint


@pytest.mark.parametrize("name", ["nmnist", "dvs-gesture", "cifar10-dvs", "shd", "events-folder"])
def test_a_folder_of_something_else_is_not_recognised(tmp_path, name):
    (tmp_path / "other").mkdir()
    sensor = {"sensor": (8, 8)} if name == "events-folder" else {}
    with pytest.raises(OnespikeError, match=f"not recognised as {name}"):
        open_dataset(DataConfig(name=name, root=str(tmp_path), **sensor))
    with pytest.raises(OnespikeError, match="no root given") as caught:
        open_dataset(DataConfig(name=name, **sensor))
    halves = name in ("nmnist", "dvs-gesture", "shd")
    assert ("train=half) for half in (True, False)]" in str(caught.value)) == halves


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 2}, "data.frames: digits has images, no events; expected 1, got 2"),
        ({"class_path": "pkg.Data", "denoise": 9.0}, "data.denoise: pkg.Data has images, no events; expected 0.0, got"),
        ({"name": "nmnist", "sensor": (8, 8)}, "data.sensor: nmnist says itself what recorded it; expected None, got"),
        (
            {"name": "nmnist", "drop_events": 0.1, "crop_fill": "reflect"},
            "data.crop_fill: nmnist loses changed events that leave the frame; expected zero, got reflect",
        ),
    ],
)
def test_options_that_would_be_ignored(options, message):
    with pytest.raises(OnespikeError, match=f"^{re.escape(message)}") as caught:
        open_dataset(DataConfig(**options))
    key = message.partition(":")[0]
    usual = getattr(DataConfig, key.removeprefix("data."))
    assert str(caught.value).endswith(f"; pass --{key} {'null' if usual is None else usual}")
