"""The network that is exported: its outputs are logits and, for the proof, the spikes of every layer."""

import inspect
import io
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from onespike.data.augment import scale_and_shift
from onespike.errors import OnespikeError, listed, reason, warn
from onespike.exporting.contract import Contract
from onespike.functional import to_integers
from onespike.models.strict_layers import adding_up
from onespike.neurons.watch import ask, forget_state, neuron_layers, reset_state
from onespike.training.callbacks import to_round
from onespike.training.losses import over_time

#: Images that the network is traced with: two, since a batch of one is special to torch.export.
TRACED = 2
#: Numbers of images that a graph is tried on which PyTorch could not prove to take any.
TRIED = (1, 3, 100)
_LATER = "prefer_deferred_runtime_asserts_over_guards"  # an option of PyTorch's newer versions


class Exported(nn.Module):
    """A network in evaluation mode: images to logits (B, K), and to the spikes of its layers, call by call.

    With `contract.pixels` it reads uint8 (B, C, H, W). After the spikes come the inputs of the layers at the paths of
    `arrivals`, call by call. Its graph by torch.export, `program`, is made when it is first needed.
    """

    def __init__(self, network: nn.Module, contract: Contract, arrivals: Sequence[str] = ()) -> None:
        super().__init__()
        self.network, self.contract, self.arrivals = network, contract, tuple(arrivals)
        like = next(network.parameters(), torch.empty(()))
        normalising = scale_and_shift(contract.mean, contract.std)
        self.scale, self.shift = (nn.Buffer(one.view(-1, 1, 1).to(like)) for one in normalising)
        self._programs: dict[tuple[bool, bool], torch.export.ExportedProgram] = {}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return logits, averaged over time, then spikes, then inputs of layers."""
        if self.contract.pixels:
            images = images.to(self.scale.dtype) * self.scale + self.shift
        reset_state(self.network)
        spikes, arriving = list[Tensor](), list[Tensor]()

        def see(_layer: nn.Module, _args: object, out: Tensor | tuple[Tensor, ...]) -> None:
            spikes.append(out[0] if isinstance(out, tuple) else out)

        def meet(_layer: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            arriving.append((*args, *named.values())[0])

        handles = [layer.register_forward_hook(see) for layer in neuron_layers(self.network).values()]
        arrivals = [self.network.get_submodule(path) for path in self.arrivals]
        handles += [layer.register_forward_pre_hook(meet, with_kwargs=True) for layer in arrivals]
        try:
            logits = self.network(images)
        finally:
            for handle in handles:
                handle.remove()
        return (over_time(logits), *spikes, *arriving)

    def reads(self, images: Tensor) -> Tensor:
        """The graph's input, from raw images (B, H, W, C) or from normalised floats."""
        if self.contract.pixels:
            return images.movedim(-1, 1).contiguous()
        return self.contract.normalise(images)

    def program(self, dynamic: bool = True, adds: bool = False) -> torch.export.ExportedProgram:
        """The graph, for any batch or for one image; it `adds` up the spikes of tied neurons, or not.

        Raises:
            OnespikeError: It cannot be traced, or it draws random numbers.
        """
        if (dynamic, adds) not in self._programs:
            with adding_up(self) if adds else nullcontext():
                self._programs[dynamic, adds] = self._trace(dynamic)
        return self._programs[dynamic, adds]

    def _trace(self, dynamic: bool) -> torch.export.ExportedProgram:
        like = self.scale
        images = torch.zeros(TRACED if dynamic else 1, *self.contract.shape, dtype=like.dtype)
        images = images.to(torch.uint8) if self.contract.pixels else images
        self._expect_no_draws(images)
        forget_state(self.network)
        # Up to 2.8 PyTorch refuses some networks whose batch has no upper bound.
        shapes = ({0: torch.export.Dim("batch", max=2**31)},) if dynamic else None
        export: Any = partial(torch.export.export, self, (images,), dynamic_shapes=shapes, strict=False)
        try:
            with torch.no_grad(), warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # a failure prints a graph
                warnings.simplefilter("ignore")  # PyTorch's, about itself and about its recurrent layers
                try:
                    program = export()
                except Exception:
                    if not dynamic or _LATER not in inspect.signature(torch.export.export).parameters:
                        raise
                    # PyTorch cannot prove that B * min(36, 36 * B) is 36 * B: the graph then looks whether it is.
                    program = export(**{_LATER: True})
                    for batch in TRIED:
                        program.module()(images[:1].expand(batch, *images.shape[1:]))
        except Exception as error:  # whatever a network's own code does when it meets a placeholder
            line = reason(error, first=True)[:300]
            fixed = " for any number of images (len(x) is one number in a graph, x.shape[0] is any)"
            state = f"cannot be traced by torch.export{fixed if 'Constraints violated' in line else ''}"
            raise OnespikeError(f"{self.contract.model} {state}: {line}") from error
        for part in program.graph_module.modules():
            for node in part.graph.nodes if isinstance(part, fx.GraphModule) else ():
                node.meta.pop("stack_trace", None)  # paths and source lines of this machine are nobody else's business
        return program

    def _expect_no_draws(self, images: Tensor) -> None:
        before = torch.get_rng_state()
        ask(self, images)
        if not torch.equal(before, torch.get_rng_state()):
            torch.set_rng_state(before)
            draws = f"{self.contract.model} draws random numbers, and no target can draw the same"
            advice = "ours draw none with --model.preset modern, or --model.encoding threshold"
            raise OnespikeError(f"{draws}: make it draw nothing in evaluation mode; {advice}")


def rounded(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Round the weights of convolutions and linear layers to 8 bits, as `train.int8_weights` does, in float64."""
    network = network.double()
    with torch.no_grad():
        for layer in to_round(network).values():
            integers, scale = to_integers(layer.weight)
            layer.weight.copy_(integers * scale)
    if dtype == torch.float64:
        forward = network.forward

        def in_doubles(*args: Any, **kwargs: Any) -> Any:
            with _Doubles():
                return forward(*args, **kwargs)

        network.forward = in_doubles
    return network.to(dtype)


def expect_to_round(network: nn.Module, where: str = "") -> None:
    """Raise an `OnespikeError` if no weight would be rounded to 8 bits; warn of other layers' and a user's own."""
    rounds = {id(layer.weight) for layer in to_round(network).values()}
    which = "only weights of nn.Conv1d to 3d and nn.Linear are"
    if not rounds:
        raise OnespikeError(f"weights: int8 would be ignored: {which} rounded, and the network has none")
    named = (*network.named_parameters(), *network.named_buffers())
    others = [(path, one) for path, one in named if id(one) not in rounds and one.is_floating_point()]
    if exact := [path for path, one in others if one.numel() > max(one.shape, default=1)]:
        warn(f"{where}not rounded to 8 bits: {listed(exact)}; {which}")


class _Doubles(TorchFunctionMode):
    """Makes float64 of what a network's own code makes float32 whatever it is in, such as spikes by `.float()`."""

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        return made.double() if isinstance(made, Tensor) and made.dtype == torch.float32 else made
