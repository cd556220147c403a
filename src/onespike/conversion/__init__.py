"""Conversion of trained artificial networks into spiking ones: any `nn.Module` in, an `nn.Module` out."""

from onespike.conversion.calibrate import Calibration, LayerError, calibrate
from onespike.conversion.convert import Conversion, convert, load_converted
from onespike.conversion.spiking import ConversionConfig, ConvertedNetwork, spiking

__all__ = [
    "Calibration",
    "Conversion",
    "ConversionConfig",
    "ConvertedNetwork",
    "LayerError",
    "calibrate",
    "convert",
    "load_converted",
    "spiking",
]
