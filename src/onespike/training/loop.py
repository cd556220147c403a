"""The training loop, to be read from top to bottom."""

import errno
import json
import math
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

from onespike.data.dataset import open_dataset
from onespike.durable import write_whole
from onespike.errors import OnespikeError
from onespike.training.board import Board
from onespike.training.config import Recipe
from onespike.training.curves import draw_curves
from onespike.training.device import make_accelerator
from onespike.training.display import Display
from onespike.training.interrupt import Interrupt
from onespike.training.monitor import BlockActivity
from onespike.training.run import Run
from onespike.training.trainer import Trainer

#: Seconds between two drawings of the curves while training goes on.
REDRAW = 30.0
#: An epoch keeps the energy budget if its mean is at most so many times the budget; the weight's ascent hovers there.
WITHIN = 1.03


class Stopped(Exception):  # noqa: N818 - it is no error
    """Somebody stopped the run by Ctrl-C or SIGTERM; a checkpoint was saved first."""


class Diverged(OnespikeError):  # noqa: N818 - named for what happened
    """The loss is no longer a finite number."""


def train(recipe: Recipe, out: str | Path, resume: bool = False, init_from: str | Path | None = None) -> dict[str, Any]:
    """Train a network and test it once, at the end.

    Args:
        recipe: Data, model and training.
        out: The run folder, new or empty; with `resume` one that holds a run.
        resume: Go on with the run in `out`.
        init_from: A run whose best weights the network starts from.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        OnespikeError: Something outside the program is wrong; the message says what.
        Stopped: Somebody stopped the run; a checkpoint was saved first.
    """
    run = Run.open(Path(out)) if resume else Run(Path(out))
    if not resume:
        run.expect_free()
    accelerator = make_accelerator(recipe.train)
    with accelerator.main_process_first():
        data = open_dataset(recipe.data)
    trainer = Trainer(recipe, data, accelerator)
    if resume and run.has_checkpoint():
        trainer.restore(run)
    elif init_from:
        trainer.start_from(Run.open(Path(init_from)))
        if accelerator.is_main_process:  # before there is a run: one that is killed early goes on from these weights
            trainer.checkpoint().save(run.last)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        run.begin(recipe)
    try:
        return fit(trainer, run)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OnespikeError(
            f"the disk of {run.folder} is full: {error}; its checkpoints are whole: make room, then go on with --resume"
        ) from error


def fit(trainer: Trainer, run: Run) -> dict[str, Any]:
    """Train to the end of the last epoch, from wherever the trainer stands; then test the best weights.

    Args:
        trainer: The network and what trains it.
        run: The run folder; only the first process writes to it.

    Returns:
        The summary.
    """
    main, steps, progress = trainer.accelerator.is_main_process, len(trainer.batches), trainer.progress
    epochs = trainer.config.epochs
    done = progress.epoch * steps + progress.step
    drawn = -math.inf
    progress.start_clock()
    with (
        Interrupt() as interrupt,
        Display(epochs, steps, done, quiet=not main) as display,
        Board(run, done, quiet=not main) as board,
    ):
        display.introduce(trainer)
        while progress.epoch < epochs:
            train_epoch(trainer, run, interrupt, display, board)
            blocks = trainer.monitor.summary()
            row = finish_epoch(trainer, blocks)
            display.epoch(row, blocks)
            board.epoch(row, progress.epoch * steps)
            if main:
                if quality(row) >= progress.best:  # of equals the later one: small held-out sets tie often
                    progress.best = quality(row)
                    trainer.checkpoint().save(run.best)
                trainer.checkpoint().save(run.last)
                run.write_metrics(progress.history)
                if time.monotonic() - drawn > REDRAW or progress.epoch == epochs:
                    draw_curves(progress.history, run.folder / "curves.png")
                    drawn = time.monotonic()
        summary = test(trainer, run)
        display.finish(summary, run.folder)
        return summary


def train_epoch(trainer: Trainer, run: Run, interrupt: Interrupt, display: Display, board: Board) -> None:
    """Do what is left of the current epoch.

    Raises:
        OnespikeError: The loss is no longer a number.
        Stopped: The interrupt was requested; a checkpoint was saved.
    """
    config, progress, steps = trainer.config, trainer.progress, len(trainer.batches)
    main = trainer.accelerator.is_main_process
    trainer.network.train()
    trainer.monitor.clear()
    progress.tick()
    saved, first = time.monotonic(), progress.step
    for images, labels in trainer.batches.epoch(progress.epoch, first):
        number = progress.epoch * steps + progress.step
        watching = progress.step == first or number % config.monitor_every == 0
        with trainer.monitor.watch() if watching else nullcontext():
            loss, hits = trainer.step(number, images, labels)
        total, right, count, stop, operations, joules = trainer.add_up(
            [loss * len(labels), hits, len(labels), interrupt.requested, *trainer.spent]
        )
        if not math.isfinite(total):
            raise Diverged(_diverged(trainer, run))
        progress.step += 1
        progress.loss += total
        progress.hits += right
        progress.images += int(count)
        trainer.account(operations, joules, int(count))
        progress.epoch_seconds += progress.tick()
        display.step(progress)
        if watching:
            blocks = trainer.monitor.summary()
            display.spikes(blocks)
            board.step(number, loss, trainer.optimizer.param_groups[0]["lr"], blocks)
        if main and (stop or time.monotonic() - saved > 60 * config.save_minutes):
            trainer.checkpoint().save(run.last)
            saved = time.monotonic()
        if stop:
            raise Stopped


