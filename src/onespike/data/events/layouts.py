"""Data sets of recordings on disk, in their official layouts and in those that tonic downloads."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from onespike.data.config import DataConfig
from onespike.data.events.frames import Framing, augments
from onespike.data.events.prophesee import opened_hdf5
from onespike.data.events.readers import (
    READERS,
    read_aedat4,
    read_dvs128,
    read_gesture_array,
    read_ibm,
    read_mnist,
)
from onespike.data.events.stream import Sensor, recording
from onespike.data.sources import Content, Part, Source
from onespike.data.sources.files import Files, is_hidden, open_files
from onespike.data.sources.folders import in_class_folders
from onespike.data.sources.hub import not_recognised
from onespike.errors import OnespikeError, shown, warn

DVS128, NMNIST, COCHLEA = Sensor(128, 128), Sensor(34, 34), Sensor(1, 1, 700)
_GESTURES = [
    "hand clapping",
    "right hand wave",
    "left hand wave",
    "right arm clockwise",
    "right arm counter-clockwise",
    "left arm clockwise",
    "left arm counter-clockwise",
    "arm roll",
    "air drums",
    "air guitar",
    "other gestures",
]
_OBJECTS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
#: More seconds than any recording takes.
_LONG = 1e9
#: Makes the recording of a sample.
Read = Callable[[int], np.ndarray]
#: A part's labels, the names of its samples in errors, and the function that reads one.
Samples = tuple[Sequence[int], Sequence[str], Read]
#: Names of files, each of one sample, and their labels.
Rows = list[tuple[str, int]]


def open_nmnist(config: DataConfig, root: Path | None) -> Iterator[Source]:
    """Open N-MNIST (Orchard et al. 2015): Train/ and Test/, a folder for each digit, `.bin` of 5 bytes an event."""
    with open_files(_given(root, "nmnist", "NMNIST")) as opened:
        files = _find(opened, "nmnist", {"Train/": "beside Test/, each <digit>/*.bin"})

        def part(folder: str) -> Samples:
            names = _below(files, folder, (".bin",))
            rows = [(name, _number(files, name, name.split("/")[-2], 10)) for name in names]
            if missing := set(range(10)) - {label for _, label in rows}:
                where = files.where(f"{folder}/{min(missing)}")
                raise OnespikeError(f"{where}: no recordings; expected some of each digit; restore them")
            return _samples(files, rows, {".bin": read_mnist}, NMNIST)

        parts = {"train": part("Train"), "test": part("Test")}
        names = [name for name in files.names() if name.lower().endswith(".bin")]
        yield source(config, NMNIST, str(files.root), lambda: files.key(names), list("0123456789"), parts)


def open_gesture(config: DataConfig, root: Path | None) -> Iterator[Source]:
    """Open DVS128 Gesture (Amir et al. 2017): IBM's `.aedat` with their csv of labels, or what tonic downloads."""
    with open_files(_given(root, "dvs-gesture", "DVSGesture")) as opened:
        lists = {"train": "trials_to_train.txt", "test": "trials_to_test.txt"}
        forms = {
            lists["train"]: f"IBM's, beside {lists['test']}",
            "ibmGestureTrain/": "tonic's, beside ibmGestureTest/",
        }
        files = _find(opened, "dvs-gesture", forms)
        if files.holders("ibmGestureTrain/") >= {""}:
            parts = {
                "train": _gesture_arrays(files, "ibmGestureTrain"),
                "test": _gesture_arrays(files, "ibmGestureTest"),
            }
        else:
            trials = {
                part: [*filter(None, map(str.strip, _text(files, name).splitlines()))] for part, name in lists.items()
            }
            every = [trial for listed in trials.values() for trial in listed]
            files.expect_listed([*every, *map(_gesture_table, every)], files.names())
            parts = {part: _gesture_trials(files, listed) for part, listed in trials.items()}
        names = [name for name in files.names() if name.lower().endswith((".aedat", ".csv", ".txt", ".npy"))]
        yield source(config, DVS128, str(files.root), lambda: files.key(names), _GESTURES, parts)


def _gesture_arrays(files: Files, folder: str) -> Samples:
    names = _below(files, folder, (".npy",))
    rows = [(name, _number(files, name, Path(name).stem, len(_GESTURES))) for name in names]
    return _samples(files, rows, {".npy": read_gesture_array}, DVS128)


def _gesture_table(trial: str) -> str:
    return f"{trial.removesuffix('.aedat')}_labels.csv"


