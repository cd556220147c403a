"""Watching the neurons of any network, each call as potentials and spikes: the library's, SpikingJelly's, snnTorch's.

The other packages are never imported here: a network can only hold their neurons where they are imported already.
"""

import copy
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from onespike.errors import OnespikeError, lacks_memory
from onespike.functional import Surrogate
from onespike.neurons.base import Neuron

#: What is said where a network has none.
NO_LAYERS = "no layers of neurons are known (subclasses of onespike.neurons.Neuron, SpikingJelly's and snnTorch's are)"
_SPIKINGJELLY, _SNNTORCH = "spikingjelly.activation_based", "snntorch"


class Fired(NamedTuple):
    """One call of a layer of neurons, at `path` in the network."""

    path: str
    neuron: nn.Module
    potential: Tensor | None  # at the moment of firing, of the shape of the spikes; None where it cannot be seen
    spikes: Tensor  # what came out: zeros and ones, or -1, 0 and 1, or real values of a ReLU
    threshold: float | Tensor | None  # one number, or one for each channel in a shape that broadcasts to the potentials
    surrogate: Surrogate | None  # None where it is not known
    steps: int  # time steps in this call, along the first axis of the spikes; 1 if they have no axis of time
    batch_axis: int  # the axis of the images


def neuron_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Find the layers of neurons of a network: by path, in the order in which they are registered."""
    kinds: Any = (Neuron, *_snntorch(), *_loaded(f"{_SPIKINGJELLY}.neuron", "BaseNode", "SimpleBaseNode"))
    return {path: module for path, module in model.named_modules() if isinstance(module, kinds)}


@contextmanager
def watch_neurons(model: nn.Module, see: Callable[[Fired], None], foreign_potentials: bool = True) -> Iterator[None]:
    """Call `see` after each call of a layer of neurons of any network, or of a part of it, inside this context.

    With `foreign_potentials`, those of other packages' neurons are seen as well: they then compute step by step, in
    plain torch, which may round otherwise than their fused operations do.
    """
    images = 0

    def begin(_model: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal images
        images = batch_of(args[0]) if args and isinstance(args[0], Tensor) and args[0].ndim else 0

    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(begin).remove)
        for path, neuron in neuron_layers(model).items():
            stack.enter_context(_watch(path, neuron, lambda: images, see, foreign_potentials))
        yield


def batch_of(images: Tensor) -> int:
    """How many images there are in a batch: B of (B, ...), or of frames over time (T, B, C, H, W)."""
    return images.shape[1] if images.ndim == 5 else len(images)


def resetter(model: nn.Module) -> Callable[[], None]:
    """Make a function that sets states of other packages' neurons back, without a gradient; the library's keep none."""
    spikingjelly, snntorch = _loaded(f"{_SPIKINGJELLY}.base", "MemoryModule"), _snntorch()
    resets: list[Any] = [module.reset for module in model.modules() if isinstance(module, spikingjelly)]
    resets += [m.reset_mem for m in model.modules() if isinstance(m, snntorch) and hasattr(m, "reset_mem")]

    def reset_all() -> None:
        for one in resets:
            one()

    return reset_all


def reset_state(model: nn.Module) -> None:
    """Forget what the neurons of other packages kept of the batch before."""
    resetter(model)()


@contextmanager
def aside(model: nn.Module) -> Iterator[None]:
    """Ask a network something that leaves no trace: in evaluation mode, with states and draws of its own."""
    device = next(model.parameters(), torch.empty(())).device
    with ExitStack() as stack, torch.random.fork_rng([device] if device.type == "cuda" else []):
        for module in model.modules():  # parts may be frozen, in a mode of their own
            stack.callback(setattr, module, "training", module.training)
        reset_state(model)
        stack.callback(reset_state, model)
        stack.callback(model.train, model.training)  # runs first: some modules' `train` does more than set a flag
        model.eval()
        yield


def copied(model: nn.Module) -> nn.Module:
    """A copy of somebody's network in evaluation mode, with which anything may be done."""
    try:
        return copy.deepcopy(model).eval()
    except Exception as error:  # whatever its own `__deepcopy__` does
        if lacks_memory(error):
            raise
        raise OnespikeError(f"the network cannot be copied: {' '.join(str(error).split())}") from error


@torch.no_grad()
def ask(model: nn.Module, inputs: Any) -> Any:
    """What somebody's network answers to a batch; an `OnespikeError` where it does not take it.

    Whatever its own code raises comes with the shape of the batch, but for a lack of memory, and for a bug of ours.
    """
    try:
        return model(inputs)
    except OnespikeError:
        raise
    except Exception as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        is_ours = frame.f_globals.get("__name__", "").startswith("onespike.")
        if lacks_memory(error) or (is_ours and not isinstance(error, RuntimeError | ValueError | TypeError)):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        shape = f"of {tuple(inputs.shape)}, {inputs.dtype}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise OnespikeError(f"the network does not take a batch {shape}: {reason}") from error


