"""Where images come from: the data sets by name, and what each offers to the cache."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import category

import numpy as np

from onespike.data.config import DataConfig
from onespike.errors import LINE, OnespikeError, shown, unknown

#: Name -> module and function that opens it: it yields a `Source`, given a root (None for the embedded images or the
#: Hub). To add a data set, add a line. Modules are imported when they are asked for: some bring heavy libraries along.
SOURCES = {
    "digits": "sources.digits.open_digits",
    "cifar10": "sources.cifar.open_cifar10",
    "cifar100": "sources.cifar.open_cifar100",
    "tiny-imagenet": "sources.folders.open_tiny_imagenet",
    "folder": "sources.folders.open_folder",
    "hub": "sources.hub.open_hub",
}
#: The same for recordings of events, given the configuration and a root.
EVENTS = {
    "digits-saccades": "events.saccades.open_saccades",
    "nmnist": "events.layouts.open_nmnist",
    "dvs-gesture": "events.layouts.open_gesture",
    "cifar10-dvs": "events.layouts.open_cifar10_dvs",
    "shd": "events.layouts.open_shd",
    "events-folder": "events.layouts.open_folder",
}
#: Names of each part, in folders, in Python and on the Hub, the usual name first.
NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
#: The parts a source may have, in the order in which they are cached; only `validation` may be missing.
PARTS = tuple(NAMES)
#: Most classes: the confusion matrix has the square of it.
MOST_CLASSES = 1 << 15


class Part(NamedTuple):
    """The N images of a part of a source."""

    labels: np.ndarray  # (N,) int64
    origins: Sequence[str]  # names images in errors: their paths, their files and rows, or archive and members
    # Decodes an image: (H, W, C) uint8, C = 1 if it is stored in grey, else 3; or frames of events, also (H, W, T, C)
    pixels: Callable[[int], np.ndarray]
    events: Callable[[int], np.ndarray] | None = None  # of recordings that are changed anew at each epoch: their events
    recorded: Callable[[int], np.ndarray] | None = None  # of recordings: their events as they were read


class Content(NamedTuple):
    """The content of a source."""

    classes: tuple[str, ...]  # a label is an index into them
    parts: Mapping[str, Part]  # by names out of `PARTS`
    note: str = ""  # what was decided about it and matters when results are compared

    def check(self, name: str) -> None:
        """Raise an OnespikeError if a class has no proper name, or for an image whose label is out of range."""
        expect_class_names(self.classes, name)
        for part in self.parts.values():
            for wrong in np.flatnonzero((part.labels < 0) | (part.labels >= len(self.classes)))[:1].tolist():
                label, largest = part.labels[wrong], max(len(self.classes) - 1, 0)
                raise OnespikeError(f"{part.origins[wrong]}: label {label}; expected 0 to {largest}; correct it")


def expect_class_names(names: Sequence[Any], where: str) -> None:
    """Expect names by which a person can tell classes apart: text without control characters, each once."""
    if not 0 < len(names) <= MOST_CLASSES:
        raise OnespikeError(f"{where}: {len(names):,} class names; expected 1 to {MOST_CLASSES:,}; correct them")
    seen = set[str]()
    for label, name in enumerate(names):
        is_text = isinstance(name, str) and name.strip() and len(name) <= LINE
        if not is_text or name in seen or {"Cc", "Cs"} & set(map(category, name)):
            found = f"{where}: class {label} is called {shown(repr(name))}{', as one before' if name in seen else ''}"
            expected = f"expected up to {LINE:,} characters of UTF-8, none of control, and each name once"
            raise OnespikeError(f"{found}; {expected}; rename it")
        seen.add(name)


class Source(NamedTuple):
    """A data set as its owner ships it. `key` and `content` raise OnespikeError where files are missing or damaged."""

    name: str  # its beginning is that of its cache folder's name
    origin: str  # for a person to read: a path, a Hub repository or "embedded"
    key: Callable[[], str]  # hash of the content; where it is cached nothing else is called, so it decodes nothing
    content: Callable[[], Content]
    framing: Any = None  # of recordings: how they become frames


class HubUnreachableError(OnespikeError):
    """The Hugging Face Hub does not answer; images that were cached earlier can still be used."""


def of_events(config: DataConfig) -> bool:
    """Whether a configuration names one of `EVENTS`, which become frames; a user's own data set is none of them."""
    return config.class_path is None and config.name in EVENTS


def open_source(config: DataConfig, root: Path | None) -> AbstractContextManager[Source]:
    """Open one of `SOURCES` or `EVENTS` to read; an unknown name, or what cannot be read, is an OnespikeError."""
    known = SOURCES | EVENTS
    if config.name not in known:
        raise unknown("data set", config.name, known)
    module, function = known[config.name].rsplit(".", 1)
    opener: Callable[..., Any] = getattr(import_module(f"onespike.data.{module}"), function)
    return contextmanager(opener)(*((config, root) if config.name in EVENTS else (root,)))