def _gesture_trials(files: Files, trials: Sequence[str]) -> Samples:
    """Each row of a recording's csv, class, first and last microsecond, is a sample."""
    rows: list[tuple[str, int, int]] = []
    labels, origins = [], []
    for trial in trials:
        table = _gesture_table(trial)
        for number, line in enumerate(_text(files, table).splitlines()[1:], 2):
            where = f"{files.where(table)}: line {number}"
            if not re.fullmatch(r"\s*[0-9]{1,3}\s*,\s*[0-9]{1,15}\s*,\s*[0-9]{1,15}\s*", line):
                raise OnespikeError(f"{where}: not three whole numbers; expected class, start, end; download it again")
            label, start, end = map(int, line.split(","))
            if not 1 <= label <= len(_GESTURES) or end < start:
                expected = f"a class of 1 to {len(_GESTURES)}, and an end behind the start"
                raise OnespikeError(f"{where}: class {label}, from {start} to {end}; expected {expected}; correct it")
            labels.append(label - 1)
            origins.append(where)
            rows.append((trial, start, end))
    whole = lru_cache(1)(lambda trial: read_ibm(files, trial, DVS128))

    def read(index: int) -> np.ndarray:
        trial, start, end = rows[index]
        events = whole(trial)
        found = events[slice(*np.searchsorted(events["t"], (start, end + 1)))]
        return recording((found[key] for key in "txyp"), DVS128, origins[index])

    return labels, origins, read