def logits_of(model: nn.Module, images: Tensor, classes: int | None = None) -> Tensor:
    """What somebody's network answers to images, (B, K) or (T, B, K); an `OnespikeError` where that is no logits."""
    answer = ask(model, images)
    floats = isinstance(answer, Tensor) and answer.is_floating_point() and answer.ndim in (2, 3)
    if floats and answer.shape[-2] == batch_of(images) and answer.numel() and classes in (None, answer.shape[-1]):
        logits: Tensor = answer
        return logits
    found = f"{tuple(answer.shape)}, {answer.dtype}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
    expected = f"expected logits, floats (B, {classes or 'K'}), or (T, B, {classes or 'K'}) over time"
    raise OnespikeError(f"the network answers {batch_of(images)} images with {found}: {expected}")


def kept_states(neuron: nn.Module, like: Tensor) -> int:
    """Count the values, all states of the shape of `like`, that another package's neuron keeps until the next step."""
    if isinstance(neuron, Neuron):
        return 0  # the library's own keeps none
    memories = getattr(neuron, "_memories", None)  # SpikingJelly's
    states = memories.values() if memories is not None else dict(neuron.named_buffers(recurse=False)).values()
    return sum(one.numel() for one in states if isinstance(one, Tensor) and one.shape == like.shape)


def _loaded(module: str, *names: str) -> tuple[type[nn.Module], ...]:
    """Classes of another package, where that is imported."""
    found = (getattr(sys.modules.get(module), name, None) for name in names)
    return tuple(one for one in found if isinstance(one, type))


def _snntorch() -> tuple[type[nn.Module], ...]:
    return _loaded(_SNNTORCH, "SpikingNeuron") + _loaded(f"{_SNNTORCH}._neurons.neurons", "SpikingNeuron")


@contextmanager
def _watch(
    path: str, neuron: Any, images: Callable[[], int], see: Callable[[Fired], None], foreign_potentials: bool
) -> Iterator[None]:
    own, caught = isinstance(neuron, Neuron), list[Tensor]()

    def leave(_neuron: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        spikes = out[0] if isinstance(out, tuple) else out
        steps = len(spikes) if getattr(neuron, "step_mode", "s") == "m" else None
        with _disable_current_modes():
            potential = args[0] if own else _joined(caught, spikes, steps)
        caught.clear()
        # Windows, a population or time come before the images.
        ahead = steps or (own and (neuron.grouped or spikes.ndim == 5))
        ahead = ahead or (spikes.ndim > 2 and spikes.shape[1] == images() != len(spikes))
        with torch.no_grad():  # a block that is run again in the backward pass is not watched there
            threshold = neuron.v_threshold if hasattr(neuron, "v_threshold") else neuron.threshold  # SpikingJelly's
        if isinstance(threshold, Tensor) and threshold.ndim == 3 > spikes.ndim:
            threshold = threshold.flatten()  # (C, 1, 1) of a map's channels, where there is no map
        surrogate = neuron.surrogate if own else None
        see(Fired(path, neuron, potential, spikes, threshold, surrogate, steps or 1, int(bool(ahead))))

    with ExitStack() as stack:
        stack.callback(neuron.register_forward_hook(leave).remove)
        if foreign_potentials and not own:
            # Potentials of other packages are caught where they meet the threshold: in the surrogate, or in `fire`.
            surrogate = getattr(neuron, "surrogate_function", None)
            if isinstance(surrogate, nn.Module):
                neuron.surrogate_function = _Catching(surrogate, caught, neuron.v_threshold)
                stack.callback(setattr, neuron, "surrogate_function", surrogate)
            for name in ("fire", "fire_inhibition"):
                if hasattr(neuron, name):
                    setattr(neuron, name, _catching(getattr(neuron, name), caught))
                    stack.callback(delattr, neuron, name)
        yield


class _Catching(nn.Module):
    """A surrogate of SpikingJelly, called as before; what comes in is the potential less the threshold."""

    def __init__(self, surrogate: nn.Module, caught: list[Tensor], threshold: float) -> None:
        super().__init__()
        self.surrogate, self.caught, self.threshold = surrogate, caught, threshold

    def forward(self, distance: Tensor) -> Any:
        with _disable_current_modes():
            self.caught.append(distance.detach() + self.threshold)
        return self.surrogate.forward(distance)  # not as a module of its own: what it does, the neuron does


def _catching(fire: Callable[..., Any], caught: list[Tensor]) -> Callable[..., Any]:
    def caught_fire(*args: Any) -> Any:
        caught.append(args[-1].detach())
        return fire(*args)

    return caught_fire


def _joined(caught: list[Tensor], spikes: Tensor, steps: int | None) -> Tensor | None:
    """Potentials of all steps; a neuron with two thresholds looks at each potential twice."""
    if not caught or len(caught) % (steps or 1):
        return None
    first = caught[:: len(caught) // (steps or 1)]
    potential = torch.stack(first) if steps else first[0]
    return potential if potential.shape == spikes.shape else None
