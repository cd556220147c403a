"""What a converted network computes over time where a layer is not linear.

Time lies in the batch: a tensor (T*B, …) holds T time steps of B images, step after step.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class OverMeans(nn.Module):
    """Apply a nonlinear function to spike trains, so that the mean over time is right.

        out(t) = F(t) - F(t-1)          F(t) = t f(m(t)), m(t) the mean of the inputs up to step t

    The mean of the outputs is then f of the mean of the inputs. If f is homogeneous of degree d, F(t) is computed from
    sums, as t^(1-d) f(t m(t)): a product of two spike trains then multiplies spike counts. At one time step it is f.

    Args:
        function: f, of one or more tensors (T*B, …), to a tensor or several; or None for some.
        varying: Positions and names of the arguments that vary over time; the others are passed on.
        time_steps: T.
        degree: d; None for any other f.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        varying: tuple[int | str, ...],
        time_steps: int,
        degree: int | None = None,
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

    def _so_far(self, x: Tensor) -> Tensor:
        sums = x.unflatten(0, (self.time_steps, -1)).cumsum(0)
        return (sums if self.degree is not None else sums / self._counts(sums)).flatten(0, 1)

    def _steps(self, out: Tensor | None) -> Tensor | None:
        if out is None:
            return None
        out = out.unflatten(0, (self.time_steps, -1))
        total = out * self._counts(out) ** (1 - (self.degree or 0))
        return total.diff(dim=0, prepend=torch.zeros_like(total[:1])).flatten(0, 1)

    def _counts(self, x: Tensor) -> Tensor:
        return torch.arange(1, self.time_steps + 1, device=x.device, dtype=x.dtype).view(-1, *[1] * (x.ndim - 1))


class PoolSpikes(nn.Module):
    """Max pooling of spikes: a spike passes whenever the highest spike count in the window grows.

        out(t) = f(S(t))  where f(n(t)) > f(n(t-1)), else 0          n(t): spikes of each neuron up to step t

    The output rate is exactly the largest rate in the window. At one time step it is f.

    Args:
        function: f, max pooling of (T*B, …), over neurons of one threshold.
        time_steps: T.
    """

    def __init__(self, function: Callable[..., Tensor], time_steps: int) -> None:
        super().__init__()
        self.function, self.time_steps = function, time_steps

    def forward(self, spikes: Tensor, *inputs: Any, **options: Any) -> Tensor:
        """Pool (T*B, …), whose values are 0 or the threshold; at one time step any."""
        pooled = self.function(spikes, *inputs, **options)
        if self.time_steps == 1:
            return pooled
        counts = (spikes != 0).to(spikes).unflatten(0, (self.time_steps, -1)).cumsum(0).flatten(0, 1)
        highest = self.function(counts, *inputs, **options).unflatten(0, (self.time_steps, -1))
        grows = highest.diff(dim=0, prepend=torch.zeros_like(highest[:1])) > 0
        return pooled * grows.flatten(0, 1)
