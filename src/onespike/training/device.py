"""Device, precision and processes: accelerate's, chosen by a recipe."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from onespike.errors import OnespikeError
from onespike.training.config import TrainConfig


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Choose device, precision and processes.

    Raises:
        OnespikeError: The device cannot compute in that precision.
    """
    device = torch.accelerator.current_accelerator() if config.device == "auto" else None
    kind = device.type if device and torch.accelerator.is_available() else "cpu"
    if (config.precision, kind) in (("fp16", "cpu"), ("fp64", "mps")):
        raise OnespikeError(f"train.precision: {config.precision} does not work on {kind}; use bf16 or fp32")
    AcceleratorState._reset_state(reset_partial_state=False)  # one process may train several networks, one by one
    mixed = config.precision if config.precision in ("bf16", "fp16") else "no"
    return Accelerator(mixed_precision=mixed, cpu=kind == "cpu", step_scheduler_with_optimizer=False)
