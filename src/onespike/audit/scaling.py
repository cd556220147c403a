"""How the cost grows with the size of the image, the width and the depth: an exponent, fitted in log-log."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from onespike.clock import timed, watch_machine
from onespike.counting.operations import count_operations
from onespike.models.onespike import stem_stride

#: The axis that is left out where an exponent cannot be fitted.
SIZE = "image size"


@dataclass(frozen=True)
class Scaling:
    """Cost along one axis.

    Attributes:
        axis: "image size" (pixels a side), "width" or "depth" (factors on channels and on blocks).
        values: Where on the axis.
        macs: Dense multiply-accumulates there, for one image.
        seconds: Median time of one image there; empty if it was not measured.
        busy: Why the times cannot be trusted: what else the machine did; None if they can.
    """

    axis: str
    values: tuple[float, ...]
    macs: tuple[float, ...]
    seconds: tuple[float, ...]
    busy: str | None = None

    @property
    def exponent(self) -> float:
        """k, where multiply-accumulates grow as value^k."""
        return fitted_exponent(self.values, self.macs)

    @property
    def seconds_exponent(self) -> float | None:
        """The same for the time; None if it was not measured."""
        return fitted_exponent(self.values, self.seconds) if self.seconds else None

    def to_json(self) -> dict[str, Any]:
        """All values."""
        return asdict(self) | {"exponent": self.exponent, "seconds_exponent": self.seconds_exponent}


def fitted_exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """Fit cost = a * value^k by least squares of the logarithms; returns k."""
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


def scaling(
    config: Any, in_channels: int, image_size: int, time_it: bool = False, device: torch.device | str = "cpu"
) -> tuple[Scaling, ...]:
    """Build a network in other image sizes (pixels a side), widths and depths; count one image, and time it if asked.

    The config is that of an architecture with `channels` and `depths` of its stages. With many stages fewer than two
    image sizes may suit the stem; that axis, which then has no exponent, is left out.
    """
    stride = stem_stride(image_size)
    unit = stride * 2 ** (len(config.depths) - 1)
    sizes = [unit * k for k in (1, 2, 3, 4, 6, 8) if stem_stride(unit * k) == stride]
    widths, depths = (0.5, 1.0, 1.5, 2.0), (1, 2, 3)
    wide = [replace(config, channels=tuple(max(1, round(c * factor)) for c in config.channels)) for factor in widths]
    deep = [replace(config, depths=tuple(depth * factor for depth in config.depths)) for factor in depths]

    def along(axis: str, values: Sequence[float], networks: Iterable[tuple[Any, int]]) -> Scaling:
        built = [(one.build(10, in_channels, size).eval().to(device), size) for one, size in networks]
        calls = [(network, torch.rand(1, in_channels, size, size, device=device)) for network, size in built]
        macs = tuple(count_operations(network, [image]).macs for network, image in calls)
        if not time_it:
            return Scaling(axis, tuple(values), macs, ())
        with watch_machine(device) as machine, torch.no_grad():
            each = [timed(partial(network, image), rounds=5, seconds=0.1) for network, image in calls]
        return Scaling(axis, tuple(values), macs, tuple(map(statistics.median, each)), machine.busy)

    of_size = (along(SIZE, sizes, ((config, size) for size in sizes)),) if len(sizes) > 1 else ()
    of_width = along("width", widths, ((one, image_size) for one in wide))
    return *of_size, of_width, along("depth", depths, ((one, image_size) for one in deep))
