"""TensorBoard events of a run."""

from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from onespike.training.monitor import BlockActivity
from onespike.training.run import Run


class Board:
    """Writes TensorBoard events into a run folder.

    Args:
        run: The run.
        done: Steps that were done before; later events of an interrupted run are hidden from here on.
        quiet: Write nothing: every process but the first.
    """

    def __init__(self, run: Run, done: int, quiet: bool) -> None:
        self.writer = None if quiet else SummaryWriter(str(run.folder / "tensorboard"), purge_step=done)

    def __enter__(self) -> "Board":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer:
            self.writer.close()

    def step(self, number: int, loss: float, lr: float, blocks: list[BlockActivity]) -> None:
        """Write what a watched step showed.

        Args:
            number: Steps that were done before, over all epochs.
            loss: Mean loss of the step.
            lr: Learning rate.
            blocks: What the neurons did.
        """
        if not self.writer:
            return
        self.writer.add_scalar("train/loss", loss, number)
        self.writer.add_scalar("train/lr", lr, number)
        for block, activity in enumerate(blocks, 1):
            for key in ("firing_rate", "dead", "always_firing", "in_support"):
                if getattr(activity, key) is not None:
                    self.writer.add_scalar(f"{key}/block{block:02}", getattr(activity, key), number)

    def epoch(self, row: dict[str, Any], steps: int) -> None:
        """Write the row of a finished epoch.

        Args:
            row: As in `metrics.csv`.
            steps: Steps that were done, over all epochs.
        """
        if not self.writer:
            return
        for key in ("train_loss", "train_top1", "valid_loss", "valid_top1", "images_per_second"):
            if row[key] is not None:
                self.writer.add_scalar(f"epoch/{key}", row[key], steps)
        self.writer.flush()
