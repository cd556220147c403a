"""Spiking neural networks that answer in one time step."""

from typing import TYPE_CHECKING, Any

from onespike._version import __version__
from onespike.errors import OnespikeError

if TYPE_CHECKING:
    from onespike import functional
    from onespike.classpath import allow_imports
    from onespike.conversion import convert, load_converted
    from onespike.models import create_model
    from onespike.training import load

__all__ = [
    "OnespikeError",
    "__version__",
    "allow_imports",
    "convert",
    "create_model",
    "functional",
    "load",
    "load_converted",
]

#: Where the names live that need torch.
_HOMES = {
    "allow_imports": "onespike.classpath",
    "convert": "onespike.conversion",
    "create_model": "onespike.models",
    "load": "onespike.training",
    "load_converted": "onespike.conversion",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for: the command line answers, and can be stopped, at once."""
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "functional":
        return import_module("onespike.functional")
    raise AttributeError(f"module 'onespike' has no attribute {name!r}")
