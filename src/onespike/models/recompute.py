"""Less memory in training: what the backward pass needs is computed again there, not saved."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from onespike.units.layers import is_watched


def run_again_later(module: nn.Module, function: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Wrap a module, or a function that calls it, so that it runs again in the backward pass, with the same draws."""

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _AsBefore(module)

    return partial(checkpoint, function or module, use_reentrant=False, context_fn=contexts)


def recomputed(output: Tensor, again: Callable[[], Tensor]) -> torch.autograd.graph.saved_tensors_hooks:
    """Inside this context autograd does not save `output`, or a view of it: the backward pass calls `again` for it."""
    place = output.data_ptr()  # hooks that held the tensor itself would keep it alive

    def pack(saved: Tensor) -> Tensor | tuple[torch.Size, tuple[int, ...]]:
        is_it = place and saved.data_ptr() == place  # the address of each tensor of nothing is 0
        return (saved.shape, saved.stride()) if is_it else saved

    def unpack(kept: Tensor | tuple[torch.Size, tuple[int, ...]]) -> Tensor:
        return kept if isinstance(kept, Tensor) else again().as_strided(*kept)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


class _AsBefore(AbstractContextManager):
    """Inside this context a module draws and fuses layers as it did when the context was made; its statistics stay.

    It can be entered again, for another backward pass.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.watched = module, [one for one in module.modules() if is_watched(one)]
        # On CPU and CUDA `checkpoint` restores the generator; on MPS nobody does.
        self.draws = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None

    def __enter__(self) -> None:
        with ExitStack() as stack:  # undoes what is done if something fails
            if self.draws is not None:
                stack.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
                torch.mps.set_rng_state(self.draws)
            for one in self.watched:  # layers with hooks were not fused; those hooks may be gone
                stack.callback(one.register_forward_hook(lambda *_: None).remove)
            for norm in self.module.modules():
                if isinstance(norm, _BatchNorm):  # it has seen this batch before
                    stack.callback(setattr, norm, "momentum", norm.momentum)
                    norm.momentum = 0.0
                    if norm.num_batches_tracked is not None:
                        stack.callback(norm.num_batches_tracked.copy_, norm.num_batches_tracked.clone())
            self.stack = stack.pop_all()

    def __exit__(self, *_: object) -> None:
        self.stack.close()
