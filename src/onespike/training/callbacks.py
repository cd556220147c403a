"""Callbacks: what else happens while a network trains, behind one small interface.

The trainer calls every callback at the same places, in the order of its list; what one of them keeps from step to step
goes into the checkpoint, so that an interrupted run resumes to the bit.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timm.utils import ModelEmaV3
from torch import Tensor, nn

from onespike.errors import OnespikeError
from onespike.functional import to_integers
from onespike.training.cost import ASCENT, CostMeter, expect_within_reach
from onespike.training.monitor import SpikeMonitor

if TYPE_CHECKING:
    from onespike.training.trainer import Trainer


@dataclass(frozen=True)
class Step:
    """One step of the optimiser, over the images of all processes.

    Attributes:
        number: Steps that were done before it, over all epochs.
        loss: Mean loss.
        images: Images in the batch.
        lr: Learning rate.
    """

    number: int
    loss: float
    images: int
    lr: float


class Callback:
    """Something that happens while a network trains. Every method does nothing unless a subclass says otherwise."""

    def start(self, trainer: "Trainer") -> None:
        """Before the first step of a run, and of each of its sittings; `trainer.run` is its folder."""

    def before_step(self, trainer: "Trainer", number: int) -> None:
        """Before step `number`, counted over all epochs."""

    def weights(self) -> AbstractContextManager[None]:
        """While this is open, the network has the weights to compute with; open wherever it computes or is saved."""
        return nullcontext()

    def forward(self) -> AbstractContextManager[None]:
        """Open around the forward passes of training."""
        return nullcontext()

    def penalty(self, trainer: "Trainer", images: int) -> Tensor | None:  # noqa: ARG002
        """What is added to the loss of the forward pass before, of so many images; None for nothing."""
        return None

    def after_step(self, trainer: "Trainer", step: Step) -> None:
        """After a step."""

    def measure(self, trainer: "Trainer", row: dict[str, Any]) -> None:
        """At the end of an epoch: add columns to `row`, its line of `metrics.csv`."""

    def after_epoch(self, trainer: "Trainer", row: dict[str, Any]) -> None:
        """After an epoch, which `trainer.progress` counts as complete."""

    def finish(self, trainer: "Trainer", summary: dict[str, Any]) -> None:
        """After the test at the end."""

    def close(self) -> None:
        """At the end of a sitting, whatever ended it."""

    def state(self) -> dict[str, Any]:
        """What a resumed run needs: tensors, numbers, text, and lists and dictionaries of these."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""


class MovingAverage(Callback):
    """An exponential moving average of the weights, which is what is evaluated and saved as the model (timm's).

    Args:
        network: The network; the average begins with its weights.
        decay: Of the average, 0..1; it warms up.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.ema = ModelEmaV3(network, decay=decay, use_warmup=True)

    def after_step(self, trainer: "Trainer", step: Step) -> None:
        """Move the average."""
        self.ema.update(trainer.network, step=step.number + 1)


class Int8Weights(Callback):
    """Quantization-aware training (Jacob et al. 2018): the network computes with weights of 8 bits.

    The optimiser moves exact ones, which are too fine to be seen until they have moved to the next whole number; the
    gradient of rounding is 1. An engine with integer weights then computes what was trained.

    Args:
        network: The network. Recurrent cells keep exact weights, as they do in the engine.
    """

    def __init__(self, network: nn.Module) -> None:
        self._weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        self._exact: list[Tensor] = []

    def weights(self) -> AbstractContextManager[None]:
        """Round the weights; put the exact ones back at the end."""
        return self

    def __enter__(self) -> None:
        self._exact = [weight.data for weight in self._weights]
        for weight in self._weights:
            integers, scale = to_integers(weight.data)
            weight.data = integers.mul_(scale)

    def __exit__(self, *_: object) -> None:
        for weight, exact in zip(self._weights, self._exact, strict=True):
            weight.data = exact


class Monitor(Callback):
    """Looks at the spikes every so many steps, for the columns `…_firing_rate`, `…_dead`, … of `metrics.csv`.

    Attributes:
        monitor: What counts.
        due: Whether this step is looked at.
        groups: What the neurons of each group did so far in this epoch.
    """

    COLUMNS = ("firing_rate", "dead", "always_firing", "in_support")

    def __init__(self, network: nn.Module, every: int) -> None:
        self.monitor, self.every = SpikeMonitor(network), every
        self.due, self.groups, self._epoch = False, self.monitor.summary(), -1

    def before_step(self, trainer: "Trainer", number: int) -> None:
        """Look at this step if it is its turn, and at the first of an epoch or of a sitting."""
        first = trainer.progress.epoch != self._epoch
        if first:
            self.monitor.clear()
            self._epoch = trainer.progress.epoch
        self.due = first or number % self.every == 0

    def forward(self) -> AbstractContextManager[None]:
        """Count spikes if it is this step's turn."""
        return self.monitor.watch() if self.due else nullcontext()

    def after_step(self, trainer: "Trainer", step: Step) -> None:  # noqa: ARG002
        """Sum up."""
        if self.due:
            self.groups = self.monitor.summary()

    def measure(self, trainer: "Trainer", row: dict[str, Any]) -> None:
        """Add the columns; empty ones where nothing of the epoch was left to look at."""
        seen = trainer.progress.epoch == self._epoch
        self.groups = self.monitor.summary() if seen else []
        for number, label in enumerate(self.monitor.labels):
            for key in self.COLUMNS:
                row[f"{label}_{key}"] = getattr(self.groups[number], key) if self.groups else None


