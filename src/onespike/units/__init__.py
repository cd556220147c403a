"""Spiking units: what runs inside a block's windows. Usable alone, in anybody's network."""

from onespike.units.base import Traffic, Unit, UnitConfig, UnitOutput
from onespike.units.conv import ConvUnit
from onespike.units.registry import RECURRENT, UNITS

__all__ = ["RECURRENT", "UNITS", "ConvUnit", "Traffic", "Unit", "UnitConfig", "UnitOutput"]
