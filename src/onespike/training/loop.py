"""The training loop, to be read from top to bottom."""

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from onespike.data.augment import seeded
from onespike.durable import is_full, remove
from onespike.errors import OnespikeError, reason, shown
from onespike.lock import held
from onespike.training.callbacks import Callback
from onespike.training.checkpoint import STATE, expect_row
from onespike.training.display import Display
from onespike.training.flops import peta
from onespike.training.interrupt import Interrupt
from onespike.training.interrupt import Stopped as Stopped
from onespike.training.losses import Loss
from onespike.training.recipe import Recipe, as_recipe
from onespike.training.requirements import warn_of_lost_state
from onespike.training.restoring import restore
from onespike.training.run import Run
from onespike.training.saving import Saving
from onespike.training.set_up import set_up
from onespike.training.teacher import FOLDER, TWIN, twin_of
from onespike.training.trackers import ClosedError, Trackers
from onespike.training.trainer import Diverged as Diverged
from onespike.training.trainer import Trainer


def train(
    recipe: Recipe | str,
    out: str | Path | Run,
    resume: bool = False,
    init_from: str | Path | Run | None = None,
    *,
    model: nn.Module | None = None,
    data: Any = None,
    loss: Loss | None = None,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a network and test it once, at the end.

    Args:
        recipe: Data, model and training, or a recipe's name.
        out: The run folder, new or empty; with `resume`, one that holds a run.
        resume: Go on with the run in `out`.
        init_from: A run whose best weights the network starts from.
        model: The network, in place of the recipe's: any module from images (B, C, H, W) to logits (B, K), or (T, B,
            K). It is trained in place, from the weights that it has; `train.seed` does not affect these. Only a
            whitening that nothing has set yet is set by the images. A resumed run takes a network of the same class.
        data: The images, in place of the recipe's: any data set that `onespike.data.as_dataset` takes.
        loss: A function from logits and labels to a number, in place of the recipe's.
        callbacks: Callbacks that run after the recipe's own.
        quiet: Print nothing.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        OnespikeError: Something outside the program is wrong; the message says what.
        Stopped: The run was stopped; a checkpoint was saved first.
        KeyboardInterrupt: Ctrl-C came in a test, its own or its teacher's, which ended first; or it came twice.
    """
    if resume and init_from is not None:
        raise OnespikeError("init_from: a resumed run goes on from its own weights: leave it out")
    named = isinstance(recipe, str)
    recipe = as_recipe(recipe, Run.open(init_from).recipe if named and init_from is not None else None)
    run = Run.open(out) if resume or isinstance(out, Run) else Run(out)
    if not resume:
        run.expect_free()
    else:
        run.expect_resumable()
        if loss is None and recipe.loss is None and (was := run.recipe.loss):
            raise OnespikeError(f"{run.folder} was trained with the loss {was.class_path}: pass it again (loss=…)")
    trackers, ran_again = Trackers(recipe.train.track), getattr(model, "recompute", False)
    trainer: Trainer | None = None
    with seeded(recipe.train.seed):  # whoever calls this goes on with random numbers of their own
        try:
            of_twin = _copied(loss) if recipe.train.teacher == TWIN else None
            trainer = set_up(recipe, model, data, loss, callbacks, run.recipe if resume else None)
            main = trainer.accelerator.is_main_process
            trainer.callbacks += [Display(quiet=quiet or not main), trackers]
            trainer.callbacks += [Saving(run)] if main else []
            with held(run.folder) if main else nullcontext():
                _begin(trainer, run, resume, init_from, passed=model is not None)
                return _train(trainer, run, resume, partial(train, data=data, loss=of_twin, quiet=quiet))
        except OSError as error:
            if not (is_full(error) and run.has_checkpoint()):
                raise
            advice = "its checkpoints are whole: make room, then go on with --resume"
            raise OnespikeError(f"the disk of {run.folder} is full: {error}; {advice}") from error
        finally:
            # A network that is passed goes back to its owner as it was, also if it is refused.
            if isinstance(network := trainer.accelerator.unwrap_model(trainer.model) if trainer else model, nn.Module):
                _take_back_forward(network)
                if recipe.train.recompute and hasattr(network, "recompute"):
                    setattr(network, "recompute", ran_again)  # noqa: B010 - a module's attributes are not declared


def complete(recipe: Recipe, run: Run, init_from: str | Path | None = None, **options: Any) -> dict[str, Any]:
    """Train into a run folder, go on there after an interruption, or do nothing where all is done.

    A fresh training may start from a run's best weights; `options` are those of `train`. Returns the summary. A folder
    with the run of another recipe is an `OnespikeError`.
    """
    begun = run.has_begun(recipe)
    if run.is_complete:
        return run.summary or {}
    return train(recipe, run.folder, begun, None if begun else init_from, **options)


def _begin(trainer: Trainer, run: Run, resume: bool, init_from: str | Path | Run | None, passed: bool) -> None:
    """Write what a run has before its first step, with the weights that it starts from; or restore a resumed run."""
    main = trainer.accelerator.is_main_process
    if main and not resume:
        run.expect_free()
        remove(run.last)  # of another run, killed before its beginning; a resumption of this one would start from it
    if resume and run.has_checkpoint():
        restore(trainer, run)
    elif init_from is not None or passed:
        if init_from is not None:
            trainer.start_from(Run.open(init_from))
        if main:  # before the run begins: if it is killed early, it goes on from these weights
            trainer.checkpoint().save(run.last)
    trainer.accelerator.wait_for_everyone()
    if main:
        run.begin(trainer.recipe)


def _train(trainer: Trainer, run: Run, resume: bool, train_twin: Callable[..., object]) -> dict[str, Any]:
    """Train the teacher, if it is a twin that is not trained yet, then the student; a refusal takes `_begin` back."""
    twin = Run(run.folder / FOLDER)

    def place() -> list[object]:  # how far both have come
        files = [path.read_bytes() for path in (twin.config, twin.last / STATE) if path.is_file()]
        return [trainer.progress.epoch, trainer.progress.step, *files]

    before = place()
    try:
        if trainer.config.teacher == TWIN and not twin.is_complete:
            train_twin(twin_of(trainer.recipe), twin.folder, twin.config.is_file())
        return fit(trainer, run)
    except BaseException as error:  # Ctrl-C at a tracker's prompt, too
        if trainer.accelerator.is_main_process:
            if resume and place() == before and not run.is_complete:  # refused, as by a callback
                run.withdraw()
            elif isinstance(error, ClosedError) and not twin.config.is_file():
                remove(twin.folder)
                run.withdraw()
        raise


def _copied(loss: Loss | None) -> Loss | None:
    """A copy of a loss, for a twin, which is trained first: what it keeps there is not the student's."""
    try:
        return copy.deepcopy(loss)
    except Exception as error:  # whatever its own `__deepcopy__` does
        raise OnespikeError(f"loss: a twin is trained with a copy, and it cannot be copied: {reason(error)}") from error


