"""Spiking neural networks that answer in one time step."""

from typing import TYPE_CHECKING

from onespike._version import __version__
from onespike.lazy import lazy

if TYPE_CHECKING:
    from onespike import functional
    from onespike.classpath import allow_imports
    from onespike.conversion.conversion import convert, load_converted
    from onespike.errors import OnespikeError
    from onespike.evaluation import evaluate
    from onespike.exporting import export, from_pretrained, push_to_hub, save_pretrained
    from onespike.models import create_model, register_model, register_timm
    from onespike.models.streaming import stream
    from onespike.training import Callback, Recipe, Run, load, load_recipe, train

__all__ = ["Callback", "OnespikeError", "Recipe", "Run", "__version__", "allow_imports", "convert", "create_model"]
__all__ += ["evaluate", "export", "from_pretrained", "functional", "load", "load_converted", "load_recipe"]
__all__ += ["push_to_hub", "register_model", "register_timm", "save_pretrained", "stream", "train"]

_HOMES = {
    "OnespikeError": "onespike.errors",
    "__version__": "onespike._version",
    "allow_imports": "onespike.classpath",
    "evaluate": "onespike.evaluation",
    **dict.fromkeys(("export", "from_pretrained", "push_to_hub", "save_pretrained"), "onespike.exporting"),
    "functional": "onespike.functional",
    "stream": "onespike.models.streaming",
    **dict.fromkeys(("convert", "load_converted"), "onespike.conversion.conversion"),
    **dict.fromkeys(("create_model", "register_model", "register_timm"), "onespike.models"),
    **dict.fromkeys(("Callback", "Recipe", "Run", "load", "load_recipe", "train"), "onespike.training"),
}
__getattr__, __dir__ = lazy(__name__, _HOMES)
