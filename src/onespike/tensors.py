"""Tensors from outside: read without pickle, and compared with the expected ones before anything computes."""

from collections.abc import Mapping
from hashlib import sha256
from importlib import import_module
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from onespike.errors import OnespikeError, listed, reason, shown

#: Dtypes of weights; there are smaller floats, which nothing computes with.
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
#: Batch norm's running statistics.
_STATISTICS = ("running_mean", "running_var")


def shapes_alone() -> torch.device:
    """The device of tensors that have shapes and no values, for `with`."""
    if torch.__version__ < "2.7.dev0":  # there timm's import of this fails on the device "meta"
        with torch.device("cpu"):
            import_module("torch._dynamo")
    return torch.device("meta")


def read_tensors(content: bytes, where: object) -> dict[str, Tensor]:
    """Read a file of safetensors, on the CPU; an `OnespikeError` if it is damaged, or has types that PyTorch lacks."""
    try:
        return load(content)
    except KeyError as error:  # safetensors has this type, PyTorch has not
        raise OnespikeError(f"{where} is damaged: tensors of type {shown(error.args[0])}") from None
    except (SafetensorError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise OnespikeError(f"{where} is damaged: {reason(error)}") from error


def to_save(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies on the CPU: safetensors knows no strides (channels-last) and no shared memory.

    Anything but a tensor, such as a module's extra state, is an `OnespikeError`.
    """
    for name, one in tensors.items():
        if not isinstance(one, Tensor):
            raise OnespikeError(f"{shown(name)} cannot be saved: expected a tensor, got a {type(one).__name__}")
    return {name: one.detach().cpu().clone(memory_format=torch.contiguous_format) for name, one in tensors.items()}


def expect_alike(saved: Mapping[str, Tensor], own: Mapping[str, Tensor], complaint: str) -> None:
    """Raise an `OnespikeError` unless tensors have the expected names, shapes and dtypes; all floats are alike."""
    theirs, ours = (
        {name: f"{tuple(one.shape)}{'' if one.dtype in _FLOATS else f' {one.dtype}'}" for name, one in state.items()}
        for state in (saved, own)
    )
    names = [name for name in sorted(saved.keys() | own.keys()) if theirs.get(name) != ours.get(name)]
    if names:
        odd = (f"{shown(name)} {theirs.get(name, 'missing')} instead of {ours.get(name, 'nothing')}" for name in names)
        raise OnespikeError(f"{complaint}: {listed(odd).replace('torch.', '')}")


def wide(x: Tensor) -> Tensor:
    """A tensor of floats in float32 at least: sums of fewer bits are too far from what they should be."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def expect_weights(network: nn.Module) -> None:
    """Raise an `OnespikeError` unless a user's network is a module whose weights have values and are dense."""
    if not isinstance(network, nn.Module):
        raise OnespikeError(f"model: expected a torch.nn.Module, got a {type(network).__name__}")
    for name, part in network.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise OnespikeError(f"model: {shown(name or 'it')} is scripted; expected the module it was made of")
    for name, one in (*network.named_parameters(), *network.named_buffers()):
        if is_lazy(one) or one.is_meta:
            raise OnespikeError(f"model: {shown(name)} has no values yet: show it a batch first, or load its weights")
        if one.layout != torch.strided:
            raise OnespikeError(f"model: {shown(name)} is {one.layout}; expected a dense tensor: call its to_dense()")


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of a network's weights and buffers, whatever their device, precision and memory layout."""
    content = sha256()
    for name, one in sorted(network.state_dict().items()):
        if isinstance(one, Tensor):  # modules may keep anything there
            content.update(f"{name} {tuple(one.shape)} ".encode())
            content.update(one.detach().cpu().double().numpy().tobytes())
    return content.hexdigest()


def not_finite(tensors: Mapping[str, Tensor], network: nn.Module) -> str:
    """Name a weight, or statistic, that is not finite, or a buffer that is NaN; "" if there is none."""
    weights = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    for name, one in tensors.items():
        kind = name.rpartition(".")[2]
        value = one.sqrt() if kind == "running_var" else one  # a variance below 0 has no root
        if (~value.isfinite() if name in weights or kind in _STATISTICS else value.isnan()).any():
            return name
    return ""


def expect_finite(tensors: Mapping[str, Tensor], network: nn.Module) -> None:
    """Raise an `OnespikeError` if a weight, or statistic, of a network to be written is not finite."""
    if name := not_finite(tensors, network):
        raise OnespikeError(f"the weights {name} are not finite numbers: expected those of a network that was trained")
