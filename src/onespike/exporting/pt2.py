"""PyTorch's own format: `torch.export.save`, for ExecuTorch, AOTInductor, and any Python with PyTorch alone."""

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor

from onespike.exporting.network import Exported
from onespike.exporting.parity import Target

FILE = "model.pt2"


def write(exported: Exported, folder: Path) -> dict[str, Target]:
    """Write `model.pt2`, whose output is a tuple: logits, and the spikes of each layer. Read back, it is the target.

    Raises:
        OnespikeError: The network cannot be traced.
    """
    program = exported.program(adds=True)
    torch.export.save(program, folder / FILE, extra_files={"contract.json": json.dumps(exported.contract.to_json())})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch 2.9: that buffers are read-only
        loaded = torch.export.load(folder / FILE).module()

    def run(images: Tensor) -> tuple[Tensor, list[Tensor]]:
        logits, *spikes = loaded(exported.reads(images))
        return logits, spikes

    return {"pt2": run}