class EnergyBudget(Callback):
    """Trains for few synaptic operations: a penalty in the loss, raised until an energy budget is kept (dual ascent).

    Args:
        network: The network, on its device.
        weight: Of the penalty, as a share of the dense multiply-accumulates.
        budget: Energy of an image in microjoule; 0 for none.

    Raises:
        OnespikeError: No layer of the network reads spikes, or the budget is out of reach.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, int, int], weight: float, budget: float) -> None:
        self.meter, self.weight, self.budget = CostMeter(network, shape), weight, budget
        if not self.meter.reads_spikes:
            raise OnespikeError(
                "train.rate_penalty and train.energy_budget: expected a network of which some layers read spikes, got "
                "one that reads real values alone"
            )
        expect_within_reach(self.meter, budget)
        self.raised = self.operations = self.joules = 0.0  # the last two are sums over the images of the epoch
        self._step = [0.0, 0.0]  # synaptic operations and joules of this process's images of this step

    @property
    def penalty_weight(self) -> float:
        """Weight of the penalty, raised as far as the budget demanded so far."""
        return self.weight + self.raised

    def before_step(self, trainer: "Trainer", number: int) -> None:  # noqa: ARG002
        """Begin to count."""
        self._step = [0.0, 0.0]

    def forward(self) -> AbstractContextManager[None]:
        """Count."""
        return self.meter.watch()

    def penalty(self, trainer: "Trainer", images: int) -> Tensor:
        """The weight times the share of synaptic operations."""
        cost, parts = self.meter.read(images), trainer.config.accumulate
        # Of AugMix's splits, each image counts once.
        size = trainer.config.batch_size / trainer.accelerator.num_processes / parts
        self._step = [self._step[0] + cost.operations.item() * size, self._step[1] + cost.joules.item() * size]
        return self.penalty_weight * cost.share

    def after_step(self, trainer: "Trainer", step: Step) -> None:
        """Book what the step cost, and move the penalty's weight towards the budget."""
        operations, joules = trainer.add_up(self._step)
        self.operations += operations
        self.joules += joules
        if self.budget:
            least, budget = self.meter.least, 1e-6 * self.budget
            over = (joules / step.images - least) / (budget - least) - 1
            gain = ASCENT / (trainer.config.epochs * len(trainer.batches))
            self.raised = max(0.0, self.raised + gain * over)

    def measure(self, trainer: "Trainer", row: dict[str, Any]) -> None:
        """Add the columns."""
        images = trainer.progress.images
        row["synaptic_operations"] = self.operations / images
        row["energy_uj"] = 1e6 * self.joules / images
        row["penalty_weight"] = self.penalty_weight
        if self.budget:
            row["energy_of_budget"] = row["energy_uj"] / self.budget
        self.operations = self.joules = 0.0

    def state(self) -> dict[str, Any]:
        """The sums and the raised weight."""
        return {"raised": self.raised, "operations": self.operations, "joules": self.joules}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.raised, self.operations, self.joules = state["raised"], state["operations"], state["joules"]


class Pruning(Callback):
    """Reports each epoch to an Optuna trial, and ends a training that Optuna gives up (`optuna.TrialPruned`).

    Args:
        trial: The `optuna.Trial`.
        metric: A column of `metrics.csv`.
    """

    def __init__(self, trial: Any, metric: str = "valid_top1") -> None:
        self.trial, self.metric = trial, metric

    def after_epoch(self, trainer: "Trainer", row: dict[str, Any]) -> None:
        """Report."""
        value = row.get(self.metric)
        if value is None:
            raise OnespikeError(f"pruning: there is no {self.metric} in metrics.csv; expected one of {', '.join(row)}")
        self.trial.report(value, trainer.progress.epoch)
        if self.trial.should_prune():
            from optuna import TrialPruned

            raise TrialPruned(f"{self.metric} {value:.2f} after epoch {row['epoch']}")
