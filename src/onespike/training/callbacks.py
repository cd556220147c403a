"""Callbacks: everything else that happens during training, behind one small interface.

The trainer calls all callbacks at the same places, in the order of its list. Their state goes into the checkpoint, so
that an interrupted run resumes to the bit.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from onespike.errors import OnespikeError
from onespike.functional import to_integers
from onespike.training.monitor import SpikeMonitor

if TYPE_CHECKING:
    from onespike.training.trainer import Trainer

#: Layers whose weights `train.int8_weights` rounds: those whose output channels lie along the weights' first axis.
Rounded = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


class Step(NamedTuple):
    """One step of the optimiser, over the images of all processes.

    Attributes:
        number: How many steps were before it, over all epochs.
        loss: Mean loss.
        images: Images in the batch.
        lr: Learning rate.
    """

    number: int
    loss: float
    images: int
    lr: float


class Callback:
    """Base class of callbacks; every method does nothing unless a subclass overrides it."""

    def start(self, trainer: "Trainer") -> None:
        """Called before the first step of a run, and each time it is resumed; `trainer.run` is its folder."""

    def before_step(self, trainer: "Trainer", number: int) -> None:
        """Called before step `number`, counted over all epochs; a learning rate set here holds for this step."""

    def weights(self) -> AbstractContextManager[None]:
        """Context in which the network has the weights to compute with; entered to compute and to save.

        Not together with `train.ema`.
        """
        return nullcontext()

    def forward(self) -> AbstractContextManager[None]:
        """Context around the forward passes of training."""
        return nullcontext()

    def penalty(self, trainer: "Trainer", images: int) -> Tensor | float:  # noqa: ARG002
        """Return what is added to the loss of the last forward pass, which was over `images` images: a tensor, or 0."""
        return 0.0

    def after_step(self, trainer: "Trainer", step: Step) -> None:
        """Called after a step. Setting `trainer.stop` stops training here, with a checkpoint.

        In one of several processes it stops all of them, after the next step.
        """

    def measure(self, trainer: "Trainer", row: dict[str, Any]) -> None:
        """Called at the end of an epoch, to add columns to `row`, its line of `metrics.csv`.

        Each is a finite number, True, False or None. The columns that are there stay numbers, and `epoch` as it is.
        """

    def after_epoch(self, trainer: "Trainer", row: dict[str, Any]) -> None:
        """Called after an epoch, which `trainer.progress` counts as complete by now.

        Setting `trainer.enough` ends the training here, with the test.
        """

    def finish(self, trainer: "Trainer", summary: dict[str, Any]) -> None:
        """Called after the test at the end."""

    def close(self) -> None:
        """Called when training ends, whatever ended it."""

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs: tensors, numbers, text, and lists and dictionaries of these."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned, tuples as lists; if this raises, as by an `assert`, the run is not resumed."""


class LossState(Callback):
    """Keeps in checkpoints what a user's loss keeps from batch to batch in its buffers, such as running means."""

    def __init__(self, loss: nn.Module) -> None:
        self.loss = loss
        self._first = {name: one.clone() for name, one in self._buffers()}

    def state(self) -> dict[str, Any]:
        """The buffers, by name, that are not as they were in the beginning: a user may change the others."""
        first = self._first
        return {k: one for k, one in self._buffers() if k not in first or not torch.equal(one, first[k])}

    def takes(self, state: dict[str, Any]) -> bool:
        """Whether the loss has such buffers."""
        parts = self.loss.named_modules()
        return {f"{path}.{name}".lstrip(".") for path, one in parts for name in one._buffers}.issuperset(state)

    def load_state(self, state: dict[str, Any]) -> None:
        """Put them back."""
        for name, one in state.items():
            path, _, own = name.rpartition(".")
            module = self.loss.get_submodule(path)
            before = module._buffers[own]
            module._buffers[own] = one if before is None else one.to(before)

    def _buffers(self) -> list[tuple[str, Tensor]]:
        saved = self.loss.state_dict()
        return [(name, one) for name, one in self.loss.named_buffers() if name in saved]


class MovingAverage(Callback):
    """An exponential moving average of the weights, evaluated and saved as the model; decay 0..1, warms up as timm's.

    At step n, counted from 0, the decay is 1 - (1 + n)^(-2/3), at most the one asked for.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.begin()

    def begin(self) -> None:
        """Begin with the weights that the network has now."""
        self._averages = {name: one.clone() for name, one in self.network.state_dict().items()}

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """The averages, each with the network's own tensor; of weights that layers share there is one."""
        own = self.network.state_dict(keep_vars=True).items()
        return list({id(one): (self._averages[name], one) for name, one in own}.values())

    def used(self) -> AbstractContextManager[None]:
        """Context in which the network has the averages: a copy of it might compute with the original's weights."""
        return swapped(self._pairs())

    def after_step(self, trainer: "Trainer", step: Step) -> None:  # noqa: ARG002
        """Update the average; whole numbers, such as those of batch norm, are copied."""
        pairs = [(average, own.data) for average, own in self._pairs()]
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        average = get_ema_multi_avg_fn(min(self.decay, 1 - (1 + step.number) ** (-2 / 3)))
        average([one for one, _ in floats], [other for _, other in floats], 0)
        for one, other in pairs:
            if not one.is_floating_point():
                one.copy_(other)


