"""A device that is not there: its tensors lie in the CPU's memory, and refuse what a real device's would refuse.

To PyTorch's C++ they are tensors on the CPU, so that no driver is needed; to Python they are on "cuda" or "mps". An
operation that mixes them with tensors of the CPU is an error, and so is double precision on MPS.
"""

from typing import Any

import accelerate
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from onespike.training import device as devices

aten = torch.ops.aten
#: Operations that take tensors of the CPU beside others: copies, and places to read or write.
MIXING = {aten.copy_, aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
#: PyTorch's functions that make tensors on a device.
MAKERS = ["arange", "as_tensor", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "randperm"]
MAKERS += ["tensor", "zeros"]
MAKERS += [f"{name}_like" for name in ("empty", "full", "ones", "rand", "randn", "zeros")]

_device_constructors()  # PyTorch keeps this list, which must not be one of what `emulate` puts in place
_tensor_to, _module_to, _autocast = Tensor.to, nn.Module.to, torch.autocast


class There(Tensor):
    """A tensor that lies on another device, as far as Python can tell."""

    held: Tensor
    kind: str

    @staticmethod
    def __new__(cls, held: Tensor, kind: str) -> "There":
        if kind == "mps" and held.dtype in (torch.float64, torch.complex128):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        likewise = {"storage_offset": held.storage_offset(), "dtype": held.dtype, "layout": held.layout}
        self = Tensor._make_wrapper_subclass(cls, held.shape, strides=held.stride(), **likewise)
        self.held, self.kind = held, kind
        return self

    device = property(lambda self: torch.device(self.kind, 0))
    is_cpu = property(lambda _: False)
    is_cuda = property(lambda self: self.kind == "cuda")
    is_mps = property(lambda self: self.kind == "mps")

    def __repr__(self, **_: Any) -> str:
        return f"{self.held!r} on {self.kind}"

    def __deepcopy__(self, memo: dict) -> Tensor:
        copy = self.detach().clone().requires_grad_(self.requires_grad)
        copy = nn.Parameter(copy, self.requires_grad) if isinstance(self, nn.Parameter) else copy
        return memo.setdefault(id(self), copy)

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def storage(self) -> Any:
        return self.held.storage()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func: Any, _: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        kind = next(one.kind for one in tensors if isinstance(one, There))
        here = [one for one in tensors if not isinstance(one, There) and one.dim()]  # single numbers may come along
        # Where a part of a tensor has no gradient, autograd's C++ makes zeros, and puts them where it sees the others.
        if func.overloadpacket is aten.cat and not any(one.any() for one in here):
            here = []
        if here and func.overloadpacket not in MIXING:
            shapes = ", ".join(str(tuple(one.shape)) for one in here)
            raise RuntimeError(f"{func}: expected all tensors on one device, found {kind} and, on the CPU, {shapes}")
        kwargs = {name: value for name, value in (kwargs or {}).items() if name not in ("device", "pin_memory")}
        held = tree_map(lambda one: one.held if isinstance(one, There) else one, (args, kwargs))
        out = func(*held[0], **held[1])
        if func.overloadpacket is aten.copy_ and not isinstance(args[0], There):
            return args[0]
        out = tree_map(lambda one: There(one, kind) if isinstance(one, Tensor) else one, out)
        return return_and_correct_aliasing(func, args, kwargs, out)


class _Move(torch.autograd.Function):
    """Copies a tensor to the device of a kind, or, if that is None, back to the CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: str | None) -> Tensor:
        ctx.came_from = x.kind if isinstance(x, There) else None
        copy = (x.held if isinstance(x, There) else x).detach().clone()
        return There(copy, kind) if kind else copy

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[Tensor, None]:
        return (There(gradient, ctx.came_from) if ctx.came_from else gradient.held), None


def emulate(kind: str, patch: pytest.MonkeyPatch) -> None:
    """Make PyTorch, accelerate and this library find a device of a kind, "cuda" or "mps", until the patch is undone."""

    def to(x: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            device, dtype, form = args[0].device, args[0].dtype, None
        else:
            device, dtype, _, form = torch._C._nn._parse_to(*args, **kwargs)
        target = (device or x.device).type
        if kind not in (target, x.device.type):
            return _tensor_to(x, *args, copy=copy, **kwargs)
        x = _tensor_to(x, dtype=dtype or x.dtype, memory_format=form or torch.preserve_format, copy=copy)
        return x if target == x.device.type else _Move.apply(x, kind if target == kind else None)

    def module_to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        with pytest.MonkeyPatch.context() as only_here:  # a parameter becomes one of another class
            only_here.setattr(torch.__future__, "get_swap_module_params_on_conversion", lambda: True)
            return _module_to(module, *args, **kwargs)

    def maker(make: Any) -> Any:
        def made(*args: Any, **kwargs: Any) -> Tensor:
            if (device := kwargs.get("device")) is None or torch.device(device).type != kind:
                return make(*args, **kwargs)
            learns = kwargs.pop("requires_grad", False)
            return There(make(*args, **{**kwargs, "device": None}), kind).requires_grad_(learns)

        return made

    def as_cpu(function: Any) -> Any:
        return lambda *args, **kwargs: function(*("cpu" if one == kind else one for one in args), **kwargs)

    class Autocast(_autocast):
        def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
            super().__init__("cpu" if device_type == kind else device_type, *args, **kwargs)

    def accelerator(**kwargs: Any) -> accelerate.Accelerator:
        made = accelerate.Accelerator(**{**kwargs, "cpu": True})
        AcceleratorState._shared_state["device"] = PartialState._shared_state["device"] = torch.device(kind)
        return made

    patch.setattr(devices, "Accelerator", accelerator)
    patch.setattr(devices, "accelerator_type", lambda: kind)
    patch.setattr(nn.Module, "to", module_to)
    patch.setattr(Tensor, "to", to)
    patch.setattr(Tensor, "cpu", lambda x, *_, **__: x.to("cpu"))
    patch.setattr(torch, "autocast", Autocast)
    for owner, name in (
        (torch, "get_autocast_dtype"),
        (torch, "is_autocast_enabled"),
        (torch.amp, "is_autocast_available"),
    ):
        patch.setattr(owner, name, as_cpu(getattr(owner, name)))
    for name in MAKERS:
        patch.setattr(torch, name, maker(getattr(torch, name)))
    driver = getattr(torch, kind)
    patch.setattr(driver, "get_rng_state", lambda *_: torch.get_rng_state())
    patch.setattr(driver, "set_rng_state", lambda state, *_: torch.set_rng_state(state))
    patch.setattr(driver, "synchronize", lambda *_: None)
    patch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
    patch.setattr(torch.backends.cudnn, "is_acceptable", lambda _: False)
    if kind == "cuda":
        patch.setattr(driver, "reset_peak_memory_stats", lambda *_: None)
        patch.setattr(driver, "max_memory_allocated", lambda *_: 0)
