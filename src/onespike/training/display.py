"""What a person sees while a network trains: a progress bar with the spikes of each block below it, or plain lines."""

import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from onespike.processor import emulates_bf16
from onespike.training.monitor import BlockActivity
from onespike.training.progress import Progress
from onespike.training.trainer import Trainer


class Display:
    """Shows training live on a terminal, one line for each epoch elsewhere.

    Args:
        epochs: Epochs of the whole run.
        steps: Steps in an epoch.
        done: Steps that were done before, by an interrupted run.
        quiet: Show nothing at all: every process but the first.
    """

    def __init__(self, epochs: int, steps: int, done: int = 0, quiet: bool = False) -> None:
        self.epochs, self.steps, self.quiet = epochs, steps, quiet
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
        self.task = self.bar.add_task(
            "training", total=epochs * steps, completed=done, epoch="", loss=float("nan"), top1=0.0, rate=0.0
        )
        self.blocks: list[BlockActivity] = []
        self.live = Live(get_renderable=self._render, console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def introduce(self, trainer: Trainer) -> None:
        """Say what is about to be trained on what."""
        data, config = trainer.data, trainer.config
        parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
        self.console.print(
            f"{trainer.recipe.model.name}, {parameters:,} parameters, on {data.name}: {len(data.train):,} training "
            f"images, {len(data.validation):,} held out, {len(data.test):,} for the test at the end"
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

    def step(self, progress: Progress) -> None:
        """Show the running means of the current epoch after one more step."""
        self.bar.update(
            self.task,
            advance=1,
            epoch=f"{progress.epoch + 1}/{self.epochs}",
            loss=progress.loss / progress.images,
            top1=100 * progress.hits / progress.images,
            rate=progress.images / progress.epoch_seconds,
        )

    def spikes(self, blocks: list[BlockActivity]) -> None:
        """Show what the blocks' neurons do."""
        self.blocks = blocks

    def epoch(self, row: dict[str, Any], blocks: list[BlockActivity]) -> None:
        """Print the line of a finished epoch, and warn of blocks that fell silent in it."""
        valid = "" if row["valid_top1"] is None else f"  held out {row['valid_top1']:6.2f}%"
        rates = [block.firing_rate for block in blocks]
        firing = f"  firing {min(rates):.3f}-{max(rates):.3f}" if rates else ""
        self.console.print(
            f"epoch {row['epoch']:>3}/{self.epochs}  loss {row['train_loss']:.4f}  train {row['train_top1']:6.2f}%"
            f"{valid}{firing}  {row['images_per_second']:,.0f} images/s"
            f"  lr {row['lr']:.5f}"
        )
        silent = [str(number) for number, block in enumerate(blocks, 1) if block.silent]
        if silent:
            self.console.print(
                f"warning: block {', '.join(silent)}: a layer fires less than once in a thousand; hardly any gradient "
                "passes through it. Try a lower --model.neuron.threshold, --model.norm batch or a lower --train.lr",
                style="yellow",
            )

    def finish(self, summary: dict[str, Any], folder: Path) -> None:
        """Print what came out."""
        self.console.print(
            f"test: top-1 {summary['test_top1']:.2f}%  top-5 {summary['test_top5']:.2f}%  on "
            f"{summary['test_images']:,} images, with the weights of epoch {summary['best_epoch']}; "
            f"{summary['seconds']:.0f} s in all"
        )
        self.console.print(
            f"the run is in {folder}: see curves.png, then: onespike evaluate {folder}; "
            f"onespike inspect {folder} --image FILE"
        )

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("block", "firing rate", "", "dead", "always", "in support"):
            table.add_column(column, justify="left" if column == "" else "right")
        for number, block in enumerate(self.blocks, 1):
            table.add_row(
                str(number),
                f"{block.firing_rate:.3f}",
                "█" * round(20 * block.firing_rate),
                f"{block.dead:.0%}",
                f"{block.always_firing:.0%}",
                f"{block.in_support:.0%}",
                style="yellow" if block.silent else None,
            )
        return Group(self.bar, table)
