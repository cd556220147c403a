"""Copies of networks, for whoever changes them: the user's own stays as it was."""

import copy
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils import _pytree as pytree

from onespike.errors import OnespikeError, lacks_memory, reason

_Net = TypeVar("_Net", bound=nn.Module)


def copied(model: _Net) -> _Net:
    """A deep copy of a user's network, in evaluation mode; an `OnespikeError` if it cannot be copied.

    Weights that are computed before each use, as by weight norm or pruning, are plain parameters of the copy.
    """
    # Tensors that were computed with gradients, such as states or pruned weights, are copied by their values alone.
    tensors = (one for one in pytree.tree_leaves([vars(part) for part in model.modules()]) if isinstance(one, Tensor))
    computed = {id(one): one.detach().clone() for one in tensors if not one.is_leaf}
    try:
        made = copy.deepcopy(model, computed).eval()
    except Exception as error:  # whatever its own `__deepcopy__` does
        if lacks_memory(error):
            raise
        raise OnespikeError(f"the network cannot be copied: {reason(error)}") from error
    for module in made.modules():
        _compute_weights(module)
    return made


def _compute_weights(module: nn.Module) -> None:
    """Turn weights that are computed before each use, as by weight norm or pruning, into plain parameters."""
    if parametrize.is_parametrized(module):
        weights = {name: getattr(module, name).detach().clone() for name in module.parametrizations}  # type: ignore[union-attr]
        # PyTorch's own removal changes the class, which the copy shares with the original.
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module.parametrizations
        for name, weight in weights.items():
            module.register_parameter(name, nn.Parameter(weight))
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)