def _take_back_forward(network: nn.Module) -> None:
    """Give a user's network the `forward` that it had before accelerate made it compute in bf16."""
    vars(network).pop("_is_accelerate_prepared", None)  # or accelerate would pass by it in the next training
    if "_original_forward" in vars(network):
        original = vars(network).pop("_original_forward")
        del network.forward
        if network.forward != original:  # it was the network's own, not its class's
            network.forward = original


def fit(trainer: Trainer, run: Run) -> dict[str, Any]:
    """Train from the trainer's position to the end of the last epoch, then test; returns the summary."""
    trainer.run = run
    trainer.progress.start_clock()
    with Interrupt() as interrupt, ExitStack() as closing:
        for callback in trainer.callbacks:
            closing.callback(callback.close)
        for callback in trainer.callbacks:
            callback.start(trainer)
        trainer.checkpoint()  # a callback's state that cannot be saved is found before any work is done
        while trainer.progress.epoch < trainer.config.epochs and not trainer.enough:
            train_epoch(trainer, interrupt)
            row = finish_epoch(trainer)
            for callback in trainer.callbacks:
                callback.after_epoch(trainer, row)
            # What the first process has saved holds for all: one that went on alone would wait for ever.
            trainer.enough = trainer.add_up([trainer.enough and trainer.accelerator.is_main_process])[0] > 0
        summary = test(trainer, run)
        for callback in trainer.callbacks:
            callback.finish(trainer, summary)
        return summary


