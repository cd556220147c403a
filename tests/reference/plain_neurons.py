"""The equations of every neuron as loops over single windows and time steps, with nothing shared with the package."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.reference.plain_units import Step


def fire(v: Tensor, threshold: float | Tensor) -> Tensor:
    """1 where v > threshold, else 0, with the rectangular surrogate."""
    return Step.apply(v, torch.as_tensor(threshold, dtype=v.dtype), "rectangle", 1.0)


def _ternary(v: Tensor, threshold: float, _rise: Any) -> Tensor:
    return fire(v, threshold) - fire(-v, threshold)


#: How each neuron fires, given potential, threshold and rise of the threshold.
FIRE: dict[str, Callable[[Tensor, float, Any], Tensor]] = {
    "lif": lambda v, threshold, _: fire(v, threshold),
    "plif": lambda v, threshold, _: fire(v, threshold),
    "adaptive": lambda v, threshold, rise: fire(v - rise, threshold),
    "ternary": _ternary,
    "relu": lambda v, _threshold, _rise: v.clamp(min=0),
}


def run(
    name: str,
    steps: Tensor,
    threshold: float,
    decay: float | Tensor,
    reset: str = "none",
    chained: bool = True,
    adaptation: float = 0.2,
    adaptation_decay: float = 0.8,
) -> tuple[Tensor, Tensor]:
    """Run neurons over time steps and windows.

    Args:
        name: The kind of neuron.
        steps: Currents, (T, V, …).
        threshold: The threshold.
        decay: alpha.
        reset: What firing does to what the next window receives.
        chained: Whether windows hand potentials on.
        adaptation: beta.
        adaptation_decay: rho.

    Returns:
        Potentials and spikes, (T, V, …).
    """
    potentials, spikes, rises = {}, {}, {}

    def fired(v: Tensor, s: Tensor) -> Tensor:
        return fire(v, threshold) + fire(-v, threshold) if name == "ternary" else s

    for t, windows in enumerate(steps):
        for w, current in enumerate(windows):
            v = (1 - decay) * current if name == "plif" else current
            rise: Any = 0.0
            if t:
                v_, s_ = potentials[t - 1, w], spikes[t - 1, w]
                v = v + decay * (v_ if name == "relu" else v_ * (1 - fired(v_, s_)))
                rise = rise + adaptation_decay * rises[t - 1, w] + adaptation * s_
            if w and chained:
                v_, s_ = potentials[t, w - 1], spikes[t, w - 1]
                v = v + decay * {"none": v_, "zero": v_ * (1 - fired(v_, s_)), "subtract": v_ - threshold * s_}[reset]
                rise = rise + adaptation_decay * rises[t, w - 1] + adaptation * s_
            potentials[t, w], rises[t, w] = v, rise
            spikes[t, w] = FIRE[name](v, threshold, rise)
    shape = steps.shape
    return tuple(torch.stack(list(one.values())).reshape(shape) for one in (potentials, spikes))  # type: ignore[return-value]
