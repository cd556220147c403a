"""Nonlinear functions of spike trains, (T*B, …): what stands beside the neurons of a converted network."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onespike.errors import OnespikeError


class OverMeans(nn.Module):
    """Apply a nonlinear function to spike trains, so that the mean over time is right.

        out(t) = F(t) - F(t-1)          F(t) = t f(m(t)), m(t) the mean of the inputs up to step t

    The mean of the outputs is then f of the mean of the inputs. If f is homogeneous of degree d, F(t) is computed from
    sums, as t^(1-d) f(t m(t)): a product of two spike trains then multiplies spike counts. At one time step it is f.
    `varying` are the positions and names of the arguments that vary over time; the others are passed on.
    """

    def __init__(
        self, function: Callable[..., Any], varying: tuple[int | str, ...], time_steps: int, degree: int | None = None
    ) -> None:
        super().__init__()
        self.function, self.varying, self.time_steps, self.degree = function, varying, time_steps, degree

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Apply the function to the running means (or sums) of the inputs."""
        if self.time_steps == 1:
            return self.function(*inputs, **options)
        out = self.function(
            *(self._so_far(x) if place in self.varying else x for place, x in enumerate(inputs)),
            **{name: self._so_far(x) if name in self.varying else x for name, x in options.items()},
        )
        return tuple(map(self._steps, out)) if isinstance(out, tuple) else self._steps(out)

    def kept_over_time(self, out: Any, *inputs: Any, **options: Any) -> tuple[int, int]:
        """How many values a time step keeps for the next, sums and F(t), and the number of steps."""
        given = [x for place, x in (*enumerate(inputs), *options.items()) if place in self.varying]
        found = [one for one in (*given, *(out if isinstance(out, tuple) else [out])) if isinstance(one, Tensor)]
        return sum(one.numel() for one in found) // self.time_steps, self.time_steps

    def _so_far(self, x: Tensor) -> Tensor:
        looks_up = isinstance(self.function, nn.Embedding | nn.EmbeddingBag) or self.function is F.embedding
        sums = (self._split(x, "reads") if looks_up else x.unflatten(0, (self.time_steps, -1))).cumsum(0)
        return (sums if self.degree is not None else sums / self._counts(sums)).flatten(0, 1)

    def _steps(self, out: Tensor | None) -> Tensor | None:
        if out is None:
            return None
        out = self._split(out, "gives")
        return _changes(out * self._counts(out) ** (1 - (self.degree or 0))).flatten(0, 1)

    def _split(self, x: Tensor, verb: str) -> Tensor:
        """View (T*B, …) as (T, B, …); `OnespikeError` for what has no mean, which the function "reads" or "gives"."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            name = getattr(self.function, "__name__", type(self.function).__name__)
            found = x.dtype if isinstance(x, Tensor) else "tensors within tuples"
            raise OnespikeError(f"cannot run over several time steps: {name} {verb} {found}; expected one time step")
        return x.unflatten(0, (self.time_steps, -1))

    def _counts(self, x: Tensor) -> Tensor:
        return torch.arange(1, self.time_steps + 1, device=x.device, dtype=x.dtype).view(-1, *[1] * (x.ndim - 1))


class PoolSpikes(nn.Module):
    """Max pooling of spikes: a spike passes whenever the highest spike count in the window grows.

        out(t) = f(S(t))  where f(n(t)) > f(n(t-1)), else 0          n(t): spikes of each neuron up to step t

    Here f is max pooling over neurons of one threshold. The output rate is exactly the largest rate in the window.
    """

    def __init__(self, function: Callable[..., Tensor], time_steps: int) -> None:
        super().__init__()
        self.function, self.time_steps = function, time_steps

    def forward(self, input: Tensor, *inputs: Any, **options: Any) -> Tensor:  # noqa: A002 - as torch's pooling calls it
        """Pool (T*B, …), whose values are 0 or the threshold; at one time step f alone."""
        pooled = self.function(input, *inputs, **options)
        if self.time_steps == 1:
            return pooled
        counts = (input != 0).to(input).unflatten(0, (self.time_steps, -1)).cumsum(0).flatten(0, 1)
        highest = self.function(counts, *inputs, **options).unflatten(0, (self.time_steps, -1))
        return pooled * (_changes(highest) > 0).flatten(0, 1)

    def kept_over_time(self, out: Tensor, input: Tensor, *inputs: Any, **options: Any) -> tuple[int, int]:  # noqa: A002, ARG002
        """How many values a time step keeps for the next, counts and the highest, and the number of steps."""
        return (input.numel() + out.numel()) // self.time_steps, self.time_steps


def _changes(x: Tensor) -> Tensor:
    """Differences from step to step, (T, …), of which the first is from 0."""
    return x.diff(dim=0, prepend=torch.zeros_like(x[:1]))
