"""Data sets of recordings on disk, in their official layouts and in those that tonic downloads."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from onespike.data.config import DataConfig
from onespike.data.events.frames import Framing
from onespike.data.events.prophesee import expect_room, opened_hdf5
from onespike.data.events.readers import READERS, read_aedat4, read_dvs128, read_gesture_array, read_ibm, read_mnist
from onespike.data.events.stream import Sensor, recording
from onespike.data.sources import Content, Part, Source
from onespike.data.sources.cifar import CIFAR10_CLASSES
from onespike.data.sources.files import Files, not_recognised, open_files
from onespike.data.sources.folders import Listing, below, in_class_folders, parts_of_files
from onespike.errors import OnespikeError, shown

DVS128, NMNIST, COCHLEA = Sensor(128, 128), Sensor(34, 34), Sensor(1, 1, 700)
_GESTURES: tuple[str, ...] = ("hand clapping", "right hand wave", "left hand wave", "right arm clockwise")
_GESTURES += ("right arm counter-clockwise", "left arm clockwise", "left arm counter-clockwise", "arm roll")
_GESTURES += ("air drums", "air guitar", "other gestures")
#: More seconds than any recording takes.
_LONG = 1e9
#: Reads the recordings of a file, given its name and the sensor.
Reader = Callable[[Files, str, Sensor], np.ndarray]


def open_nmnist(config: DataConfig, root: Path | None) -> Iterator[Source]:
    """Open N-MNIST (Orchard et al. 2015): Train/ and Test/, a folder for each digit, `.bin` of 5 bytes an event."""
    with _opened(config, root, {"Train/": "beside Test/, each <digit>/*.bin"}, "NMNIST") as files:
        every, listings = files.names(), dict[str, Listing]()
        for folder in ("Train", "Test"):
            names = below(files, every, folder, (".bin",), "recording")
            digits = [_number(files, name, name.split("/")[-2], 10) for name in names]
            if missing := set(range(10)).difference(digits):
                where = files.where(f"{folder}/{min(missing)}")
                raise OnespikeError(f"{where}: no recordings; expected some of each digit; restore them")
            listings[folder.lower()] = list(zip(names, digits, strict=True))
        parts = parts_of_files(files, range(10), listings, _reader(files, {".bin": read_mnist}, NMNIST))
        names = [name for name in every if name.lower().endswith(".bin")]
        content = Content(tuple("0123456789"), parts)
        yield source(config, NMNIST, str(files.root), lambda: files.key(names), lambda: content)


def open_gesture(config: DataConfig, root: Path | None) -> Iterator[Source]:
    """Open DVS128 Gesture (Amir et al. 2017): IBM's `.aedat` with their csv of labels, or what tonic downloads."""
    lists = {"train": "trials_to_train.txt", "test": "trials_to_test.txt"}
    folders = {"train": "ibmGestureTrain", "test": "ibmGestureTest"}
    forms = {lists["train"]: f"IBM's, beside {lists['test']}"}
    forms |= {f"{folders['train']}/": f"tonic's, beside {folders['test']}/"}
    with _opened(config, root, forms, "DVSGesture") as files:
        every = files.names()
        if "" in files.holders(f"{folders['train']}/"):
            count, listings = len(_GESTURES), dict[str, Listing]()
            for part, folder in folders.items():
                arrays = below(files, every, folder, (".npy",), "recording")
                listings[part] = [(name, _number(files, name, Path(name).stem, count)) for name in arrays]
            parts = parts_of_files(files, range(count), listings, _reader(files, {".npy": read_gesture_array}, DVS128))
        else:
            trials = {part: [*filter(None, map(str.strip, files.lines(name)))] for part, name in lists.items()}
            listed = [trial for some in trials.values() for trial in some]
            files.expect_listed([*listed, *map(_gesture_table, listed)], every)
            parts = {part: _gesture_trials(files, some) for part, some in trials.items()}
        names = [name for name in every if name.lower().endswith((".aedat", ".csv", ".txt", ".npy"))]
        yield source(config, DVS128, str(files.root), lambda: files.key(names), lambda: Content(_GESTURES, parts))


def _gesture_table(trial: str) -> str:
    return f"{trial.removesuffix('.aedat')}_labels.csv"


def _gesture_trials(files: Files, trials: Sequence[str]) -> Part:
    """Each row of a recording's csv, class, first and last microsecond, is a sample."""
    rows: list[tuple[str, int, int]] = []
    labels, origins = [], []
    for trial in trials:
        table = _gesture_table(trial)
        for number, line in enumerate(files.lines(table)[1:], 2):
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

    return Part(np.array(labels, np.int64), origins, read)


