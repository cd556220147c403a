"""Accuracy, latency and energy against time steps: does time buy what the same compute does not buy at one step?"""

from typing import Any

from reproduce.costs import draw_costs
from reproduce.plan import FULL_SIZE, PLAIN, FastSweep, Setting, Sweep

STEPS = (1, 2, 4, 8)
#: The network of the windows' ablation, in which only they differ; see `reproduce.windows`.
WINDOWS: dict[str, Any] = {"model.depth": 3, "model.stem": "none", "model.population": 1}
#: The network that sees CIFAR-10 several times.
SMALL: dict[str, Any] = FULL_SIZE | PLAIN | {"model.name": "spiking-resnet-s"}
ALTERNATING = WINDOWS | {"model.windows": "alternating"}
ONE_FRAME: dict[str, Any] = {"data.frames": 1}


def _shown(steps: int) -> dict[str, Any]:
    """Images are shown several times, for as many epochs as give the cost of 8 at one step."""
    epochs = 8 // steps
    return SMALL | {"model.time_steps": steps, "train.epochs": epochs, "train.warmup_epochs": epochs / 10}


EVENTS = Sweep(
    name="events",
    title="Events: accuracy against time steps",
    about="Events made of scikit-learn's digits by a simulator of saccades, the same network throughout: all events of "
    "a recording in one frame, or in T frames. Longer trainings at one step spend what several steps cost. The rows of "
    "windows are the paper's ideas on one frame of events, in a network that differs by them alone.",
    settings=[
        *(Setting("frames, same epochs", f"T = {steps}", {"data.frames": steps}) for steps in STEPS),
        *(Setting("one frame, cost of T", f"of T = {n}", ONE_FRAME | {"train.epochs": 20 * n}) for n in STEPS[1:]),
        Setting("several frames", "T = 4, TET", {"data.frames": 4, "train.loss": "tet"}),
        Setting("several frames", "T = 4, learned decay", {"data.frames": 4, "model.neuron.learnable_decay": "layer"}),
        Setting("windows, one frame", "whole map", ONE_FRAME | WINDOWS),
        Setting("windows, one frame", "windows, nothing handed on", ONE_FRAME | ALTERNATING | {"model.fusion": "none"}),
        Setting("windows, one frame", "windows, potentials handed on", ONE_FRAME | ALTERNATING),
        Setting("windows, one frame", "conv-tiny, the paper's blocks", ONE_FRAME | {"model.name": "conv-tiny"}),
    ],
    reference="best",
    draw=draw_costs,
    recipe="events/digits",
    epochs=20,
    limit=0,
    audited=True,
)


TIME = FastSweep(
    name="time",
    title="CIFAR-10 shown T times",
    about="The recipe cifar10/fast as it was at first, on images of full size, with a small network, the image shown "
    "T times, for 8/T epochs: the first five trainings see as many time steps; the last sees a quarter of them, for "
    "as many epochs as T = 4. The stem reads an image once, whatever T, but at each step where TET trains.",
    settings=[
        *(Setting("the same cost", f"T = {n}", _shown(n)) for n in STEPS),
        Setting("the same cost", "T = 4, TET", _shown(4) | {"train.loss": "tet"}),
        Setting("the same epochs", "T = 1, 2 epochs", _shown(4) | {"model.time_steps": 1}),
    ],
    reference="best",
    draw=draw_costs,
    epochs=8,
    audited=True,
)
