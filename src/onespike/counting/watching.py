"""What neurons do in the forward passes that are counted: how often they fire, and what they keep for the next step."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from onespike.counting.arrivals import in_memory_order
from onespike.neurons.base import Neuron
from onespike.neurons.watch import Fired, kept_states, neuron_layers, watch_neurons
from onespike.units import Unit, UnitOutput

#: Potentials sampled in each layer and batch; most that are kept: if more, every second one is dropped.
_SAMPLE, _KEPT = 4096, 2**20
#: The shares of potentials below which the quantiles lie.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Neurons:
    """Activity of a layer of neurons.

    Attributes:
        path: Where the module is.
        firing_rate: Spikes per neuron, window and time step, 0..1; of a ReLU, the share that is not 0.
        threshold: The threshold; the mean, if each channel has its own; None where there is none.
        potentials: Potentials below which 5, 25, 50, 75 and 95% of them lie; empty where none were seen.
    """

    path: str
    firing_rate: float
    threshold: float | None
    potentials: tuple[float, ...]


class Watch:
    """Watches how often neurons fire, at which potentials, and what modules hand on or keep from step to step."""

    def __init__(self) -> None:
        self.neurons: dict[str, NeuronTally] = defaultdict(NeuronTally)
        self.traffic: dict[str, Counter[str]] = defaultdict(Counter)
        self.steps = 1  # time steps that the network takes for an image
        self._last: dict[str, int] = {}  # what each layer kept at the last step of this batch
        self._steps: Counter[str] = Counter()  # of each layer of another package over time, in this batch

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Watch the forward passes of a model inside this context."""
        known = {"", *neuron_layers(model)}  # and the network itself, which gets images
        with ExitStack() as stack:
            stack.enter_context(watch_neurons(model, self._fired))
            for path, module in model.named_modules():
                own = getattr(getattr(module, "config", None), "time_steps", None)
                if isinstance(module, Neuron):
                    neuron: Any = module  # no hook sees a method
                    neuron.over_time = partial(self._neuron_over_time, path, neuron, neuron.over_time)
                    stack.callback(delattr, neuron, "over_time")
                    continue
                if isinstance(module, Unit):
                    hook: Callable[..., None] = partial(self._unit, path)
                elif hasattr(module, "kept_over_time"):
                    hook = partial(self._layer_over_time, path)
                elif isinstance(own, int):
                    hook = self._network
                elif path not in known and getattr(module, "step_mode", "s") == "m":  # SpikingJelly's, over all steps
                    hook = partial(self._multi_step, path)
                else:
                    continue
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
            yield

    def _unit(self, path: str, unit: Unit, args: tuple[Any, ...], kwargs: dict[str, Any], out: UnitOutput) -> None:
        given = dict(zip(("spikes", "potential", "memory"), args, strict=False)) | kwargs
        reads, writes = unit.potential_traffic(given.get("potential"), given.get("memory"), out)
        self.traffic[path] += Counter(reads=int(reads), writes=int(writes))

    def _layer_over_time(self, path: str, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        self._keep(path, *layer.kept_over_time(out, *args, **kwargs))

    def _neuron_over_time(self, path: str, neuron: Neuron, run: Callable[..., Tensor], *args: Any, **kw: Any) -> Tensor:
        spikes = run(*args, **kw)
        self._keep(path, spikes.numel() // len(spikes) * neuron.values_kept, len(spikes))
        return spikes

    def _keep(self, path: str, kept: int, steps: int) -> None:
        """Record how many values a time step keeps for the next, and the number of steps."""
        self.steps = max(self.steps, steps)
        if kept and steps > 1:  # written at all steps but the last, and read again
            self.traffic[path] += Counter(reads=kept * (steps - 1), writes=kept * (steps - 1))

    def _network(self, network: Any, args: tuple[Any, ...], kwargs: dict[str, Any], _out: Any) -> None:
        x, own = next(iter((*args, *kwargs.values())), None), network.config.time_steps
        frames = len(x) if isinstance(x, Tensor) and x.ndim == 5 and hasattr(network, "over_time") else None
        self.steps = max(self.steps, frames or own)  # frames are the steps, whatever its config says

    def _multi_step(self, path: str, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], _out: Any) -> None:
        self._steps[path] += len((*args, *kwargs.values())[0])

    def _fired(self, call: Fired) -> None:
        with _disable_current_modes():
            self.neurons[call.path].see(call.potential, call.spikes, call.threshold)
            kept = kept_states(call.neuron)
        if not isinstance(call.neuron, Neuron):
            self._steps[call.path] += call.steps
        if kept:
            self.traffic[call.path] += Counter(reads=kept * call.steps, writes=kept * call.steps)
            self._last[call.path] = kept

    def end_batch(self, frames: int, calls: int = 0) -> None:
        """Conclude a batch, in which no product with weights was computed more often than `calls`.

        Its time steps are its frames, or how often every layer of another package fired over time. A stem may fire
        once; then the layers behind it tell, unless they alone are called again, and no product is.
        """
        # Nobody reads what the last step wrote, and the first step had nothing to read.
        for path, kept in self._last.items():
            self.traffic[path] -= Counter(reads=kept, writes=kept)
        fired = self._steps.values()
        again = min((steps for steps in fired if 1 < steps <= calls), default=1)
        self.steps = max(self.steps, frames, min(fired, default=1), again)
        self._last.clear()
        self._steps.clear()


class NeuronTally:
    """One layer of neurons while it is being watched, over all batches."""

    def __init__(self) -> None:
        self._fired = self._values = 0
        self._samples: list[Tensor] = []
        self._seen, self._every = 0, 1  # potentials sampled; every how many of these one is kept
        self._threshold: float | None = None
        self._places = torch.Generator().manual_seed(0)

    def see(self, potential: Tensor | None, spikes: Tensor, threshold: float | Tensor | None) -> None:
        """Add a batch."""
        self._fired, self._values = self._fired + int(spikes.count_nonzero()), self._values + spikes.numel()
        self._threshold = threshold.float().mean().item() if isinstance(threshold, Tensor) else threshold
        if potential is None:
            return
        values = in_memory_order(potential)
        if len(values) > _SAMPLE:  # random places: every n-th one would be in the same channels of each map
            places = torch.randint(len(values), (_SAMPLE,), generator=self._places)
            values = values[places.to(values.device)]
        values = values.float().cpu()
        kept = values[-self._seen % self._every :: self._every]
        self._samples.append(kept.clone())  # potentials may be changed in place, and lie in larger memory
        self._seen += len(values)
        if self._seen > _KEPT * self._every:
            self._samples, self._every = [torch.cat(self._samples)[::2]], 2 * self._every

    def conclude(self, path: str) -> Neurons:
        """Summarise."""
        seen = torch.cat(self._samples) if self._samples else torch.empty(0)
        seen = seen[seen.isfinite()]  # potentials may overflow where spikes do not
        quantiles = seen.quantile(torch.tensor(QUANTILES)).tolist() if len(seen) else ()
        return Neurons(path, self._fired / max(self._values, 1), self._threshold, tuple(quantiles))
