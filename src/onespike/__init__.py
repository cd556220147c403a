"""Spiking neural networks that answer in one time step."""

from onespike import functional
from onespike._version import __version__
from onespike.errors import OnespikeError
from onespike.model import create_model

__all__ = ["OnespikeError", "__version__", "create_model", "functional"]
