"""What a person sees while a network trains: a progress bar with the spikes of each block below it, or plain lines."""

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from onespike.processor import emulates_bf16
from onespike.training.callbacks import Callback, Step

if TYPE_CHECKING:
    from onespike.training.monitor import Activity
    from onespike.training.trainer import Trainer


class Display(Callback):
    """Shows training live on a terminal, one line for each epoch elsewhere.

    Args:
        quiet: Show nothing at all: every process but the first.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=not sys.stdout.isatty())
        self.bar = Bar(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=24),
            TextColumn(
                "loss {task.fields[loss]:.3f}  top-1 {task.fields[top1]:5.1f}%  {task.fields[rate]:,.0f} images/s"
            ),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.task = self.bar.add_task("training", epoch="", loss=float("nan"), top1=0.0, rate=0.0)
        self.labels: tuple[str, ...] = ()
        self.groups: list[Activity] = []
        self.live = Live(get_renderable=self._render, console=self.console, refresh_per_second=4, transient=True)

    def start(self, trainer: "Trainer") -> None:
        """Say what is about to be trained on what, and show the bar."""
        data, config = trainer.data, trainer.config
        parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
        self.labels = trainer.monitor.monitor.labels
        self.console.print(
            f"{trainer.card.name}, {parameters:,} parameters, on {data.name}: {len(data.train):,} training "
            f"images, {len(data.validation):,} held out, {len(data.test):,} for the test at the end",
            markup=False,
        )
        if config.warmup_epochs >= config.epochs:
            self.console.print(
                f"the warm-up takes {config.warmup_epochs} epochs and the run {config.epochs}: the learning rate "
                f"never reaches {config.lr:g} (--train.warmup_epochs 0 starts with it)"
            )
        if config.precision == "bf16" and trainer.accelerator.device.type == "cpu" and emulates_bf16():
            self.console.print(
                "this processor has no instructions for bf16, which can take many times as long as "
                "--train.precision fp32"
            )
        steps = len(trainer.batches)
        done = trainer.progress.epoch * steps + trainer.progress.step
        self.bar.update(self.task, total=config.epochs * steps, completed=done)
        if self.console.is_terminal:
            self.live.start()

    def after_step(self, trainer: "Trainer", step: Step) -> None:  # noqa: ARG002
        """Show the running means of the current epoch, and the spikes if they were looked at."""
        progress = trainer.progress
        self.bar.update(
            self.task,
            advance=1,
            epoch=f"{progress.epoch + 1}/{trainer.config.epochs}",
            loss=progress.loss / progress.images,
            top1=100 * progress.hits / progress.images,
            rate=progress.images / progress.epoch_seconds,
        )
        self.groups = trainer.monitor.groups

    def after_epoch(self, trainer: "Trainer", row: dict[str, Any]) -> None:
        """Print the line of a finished epoch, and warn of neurons that fell silent in it."""
        valid = "" if row["valid_top1"] is None else f"  held out {row['valid_top1']:6.2f}%"
        rates = [group.firing_rate for group in trainer.monitor.groups]
        firing = f"  firing {min(rates):.3f}-{max(rates):.3f}" if rates else ""
        self.console.print(
            f"epoch {row['epoch']:>3}/{trainer.config.epochs}  loss {row['train_loss']:.4f}  "
            f"train {row['train_top1']:6.2f}%{valid}{firing}  {row['images_per_second']:,.0f} images/s"
            f"  lr {row['lr']:.5f}"
        )
        groups = zip(self.labels, trainer.monitor.groups, strict=False)
        silent = [label for label, group in groups if group.silent]
        if silent:
            self.console.print(
                f"warning: {', '.join(silent)}: a layer fires less than once in a thousand; hardly any gradient "
                "passes through it. Try a lower threshold, batch normalisation before it or a lower --train.lr",
                style="yellow",
                markup=False,
            )

    def finish(self, trainer: "Trainer", summary: dict[str, Any]) -> None:
        """Print what came out."""
        folder = trainer.run.folder if trainer.run else ""
        self.console.print(
            f"test: top-1 {summary['test_top1']:.2f}%  top-5 {summary['test_top5']:.2f}%  on "
            f"{summary['test_images']:,} images, with the weights of epoch {summary['best_epoch']}; "
            f"{summary['seconds']:.0f} s in all"
        )
        self.console.print(
            f"the run is in {folder}: see curves.png, then: onespike evaluate {folder}; "
            f"onespike inspect {folder} --image FILE",
            markup=False,
        )

    def close(self) -> None:
        """Take the bar away."""
        self.live.stop()

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("neurons", "firing rate", "", "dead", "always", "in support"):
            table.add_column(column, justify="left" if column in ("neurons", "") else "right")
        for label, group in zip(self.labels, self.groups, strict=False):
            table.add_row(
                escape(label),
                f"{group.firing_rate:.3f}",
                "█" * round(20 * group.firing_rate),
                f"{group.dead:.0%}",
                f"{group.always_firing:.0%}",
                "" if group.in_support is None else f"{group.in_support:.0%}",
                style="yellow" if group.silent else None,
            )
        return Group(self.bar, table)
