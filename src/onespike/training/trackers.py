"""Curves for TensorBoard, Weights & Biases, MLflow and whatever else accelerate can write to."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from onespike.durable import is_full
from onespike.errors import OnespikeError, reason, unknown, warn
from onespike.training.callbacks import Callback, Step
from onespike.training.recipe import values_of
from onespike.training.trainer import Trainer


class ClosedError(OnespikeError):
    """A tracker cannot be opened; this call has trained nothing yet."""


class Trackers(Callback):
    """Writes the values of watched steps and of epochs, by accelerate's trackers; only the first process writes."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self._trackers = names, list[GeneralTracker]()
        for name in names:
            if name not in LOGGER_TYPE_TO_CLASS:
                raise unknown("train.track", name, LOGGER_TYPE_TO_CLASS)
            if name not in map(str, get_available_trackers()):
                raise OnespikeError(f"train.track: {name} is not installed: pip install {name}")

    def start(self, trainer: Trainer) -> None:
        """Open the trackers; TensorBoard hides what an interrupted run wrote after this point."""
        if not self.names or trainer.run is None:
            return
        folder, done = str(trainer.run.folder), trainer.progress.epoch * len(trainer.batches) + trainer.progress.step
        accelerator, self._trackers = trainer.accelerator, trainer.accelerator.trackers
        board = LOGGER_TYPE_TO_CLASS["tensorboard"]("tensorboard", logging_dir=folder, purge_step=done)
        # TensorBoard comes last: it writes into the run folder, which goes if another cannot be opened.
        names = sorted(self.names, key=lambda name: name == "tensorboard")
        accelerator.log_with = [board if name == "tensorboard" else name for name in names]
        accelerator.project_configuration.set_directories(folder)
        try:
            accelerator.init_trackers("onespike")
            for tracker in self._trackers:
                if tracker is not board:  # TensorBoard makes a further run of it; the recipe is in config.yaml anyway
                    tracker.store_init_configuration({key: str(one) for key, one in values_of(trainer.recipe).items()})
        except Exception as error:  # of whatever package, such as wandb without a login
            for tracker in self._trackers:
                with suppress(Exception):  # some are not open
                    tracker.finish()
            self._trackers.clear()
            if is_full(error):
                raise
            raise ClosedError(f"train.track: {', '.join(names)} cannot be opened: {reason(error)}") from error

    def after_step(self, trainer: Trainer, step: Step) -> None:
        """Write the values of a watched step."""
        monitor = trainer.monitor
        if monitor.due:
            values: dict[str, Any] = {"train/loss": step.loss, "train/lr": step.lr}
            for label, group in monitor.groups.items():
                values |= {f"{key}/{label}": getattr(group, key) for key in monitor.COLUMNS}
            self._log(values, step.number)

    def after_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Write the epoch's line of `metrics.csv`."""
        keys = ("train_loss", "train_top1", "valid_loss", "valid_top1", "images_per_second")
        # The number of its last step: a run that is resumed here hides what comes from the next one on.
        self._log({f"epoch/{key}": row[key] for key in keys}, trainer.progress.epoch * len(trainer.batches) - 1)

    def close(self) -> None:
        """Close the trackers."""
        self._each(lambda tracker: tracker.finish())
        self._trackers.clear()

    def _log(self, values: dict[str, Any], step: int) -> None:
        known = {key: one for key, one in values.items() if one is not None}
        self._each(lambda tracker: tracker.log(known, step=step))

    def _each(self, use: Callable[[GeneralTracker], None]) -> None:
        """Use all trackers; one that fails, such as by its server, is dropped with a warning: the training goes on."""
        for tracker in list(self._trackers):
            try:
                use(tracker)
            except Exception as error:  # of whatever package
                if is_full(error):
                    raise
                self._trackers.remove(tracker)
                warn(f"train.track: {tracker.name}: {reason(error)}; it is left out from here on")
