"""Spiking units: what runs inside a block's windows. Usable alone, in anybody's network."""

from onespike.units.base import Dynamics, Firing, Incoming, Neuron, Unit, UnitOutput
from onespike.units.conv import ConvUnit

__all__ = ["ConvUnit", "Dynamics", "Firing", "Incoming", "Neuron", "Unit", "UnitOutput"]
