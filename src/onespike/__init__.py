"""Spiking neural networks that answer in one time step."""

from typing import TYPE_CHECKING, Any

from onespike._version import __version__
from onespike.errors import OnespikeError

if TYPE_CHECKING:
    from onespike import functional
    from onespike.model import create_model

__all__ = ["OnespikeError", "__version__", "create_model", "functional"]


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for: the command line answers, and can be stopped, at once."""
    if name == "create_model":
        from onespike.model import create_model

        return create_model
    if name == "functional":
        from importlib import import_module

        return import_module("onespike.functional")
    raise AttributeError(f"module 'onespike' has no attribute {name!r}")
