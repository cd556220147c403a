"""Real joules, where the machine has a meter that this process may read: a GPU's, or the processor's RAPL."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from onespike.audit.latency import timed

_INSTALL = "install it with: pip install 'onespike[bench]'"


@dataclass(frozen=True)
class Joules:
    """What a meter said, or why there is none.

    Attributes:
        per_image: Joule for one image; None where nothing could be measured.
        meter: What measured, or why nothing did.
    """

    per_image: float | None
    meter: str

    def to_json(self) -> dict[str, Any]:
        """All values."""
        return {"per_image": self.per_image, "meter": self.meter}


@torch.no_grad()
def measure_joules(model: nn.Module, images: Tensor) -> Joules:
    """Measure the energy of forward passes.

    The meters see everything that the chip does meanwhile, idling included.

    Args:
        model: The model, in evaluation mode.
        images: A batch, on the model's device.

    Returns:
        The energy of one image, or why it could not be measured.
    """
    try:
        from zeus.device.cpu import get_cpus
        from zeus.exception import ZeusBaseError
        from zeus.monitor import ZeusMonitor
    except ImportError:
        return Joules(None, f"not measured: that needs the package zeus; {_INSTALL}")
    on_gpu = images.device.type == "cuda"
    try:
        if not on_gpu:
            get_cpus()
        monitor = ZeusMonitor(gpu_indices=[images.device.index or 0] if on_gpu else [])
        monitor.begin_window("audit")
        runs = timed(lambda: model(images), images.device)
        measured = monitor.end_window("audit")
    except (ZeusBaseError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        return Joules(None, f"not measured: this machine has no meter that can be read ({reason})")
    chips = measured.gpu_energy if on_gpu else measured.cpu_energy
    if not chips:
        return Joules(None, "not measured: this machine has no meter that can be read")
    meter = f"{'NVML' if on_gpu else 'RAPL'}, through zeus, over {len(runs)} batches of {len(images)}"
    return Joules(sum(chips.values()) / (len(runs) * len(images)), meter)
