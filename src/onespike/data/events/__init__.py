"""Recordings of event cameras and cochleas, which become frames: data sets by name, opened through tonic's readers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from onespike.data.config import DataConfig
from onespike.data.sources import EVENTS, Source


@contextmanager
def open_events(config: DataConfig, root: Path | None) -> Iterator[Source]:
    """Open one of `EVENTS` for reading, as frames; an OnespikeError if it cannot be read."""
    module, function = EVENTS[config.name].split(".")
    opener: Callable[..., Iterator[Source]] = getattr(import_module(f"{__name__}.{module}"), function)
    with contextmanager(opener)(config, root) as source:
        yield source