def open_cifar10_dvs(config: DataConfig, root: Path | None) -> Iterator[Source]:
    """Open CIFAR10-DVS (Li et al. 2017): a folder for each class, with AEDAT 2 (official) or 4 (tonic's download).

    The axes of AEDAT 2 are swapped, as in SpikingJelly's reader: images stand upright then. There is no official split:
    of each class the last tenth, in the order of their numbers, is the test part.
    """
    with _opened(config, root, {"airplane/": "beside nine other classes"}, "CIFAR10DVS") as files:
        readers: dict[str, Reader] = {".aedat": partial(read_dvs128, swapped=True), ".aedat4": read_aedat4}
        every, listings = files.names(), dict[str, list[tuple[str, str]]](train=[], test=[])
        for folder in CIFAR10_CLASSES:
            names = sorted(below(files, every, folder, tuple(readers), "recording", depth=1), key=_last_number)
            if len(names) < 2:
                expected = "expected more, of which the last tenth is the test set"
                raise OnespikeError(f"{files.where(folder)}: a single recording; {expected}; restore them")
            held_out = max(1, len(names) // 10)
            listings["train"] += [(name, folder) for name in names[:-held_out]]
            listings["test"] += [(name, folder) for name in names[-held_out:]]
        names = [name for listing in listings.values() for name, _ in listing]
        _expect_one_format(files, names)
        parts = parts_of_files(files, CIFAR10_CLASSES, listings, _reader(files, readers, DVS128))
        content = Content(CIFAR10_CLASSES, parts, "the last tenth of each class is the test set")
        yield source(config, DVS128, str(files.root), lambda: files.key(names), lambda: content)


def open_shd(config: DataConfig, root: Path | None) -> Iterator[Source]:
    """Open the Spiking Heidelberg Digits (Cramer et al. 2020): shd_train.h5 and shd_test.h5, 700 channels, 20 words."""
    names = ["shd_train.h5", "shd_test.h5"]
    with _opened(config, root, {names[0]: f"beside {names[1]}"}, "SHD") as files:
        files.expect_listed(names, files.names())

        def content() -> Content:
            (words, train), (others, test) = (_hdf5(files, name) for name in names)
            if others != words:  # a label would mean another word
                found = f"{files.where(names[1])}: its words are {shown(', '.join(others))}"
                raise OnespikeError(f"{found}; expected those of {names[0]}, in their order; download both again")
            return Content(tuple(words), {"train": train, "test": test})

        yield source(config, COCHLEA, str(files.root), lambda: files.key(names), content)


def _hdf5(files: Files, name: str) -> tuple[list[str], Part]:
    """Words and recordings of an HDF5 of Zenke's lab: spikes/times in seconds, spikes/units, labels, extra/keys."""
    origin = files.where(name)
    with opened_hdf5(files, name, "a whole file of SHD; download it again") as file:
        stored = [file[place] for place in ("spikes/times", "spikes/units", "labels", "extra/keys")]
        expect_room(*stored)
        times, units, labels, keys = (one[:] for one in stored)
        words = [one.decode("utf-8", "replace") for one in keys]
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

    return words, Part(labels, origins, read)


def open_folder(config: DataConfig, root: Path | None) -> Iterator[Source]:
    """Open recordings of your own: train/<class>/ and test/<class>/ (or val/), a file for each, see `READERS`."""
    if config.sensor is None:
        expected = "expected its width and height in pixels, such as --data.sensor 346,260"
        raise OnespikeError(f"data.sensor: events-folder does not say which camera recorded it; {expected}")
    sensor = Sensor(*config.sensor)
    with _opened(config, root, {"train/": "beside test/ or val/, each <class>/<recording>"}) as files:
        names, content = in_class_folders(files, tuple(READERS), "recording", _reader(files, READERS, sensor))
        _expect_one_format(files, names)
        yield source(config, sensor, str(files.root), lambda: files.key(names), content)


@contextmanager
def _opened(config: DataConfig, root: Path | None, forms: Mapping[str, str], tonic: str = "") -> Iterator[Files]:
    """Open a data set in the first of its forms that is there: a file or folder marks each; `tonic` is its class."""
    if root is None:
        calls = f"[tonic.datasets.{tonic}('FOLDER', train=half) for half in (True, False)]"
        calls = f"tonic.datasets.{tonic}('FOLDER')" if tonic == "CIFAR10DVS" else calls  # which has no halves
        advice = f'; tonic downloads it: python -c "import tonic; {calls}"' if tonic else ""
        raise OnespikeError(f"{config.name}: no root given; expected its folder; pass --data.root FOLDER{advice}")
    with open_files(root) as files:
        found = next(filter(None, map(files.find, forms)), None)
        if found is None:
            raise not_recognised(root, config.name, [f"{marker} ({called})" for marker, called in forms.items()])
        yield found


def _number(files: Files, name: str, text: str, count: int) -> int:
    if not (re.fullmatch("[0-9]{1,3}", text) and int(text) < count):
        raise OnespikeError(f"{files.where(name)}: class {text!r}; expected 0 to {count - 1}; move it to its class")
    return int(text)


def _expect_one_format(files: Files, names: Iterable[str]) -> None:
    """Raise an OnespikeError where a recording was kept beside what it was converted to: it would count twice."""
    seen = dict[str, str]()
    for name in names:
        if (other := seen.setdefault(name[: -len(Path(name).suffix)], name)) != name:
            found = f"{files.where(other)} and {files.where(name)} are one recording by their names"
            raise OnespikeError(f"{found}; expected it once; remove one of them")


def _last_number(name: str) -> tuple[int, str]:
    """The order of cifar10_airplane_0, …_1, …_10."""
    numbers = re.findall(r"\d+", Path(name).stem)  # not the 4 of .aedat4
    return (int(numbers[-1][-18:]) if numbers else 0, name)


def _reader(files: Files, readers: Mapping[str, Reader], sensor: Sensor) -> Callable[[str], np.ndarray]:
    return lambda name: readers[Path(name).suffix.lower()](files, name, sensor)


def source(
    config: DataConfig, sensor: Sensor, origin: str, key: Callable[[], str], recordings: Callable[[], Content]
) -> Source:
    """Make a source of frames; the pixels of what `recordings` makes are their events."""
    framing, keeps = Framing.of(config, sensor), config.changes_events

    def framed(name: str, part: Part) -> Part:
        def events(index: int) -> np.ndarray:
            return framing.fitted(part.pixels(index))

        kept = events if keeps and name == "train" else None
        return part._replace(pixels=lambda index: framing.make(events(index)), events=kept, recorded=part.pixels)

    def content() -> Content:
        found = recordings()
        return found._replace(parts={name: framed(name, part) for name, part in found.parts.items()})

    return Source(config.name, origin, lambda: f"{key()} {framing.key()} {keeps}", content, framing)
