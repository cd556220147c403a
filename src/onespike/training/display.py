"""What is shown during training: a progress bar with the spikes of each block below it, or plain lines."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from onespike.classpath import command
from onespike.clock import watch_machine
from onespike.data.config import PASSED
from onespike.environment import emulates_bf16
from onespike.terminal import Terminal, plain_table
from onespike.training.callbacks import Callback, Step
from onespike.training.monitor import Activity
from onespike.training.recipe import Recipe
from onespike.training.trainer import Trainer

_RUNNING = "loss {task.fields[loss]:.3f}  top-1 {task.fields[top1]:5.1f}%  {task.fields[rate]:,.0f} images/s"


class Display(Callback):
    """Shows training live on a terminal, one line for each epoch elsewhere; nothing at all if `quiet`."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Terminal(quiet=quiet, soft_wrap=not sys.stdout.isatty())
        self._say = self.console.print
        columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(bar_width=24), TextColumn(_RUNNING))
        self.bar = Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self.task = self.bar.add_task("training", epoch="", loss=float("nan"), top1=0.0, rate=0.0)
        self.table, self.watching = Table(), ExitStack()
        shown: dict[str, Any] = {"console": self.console, "refresh_per_second": 4, "transient": True}
        self.live = Live(get_renderable=lambda: Group(self.bar, self.table), **shown)

    def start(self, trainer: Trainer) -> None:
        """Print the network and the data set, and show the bar."""
        self.machine = self.watching.enter_context(watch_machine(trainer.accelerator.device))
        data, config, progress = trainer.data, trainer.config, trainer.progress
        parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
        images = f"{len(data.train):,} training images, {len(data.validation):,} held out, {len(data.test):,}"
        self._say(f"{trainer.card.name}, {parameters:,} parameters, on {data.name}: {images} for the test at the end")
        if data.note:
            self._say(data.note)
        if config.warmup_epochs >= config.epochs:
            effect = f"the learning rate never reaches {config.lr:g} (--train.warmup_epochs 0 starts with it)"
            self._say(f"the warm-up takes {config.warmup_epochs} epochs and the run {config.epochs}: {effect}")
        if config.precision == "bf16" and trainer.accelerator.device.type == "cpu" and emulates_bf16():
            effect = "which can take many times as long as --train.precision fp32"
            self._say(f"this processor has no instructions for bf16, {effect}")
        if trainer.flops.problem:
            self._say(f"FLOPs are not counted: {trainer.flops.problem}")
        steps = len(trainer.batches)
        self.bar.update(self.task, total=config.epochs * steps, completed=progress.epoch * steps + progress.step)
        if self.console.is_terminal:
            self.live.start()

    def after_step(self, trainer: Trainer, step: Step) -> None:  # noqa: ARG002
        """Show the running means of the current epoch, and the neurons' activity if this step was watched."""
        progress = trainer.progress
        loss, top1 = progress.loss / progress.images, 100 * progress.hits / progress.images
        epoch, rate = f"{progress.epoch + 1}/{trainer.config.epochs}", progress.images / progress.epoch_seconds
        self.bar.update(self.task, advance=1, epoch=epoch, loss=loss, top1=top1, rate=rate)
        if trainer.monitor.due:
            self.table = _table(trainer.monitor.groups)

    def after_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Print the line of a finished epoch, and warn of neurons that fell silent in it."""
        groups = trainer.monitor.groups
        valid = "" if row["valid_top1"] is None else f"  held out {row['valid_top1']:6.2f}%"
        rates = [group.firing_rate for group in groups.values()]
        firing = "  firing " + "-".join(dict.fromkeys((f"{min(rates):.3f}", f"{max(rates):.3f}"))) if rates else ""
        scores = f"loss {row['train_loss']:.4f}  train {row['train_top1']:6.2f}%{valid}{firing}"
        speed = f"{row['images_per_second']:,.0f} images/s  lr {row['lr']:.5f}"
        self._say(f"epoch {row['epoch']:>3}/{trainer.config.epochs}  {scores}  {speed}")
        silent = [label for label, group in groups.items() if group.silent]
        if silent:
            reason = "a layer fires less than once in a thousand; hardly any gradient passes through it"
            advice = "Try a lower threshold, batch normalisation before it or a lower --train.lr"
            self._say(f"warning: {', '.join(silent)}: {reason}. {advice}", style="yellow")

    def finish(self, trainer: Trainer, summary: dict[str, Any]) -> None:
        """Print the results; and whether the machine was busy, unless it was busy with our own workers."""
        self.watching.close()
        if self.machine.busy and not trainer.batches.singly:
            self._say(f"NOT TO BE TRUSTED, the machine was busy: seconds, images/s ({self.machine.busy})", style="dim")
        folder = trainer.run.folder if trainer.run else ""
        tops = f"top-1 {summary['test_top1']:.2f}%"
        if len(trainer.card.classes) > 5:  # else it is 100%
            tops += f"  top-5 {summary['test_top5']:.2f}%"
        images = f"{summary['test_images']:,} images, with the weights of epoch {summary['best_epoch']}"
        pflop = "" if summary["pflop"] is None else f" and {summary['pflop']:.3g} PFLOP"
        self._say(f"test: {tops}  on {images}; {summary['seconds']:.0f} s{pflop} in all")
        self._say(f"the run is in {folder}: see curves.png, then: {_next(trainer.recipe, folder)}")

    def close(self) -> None:
        """Remove the bar."""
        self.live.stop()


def _next(recipe: Recipe, folder: Path | str) -> str:
    """What to do with a finished run: commands, or Python where its network or its images were passed from there."""
    passed = ", model=…" if getattr(recipe.model, "init_args", {}) is None else ""
    passed += ", data=…" if recipe.data.name == PASSED else ""
    if passed:
        return f"onespike.evaluate({str(folder)!r}{passed})"
    return "; ".join((command("evaluate", folder), command("inspect", folder, "--sample", 0)))


def _table(groups: dict[str, Activity]) -> Table:
    table = plain_table("neurons", ">firing rate", "", ">dead", ">always", ">in support", wrap=True)
    for label, group in groups.items():
        support = "" if group.in_support is None else f"{group.in_support:.0%}"
        shares = (f"{group.dead:.0%}", f"{group.always_firing:.0%}", support)
        rate = (f"{group.firing_rate:.3f}", "█" * round(20 * group.firing_rate))
        table.add_row(label, *rate, *shares, style="yellow" if group.silent else None)
    return table
