"""Watch the neurons of any network, the library's, SpikingJelly's or snnTorch's: potentials and spikes of each call.

The other packages are never imported here: a network can only hold their neurons where they are imported already.
"""

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
from onespike.tensors import wide

#: The message for a network without neurons that the library knows.
NO_LAYERS = "no layers of neurons are known (subclasses of onespike.neurons.Neuron, SpikingJelly's and snnTorch's are)"
_SPIKINGJELLY, _SNNTORCH = "spikingjelly.activation_based", "snntorch"


class Fired(NamedTuple):
    """One call of a layer of neurons, at `path` in the network."""

    path: str
    neuron: nn.Module
    potential: Tensor | None  # at the moment of firing, of the shape of the spikes; None where it cannot be seen
    spikes: Tensor  # the output: zeros and ones, or -1, 0 and 1, or real values of a ReLU
    # One number, or one for each channel in a shape that broadcasts to the potentials; None where none can be reached:
    # of a ReLU, and of neurons that only integrate.
    threshold: float | Tensor | None
    surrogate: Surrogate | None  # None where there is none, or it is not known
    steps: int  # time steps in this call, along the first axis of the spikes; 1 if they have no axis of time
    batch_axis: int  # the axis of the images
    rise: float | Tensor = 0.0  # by how much each neuron's threshold has risen, of the shape of the potentials

    @property
    def distance(self) -> Tensor | None:
        """How far potentials are beyond the threshold, in float32 at least: those above 0 fire; None if not known."""
        if self.potential is None or self.threshold is None:
            return None
        potential = wide(self.potential)
        ternary = _loaded(f"{_SPIKINGJELLY}.neuron", "TernaryIFNode", "TernaryLIFNode")
        signed = getattr(self.neuron, "signed", isinstance(self.neuron, ternary))
        return (potential.abs() if signed else potential) - self.threshold - self.rise


def neuron_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Find the layers of neurons of a network, by path, in the order of registration."""
    kinds: Any = (Neuron, *_snntorch(), *_loaded(f"{_SPIKINGJELLY}.neuron", "BaseNode", "SimpleBaseNode"))
    return {path: module for path, module in model.named_modules() if isinstance(module, kinds)}


def is_spiking(model: nn.Module) -> bool:
    """Whether a network has neurons that are known to spike."""
    return any(getattr(neuron, "spiking", True) for neuron in neuron_layers(model).values())


@contextmanager
def watch_neurons(model: nn.Module, see: Callable[[Fired], None], foreign_potentials: bool = True) -> Iterator[None]:
    """Call `see` after each call of a layer of neurons of any network, or of a part of it, inside this context.

    With `foreign_potentials`, `see` also gets the potentials of other packages' neurons. These then compute step by
    step in plain PyTorch, which may round differently from their fused operations.
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


@torch.no_grad()
def answer_and_calls(model: nn.Module, images: Tensor, foreign_potentials: bool = False) -> tuple[Any, list[Fired]]:
    """What any network, reset before, answers a batch, and the calls of its layers of neurons, in order."""
    calls: list[Fired] = []
    reset_state(model)
    with watch_neurons(model, calls.append, foreign_potentials):
        return model(images), calls


def batch_of(images: Tensor) -> int:
    """The number of images in a batch: B of (B, ...), or of frames over time (T, B, C, H, W)."""
    return images.shape[1] if images.ndim == 5 else len(images)


def resetter(model: nn.Module) -> Callable[[], None]:
    """Return a function that resets other packages' neurons, cutting gradients too; the library's keep no state."""
    spikingjelly, snntorch = _loaded(f"{_SPIKINGJELLY}.base", "MemoryModule"), _snntorch()
    resets: list[Any] = [module.reset for module in model.modules() if isinstance(module, spikingjelly)]
    resets += [m.reset_mem for m in model.modules() if isinstance(m, snntorch) and hasattr(m, "reset_mem")]

    def reset_all() -> None:
        for one in resets:
            one()

    return reset_all


def reset_state(model: nn.Module) -> None:
    """Reset what the neurons of other packages kept of the previous batch."""
    resetter(model)()


