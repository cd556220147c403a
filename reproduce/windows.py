"""A fair trial of the paper's ideas: windows, potentials handed on, fusion, in a strictly spiking network."""

from typing import Any

from reproduce.outcome_figure import draw_rows
from reproduce.plan import FULL_SIZE, FastSweep, Setting

#: The same network throughout: three convolutions a stage, one neuron a channel, maps whose sides can be cut.
NETWORK: dict[str, Any] = FULL_SIZE | {
    "model.name": "spiking-vgg-m",
    "model.depth": 3,
    "model.stem": "none",
    "model.population": 1,
    "model.windows": "none",
    "model.fusion": "sincos",
}

WINDOWS = FastSweep(
    name="windows",
    title="The paper's windows in a strictly spiking network",
    about="The recipe cifar10/fast as it was at first, on images of full size, with three convolutions a stage, of "
    "which two follow each other at one width: they see the map as a whole, or cut into windows, from one to "
    "the next of which potentials are handed on, or are not.",
    settings=[
        Setting("whole map", "no windows", NETWORK),
        *(
            Setting(f"{kind} windows", name, NETWORK | {"model.windows": kind, **changes})
            for kind in ("average", "dilated", "alternating")
            for name, changes in (
                ("nothing handed on", {"model.fusion": "none"}),
                ("handed on, sincos", {}),
                ("handed on, sum", {"model.fusion": "sum"}),
            )
        ),
        Setting(
            "alternating windows",
            "handed on, theta 0.1",
            NETWORK | {"model.windows": "alternating", "model.theta": 0.1},
        ),
        Setting(
            "alternating windows",
            "handed on, fractions kept",
            NETWORK | {"model.windows": "alternating", "model.region_threshold": None, "model.strict": False},
        ),
    ],
    reference="baseline",
    draw=draw_rows,
    epochs=1,
)
