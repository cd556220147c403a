"""Conversion of trained artificial networks into spiking ones."""

from onespike.conversion.calibrate import Calibration, LayerError, calibrate
from onespike.conversion.convert import Conversion, convert, convert_run
from onespike.models.spiking import Exchange

__all__ = ["Calibration", "Conversion", "Exchange", "LayerError", "calibrate", "convert", "convert_run"]