def train_epoch(trainer: Trainer, interrupt: Interrupt) -> None:
    """Train the rest of the current epoch; raises `Diverged` if the loss is not finite, `Stopped` if asked to stop."""
    progress, steps = trainer.progress, len(trainer.batches)
    trainer.network.train()
    progress.tick()
    for images, labels in trainer.batches.epoch(progress.epoch, progress.step):
        number = progress.epoch * steps + progress.step
        loss, hits = trainer.step(number, images, labels)
        asked = interrupt.requested or trainer.stop
        total, right, count, stop = trainer.add_up([loss * len(labels), hits, len(labels), asked])
        if not math.isfinite(total):
            place = f"in epoch {progress.epoch + 1}, step {progress.step + 1}"
            raise trainer.diverged(f"the loss is no longer a finite number, {place}")
        progress.step += 1
        progress.loss += total
        progress.hits += right
        progress.images += int(count)
        progress.epoch_seconds += progress.tick()
        trainer.stop = bool(stop)
        trainer.after_step(number, total / count, int(count))
        # Of several processes, one whose callback has just asked goes on until all know it, and the first has saved.
        if stop or (trainer.stop and trainer.accelerator.num_processes == 1):
            raise Stopped("stopped and saved: go on with resume=True")


def finish_epoch(trainer: Trainer) -> dict[str, Any]:
    """Evaluate on the held-out images and add the epoch to the history; returns its row of `metrics.csv`."""
    progress = trainer.progress
    valid = trainer.evaluate(trainer.held_out) if len(trainer.data.validation) else None
    if valid and not math.isfinite(valid.loss):
        raise trainer.diverged(f"the loss on the held-out images of epoch {progress.epoch + 1} is no finite number")
    row: dict[str, Any] = {
        "epoch": progress.epoch + 1,
        "lr": trainer.optimizer.param_groups[-1]["lr"],
        "train_loss": progress.loss / progress.images,
        "train_top1": 100 * progress.hits / progress.images,
        "valid_loss": valid.loss if valid else None,
        "valid_top1": valid.top1 if valid else None,
        "pflop": peta(progress.flops),
        "epoch_seconds": progress.epoch_seconds,
        "images_per_second": progress.images / progress.epoch_seconds,
    }
    for callback in trainer.callbacks:
        callback.measure(trainer, row)
        expect_numbers(row, type(callback).__name__, progress.epoch + 1)
    progress.finish_epoch(row)
    return row


def expect_numbers(row: dict[str, Any], callback: str, epoch: int) -> None:
    """Make plain numbers of NumPy's and tensors; an `OnespikeError` for what no checkpoint could be read with."""
    for name, value in row.items():
        if isinstance(value, np.generic) or (isinstance(value, torch.Tensor) and value.numel() == 1):
            row[name] = value = value.item()
        if not (value is None or (isinstance(value, int | float) and -math.inf < value < math.inf)):
            expected = "expected a finite number, True, False or None; mend its measure"
            raise OnespikeError(f"{callback}: its column {shown(name)} is {shown(value)}; {expected}")
        if not isinstance(name, str):
            raise OnespikeError(
                f"{callback}: expected text for the name of a column, got {shown(name)}; mend its measure"
            )
    expect_row(row, epoch, f"{callback}: the row after its measure")


def test(trainer: Trainer, run: Run) -> dict[str, Any]:
    """Test the best weights, once; write the summary and return it."""
    trainer.accelerator.wait_for_everyone()
    saved, progress = run.checkpoint("best"), trainer.progress
    saved.put_into(trainer.network, f"{run.folder} holds the weights of another network")
    scores = trainer.evaluate(trainer.test, as_saved=True)
    if not math.isfinite(scores.loss):
        raise trainer.diverged("the loss on the test images is no longer a finite number")
    if trainer.accelerator.is_main_process:
        warn_of_lost_state(trainer.network, trainer.unsaved, saved, trainer.data, trainer.accelerator.autocast)
    trainer.network.eval()  # whose it is goes on with it
    progress.tick()
    # The weights that were tested: those of the last checkpoint if the best one is missing or damaged.
    epochs, epoch = {row["epoch"]: row for row in progress.history}, saved.state.get("progress", {}).get("epoch")
    chosen = epochs.get(epoch) or progress.best_row()
    summary = {
        **{f"test_{name}": getattr(scores, name) for name in ("top1", "top5", "loss", "images")},
        "valid_top1": chosen["valid_top1"],
        "best_epoch": chosen["epoch"],
        "epochs": len(progress.history),
        "epochs_before": progress.epochs_before,
        "pflop": peta(progress.flops),
        "pflop_before": peta(progress.flops_before),
        "seconds": progress.seconds,
        "images_per_second": median(row["images_per_second"] for row in progress.history),
        "parameters": sum(parameter.numel() for parameter in trainer.network.parameters()),
        "model": trainer.card.name,
        "data": trainer.data.name,
        "test_set": trainer.data.test_set(),
    }
    if trainer.teacher:
        summary["teacher_pflop"] = peta(trainer.teacher.found.flops)
    if trainer.accelerator.is_main_process:
        run.finish(summary)
    return summary
