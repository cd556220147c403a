"""Options of a training run."""

import math
from dataclasses import dataclass
from typing import Literal

from onespike.configs import check
from onespike.errors import OnespikeError


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained; by default as section 5.2 of the supplement says, for 300 epochs.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images for each optimiser step, over all processes together.
        accumulate: Parts in which each batch is computed, to save memory; the gradient is the same (batch norm apart).
        optimizer: Any first-order optimiser of timm's: "momentum" is plain SGD with momentum, "sgd" is Nesterov's.
            "muon" takes orthogonal steps for weights, as matrices of outputs by all else. At the same learning rate,
            such as 0.002, AdamW trains the head, all parameters with a single axis, and weights that timm does not take
            for matrices: with a first or second axis of 1, a side below 4, or one above 128 times the other. With
            "lookahead_" before any name, as in "lookahead_sgd", the weights go back half the way to where they were
            every 6 steps (Zhang et al. 2019), at first from step 12 to step 6.
        lr: Learning rate at the top of a cosine over all epochs, which falls to `min_lr`. The warm-up takes the place
            of the cosine's first epochs: a line from `warmup_lr` towards `lr`.
        norm_lr_factor: Learning rate of parameters exempt from weight decay, as a multiple of that of the weights, > 0.
        min_lr: Learning rate at the end.
        warmup_epochs: Epochs in which the learning rate rises from `warmup_lr`; a fraction is allowed.
        warmup_lr: Learning rate at the very start, `lr` at most.
        noise_range: Shares of training between which the learning rate is noisy, such as [0.4, 0.9]; none by default.
        noise_limit: Largest relative change by that noise, 0.001..1.
        momentum: Momentum, where the optimiser has one.
        weight_decay: Weight decay; biases, norms and learnable thresholds and decays are exempt.
        clip_grad: Largest norm of the gradient; 0 does not clip.
        loss: Loss of logits over several time steps, (T, B, K): the cross-entropy of their "mean", or "tet", the mean
            of each step's cross-entropy (temporal efficient training, Deng et al. 2022). A network that averages its
            steps itself, such as a converted one, takes "mean" alone.
        label_smoothing: Label smoothing, 0..1.
        mixup: Mixup's alpha; 0 is off.
        rate_penalty: Weight in the loss of the synaptic operations, as a share of the dense multiply-accumulates; 0 is
            off.
        hoyer: Weight in the loss of the Hoyer regularisation of potentials (Datta et al. 2022): fewer of them between 0
            and the threshold; 0 is off.
        energy_budget: Energy that one image may take, in microjoules by the field's convention (4.6 pJ a
            multiply-accumulate, 0.9 pJ an accumulate): during training the penalty's weight is raised until the network
            keeps it, and epochs that do are preferred as the best; 0 is off.
        surrogate_width_end: Width of the surrogates at the last step; it moves there geometrically from the neurons'
            `surrogate_width`; 0 leaves it as it is.
        ema: Decay of an exponential moving average of the weights, which is then what is evaluated and saved as the
            model; 0 is off.
        int8_weights: Quantization-aware training: compute with the weights of convolutions and linear layers rounded to
            8 bits, each output channel with a scale of its own, while the optimiser moves the exact ones: `onespike
            optimise` then loses nothing by rounding. Not together with `ema`.
        teacher: Distillation: a network whose answers are learned beside the labels. A run folder, pretrained:NAME
            or hub:USER/NAME; "torchvision:NAME" or "timm:NAME" with their pretrained weights; or "twin", the same model
            with ReLUs, trained first by the same recipe, into the folder `teacher` of the run. Empty for none.
        teacher_weight: Share of the teacher's answers in the loss, 0..1; the rest is the loss of the labels.
        teacher_temperature: Temperature by which both networks' logits are divided before they are compared.
        teacher_features: Weight in the loss of the squared distance between the student's and the teacher's features:
            the outputs of layers of neurons, or activations, of the same name and shape, divided by their norm; 0 is
            off. Above 0 only with a `teacher`.
        recompute: Save only what passes between blocks, or layers of neurons, and run each again in the backward pass
            (activation checkpointing): less memory, more time, the same numbers. For spiking networks of the library;
            not together with `rate_penalty` or `energy_budget`.
        precision: Arithmetic: "fp32", "bf16" or "fp16" (autocast; fp16 needs an accelerator), "fp64".
        device: "auto" takes the accelerator if there is one, "cpu" never.
        start_size: Side in pixels of the images when training begins (progressive resizing): it grows linearly over the
            first three quarters of the steps to that of the data. Sizes are the multiples of the greatest common
            divisor of both: of 32 pixels, 24 gives 24 and 32, and 20 gives 20, 24, 28 and 32. 0 is off. For networks
            that take images of several sizes, such as resnet18; not together with `rate_penalty` or `energy_budget`,
            which count an image at its full size.
        seed: Seed of weights, order, augmentation, dropout and encoding.
        monitor_every: Steps between two counts of the spikes.
        track: Trackers that also get the curves: "tensorboard" (into the run folder), "wandb", "mlflow" and whatever
            else accelerate knows; an empty list for none.
        save_minutes: Minutes between two checkpoints within an epoch; each epoch ends with one anyway.
    """

    epochs: int = 300
    batch_size: int = 128
    accumulate: int = 1
    optimizer: str = "momentum"
    lr: float = 0.05
    norm_lr_factor: float = 1.0
    min_lr: float = 0.0
    warmup_epochs: float = 3
    warmup_lr: float = 0.001
    noise_range: tuple[float, float] | None = None
    noise_limit: float = 0.67
    momentum: float = 0.9
    weight_decay: float = 2e-5
    clip_grad: float = 20.0
    loss: str = "mean"
    label_smoothing: float = 0.1
    mixup: float = 0.1
    rate_penalty: float = 0.0
    hoyer: float = 0.0
    energy_budget: float = 0.0
    surrogate_width_end: float = 0.0
    ema: float = 0.0
    int8_weights: bool = False
    teacher: str = ""
    teacher_weight: float = 0.7
    teacher_temperature: float = 2.0
    teacher_features: float = 0.0
    recompute: bool = False
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    device: Literal["auto", "cpu"] = "auto"
    start_size: int = 0
    seed: int = 0
    monitor_every: int = 20
    track: tuple[str, ...] = ("tensorboard",)
    save_minutes: float = 5.0

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("epochs", "batch_size", "accumulate", "monitor_every"), (1, 10**6))
        kinds = {key: type(value) for key, value in vars(type(self)).items() if isinstance(value, int | float)}
        others = {key: (0, math.inf if kind is float else 10**6) for key, kind in kinds.items()}
        limits = {"seed": (0, 2**63 - 1), "teacher_weight": (0, 1), "teacher_temperature": (0, 1000)}
        check(self, "train", **{**others, **counts, **limits, "surrogate_width_end": (0, 10**6)})
        for name in ("momentum", "label_smoothing", "ema"):
            if getattr(self, name) >= 1:
                raise OnespikeError(f"train.{name}: expected 0 <= {name} < 1, got {getattr(self, name)}")
        for name in ("lr", "norm_lr_factor", "noise_limit", "teacher_temperature"):
            if not getattr(self, name):
                raise OnespikeError(f"train.{name}: expected more than 0, got 0")
        if self.noise_range and not 0 <= self.noise_range[0] < self.noise_range[1] <= 1:
            raise OnespikeError(f"train.noise_range: expected 0 <= from < to <= 1, got {list(self.noise_range)}")
        if self.noise_range and not 1e-3 <= self.noise_limit <= 1:  # draws are repeated until one is below it
            raise OnespikeError(f"train.noise_limit: expected 0.001 <= noise_limit <= 1, got {self.noise_limit}")
        if self.min_lr > self.lr:
            raise OnespikeError(f"train.min_lr: expected at most train.lr, {self.lr:g}, got {self.min_lr:g}")
        if self.int8_weights and self.ema:
            reason = "an average of rounded weights is not rounded; set only one of them"
            raise OnespikeError(f"train.int8_weights and train.ema: {reason}")
        for name, reason in (
            ("start_size", "operations are counted of images at their full size; add --train.start_size 0"),
            ("recompute", "a block that runs again would be counted again; set only one of them"),
        ):
            if getattr(self, name) and (self.rate_penalty or self.energy_budget):
                raise OnespikeError(f"train.{name} and train.rate_penalty or train.energy_budget: {reason}")
        if self.teacher_features and not self.teacher:
            expected = "expected a train.teacher whose features are learned, got none; name one, or set 0"
            raise OnespikeError(f"train.teacher_features: {expected}")
        if self.batch_size % self.accumulate:
            reason = f"{self.batch_size} images cannot be split into {self.accumulate} parts"
            raise OnespikeError(f"train.accumulate: {reason}")
        if self.mixup and self.batch_size % 2:
            raise OnespikeError(f"train.mixup: mixes pairs and needs an even train.batch_size, got {self.batch_size}")
