"""A network and everything that trains it: one step, one evaluation, one checkpoint.

All randomness of a step follows from (seed, step): a run that was interrupted and resumed computes the very numbers
that it would have computed without the interruption.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, fields

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from timm.utils import ModelEmaV3
from torch import Tensor

from onespike.data.dataset import Dataset
from onespike.data.loader import EvalLoader, Share, TrainLoader, derive_seed
from onespike.data.policy import seed_everything
from onespike.errors import OnespikeError
from onespike.models import Network
from onespike.training.checkpoint import Checkpoint, ModelCard, join_tensors, split_tensors
from onespike.training.config import Recipe, TrainConfig
from onespike.training.cost import ASCENT, CostMeter, expect_within_reach
from onespike.training.monitor import SpikeMonitor
from onespike.training.optim import make_loss, make_mixup, make_optimizer, make_scheduler
from onespike.training.progress import Progress
from onespike.training.rounding import Rounding
from onespike.training.run import Run
from onespike.training.scores import Scores, score

#: What of the training a resumed run cannot change: what its saved tensors and its position belong to.
FIXED = ("optimizer", "ema", "int8_weights", "seed", "batch_size")


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
        if isinstance(self.network, Network):
            self.network.recompute = self.config.recompute
        self.rounding = Rounding(self.network) if self.config.int8_weights else None
        self.monitor = SpikeMonitor(self.network)
        self.cost: CostMeter | None = None
        self.spent = (0.0, 0.0)  # synaptic operations and joules of this process's images of the last step
        if (self.config.rate_penalty or self.config.energy_budget) and isinstance(self.network, Network):
            self.cost = CostMeter(self.network)
            expect_within_reach(self.cost, self.config.energy_budget)

        share = Share(accelerator.device, dtype, accelerator.process_index, accelerator.num_processes)
        size = self.config.batch_size
        self.batches = TrainLoader(data, recipe.data, size, self.config.seed, share)
        self.held_out = EvalLoader(data.validation, data.mean, data.std, size, share)
        self.test = EvalLoader(data.test, data.mean, data.std, size, share)

        part = size // accelerator.num_processes
        if part % self.config.accumulate or (self.config.mixup and part % 2):
            raise OnespikeError(
                f"train.batch_size: each of {accelerator.num_processes} processes takes {part} of {size} images; "
                f"expected a multiple of train.accumulate ({self.config.accumulate}), and an even number for Mixup"
            )
        self.loss = make_loss(recipe)
        self.mixup = make_mixup(self.config, data.num_classes)
        optimizer = make_optimizer(self.config, self.network)
        self.scheduler = make_scheduler(self.config, optimizer, len(self.batches))
        self.model, self.optimizer = accelerator.prepare(self.network, optimizer)
        self.progress = Progress()

    def step(self, number: int, images: Tensor, labels: Tensor) -> tuple[float, float]:
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
        total_loss, hits, operations, joules = 0.0, 0.0, 0.0, 0.0
        for index, (x, y) in enumerate(zip(image_parts, targets.chunk(parts), strict=True)):
            last = index == parts - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model), self.rounded():
                with self.cost.watch() if self.cost else nullcontext():
                    logits = self.model(x)
                loss = penalised = self.loss(logits, y) / parts
                if self.cost:
                    cost = self.cost.read(len(x))
                    penalised = loss + self.penalty_weight * cost.share / parts
                    operations += cost.operations.item() * len(labels) / parts
                    joules += cost.joules.item() * len(labels) / parts
                self.accelerator.backward(penalised)
            total_loss += loss.item()
            truth = y if y.ndim == 1 else y.argmax(1)
            hits += (logits[: len(truth)].argmax(1) == truth).sum().item()
        if self.config.clip_grad:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.config.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.update(self.network, step=number + 1)
        self.spent = operations, joules
        return total_loss, hits

    def rounded(self) -> AbstractContextManager[None]:
        """While it is open, the network computes with weights of 8 bits, if the recipe says so."""
        return self.rounding.applied() if self.rounding else nullcontext()

    @property
    def penalty_weight(self) -> float:
        """Weight of the penalty on synaptic operations, raised as far as the energy budget demanded so far."""
        return self.config.rate_penalty + self.progress.raised

    def account(self, operations: float, joules: float, images: int) -> None:
        """Book what a step cost, and move the penalty's weight towards the energy budget (dual ascent).

        Args:
            operations: Synaptic operations, summed over the images of all processes.
            joules: Energy, likewise.
            images: How many images these were.
        """
        self.progress.operations += operations
        self.progress.joules += joules
        if self.cost and self.config.energy_budget:
            least, budget = self.cost.least, 1e-6 * self.config.energy_budget
            over = (joules / images - least) / (budget - least) - 1
            gain = ASCENT / (self.config.epochs * len(self.batches))
            self.progress.raised = max(0.0, self.progress.raised + gain * over)

    def evaluate(self, batches: EvalLoader) -> Scores:
        """Score the weights to use on some images.

        Args:
            batches: `held_out` or `test`.

        Returns:
            Scores over the images of all processes.
        """
        network = self.ema.module if self.ema else self.network
        if self.accelerator.num_processes > 1:
            for buffer in network.buffers():  # each process has batch-norm statistics of its own
                broadcast(buffer)
        with self.rounded():
            return score(network, batches, self.data.num_classes, self.accelerator, self.config.seed)

    def use(self, saved: Checkpoint) -> None:
        """Put a checkpoint's weights in the place from which `evaluate` takes them."""
        (self.ema.module if self.ema else self.network).load_state_dict(saved.weights)

    def add_up(self, numbers: list[float]) -> list[float]:
        """Sum numbers over all processes, so that all of them see and decide the same."""
        if self.accelerator.num_processes == 1:
            return numbers
        tensor = torch.tensor(numbers, dtype=torch.float64, device=self.accelerator.device)
        return self.accelerator.reduce(tensor, "sum").tolist()

    def checkpoint(self) -> Checkpoint:
        """Everything that a resumed run needs, as it stands between two steps."""
        training: dict[str, Tensor] = {}
        state = {
            "train": {name: getattr(self.config, name) for name in FIXED},
            "images": len(self.data.train),
            "progress": asdict(self.progress),
            # All draws follow from the seed and the position: together they are the state of every random generator.
            "random": {"seed": self.config.seed, "epoch": self.progress.epoch, "step": self.progress.step},
            "optimizer": split_tensors(self.optimizer.state_dict(), "optimizer", training),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
        }
        if self.ema or self.rounding:  # what is trained is not what is used
            training |= {f"raw.{name}": tensor for name, tensor in self.network.state_dict().items()}
        with self.rounded():
            weights = (self.ema.module if self.ema else self.network).state_dict()
        return Checkpoint(self.card, weights, training, state)

    def restore(self, run: Run) -> None:
        """Go on where a run stopped.

        Args:
            run: The run, which has a checkpoint.

        Raises:
            OnespikeError: The run has another architecture or optimiser, is complete, or cannot be read.
        """
        saved = run.checkpoint("last")
        if "optimizer" not in saved.state:
            raise OnespikeError(f"{run.folder} was converted, not trained: train it on with --init-from {run.folder}")
        differences = _differences(saved, self.card, self.config)
        if saved.state["images"] != len(self.data.train):
            differences.append(f"training images were {saved.state['images']}, now {len(self.data.train)}")
        if differences:
            raise OnespikeError(
                f"{run.folder} is another run: {'; '.join(differences)}; a run is resumed with the model and the "
                "optimiser it began with (--init-from starts a new one from its weights)"
            )
        self.progress = Progress(**saved.state["progress"])
        if self.progress.epoch >= self.config.epochs + (not run.summary.exists()):
            raise OnespikeError(
                f"{run.folder} is complete after {self.progress.epoch} epochs: to train on, raise --train.epochs"
            )
        if self.ema:
            self.ema.module.load_state_dict(saved.weights)
        raw = {name.removeprefix("raw."): t for name, t in saved.training.items() if name.startswith("raw.")}
        self.network.load_state_dict(raw or saved.weights)
        self.optimizer.load_state_dict(join_tensors(saved.state["optimizer"], saved.training))
        for parameter, state in self.optimizer.state.items():  # fused optimisers look at memory, not at strides
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        if self.accelerator.scaler and saved.state["scaler"]:
            self.accelerator.scaler.load_state_dict(saved.state["scaler"])

    def start_from(self, run: Run) -> None:
        """Start from the best weights of another run.

        Args:
            run: The other run.

        Raises:
            OnespikeError: Its tensors do not fit; they are listed.
        """
        saved = run.checkpoint("best")
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
        self.progress.epochs_before = run.epochs()


def _differences(saved: Checkpoint, card: ModelCard, config: TrainConfig) -> list[str]:
    """Name what a checkpoint and a recipe disagree about, as "model.theta was 0.5, now 0.3"."""
    pairs = [
        (f"model.{field.name}", getattr(saved.card.config, field.name, None), getattr(card.config, field.name))
        for field in fields(card.config)
    ]
    described = ("classes", "in_channels", "image_size")
    pairs += [(name, getattr(saved.card, name), getattr(card, name)) for name in described]
    trained = saved.state["train"]  # a run that began before an option was there had its default
    pairs += [(f"train.{name}", trained.get(name, getattr(TrainConfig, name)), getattr(config, name)) for name in FIXED]
    return [f"{name} was {old}, now {new}" for name, old, new in pairs if old != new]
