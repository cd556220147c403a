"""Activation checkpointing: a module saves only its inputs for the backward pass, and runs again there."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from onespike.units.layers import is_watched


def run_again_later(module: nn.Module, function: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Wrap a module, or a function that calls it, so that it runs again in the backward pass, with the same draws."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _as_before(module)

    return partial(checkpoint, function or module, use_reentrant=False, context_fn=contexts)


def _as_before(module: nn.Module) -> AbstractContextManager[None]:
    """Make what runs inside of it draw, and fuse layers, as what runs now.

    On CPU and CUDA `checkpoint` sees to the draws, on MPS nobody. Layers that somebody watches now are not fused.
    """
    watched = [one for one in module.modules() if is_watched(one)]
    draws = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None

    @contextmanager
    def context() -> Iterator[None]:
        now = None if draws is None else torch.mps.get_rng_state()
        if draws is not None:
            torch.mps.set_rng_state(draws)
        hooks = [one.register_forward_hook(lambda *_: None) for one in watched]  # those of now are gone by then
        try:
            with _statistics_kept(module):
                yield
        finally:
            for hook in hooks:
                hook.remove()
            if now is not None:
                torch.mps.set_rng_state(now)

    return context()


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Keep batch norms from updating their running statistics: they have seen this batch before."""
    norms = [one for one in module.modules() if isinstance(one, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta, counts = [norm.momentum for norm in norms], [norm.num_batches_tracked for norm in norms]
    kept = [None if count is None else count.clone() for count in counts]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, before in zip(norms, momenta, kept, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and before is not None:
                norm.num_batches_tracked.copy_(before)
