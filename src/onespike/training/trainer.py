"""A network and everything that trains it: one step, one evaluation, one checkpoint.

All randomness of a step follows from (seed, step): a run that was interrupted and resumed computes the numbers that it
would have computed without the interruption, on a CPU to the bit.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from functools import cached_property
from hashlib import sha256

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from onespike.data.augment import seed_everything
from onespike.data.dataset import Dataset
from onespike.data.loader import EvalLoader, Share, TrainLoader, derive_seed
from onespike.errors import OnespikeError, shown, warn
from onespike.neurons.watch import resetter
from onespike.tensors import not_finite
from onespike.training.callbacks import Callback, Int8Weights, LossState, Monitor, MovingAverage, Step
from onespike.training.checkpoint import Checkpoint, ModelCard, split_tensors, weights_of
from onespike.training.flops import Flops
from onespike.training.growth import resize, size_at
from onespike.training.layout import laid_out
from onespike.training.losses import Loss, over_time
from onespike.training.optim import make_optimizer, make_scheduler
from onespike.training.penalties import EnergyBudget, Hoyer, SurrogateWidth
from onespike.training.progress import Progress
from onespike.training.recipe import Recipe
from onespike.training.requirements import expect_suitable, frames_of, unsaved
from onespike.training.run import Run
from onespike.training.scores import Scores, score
from onespike.training.teacher import Teacher
from onespike.units.layers import ours_in

#: Options that a resumed run cannot change: its saved tensors and its position depend on them.
FIXED = ("optimizer", "ema", "int8_weights", "seed", "batch_size")


class Diverged(OnespikeError):  # noqa: N818 - named for what happened
    """The loss, or the weights, are no longer finite numbers."""


class Trainer:
    """A network and everything that trains it; an `OnespikeError` if it does not suit the data or the recipe.

    The network comes on the CPU and maps images (B, C, H, W) to logits (B, K) or (T, B, K); the loss maps logits and
    targets to a number. A checkpoint describes the network by the recipe's model. `callbacks` run after those that the
    recipe asks for.

    Attributes:
        network: The network that is trained.
        unsaved: What its buffers held at the beginning that no checkpoint saves.
        average: The moving average of its weights, which is evaluated and saved, if the recipe asks for one.
        callbacks: All callbacks, those that the recipe asks for first.
        monitor: The callback that looks at spikes.
        flops: The callback that counts what training costs.
        teacher: The callback that distils, if the recipe asks for it.
        progress: How far the run has come.
        run: The run folder, once training starts.
        stop: Whether somebody asked to stop after this step; a callback may ask.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Dataset,
        recipe: Recipe,
        accelerator: Accelerator,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.recipe, self.config, self.data, self.accelerator = recipe, recipe.train, data, accelerator
        self.card, self.progress, config = ModelCard.of(recipe, data), Progress(), recipe.train
        self.run: Run | None = None
        self.stop = False
        dtype = torch.float64 if config.precision == "fp64" else torch.float32
        if dtype == torch.float32 and any(one.dtype == torch.float64 for one in model.parameters()):
            warn("model: its weights are float64, and become float32: train.precision fp64 keeps them")
        blank = data.blank(2, device=accelerator.device, dtype=dtype)
        self.network = laid_out(model.to(accelerator.device, dtype), blank)
        self.unsaved = unsaved(self.network)
        self.loss = loss.to(accelerator.device, dtype) if isinstance(loss, nn.Module) else loss
        share = Share(accelerator.device, dtype, accelerator.process_index, accelerator.num_processes)
        size = config.batch_size
        self.batches = TrainLoader(data, recipe.data, size, config.seed, share)
        part = size // accelerator.num_processes
        if part % config.accumulate or (config.mixup and part % 2):
            takes = f"each of {accelerator.num_processes} processes takes {part} of {size} images"
            expected = f"expected a multiple of train.accumulate ({config.accumulate}), and an even number for Mixup"
            raise OnespikeError(f"train.batch_size: {takes}; {expected}")
        at_once = size // config.accumulate  # what is too large for the memory in training is so in evaluation
        self.held_out = EvalLoader(data.validation, data.mean, data.std, at_once, share)
        self.test = EvalLoader(data.test, data.mean, data.std, at_once, share)
        if config.ema and (odd := [one for one in callbacks if type(one).weights is not Callback.weights]):
            state = f"{type(odd[0]).__name__} changes the weights to compute with, and averages would replace them"
            raise OnespikeError(f"callbacks and train.ema: {state}; leave one of the two out")
        expect_suitable(self.network, self.loss, recipe, data, share)
        self.average = MovingAverage(self.network, config.ema) if config.ema else None
        self.reset = resetter(self.network)
        self.monitor = Monitor(self.network, config.monitor_every)
        self.teacher = Teacher(self.network, recipe, data, share) if config.teacher else None
        self.flops = Flops(self.network, self.teacher.seeing if self.teacher else None)
        taught = [self.teacher] if self.teacher else []
        self.callbacks = [*self._asked_for(), self.monitor, self.flops, *taught, *callbacks]
        targets = {"label_smoothing": config.label_smoothing, "num_classes": data.num_classes}  # Mixup smooths, too
        self.mixup = Mixup(mixup_alpha=config.mixup, **targets) if config.mixup else None
        optimizer = make_optimizer(config, self.network)
        self.scheduler = make_scheduler(config, optimizer, len(self.batches))
        if any(name.endswith("raw_decay") for name, _ in self.network.named_parameters()):
            # At one time step, where nothing is handed on, no gradient reaches it, and processes would wait for one.
            accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
        vars(self.network).pop("_is_accelerate_prepared", None)  # by somebody else, for another precision or device
        self.model, self.optimizer = accelerator.prepare(self.network, optimizer)
        if isinstance(self.model, DistributedDataParallel):
            # Processes keep buffers of their own, some neurons' potentials; `evaluate` shares those that are saved.
            self.model.broadcast_buffers = False  # the argument of that name is deprecated; older ones have no other
        # Last: a network that is refused stays as it was.
        self.network.zero_grad()  # of whoever trained it before; of frozen weights, too, which the norm would count
        if config.recompute:
            setattr(self.network, "recompute", True)  # noqa: B010 - a module's attributes are not declared

    def _asked_for(self) -> Iterator[Callback]:
        config = self.config
        if config.int8_weights:
            yield Int8Weights(self.network)
        if self.average:
            yield self.average
        if config.rate_penalty or config.energy_budget:
            yield EnergyBudget(self.network, self.data.image, config.rate_penalty, config.energy_budget)
        if config.hoyer:
            yield Hoyer(self.network, config.hoyer)
        if config.surrogate_width_end:
            yield SurrogateWidth(self.network, config.surrogate_width_end)
        if isinstance(self.loss, nn.Module):
            yield LossState(self.loss)

    @property
    def labels(self) -> str:
        """SHA-256 of the training images' labels: a resumed run has the same images, in the same order."""
        return sha256(self.data.train.targets.tobytes()).hexdigest()

    @cached_property
    def looks(self) -> str:
        """SHA-256 of some of the training images; empty if reading them again gives others."""
        first, again = self.data.train.look(), self.data.train.look()
        return sha256(first).hexdigest() if first == again else ""

    @property
    def enough(self) -> bool:
        """Whether a callback has asked to end with this epoch, and to test; of several processes, the first one's."""
        return self.progress.enough

    @enough.setter
    def enough(self, asked: bool) -> None:
        self.progress.enough, self.progress.enough_of = bool(asked), self.config.epochs

    def step(self, number: int, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Take step `number` of the optimiser, counted from 0; returns the mean loss and the number of hits."""
        self.scheduler.step_update(number)
        seed = derive_seed(self.config.seed, number, self.accelerator.process_index)
        seed_everything(seed)
        for callback in self.callbacks:
            callback.before_step(self, number)
        seed_everything(seed)  # whatever they have drawn
        if self.config.start_size:
            steps = self.config.epochs * len(self.batches)
            images = resize(images, size_at(self.config, self.data.image_size, number, steps))
        if images.ndim == 5:  # (T, B, …): Mixup and chunks need B first
            images = images.transpose(0, 1)
        images, targets = self.mixup(images, labels) if self.mixup else (images, labels)
        targets = targets.to(images.dtype) if self.mixup else targets  # timm's are float32
        parts, splits = self.config.accumulate, max(1, self.recipe.data.augmix_splits)
        # (splits * B, …) is cut along B: every part holds all splits of its images.
        image_parts = [part.flatten(0, 1) for part in images.unflatten(0, (splits, -1)).chunk(parts, 1)]
        losses, hits = list[Tensor](), list[Tensor]()
        for index, (part, y) in enumerate(zip(image_parts, targets.chunk(parts), strict=True)):
            last, x = index == parts - 1, self._over_time(part)
            alone = nullcontext() if last else self.accelerator.no_sync(self.model)
            with alone, self.weights(), ours_in(self.network):
                self.reset()
                with _together(callback.forward() for callback in self.callbacks):
                    logits = self._answer(x)
                if not isinstance(logits, Tensor):  # such as torchvision's with logits beside the logits
                    found = f"in training it gives a {type(logits).__name__}, in evaluation a tensor"
                    raise OnespikeError(f"model: {found}; expected logits alone (aux_logits=False)")
                expected = len(part), self.data.num_classes
                if logits.ndim not in (2, 3) or tuple(logits.shape[-2:]) != expected:
                    found = f"in training it answers {len(part)} images with {tuple(logits.shape)}"
                    raise OnespikeError(f"model: {found}; expected logits {expected}, as in evaluation")
                loss = self.loss(logits, y) / parts
                penalty = self._penalty(len(part))
                own = loss * (1 - self.config.teacher_weight) if self.teacher else loss
                total = own + penalty / parts if isinstance(penalty, Tensor) else own
                if not total.requires_grad:
                    found = "in training its logits have no gradient"
                    raise OnespikeError(f"model: {found}; expected some from its weights: look for no_grad and detach")
                self._backward(total)
            truth = y if y.ndim == 1 else y.argmax(1)
            # A teacher's or a callback's part that is not finite counts, too: in fp16 no step would be taken, unseen.
            losses.append(torch.where(total.detach().isfinite(), loss.detach(), total.detach()))
            hits.append((over_time(logits)[: len(truth)].argmax(1) == truth).sum())
        if self.config.clip_grad:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.config.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        # Read last, since reading waits until an accelerator has done all before.
        return sum(one.item() for one in losses), sum(one.item() for one in hits)

    def _penalty(self, images: int) -> Tensor | float:
        """Sum what callbacks add to the loss of a part."""
        total: Tensor | float = 0.0
        for callback in self.callbacks:
            one = callback.penalty(self, images)
            if isinstance(one, Tensor):
                total = total + one
            elif one:
                found = f"the penalty of {type(callback).__name__} is a number, {shown(one)}, which trains nothing"
                raise OnespikeError(f"callbacks: {found}: return a tensor, without item()")
        return total

    def _answer(self, x: Tensor) -> Tensor:
        try:
            return self.model(x)
        except (ValueError, RuntimeError) as error:  # PyTorch's words
            if str(error).startswith("Expected to have finished reduction in the prior iteration"):
                state = "in several processes each weight must reach the loss"
                raise OnespikeError(f"model: {state}: freeze or remove those that do not") from error
            if not str(error).startswith("Expected more than 1 value per channel"):
                raise
            state = "a part of one image gives batch norm one value of a channel, and it needs more"
            raise OnespikeError(f"train.batch_size, train.accumulate: {state}: take larger parts") from error

    def _backward(self, loss: Tensor) -> None:
        try:
            self.accelerator.backward(loss)
        except RuntimeError as error:  # PyTorch's words
            if str(error).startswith("trying to differentiate twice"):
                state = "the loss holds a gradient, which our kernels do not differentiate: set ONESPIKE_KERNELS=0"
                raise OnespikeError(f"model: {state}") from error
            if not str(error).startswith("Trying to backward through the graph a second time"):
                raise
            state = "it goes on from the batch before: reset what it keeps in its forward"
            raise OnespikeError(f"model: {state}") from error

    def _over_time(self, images: Tensor) -> Tensor:
        """Put time first, (T, B, C, H, W); for a loss of each step, images are repeated as frames."""
        if images.ndim == 5:
            return images.transpose(0, 1)
        frames = frames_of(self.network) if self.config.loss == "tet" else 1
        return images.expand(frames, *images.shape) if frames > 1 else images

    def after_step(self, number: int, loss: float, images: int) -> None:
        """Tell the callbacks of a step."""
        step = Step(number, loss, images, self.optimizer.param_groups[-1]["lr"])
        for callback in self.callbacks:
            callback.after_step(self, step)

    def weights(self) -> AbstractContextManager[None]:
        """Context in which the network has the weights that it computes with, such as rounded ones."""
        return _together(callback.weights() for callback in self.callbacks)

    def averaged(self) -> AbstractContextManager[None]:
        """Context in which the network has the moving average of its weights, if the recipe asks for one."""
        return self.average.used() if self.average else nullcontext()

    def evaluate(self, batches: EvalLoader, as_saved: bool = False) -> Scores:
        """Score the weights to use, over the images of all processes; `batches` are `held_out` or `test`.

        The network has those that are trained or, `as_saved`, those of a checkpoint, which are used as they are.
        """
        with nullcontext() if as_saved else _together((self.weights(), self.averaged())):
            if self.accelerator.num_processes > 1:
                saved = set(map(id, self.network.state_dict(keep_vars=True).values()))  # whatever it calls them
                for buffer in self.network.buffers():
                    if id(buffer) in saved:  # such as batch norm's statistics; potentials are of each one's images
                        broadcast(buffer)
            return score(self.network, batches, self.data.num_classes, self.accelerator, self.config.seed)

    def add_up(self, numbers: list[float]) -> list[float]:
        """Sum numbers over all processes, so that all of them see and decide the same."""
        if self.accelerator.num_processes == 1:
            return numbers
        tensor = torch.tensor(numbers, dtype=torch.float64, device=self.accelerator.device)
        return self.accelerator.reduce(tensor, "sum").tolist()

    def checkpoint(self) -> Checkpoint:
        """Everything that a resumed run needs, as it stands between two steps; `Diverged` if weights are not finite."""
        training: dict[str, Tensor] = {}
        self.reset()
        for weights in (nullcontext(), self.averaged()):
            with weights:
                name = not_finite(self.network.state_dict(), self.network)
            if name:
                place = f"after {self.progress.epoch} epochs and {self.progress.step} steps"
                raise self.diverged(f"the weights {name} are no longer finite numbers, {place}")
        states = {name: one.state() for name, one in self.named_callbacks().items()}
        try:
            callbacks = split_tensors(states, "callbacks", training)
        except RecursionError as error:
            raise OnespikeError("callbacks: a state holds itself, and cannot be saved") from error
        state = {
            "train": {name: getattr(self.config, name) for name in FIXED},
            "images": len(self.data.train),
            "labels": self.labels,
            "looks": self.looks,
            "teacher": self.teacher.digest if self.teacher else "",
            "progress": asdict(self.progress),
            "optimizer": split_tensors(self.optimizer.state_dict(), "optimizer", training),
            "callbacks": callbacks,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
        }
        rounded = any(type(one).weights is not Callback.weights for one in self.callbacks)
        if rounded or self.average:  # what is trained is not what is used
            training |= {f"raw.{name}": tensor for name, tensor in weights_of(self.network).items()}
        with self.weights(), self.averaged():
            return Checkpoint(self.card, weights_of(self.network), training, state)

    def named_callbacks(self) -> dict[str, Callback]:
        """The callbacks, each by the name that a checkpoint knows its state by."""
        return {f"{number}.{type(one).__name__}": one for number, one in enumerate(self.callbacks)}

    def diverged(self, what: str) -> "Diverged":
        """The error for a training that has failed: what is wrong, and what may help."""
        config = self.config
        advice = [f"a lower --train.lr (it is {config.lr:g})", "a longer --train.warmup_epochs"]
        if getattr(self.recipe.model, "norm", "") == "none":
            advice.append("--model.norm batch")
        if config.precision in ("bf16", "fp16"):
            advice.append("--train.precision fp32")
        run, kept = self.run, "there is no checkpoint yet"
        if run and run.has_checkpoint():
            kept = f"the last checkpoint is {run.last}"
        return Diverged(f"{what}: try {', '.join(advice)}; {kept}")

    def start_from(self, run: Run) -> None:
        """Start from the best weights of another run; an `OnespikeError` lists the tensors that do not fit."""
        saved = run.checkpoint("best")
        saved.put_into(self.network, "the weights to start from do not fit this model")
        if self.average:
            self.average.begin()
        self.progress.epochs_before, self.progress.flops_before = run.epochs(), run.flops()


@contextmanager
def _together(contexts: Iterable[AbstractContextManager[None]]) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield
