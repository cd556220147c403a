"""Export: networks for other runtimes and for devices, each with a proof that it computes the same."""

from onespike.exporting.contract import Contract
from onespike.exporting.export import FORMATS, Export, export
from onespike.exporting.hub import from_pretrained, push_to_hub, save_pretrained
from onespike.exporting.parity import Parity

__all__ = ["FORMATS", "Contract", "Export", "Parity", "export", "from_pretrained", "push_to_hub"]
__all__ += ["save_pretrained"]
