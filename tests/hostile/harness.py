"""What hostile cases share: a time limit, a tiny recipe, a run whose digests fit whatever it holds."""

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load, save
from torch import Tensor

from onespike.data.config import DataConfig
from onespike.data.dataset import open_dataset
from onespike.errors import OnespikeError
from tests.running import PATIENCE

#: No case computes for longer, in seconds of all its threads together: torch has one, see `one_thread`.
LIMIT = 20
TINY = {
    "data.limit": 60,
    "model.depths": [1, 1],
    "model.channels": [4, 8],
    "train.epochs": 2,
    "train.batch_size": 12,
    "train.warmup_epochs": 0,
    "train.track": [],
    "train.device": "cpu",
}


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)
    os.chdir(here)


def link(target: str) -> Callable[[Path], None]:
    """What puts a link in a place."""
    return lambda path: path.symlink_to(target)


#: What may lie where a file is expected, and what puts it there.
SPECIAL: dict[str, Callable[[Path], None]] = {
    "a FIFO": os.mkfifo,
    "a socket": _socket,
    "a folder": Path.mkdir,
    "a link to /dev/zero": link("/dev/zero"),
    "a link to /dev/full": link("/dev/full"),
    "a link to itself": lambda path: path.symlink_to(path),
}


@contextmanager
def in_time() -> Iterator[None]:
    """Fail a case that computes, or waits, for too long."""

    def late(number: int, _: object) -> None:
        what = f"it computes for more than {LIMIT} s" if number == signal.SIGPROF else f"it waits for {PATIENCE} s"
        late.what = f"it hangs: {what}"
        raise AssertionError(late.what)

    before = {number: signal.signal(number, late) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    signal.alarm(PATIENCE)
    late.what = ""
    try:
        yield
        assert not late.what, late.what  # somebody may have swallowed it
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def fine_or_a_line(start: str = "") -> Iterator[None]:
    """All goes well, or ends in one line that starts so."""
    try:
        yield
    except OnespikeError as error:
        said = str(error)
        assert said.startswith(start)
        assert said.isprintable()


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be without the rights of root, to whom no folder is closed; everybody else is without them anyway."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def fails(root: Path, *words: object, name: str = "folder", **options: object) -> str:
    """Opening a data set ends in one line that holds all `words`, in time, and leaves nothing in a fresh cache."""
    with in_time(), pytest.raises(OnespikeError) as raised:
        open_dataset(DataConfig(name, str(root), **options))
    message = str(raised.value)
    assert message.isprintable()
    for word in words:
        assert str(word) in message, message
    cache = Path(os.environ["ONESPIKE_CACHE"])
    assert not cache.exists() or not list(cache.iterdir())
    return message


def rewrite(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change both checkpoints of a run, `files` by name as their content, and give them the digests that fit."""
    for folder in (run / "best", run / "last"):
        files: dict[str, Any] = {}
        for name in ("model", "training"):
            files[f"{name}.safetensors"] = load((folder / f"{name}.safetensors").read_bytes())
        for name in ("model.json", "state.json"):
            files[name] = json.loads((folder / name).read_text())
        change(files)
        state = files.pop("state.json")
        written = {name: content if isinstance(content, bytes) else _bytes(content) for name, content in files.items()}
        if isinstance(state, dict) and isinstance(state.get("sha256"), dict):
            state.pop("sha256")
            digests = {name: sha256(content).hexdigest() for name, content in written.items()}
            digests["state"] = sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
            state["sha256"] = digests
        written["state.json"] = state if isinstance(state, bytes) else _bytes(state)
        for name, content in written.items():
            (folder / name).write_bytes(content)


def _bytes(content: Any) -> bytes:
    if isinstance(content, dict) and any(isinstance(one, Tensor) for one in content.values()):
        return save({name: one.contiguous() for name, one in content.items()})
    return json.dumps(content, indent=2).encode()


def make_tree(root: Path) -> Path:
    for number, (part, name, count) in enumerate(
        (p, n, c) for p, c in (("train", 4), ("test", 2)) for n in ("cat", "dog")
    ):
        for image in range(count):
            path = root / part / name / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(10 * number + image).integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    return root
