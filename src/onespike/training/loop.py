"""The training loop, to be read from top to bottom.

All randomness of a step follows from (seed, step): a run that was interrupted and resumed computes the very numbers
that it would have computed without the interruption.
"""

import json
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from timm.utils import ModelEmaV3
from torch import Tensor

from onespike.data.dataset import Dataset, open_dataset
from onespike.data.loader import EvalLoader, Share, TrainLoader, derive_seed
from onespike.data.policy import seed_everything
from onespike.errors import OnespikeError
from onespike.model import ModelConfig
from onespike.training.board import Board
from onespike.training.checkpoint import Checkpoint, ModelCard, join_tensors, split_tensors
from onespike.training.config import Recipe, TrainConfig
from onespike.training.curves import draw_curves
from onespike.training.display import Display
from onespike.training.interrupt import Interrupt
from onespike.training.monitor import BlockActivity, SpikeMonitor
from onespike.training.optim import make_loss, make_mixup, make_optimizer, make_scheduler
from onespike.training.progress import Progress
from onespike.training.run import Run, write_whole
from onespike.training.scores import Scores, score

#: Seconds between two drawings of the curves while training goes on.
REDRAW = 30.0


class Stopped(Exception):  # noqa: N818 - it is no error
    """Somebody stopped the run by Ctrl-C or SIGTERM; a checkpoint was saved first."""


