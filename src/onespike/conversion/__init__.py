"""Conversion of trained artificial networks into spiking ones: any `nn.Module` in, an `nn.Module` out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onespike.conversion.calibration import LayerError, calibrate
    from onespike.conversion.config import Calibration, ConversionConfig
    from onespike.conversion.conversion import Conversion, convert, load_converted
    from onespike.conversion.network import ConvertedNetwork, spiking

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

#: Where the names live; torch is imported only when one of them is asked for.
_HOMES = {
    **dict.fromkeys(("Calibration", "ConversionConfig"), "config"),
    **dict.fromkeys(("LayerError", "calibrate"), "calibration"),
    **dict.fromkeys(("Conversion", "convert", "load_converted"), "conversion"),
    **dict.fromkeys(("ConvertedNetwork", "spiking"), "network"),
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"onespike.conversion.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
