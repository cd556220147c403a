"""Users' classes by their import path, and the modules that may be imported.

A file never decides what is imported. A class path in a recipe or a run folder is followed only into modules that
whoever opens it has named: by `--import MODULE`, by a class path on the command line, or by `allow_imports`.
"""

import inspect
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from onespike.errors import OnespikeError, lacks_memory, reason, shown

_ALLOWED: set[str] = set()
_ADDED: set[str] = set()  # folders put on Python's path for them
#: How code refuses arguments; what else it raises keeps its traceback.
REFUSALS = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError)


@dataclass(frozen=True)
class ClassPath:
    """A user's class (or function), and its arguments."""

    class_path: str  # its import path, such as "pkg.Net"
    # Its arguments by name; None for an object that was passed from Python, which nobody can build again.
    init_args: dict[str, Any] | None = field(default_factory=dict)

    def __post_init__(self) -> None:
        expect_text_keys(self.init_args, f"{self.class_path}: init_args")

    @classmethod
    def of(cls, thing: Any) -> "ClassPath":
        """The path of an object's class (or of a function); how it was built is not known."""
        thing = getattr(thing, "_orig_mod", thing)  # what torch.compile wraps
        kind = thing if inspect.isfunction(thing) or inspect.isclass(thing) else type(thing)
        return cls(f"{kind.__module__}.{kind.__qualname__}", None)

    @property
    def name(self) -> str:
        """Its short name: the last part of its path."""
        return self.class_path.rpartition(".")[2]

    def make(self, where: str, **offered: Any) -> Any:
        """Call it and return the result; messages call it `where`, such as "model".

        Parameters that `init_args` does not set take values of the same names from `offered`. It is an `OnespikeError`
        if the module may not be imported, the class does not exist, or the arguments do not fit.
        """
        if self.init_args is None:
            state = f"was passed from Python as an object, which a file cannot build: pass it again ({where}=…)"
            instead = "; to export or save it, pass what Run.model(model=…) gives" if where == "model" else ""
            raise OnespikeError(f"{where}: {self.class_path} {state}{instead}")
        return call(resolve(self.class_path, where), self.init_args, where, offered)


def expect_text_keys(init_args: Any, where: str) -> None:
    """Raise an `OnespikeError` unless all keys of arguments, at any depth, are texts."""
    if not _keys_are_texts(init_args):
        state = f"checkpoints know no keys but texts, got {shown(str(init_args))}"
        raise OnespikeError(f"{where}: {state}; write them as texts")


def _keys_are_texts(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _keys_are_texts(one) for key, one in value.items())
    return all(map(_keys_are_texts, value)) if isinstance(value, list | tuple) else True


def allow_imports(*modules: str) -> None:
    """Import modules, and allow class paths in recipes and runs to lead into them and their submodules.

    Args:
        *modules: Such as "pkg" or "pkg.nets"; the current folder is searched, too.

    Raises:
        OnespikeError: There is no such module.
    """
    for name in modules:
        _imported(name, f"--import {name}: cannot be imported")
        trust(name)  # only now: a worker process imports all allowed modules, and must not meet one that fails


def _imported(module: str, refusal: str) -> ModuleType:
    """Import a module; if it raises, it is no longer allowed, and the `OnespikeError` begins with `refusal`."""
    if not isinstance(module, str) or not module or module.startswith("."):
        raise OnespikeError(f"{refusal}: expected a module's whole name, such as pkg.nets")
    here = str(Path.cwd())  # on the path only where somebody named a module: others must not import what lies there
    if here not in sys.path:
        sys.path.append(here)
        _ADDED.add(here)
    try:
        return import_module(module)
    except (Exception, SystemExit) as error:
        _ALLOWED.discard(module)
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__} in {last.filename}, line {last.lineno}: "
        raise OnespikeError(f"{refusal}: {'' if isinstance(error, ImportError) else place}{reason(error)}") from error


def trust(*modules: str) -> None:
    """Allow class paths to lead into modules, without importing them yet; see `allow_imports`."""
    _ALLOWED.update(filter(None, modules))  # a class path without a dot leads into no module


@contextmanager
def installed_only() -> Iterator[None]:
    """Keep the current folder off Python's path: libraries import modules by names that are found in data."""
    before, here = sys.path[:], {"", str(Path.cwd()), *_ADDED}
    sys.path[:] = [folder for folder in before if folder not in here]
    try:
        yield
    finally:
        sys.path[:] = before


def allowed() -> list[str]:
    """The modules that class paths may lead into, for another process that must allow the same."""
    return sorted(_ALLOWED)


def command(*words: object) -> str:
    """A command of ours as a shell takes it, with the modules that it has to allow, too: a run folder allows none."""
    imports = [word for name in allowed() for word in ("--import", name)]
    return shlex.join(["onespike", *map(str, words), *imports])


def resolve(class_path: str, where: str) -> Callable[..., Any]:
    """Return what a class path leads to; an `OnespikeError` if it is not allowed, not there, or has no signature."""
    module, _, name = class_path.rpartition(".")
    if not module:
        raise OnespikeError(f"{where}.class_path: expected a path such as pkg.Net, got {class_path!r}")
    if not any(module == allowed or module.startswith(f"{allowed}.") for allowed in _ALLOWED):
        state = f"{class_path} is not this package's, and no file makes code be imported"
        in_python = f"(in Python: onespike.allow_imports({module!r}), or pass {where}=…)"
        raise OnespikeError(f"{where}: {state}: if you trust it, add --import {module} {in_python}")
    missing = f"{where}.class_path: there is no {class_path}"
    home = _imported(module, missing)
    try:
        found = getattr(home, name)
    except OnespikeError:
        raise
    except Exception as error:  # a module may have a `__getattr__` of its own
        raise OnespikeError(f"{missing}: {reason(error)}") from error
    if not callable(found):
        raise OnespikeError(f"{where}.class_path: expected a class or a function, {class_path} is {found!r}")
    try:
        inspect.signature(found)
    except ValueError:
        state = f"{class_path} is built in and has no signature"
        raise OnespikeError(f"{where}.class_path: {state}; wrap it in a function of Python") from None
    return found


def call(target: Callable[..., Any], arguments: Mapping[str, Any], where: str, offered: Mapping[str, Any]) -> Any:
    """Call `target` with arguments by name and, where it takes them, those offered; a refusal is an `OnespikeError`."""
    name = getattr(target, "__qualname__", type(target).__qualname__)  # functools.partial has none
    signature, label = inspect.signature(target), f"{target.__module__}.{name}"
    given = {name: value for name, value in offered.items() if name in signature.parameters} | dict(arguments)
    try:
        signature.bind(**given)
    except TypeError as error:
        raise OnespikeError(f"{where}.init_args: {error}; expected those of {label}{signature}") from None
    try:
        return target(**given)
    except REFUSALS as error:
        if lacks_memory(error):
            raise
        raise OnespikeError(f"{where}.init_args: {label} refuses {given}: {reason(error)}") from error