@contextmanager
def swapped(pairs: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Context in which the tensors of each pair hold each other's values."""
    for one, other in pairs:
        one.data, other.data = other.data, one.data
    try:
        yield
    finally:
        for one, other in reversed(pairs):  # a weight that two layers share is in two pairs
            one.data, other.data = other.data, one.data


def to_round(network: nn.Module) -> dict[str, Rounded]:
    """The layers, by path, whose weights are rounded to 8 bits; an `OnespikeError` if they are computed from others."""
    layers = {path: one for path, one in network.named_modules() if isinstance(one, Rounded)}
    for path, layer in layers.items():
        if "weight" not in layer._parameters:  # what is written into it would be forgotten
            expected = "expected plain weights, to round to 8 bits: remove its parametrisation"
            raise OnespikeError(f"{path}.weight is computed from other tensors; {expected}")
    return layers


class Int8Weights(Callback):
    """Quantization-aware training (Jacob et al. 2018): the network computes with weights of 8 bits.

    The optimiser updates exact weights. A rounded weight changes once the exact one has moved to the next whole number;
    the gradient of rounding is 1. An engine with integer weights then computes what was trained. Recurrent cells keep
    exact weights, as they do in the engine; so do transposed convolutions.
    """

    def __init__(self, network: nn.Module) -> None:
        try:
            layers = to_round(network)
        except OnespikeError as error:
            raise OnespikeError(f"train.int8_weights: {error}") from error
        self._weights = [layer.weight for layer in layers.values()]

    def weights(self) -> AbstractContextManager[None]:
        """Round the weights; put the exact ones back at the end."""
        pairs = list[tuple[Tensor, Tensor]]()
        for weight in self._weights:
            with suppress(ValueError):  # not finite: the loss becomes NaN, which is reported
                integers, scale = to_integers(weight.data)
                pairs.append((integers.mul_(scale), weight))
        return swapped(pairs)


class Monitor(Callback):
    """Watches the spikes in one of `every` steps, for the columns `…_firing_rate`, `…_dead`, … of `metrics.csv`."""

    COLUMNS = ("firing_rate", "dead", "always_firing", "in_support")

    def __init__(self, network: nn.Module, every: int) -> None:
        self._monitor, self._every, self._epoch = SpikeMonitor(network), every, -1
        # Whether this step is watched; each group's activity in this epoch so far, by its label.
        self.due, self.groups = False, self._monitor.summary()

    def before_step(self, trainer: "Trainer", number: int) -> None:
        """Watch this step if it is due; the first one of an epoch always is."""
        self.due = trainer.progress.epoch != self._epoch or number % self._every == 0
        self._epoch = trainer.progress.epoch

    def forward(self) -> AbstractContextManager[None]:
        """Count spikes if this step is due."""
        return self._monitor.watch() if self.due else nullcontext()

    def after_step(self, trainer: "Trainer", step: Step) -> None:  # noqa: ARG002
        """Summarise the activity."""
        if self.due:
            self.groups = self._monitor.summary()

    def measure(self, trainer: "Trainer", row: dict[str, Any]) -> None:
        """Add the columns; they are empty if no step of the epoch was watched."""
        self.groups = self._monitor.summary() if trainer.progress.epoch == self._epoch else {}
        self._monitor.clear()  # the epoch is over: its counts do not belong in a checkpoint
        for label in self._monitor.labels:
            row |= {f"{label}_{key}": getattr(self.groups.get(label), key, None) for key in self.COLUMNS}

    def state(self) -> dict[str, Any]:
        """The counts of this epoch, so that a resumed run writes the same row."""
        return {"epoch": self._epoch, "layers": self._monitor.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self._epoch = int(state["epoch"])
        self._monitor.load_state(state["layers"])


class Pruning(Callback):
    """Reports each epoch to an Optuna trial, and raises `optuna.TrialPruned` if Optuna gives the trial up.

    It raises before the next step: after the last epoch there is none, and the trial is trained to its end.

    Args:
        trial: The `optuna.Trial`.
        metric: A column of `metrics.csv`.
    """

    def __init__(self, trial: Any, metric: str = "valid_top1") -> None:
        self.trial, self.metric, self._given_up = trial, metric, ""

    def start(self, trainer: "Trainer") -> None:
        """Report the earlier epochs of a run that another trial began."""
        if self.metric.startswith("valid_") and not len(trainer.data.validation):
            state = f"there is no {self.metric} without held-out images"
            raise OnespikeError(f"pruning: {state}: pass --data.holdout 0.1, or another metric")
        for row in trainer.progress.history:
            self._report(row)

    def _report(self, row: dict[str, Any]) -> float:
        value = row.get(self.metric)
        if value is None:
            known = ", ".join(name for name, one in row.items() if one is not None)
            raise OnespikeError(f"pruning: there is no {self.metric} in metrics.csv; expected one of {known}")
        self.trial.report(value, row["epoch"])
        return float(value)

    def after_epoch(self, trainer: "Trainer", row: dict[str, Any]) -> None:  # noqa: ARG002
        """Report the epoch."""
        value = self._report(row)
        if self.trial.should_prune():
            self._given_up = f"{self.metric} {value:.2f} after epoch {row['epoch']}"

    def before_step(self, trainer: "Trainer", number: int) -> None:  # noqa: ARG002
        """Raise if the trial was given up after the epoch before, of which there is a checkpoint by now."""
        if self._given_up:
            from optuna import TrialPruned

            raise TrialPruned(self._given_up)
