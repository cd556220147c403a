"""Dropout with a constant mask: one mask for all windows and all time steps of a forward pass."""

from torch import Tensor


def constant_mask(u: Tensor, probability: float) -> Tensor:
    """Make a dropout mask out of uniform draws.

    Multiply every window and every time step of a block's input spikes by the same mask: a neuron that is dropped is
    silent for the whole of a forward pass, as a dead one would be (Srivastava et al. 2014, held constant).

    Args:
        u: Draws from U(0, 1), (B, C, M, M).
        probability: Share of the inputs to drop, 0 <= p < 1.

    Returns:
        0 where u < p, else 1 / (1 - p), in the dtype of `u`: the expected value of an input does not change.
    """
    return (u >= probability).to(u.dtype) / (1 - probability)