def train(recipe: Recipe, out: Path, resume: bool = False, init_from: Path | None = None) -> dict[str, Any]:
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
    accelerator = make_accelerator(recipe.train)
    with accelerator.main_process_first():
        data = open_dataset(recipe.data)
    trainer = Trainer(recipe, data, accelerator)
    if resume:
        run = Run.open(out)
        trainer.restore(run)
    else:
        if init_from:
            trainer.start_from(Run.open(init_from).checkpoint("best"))
        run = Run.create(out, recipe) if accelerator.is_main_process else Run(out)
    accelerator.wait_for_everyone()
    return trainer.fit(run)


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Choose device, precision and processes.

    Raises:
        OnespikeError: The device cannot compute in that precision.
    """
    device = torch.accelerator.current_accelerator() if config.device == "auto" else None
    kind = device.type if device and torch.accelerator.is_available() else "cpu"
    if (config.precision, kind) in (("fp16", "cpu"), ("fp64", "mps")):
        raise OnespikeError(f"train.precision: {config.precision} does not work on {kind}; use bf16 or fp32")
    AcceleratorState._reset_state(reset_partial_state=False)  # one process may train several networks, one by one
    mixed = config.precision if config.precision in ("bf16", "fp16") else "no"
    return Accelerator(mixed_precision=mixed, cpu=kind == "cpu", step_scheduler_with_optimizer=False)


class Trainer:
    """A network and everything that trains it.

    Args:
        recipe: Data, model and training.
        data: The data set that the recipe names.
        accelerator: Device, precision and processes.
    """

    def __init__(self, recipe: Recipe, data: Dataset, accelerator: Accelerator) -> None:
        self.recipe, self.config, self.data, self.accelerator = recipe, recipe.train, data, accelerator
        self.card = ModelCard(
            recipe.model, data.classes, data.in_channels, data.image_size, data.mean, data.std, data.name
        )
        dtype = torch.float64 if self.config.precision == "fp64" else torch.float32
        torch.manual_seed(self.config.seed)
        self.network = self.card.build().to(accelerator.device, dtype)
        self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = ModelEmaV3(self.network, decay=self.config.ema, use_warmup=True) if self.config.ema else None
        self.monitor = SpikeMonitor(self.network)

        share = Share(accelerator.device, dtype, accelerator.process_index, accelerator.num_processes)
        size = self.config.batch_size
        self.batches = TrainLoader(data, recipe.data, size, self.config.seed, share)
        self.held_out = EvalLoader(data.validation, data.mean, data.std, size, share)
        self.test = EvalLoader(data.test, data.mean, data.std, size, share)

        self.loss = make_loss(recipe)
        self.mixup = make_mixup(self.config, data.num_classes)
        optimizer = make_optimizer(self.config, self.network)
        self.scheduler = make_scheduler(self.config, optimizer, len(self.batches))
        self.model, self.optimizer = accelerator.prepare(self.network, optimizer)
        self.progress = Progress()

    def fit(self, run: Run) -> dict[str, Any]:
        """Train to the end of the last epoch, from wherever `progress` stands; then test the best weights.

        Args:
            run: The run folder; only the first process writes to it.

        Returns:
            The summary.
        """
        main, steps, progress = self.accelerator.is_main_process, len(self.batches), self.progress
        run.summary.unlink(missing_ok=True)
        done = progress.epoch * steps + progress.step
        drawn = -math.inf
        with (
            Interrupt() as interrupt,
            Display(self.config.epochs, steps, done, quiet=not main) as display,
            Board(run, done, quiet=not main) as board,
        ):
            self._introduce(display)
            while progress.epoch < self.config.epochs:
                self._train_epoch(run, interrupt, display, board)
                row, blocks = self._finish_epoch()
                display.epoch(row, blocks)
                board.epoch(row, progress.epoch * steps)
                if main:
                    if self._score(row) > progress.best:
                        progress.best = self._score(row)
                        self.checkpoint().save(run.best)
                    self.checkpoint().save(run.last)
                    run.write_metrics(progress.history)
                    if time.monotonic() - drawn > REDRAW or progress.epoch == self.config.epochs:
                        draw_curves(progress.history, run.folder / "curves.png")
                        drawn = time.monotonic()
            return self._finish(run, display)

    def _train_epoch(self, run: Run, interrupt: Interrupt, display: Display, board: Board) -> None:
        """Do what is left of the current epoch."""
        progress, steps, main = self.progress, len(self.batches), self.accelerator.is_main_process
        self.network.train()
        self.monitor.clear()
        saved = clock = time.monotonic()
        first = progress.step
        for images, labels in self.batches.epoch(progress.epoch, first):
            number = progress.epoch * steps + progress.step
            watching = progress.step == first or number % self.config.monitor_every == 0
            with self.monitor.watch() if watching else nullcontext():
                loss, hits = self._step(number, images, labels)
            totals = self._add_up([loss * len(labels), hits, len(labels), interrupt.requested])
            if not math.isfinite(totals[0]):
                raise OnespikeError(self._diverged(run))
            progress.step += 1
            progress.loss += totals[0]
            progress.hits += totals[1]
            progress.images += int(totals[2])
            now = time.monotonic()
            progress.epoch_seconds += now - clock
            progress.seconds += now - clock
            clock = now
            display.step(progress)
            if watching:
                display.spikes(self.monitor.summary())
                board.step(number, loss, self.optimizer.param_groups[0]["lr"], self.monitor.summary())
            late = now - saved > 60 * self.config.save_minutes
            if main and (late or totals[3]):
                self.checkpoint().save(run.last)
                saved = now
            if totals[3]:
                raise Stopped

    def _step(self, number: int, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Take one step of the optimiser.

        Args:
            number: Steps that were done before, over all epochs.
            images: This process's share of the batch.
            labels: Likewise.

        Returns:
            Mean loss, and the number of images that were classified correctly.
        """
        seed_everything(derive_seed(self.config.seed, number, self.accelerator.process_index))
        self.scheduler.step_update(number)
        targets = labels
        if self.mixup:
            images, targets = self.mixup(images, labels)
        parts, splits = self.config.accumulate, max(1, self.recipe.data.augmix_splits)
        # (splits * B, …) is cut along B: every part holds all splits of its images.
        image_parts = [part.flatten(0, 1) for part in images.unflatten(0, (splits, -1)).chunk(parts, 1)]
        total_loss, hits = 0.0, 0.0
        for index, (x, y) in enumerate(zip(image_parts, targets.chunk(parts), strict=True)):
            last = index == parts - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                logits = self.model(x)
                loss = self.loss(logits, y) / parts
                self.accelerator.backward(loss)
            total_loss += loss.item()
            truth = y if y.ndim == 1 else y.argmax(1)
            hits += (logits[: len(truth)].argmax(1) == truth).sum().item()
        if self.config.clip_grad:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.config.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.update(self.network, step=number + 1)
        return total_loss, hits

    def _finish_epoch(self) -> tuple[dict[str, Any], list[BlockActivity]]:
        """Evaluate, and put the epoch into the history."""
        progress, clock = self.progress, time.monotonic()
        valid = self._evaluate(self.held_out) if len(self.data.validation) else None
        blocks = self.monitor.summary()
        row: dict[str, Any] = {
            "epoch": progress.epoch + 1,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": progress.loss / progress.images,
            "train_top1": 100 * progress.hits / progress.images,
            "valid_loss": valid.loss if valid else None,
            "valid_top1": valid.top1 if valid else None,
            "epoch_seconds": progress.epoch_seconds,
            "images_per_second": progress.images / progress.epoch_seconds,
        }
        for number, block in enumerate(blocks, 1):
            for key in ("firing_rate", "dead", "always_firing", "in_support"):
                row[f"block{number:02}_{key}"] = getattr(block, key)
        progress.history.append(row)
        progress.epoch += 1
        progress.step = progress.images = 0
        progress.loss = progress.hits = progress.epoch_seconds = 0.0
        progress.seconds += time.monotonic() - clock
        return row, blocks

    def _finish(self, run: Run, display: Display) -> dict[str, Any]:
        """Test the best weights, once, and write the summary."""
        clock, history = time.monotonic(), self.progress.history
        self.accelerator.wait_for_everyone()
        evaluated = self.ema.module if self.ema else self.network
        evaluated.load_state_dict(run.checkpoint("best").weights)
        scores = self._evaluate(self.test)
        seconds = self.progress.seconds + time.monotonic() - clock
        chosen = max(history, key=self._score)
        summary = {
            "test_top1": scores.top1,
            "test_top5": scores.top5,
            "test_loss": scores.loss,
            "test_images": scores.images,
            "valid_top1": chosen["valid_top1"],
            "best_epoch": chosen["epoch"],
            "epochs": len(history),
            "seconds": seconds,
            "images_per_second": median(row["images_per_second"] for row in history),
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "model": self.recipe.model.name,
            "data": self.data.name,
        }
        if self.accelerator.is_main_process:
            write_whole(run.summary, json.dumps(summary, indent=2))
        display.finish(summary, run.folder)
        return summary

    def checkpoint(self) -> Checkpoint:
        """Everything that a resumed run needs, as it stands between two steps."""
        training: dict[str, Tensor] = {}
        state = {
            "progress": asdict(self.progress),
            # All draws follow from the seed and the step: together they are the state of every random generator.
            "random": {"seed": self.config.seed, "epoch": self.progress.epoch, "step": self.progress.step},
            "optimizer": split_tensors(self.optimizer.state_dict(), "optimizer", training),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
        }
        weights = self.network.state_dict()
        if self.ema:
            training |= {f"raw.{name}": tensor for name, tensor in weights.items()}
            weights = self.ema.module.state_dict()
        return Checkpoint(self.card, weights, training, state)

    def restore(self, run: Run) -> None:
        """Go on where a run stopped; one that stopped before its first checkpoint starts anew.

        Args:
            run: The run.

        Raises:
            OnespikeError: The run has another architecture, is complete, or cannot be read.
        """
        if not run.has_checkpoint():
            return
        saved = run.checkpoint("last")
        differences = _differences(saved.card, self.card)
        if differences:
            raise OnespikeError(
                f"{run.folder} has another architecture: {'; '.join(differences)}; a run is resumed with the model it "
                "began with (--init-from starts a new run from its weights)"
            )
        self.progress = Progress(**saved.state["progress"])
        if run.summary.exists() and self.progress.epoch >= self.config.epochs:
            raise OnespikeError(
                f"{run.folder} is complete after {self.progress.epoch} epochs: to train on, raise --train.epochs"
            )
        if self.ema:
            self.ema.module.load_state_dict(saved.weights)
            raw = {name.removeprefix("raw."): t for name, t in saved.training.items() if name.startswith("raw.")}
            self.network.load_state_dict(raw)
        else:
            self.network.load_state_dict(saved.weights)
        self.optimizer.load_state_dict(join_tensors(saved.state["optimizer"], saved.training))
        if self.accelerator.scaler and saved.state["scaler"]:
            self.accelerator.scaler.load_state_dict(saved.state["scaler"])

    def start_from(self, saved: Checkpoint) -> None:
        """Start from the weights of another run.

        Args:
            saved: The other run's checkpoint.

        Raises:
            OnespikeError: Its tensors do not fit; they are listed.
        """
        own = {name: tuple(tensor.shape) for name, tensor in self.network.state_dict().items()}
        other = {name: tuple(tensor.shape) for name, tensor in saved.weights.items()}
        wrong = [
            f"{name} {other.get(name, 'missing')} instead of {own.get(name, 'nothing')}"
            for name in sorted(own.keys() | other.keys())
            if own.get(name) != other.get(name)
        ]
        if wrong:
            raise OnespikeError(f"the weights to start from do not fit this model: {', '.join(wrong)}")
        for network in (self.network, self.ema.module if self.ema else self.network):
            network.load_state_dict(saved.weights)

    def _evaluate(self, batches: EvalLoader) -> Scores:
        network = self.ema.module if self.ema else self.network
        if self.accelerator.num_processes > 1:
            for buffer in network.buffers():  # each process has batch-norm statistics of its own
                broadcast(buffer)
        return score(network, batches, self.data.num_classes, self.accelerator, self.config.seed)

    def _add_up(self, numbers: list[float]) -> list[float]:
        """Sum numbers over all processes, so that all of them see and decide the same."""
        if self.accelerator.num_processes == 1:
            return numbers
        tensor = torch.tensor(numbers, dtype=torch.float64, device=self.accelerator.device)
        return self.accelerator.reduce(tensor, "sum").tolist()

    def _score(self, row: dict[str, Any]) -> float:
        """What the best checkpoint has the most of: accuracy on the held-out images; without any, epochs."""
        return row["epoch"] if row["valid_top1"] is None else row["valid_top1"]

    def _introduce(self, display: Display) -> None:
        data, config = self.data, self.config
        parameters = sum(p.numel() for p in self.network.parameters())
        display.say(
            f"{self.recipe.model.name}, {parameters:,} parameters, on {data.name}: {len(data.train):,} training "
            f"images, {len(data.validation):,} held out, {len(data.test):,} for the test at the end"
        )
        if config.warmup_epochs >= config.epochs:
            display.say(
                f"the warm-up takes {config.warmup_epochs} epochs and the run {config.epochs}: the learning rate "
                f"never reaches {config.lr:g} (--train.warmup_epochs 0 starts with it)"
            )

    def _diverged(self, run: Run) -> str:
        config, progress = self.config, self.progress
        advice = [f"a lower --train.lr (it is {config.lr:g})", "a longer --train.warmup_epochs"]
        if self.recipe.model.norm == "none":
            advice.append("--model.norm batch")
        if config.precision != "fp32":
            advice.append("--train.precision fp32")
        kept = f"the last checkpoint is {run.last}" if run.has_checkpoint() else "there is no checkpoint yet"
        return (
            f"the loss is no longer a finite number, in epoch {progress.epoch + 1}, step {progress.step + 1}: try "
            f"{', '.join(advice)}; {kept}"
        )


def _differences(saved: ModelCard, wanted: ModelCard) -> list[str]:
    """Name what two model cards disagree about, as "theta 0.5, not 0.3"."""
    pairs = [
        (f"model.{f.name}", getattr(saved.config, f.name), getattr(wanted.config, f.name)) for f in fields(ModelConfig)
    ]
    pairs += [(name, getattr(saved, name), getattr(wanted, name)) for name in ("classes", "in_channels", "image_size")]
    return [f"{name} was {old}, now {new}" for name, old, new in pairs if old != new]
