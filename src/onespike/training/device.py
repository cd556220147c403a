"""Device, precision and processes, accelerate's, chosen by a recipe."""

import os
from datetime import timedelta

from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState, PartialState

from onespike.environment import accelerator_type
from onespike.errors import OnespikeError, lacks_memory, reason, shown
from onespike.training.config import TrainConfig

#: How long processes wait for each other: the first one may decode a large data set meanwhile.
WAIT = timedelta(days=1)


def make_accelerator(config: TrainConfig, option: str = "train.precision") -> Accelerator:
    """Choose device, precision and processes.

    An `OnespikeError` if the device cannot compute in that precision names the `option` that chooses another.
    """
    kind = (config.device == "auto" and accelerator_type()) or "cpu"
    if (config.precision, kind) in (("fp16", "cpu"), ("fp64", "mps")):
        raise OnespikeError(f"{option}: {config.precision} does not work on {kind}; use bf16 or fp32")
    # One process may train several networks, one by one; accelerate would keep the first one's device.
    first = PartialState._shared_state
    moves = bool(first) and first.get("num_processes") == 1 and first["device"].type != kind
    AcceleratorState._reset_state(reset_partial_state=moves)
    handlers = [InitProcessGroupKwargs(timeout=WAIT)]
    mixed = config.precision if config.precision in ("bf16", "fp16") else "no"
    try:
        accelerator = Accelerator(mixed_precision=mixed, cpu=kind == "cpu", kwargs_handlers=handlers)
    except (ValueError, ImportError, RuntimeError) as error:  # accelerate reads environment variables
        AcceleratorState._reset_state(reset_partial_state=True)  # half made: the next training would take it as it is
        if lacks_memory(error):
            raise
        reads = ("ACCELERATE_", "WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_")
        given = ", ".join(f"{name}={value}" for name, value in os.environ.items() if name.startswith(reads))
        if not given:
            raise OnespikeError(f"{option}: {mixed} does not work on {kind} here: {reason(error)}") from error
        raise OnespikeError(f"accelerate refuses its environment, {shown(given)}: {reason(error)}") from error
    if accelerator.gradient_accumulation_steps != 1:
        advice = "would divide every gradient; remove it, and set --train.accumulate"
        raise OnespikeError(f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS in the environment {advice}")
    return accelerator
