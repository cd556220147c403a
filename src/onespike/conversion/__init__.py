"""Conversion of trained artificial networks into spiking ones: any `nn.Module` in, an `nn.Module` out.

The options are here, and need no torch; `onespike.convert` and `onespike.load_converted` do the work.
"""

from onespike.conversion.config import Calibration, ConversionConfig

__all__ = ["Calibration", "ConversionConfig"]
