"""Conversion of trained artificial networks into spiking ones: any `nn.Module` in, an `nn.Module` out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onespike.conversion.calibration import LayerError as LayerError
    from onespike.conversion.config import Calibration as Calibration
    from onespike.conversion.config import ConversionConfig as ConversionConfig
    from onespike.conversion.conversion import Conversion as Conversion
    from onespike.conversion.conversion import convert as convert
    from onespike.conversion.conversion import load_converted as load_converted
    from onespike.conversion.network import ConvertedNetwork as ConvertedNetwork
    from onespike.conversion.network import spiking as spiking

#: Where the names live; torch is imported only when one of them is asked for.
_HOMES = {"LayerError": "calibration", "Calibration": "config", "ConversionConfig": "config"}
_HOMES |= {"Conversion": "conversion", "convert": "conversion", "load_converted": "conversion"}
_HOMES |= {"ConvertedNetwork": "network", "spiking": "network"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