def forget_state(model: nn.Module) -> None:
    """Reset other packages' neurons, and leave them nothing that a graph for any batch cannot have.

    That is the shape of the last batch, and a choice by a tensor.
    """
    reset_state(model)
    for neuron in model.modules():
        if isinstance(neuron, _snntorch()):  # SpikingJelly's begin with a number
            before = dict(neuron.named_buffers(recurse=False))
            reset_state(neuron)
            states = {name: one for name, one in neuron.named_buffers(recurse=False) if one is not before.get(name)}
            for name, one in states.items():
                setattr(neuron, name, one.new_zeros(0))  # as in a new neuron
            if (kind := neuron._buffers.pop("reset_mechanism_val", None)) is not None:
                setattr(neuron, "reset_mechanism_val", int(kind))  # noqa: B010 - a module's attributes are not declared


@contextmanager
def aside(model: nn.Module) -> Iterator[None]:
    """Run a network without a trace: in evaluation mode, on states and random numbers of its own."""
    device = next(model.parameters(), torch.empty(())).device
    kept = {"devices": [device], "device_type": device.type} if device.type in ("cuda", "mps") else {"devices": []}
    with ExitStack() as stack, torch.random.fork_rng(**kept):
        stack.callback(_put_back, [(module, module.training) for module in model.modules()])
        reset_state(model)
        stack.callback(reset_state, model)
        model.eval()
        yield


def _put_back(modes: list[tuple[nn.Module, bool]]) -> None:
    """Restore modes, each module before its parts, by its own `train`, which may do more than set a flag."""
    for module, mode in modes:
        if module.training != mode:
            module.train(mode)
    for module, mode in modes:  # where its own `train` keeps another mode
        module.training = mode


@torch.no_grad()
def ask(model: nn.Module, inputs: Any) -> Any:
    """The output of a user's network for a batch, without gradients; an `OnespikeError` if it does not take the batch.

    An error from the network's own code is reported with the shape of the batch. A lack of memory, and a bug of this
    library, pass through.
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
        found = " ".join(f"{type(error).__name__}: {error}".split())
        shape = f"of {tuple(inputs.shape)}, {inputs.dtype}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise OnespikeError(f"the network does not take a batch {shape}: {found}") from error


def depends_on_batch(answers: Tensor, beside: Tensor) -> bool:
    """Whether most images have other logits, (B, K), beside other images; a few may, where rounding flips a spike."""
    other = (answers - beside).abs().amax(1) > 1e-3 * answers.abs().amax(1) + 1e-5
    return int(other.sum()) > len(answers) / 2


def logits_of(model: nn.Module, images: Tensor, classes: int | None = None) -> Tensor:
    """The logits of a user's network for images, (B, K) or (T, B, K); an `OnespikeError` if its output is no logits."""
    answer = ask(model, images)
    floats = isinstance(answer, Tensor) and answer.is_floating_point() and answer.ndim in (2, 3)
    if floats and answer.shape[-2] == batch_of(images) and answer.numel() and classes in (None, answer.shape[-1]):
        return answer
    found = f"{tuple(answer.shape)}, {answer.dtype}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
    expected = f"expected logits, floats (B, {classes or 'K'}), or (T, B, {classes or 'K'}) over time"
    raise OnespikeError(f"the network answers {batch_of(images)} images with {found}: {expected}")


def kept_states(neuron: nn.Module) -> int:
    """Count the values that another package's neuron keeps until the next step."""
    if isinstance(neuron, Neuron):
        return 0  # the library's own keeps none
    states = getattr(neuron, "_memories", None)  # SpikingJelly's; snnTorch's are the buffers that are not saved
    if states is None:
        states = {name: getattr(neuron, name) for name in neuron._non_persistent_buffers_set}
    return sum(one.numel() for one in states.values() if isinstance(one, Tensor))


def _loaded(module: str, *names: str) -> tuple[type[nn.Module], ...]:
    """Classes of another package, if it is imported."""
    found = (getattr(sys.modules.get(module), name, None) for name in names)
    return tuple(one for one in found if isinstance(one, type))


def _snntorch() -> tuple[type[nn.Module], ...]:
    return _loaded(_SNNTORCH, "SpikingNeuron") + _loaded(f"{_SNNTORCH}._neurons.neurons", "SpikingNeuron")


