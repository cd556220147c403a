"""Losses, also of logits over time, (T, B, K)."""

from collections.abc import Callable

from torch import Tensor, nn

from onespike.errors import OnespikeError, unknown
from onespike.training.recipe import Recipe

#: Logits (B, K) or (T, B, K) and targets (B,) or (B, K) to a number.
Loss = Callable[[Tensor, Tensor], Tensor]


def over_time(logits: Tensor) -> Tensor:
    """The answer of a network: logits (B, K) as they are, (T, B, K) as their mean over time."""
    return logits.mean(0) if logits.ndim == 3 else logits


def each_step(loss: Loss, logits: Tensor, targets: Tensor) -> Tensor:
    """Temporal efficient training (Deng et al. 2022), without their regulariser: the mean of each step's loss."""
    steps = logits if logits.ndim == 3 else logits[None]
    return sum((loss(step, targets) for step in steps), start=steps.new_zeros(())) / len(steps)


#: How a loss of logits (B, K) is applied to logits over time, by name. To add one, add an entry.
LOSSES: dict[str, Callable[[Loss, Tensor, Tensor], Tensor]] = {
    "mean": lambda loss, logits, targets: loss(over_time(logits), targets),
    "tet": each_step,
}


def make_loss(recipe: Recipe) -> Loss:
    """Make a recipe's loss: cross-entropy, with soft targets under Mixup, a Jensen-Shannon term under AugMix splits."""
    if recipe.loss is not None:
        loss = recipe.loss.make("loss")
        if not callable(loss):
            raise OnespikeError(f"loss: expected something to call with logits and targets, got {loss!r}")
        return loss
    from timm.loss import JsdCrossEntropy, SoftTargetCrossEntropy  # the import takes a second

    name, smoothing = recipe.train.loss, recipe.train.label_smoothing
    if name not in LOSSES:
        raise unknown("train.loss", name, LOSSES)
    base: Loss = SoftTargetCrossEntropy() if recipe.train.mixup else nn.CrossEntropyLoss(label_smoothing=smoothing)
    if recipe.data.augmix_splits:
        base = JsdCrossEntropy(num_splits=recipe.data.augmix_splits, smoothing=smoothing)
    return lambda logits, targets: LOSSES[name](base, logits, targets)