def open_cifar10_dvs(config: DataConfig, root: Path | None) -> Iterator[Source]:
    """Open CIFAR10-DVS (Li et al. 2017): a folder for each class, with AEDAT 2 (official) or 4 (tonic's download).

    The axes of AEDAT 2 are swapped, as in SpikingJelly's reader: images stand upright then. There is no official split:
    of each class the last tenth, in the order of their numbers, is the test part.
    """
    with open_files(_given(root, "cifar10-dvs", "CIFAR10DVS")) as opened:
        files = _find(opened, "cifar10-dvs", {"airplane/": "beside nine other classes"})
        endings: dict[str, Callable[..., np.ndarray]]
        endings = {".aedat": partial(read_dvs128, swapped=True), ".aedat4": read_aedat4}
        found: dict[str, Rows] = {"train": [], "test": []}
        for label, folder in enumerate(_OBJECTS):
            names = sorted(_below(files, folder, tuple(endings)), key=_last_number)
            if len(names) < 2:
                expected = "expected more, of which the last tenth is the test set"
                raise OnespikeError(f"{files.where(folder)}: a single recording; {expected}; restore them")
            held_out = max(1, len(names) // 10)
            found["train"] += [(name, label) for name in names[:-held_out]]
            found["test"] += [(name, label) for name in names[-held_out:]]

        names = [name for rows in found.values() for name, _ in rows]
        parts = {name: _samples(files, rows, endings, DVS128) for name, rows in found.items()}
        note = "the last tenth of each class is the test set"
        yield source(config, DVS128, str(files.root), lambda: files.key(names), _OBJECTS, parts, note)


def open_shd(config: DataConfig, root: Path | None) -> Iterator[Source]:
    """Open the Spiking Heidelberg Digits (Cramer et al. 2020): shd_train.h5 and shd_test.h5, 700 channels, 20 words."""
    with open_files(_given(root, "shd", "SHD")) as opened:
        files = _find(opened, "shd", {"shd_train.h5": "beside shd_test.h5"})
        names = ["shd_train.h5", "shd_test.h5"]
        files.expect_listed(names, files.names())
        (words, train), (others, test) = (_hdf5(files, name) for name in names)
        if others != words:  # a label would mean another word
            found = f"{files.where(names[1])}: its words are {shown(', '.join(others))}"
            raise OnespikeError(f"{found}; expected those of {names[0]}, in their order; download both again")
        parts = {"train": train, "test": test}
        yield source(config, COCHLEA, str(files.root), lambda: files.key(names), words, parts)


def _hdf5(files: Files, name: str) -> tuple[list[str], Samples]:
    """Words and recordings of an HDF5 of Zenke's lab: spikes/times in seconds, spikes/units, labels, extra/keys."""
    origin = files.where(name)
    with opened_hdf5(files, name, "a whole file of SHD; download it again") as file:
        times, units, labels = file["spikes/times"][:], file["spikes/units"][:], file["labels"][:]
        words = [one.decode("utf-8", "replace") for one in file["extra/keys"][:]]
        if not len(times) == len(units) == len(labels):
            raise ValueError(f"{len(times)} times, {len(units)} units, {len(labels)} labels")
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise ValueError(f"labels are {labels.dtype} of shape {labels.shape}")
        labels = labels.astype(np.int64)
    origins = [f"{origin}: recording {number}" for number in range(len(labels))]

    def read(index: int) -> np.ndarray:
        when = np.asarray(times[index])
        if when.dtype.kind != "f" or not (np.abs(when.astype(np.float64)) < _LONG).all():
            expected = f"finite seconds, less than {_LONG:g}"
            raise OnespikeError(f"{origins[index]}: {when.dtype} as times; expected {expected}; download it again")
        t, nothing = (when.astype(np.float64) * 1e6).astype(np.int64), np.zeros(when.shape, np.int64)
        return recording((t, nothing, nothing, np.asarray(units[index])), COCHLEA, origins[index])

    return words, (labels.tolist(), origins, read)


def open_folder(config: DataConfig, root: Path | None) -> Iterator[Source]:
    """Open recordings of your own: train/<class>/ and test/<class>/ (or val/), a file for each, see `READERS`."""
    if config.sensor is None:
        expected = "expected its width and height in pixels, such as --data.sensor 346,260"
        raise OnespikeError(f"data.sensor: events-folder does not say which camera recorded it; {expected}")
    sensor, endings = Sensor(*config.sensor), tuple(READERS)
    with open_files(_given(root, "events-folder", "")) as opened:
        files = _find(opened, "events-folder", {"train/": "beside test/ or val/, each <class>/<recording>"})
        classes, listings, others = in_class_folders(files, endings, "recording")

        found = {part: [(name, classes.index(folder)) for name, folder in one] for part, one in listings.items()}
        names = [name for rows in found.values() for name, _ in rows]
        parts = {part: _samples(files, rows, READERS, sensor) for part, rows in found.items()}
        yield source(config, sensor, str(files.root), lambda: files.key(names), classes, parts, others=others)


def _given(root: Path | None, name: str, tonic: str) -> Path:
    if root is None:
        advice = f"; tonic downloads it: python -c \"import tonic; tonic.datasets.{tonic}('FOLDER')\"" if tonic else ""
        raise OnespikeError(f"{name}: no root given; expected its folder; pass --data.root FOLDER{advice}")
    return root


def _find(files: Files, name: str, forms: Mapping[str, str]) -> Files:
    for marker in forms:
        if found := files.find(marker):
            return found
    raise not_recognised(files.root, name, [f"{marker} ({called})" for marker, called in forms.items()])


def _below(files: Files, folder: str, endings: tuple[str, ...]) -> list[str]:
    """The recordings below a folder of the data set, <folder>/…, at least one."""
    shown = (name for name in files.names() if name.startswith(f"{folder}/") and not is_hidden(name))
    depth = 1 if folder in _OBJECTS else 2  # folders of classes lie in those of parts
    found = [name for name in shown if name.lower().endswith(endings) and name.count("/") >= depth]
    if not found:
        expected = f"<class>/<recording>, ending in {' '.join(endings)}" if depth > 1 else f"*{' or *'.join(endings)}"
        raise OnespikeError(f"{files.where(folder)}: no recordings; expected {expected}; restore them")
    return found


def _number(files: Files, name: str, text: str, count: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 4 and int(text) < count):
        raise OnespikeError(f"{files.where(name)}: class {text!r}; expected 0 to {count - 1}; move it to its class")
    return int(text)


def _last_number(name: str) -> tuple[int, str]:
    """The order of cifar10_airplane_0, …_1, …_10."""
    numbers = re.findall(r"\d+", Path(name).stem)  # not the 4 of .aedat4
    return (int(numbers[-1][-18:]) if numbers else 0, name)


def _samples(files: Files, rows: Rows, readers: Mapping[str, Callable[..., np.ndarray]], sensor: Sensor) -> Samples:
    """The samples of files that hold one each, given their names and labels, and a reader for each ending."""

    def read(index: int) -> np.ndarray:
        name, _ = rows[index]
        return readers[Path(name).suffix.lower()](files, name, sensor)

    return [label for _, label in rows], [files.where(name) for name, _ in rows], read


def _text(files: Files, name: str) -> str:
    return files.read(name).decode("utf-8", "replace")


def source(
    config: DataConfig,
    sensor: Sensor,
    origin: str,
    recordings: Callable[[], str],
    classes: Sequence[str],
    parts: Mapping[str, Samples],
    note: str = "",
    others: str = "",
) -> Source:
    """Make a source of recordings, as frames; `recordings` is the key of their content, `others` a warning."""
    framing, keeps = Framing.of(config, sensor), augments(config)

    def part(name: str, samples: Samples) -> Part:
        labels, origins, read = samples
        events: Read = lambda i: framing.fitted(read(i))  # noqa: E731
        frames: Read = lambda i: framing.make(events(i))  # noqa: E731
        return Part(np.array(labels, np.int64), origins, frames, events if keeps and name == "train" else None)

    made: Any = {name: part(name, samples) for name, samples in parts.items()}
    key = lambda: f"{recordings()} {framing.key()} {keeps}"  # noqa: E731

    def content() -> Content:
        if others:
            warn(others)
        return Content(tuple(classes), made, note)

    return Source(config.name, origin, key, content, framing)