def finish_epoch(trainer: Trainer, blocks: list[BlockActivity]) -> dict[str, Any]:
    """Evaluate on the held-out images, and put the epoch into the history.

    Args:
        trainer: The network and what trains it.
        blocks: What the blocks' neurons did; empty if nothing of the epoch was left to do, and so to watch.

    Returns:
        The epoch's row of `metrics.csv`.
    """
    progress = trainer.progress
    valid = trainer.evaluate(trainer.held_out) if len(trainer.data.validation) else None
    row: dict[str, Any] = {
        "epoch": progress.epoch + 1,
        "lr": trainer.optimizer.param_groups[0]["lr"],
        "train_loss": progress.loss / progress.images,
        "train_top1": 100 * progress.hits / progress.images,
        "valid_loss": valid.loss if valid else None,
        "valid_top1": valid.top1 if valid else None,
        "epoch_seconds": progress.epoch_seconds,
        "images_per_second": progress.images / progress.epoch_seconds,
    }
    if trainer.cost:
        row["synaptic_operations"] = progress.operations / progress.images
        row["energy_uj"] = 1e6 * progress.joules / progress.images
        row["penalty_weight"] = trainer.penalty_weight
    if trainer.config.energy_budget:
        row["energy_of_budget"] = row["energy_uj"] / trainer.config.energy_budget
    for number in range(trainer.monitor.blocks):
        for key in ("firing_rate", "dead", "always_firing", "in_support"):
            row[f"block{number + 1:02}_{key}"] = getattr(blocks[number], key) if blocks else None
    progress.finish_epoch(row)
    return row


def test(trainer: Trainer, run: Run) -> dict[str, Any]:
    """Test the best weights, once, and write the summary.

    Args:
        trainer: The network and what trained it.
        run: The run folder.

    Returns:
        The summary.
    """
    trainer.accelerator.wait_for_everyone()
    trainer.use(run.checkpoint("best"))
    scores, progress = trainer.evaluate(trainer.test), trainer.progress
    progress.tick()
    chosen = max(progress.history, key=lambda row: (quality(row), row["epoch"]))
    summary = {
        "test_top1": scores.top1,
        "test_top5": scores.top5,
        "test_loss": scores.loss,
        "test_images": scores.images,
        "valid_top1": chosen["valid_top1"],
        "best_epoch": chosen["epoch"],
        "epochs": len(progress.history),
        "epochs_before": progress.epochs_before,
        "seconds": progress.seconds,
        "images_per_second": median(row["images_per_second"] for row in progress.history),
        "parameters": sum(parameter.numel() for parameter in trainer.network.parameters()),
        "model": trainer.recipe.model.name,
        "data": trainer.data.name,
    }
    if trainer.accelerator.is_main_process:
        write_whole(run.summary, json.dumps(summary, indent=2))
    return summary


def quality(row: dict[str, Any]) -> float:
    """What the best checkpoint has the most of: accuracy on the held-out images; without any, epochs.

    An epoch over the energy budget ranks below all that keep it: the nearer the better, from -1 to 0.
    """
    energy = row.get("energy_of_budget") or 0.0
    if energy > WITHIN:
        return 1 / energy - 1
    return row["epoch"] if row["valid_top1"] is None else row["valid_top1"]


def _diverged(trainer: Trainer, run: Run) -> str:
    config, progress = trainer.config, trainer.progress
    advice = [f"a lower --train.lr (it is {config.lr:g})", "a longer --train.warmup_epochs"]
    if getattr(trainer.recipe.model, "norm", "") == "none":
        advice.append("--model.norm batch")
    if config.precision != "fp32":
        advice.append("--train.precision fp32")
    kept = f"the last checkpoint is {run.last}" if run.has_checkpoint() else "there is no checkpoint yet"
    return (
        f"the loss is no longer a finite number, in epoch {progress.epoch + 1}, step {progress.step + 1}: try "
        f"{', '.join(advice)}; {kept}"
    )