@contextmanager
def _watch(
    path: str, neuron: Any, images: Callable[[], int], see: Callable[[Fired], None], foreign_potentials: bool
) -> Iterator[None]:
    own, caught = isinstance(neuron, Neuron), list[Tensor]()
    constant = "v_threshold" if hasattr(neuron, "v_threshold") else "threshold"  # SpikingJelly's
    fires = neuron.spiking if own else bool(torch.as_tensor(getattr(neuron, constant)).isfinite().all())

    def leave(_neuron: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Any) -> None:
        spikes = out[0] if isinstance(out, tuple) else out
        steps = len(spikes) if getattr(neuron, "step_mode", "s") == "m" else None
        with _disable_current_modes():
            potential = (*args, *named.values())[0] if own else _joined(caught, spikes, steps)
        caught.clear()
        # The axis of windows, of a population or of time comes before that of the images. Where time or tokens are
        # folded into it, (T*B, C, …), there may be as many channels as images.
        ahead = steps or (own and (neuron.grouped or spikes.ndim == 5))
        ahead = ahead or (spikes.ndim > 2 and 0 < images() == spikes.shape[1] and len(spikes) % images())
        with torch.no_grad():  # nothing may be saved for a backward pass: a recomputed block is not watched
            threshold = getattr(neuron, constant) if fires else None
        if isinstance(threshold, Tensor) and threshold.ndim == 3 > spikes.ndim:
            threshold = threshold.flatten()  # (C, 1, 1) is for maps, and here is none
        surrogate = neuron.surrogate if own and fires else None
        rise = named.get("rise", 0.0) if own else 0.0
        see(Fired(path, neuron, potential, spikes, threshold, surrogate, steps or 1, int(bool(ahead)), rise))

    with ExitStack() as stack:
        stack.callback(neuron.register_forward_hook(leave, with_kwargs=True).remove)
        if foreign_potentials and not own:
            # Potentials of other packages are caught where they are compared with the threshold: in the surrogate, or
            # in `fire`.
            surrogate = getattr(neuron, "surrogate_function", None)
            counts = _loaded(f"{_SPIKINGJELLY}.surrogate", "MultiLevelSpikeCount")  # several spikes: no one threshold
            # Less an infinite threshold, nothing is left of potentials.
            if isinstance(surrogate, nn.Module) and not isinstance(surrogate, counts) and fires:
                neuron.surrogate_function = _Catching(surrogate, caught, neuron.v_threshold)
                stack.callback(setattr, neuron, "surrogate_function", surrogate)
            for name in ("fire", "fire_inhibition"):
                if hasattr(neuron, name):
                    setattr(neuron, name, _catching(getattr(neuron, name), caught))
                    stack.callback(delattr, neuron, name)
        yield


class _Catching(nn.Module):
    """A surrogate of SpikingJelly that records potentials; its input is the potential less the threshold."""

    def __init__(self, surrogate: nn.Module, caught: list[Tensor], threshold: float) -> None:
        super().__init__()
        self.surrogate, self.caught, self.threshold = surrogate, caught, threshold

    def forward(self, distance: Tensor) -> Any:
        with _disable_current_modes():
            self.caught.append(distance.detach() + self.threshold)
        return self.surrogate.forward(distance)  # not called as a module: its operations are the neuron's

    def __getattr__(self, name: str) -> Any:
        """The surrogate's own attributes, which some neurons ask for."""
        parts = self._modules
        return parts[name] if name in parts else getattr(parts["surrogate"], name)


def _catching(fire: Callable[..., Any], caught: list[Tensor]) -> Callable[..., Any]:
    def caught_fire(*args: Any) -> Any:
        caught.append(args[-1].detach())
        return fire(*args)

    return caught_fire


def _joined(caught: list[Tensor], spikes: Tensor, steps: int | None) -> Tensor | None:
    """Join the potentials of all steps; a neuron with two thresholds compares each potential twice."""
    if not caught or len(caught) % (steps or 1):
        return None
    first = caught[:: len(caught) // (steps or 1)]
    potential = torch.stack(first) if steps else first[0]
    return potential if potential.shape == spikes.shape else None
