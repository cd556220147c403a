"""Resuming a run: what its folder holds is checked against the current training, then restored."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from onespike.configs import flat, make
from onespike.errors import OnespikeError, reason, shown, warn
from onespike.tensors import expect_alike
from onespike.training.callbacks import LossState, Monitor, swapped
from onespike.training.checkpoint import Checkpoint, ModelCard, join_tensors
from onespike.training.config import TrainConfig
from onespike.training.optim import make_optimizer
from onespike.training.penalties import EnergyBudget
from onespike.training.progress import Progress
from onespike.training.run import Run
from onespike.training.trainer import FIXED, Trainer

#: What a saved state that does not fit raises, here or in a user's callback.
_DAMAGE = (OnespikeError, KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, AssertionError)


def restore(trainer: Trainer, run: Run) -> None:
    """Go on where a run stopped; an `OnespikeError` if it is another run, or complete, or cannot be read."""
    saved = run.checkpoint("last")
    if "optimizer" not in saved.state:
        raise OnespikeError(f"{run.folder} was converted, not trained: fine-tune it by --init-from {run.folder}")
    if differences := _differences(trainer, saved):
        expected = "a run is resumed with the model, the optimiser and the images it began with"
        advice = "(--init-from starts a new one from its weights)"
        raise OnespikeError(f"{run.folder} is another run: {'; '.join(differences)}; {expected} {advice}")
    same_name = run.recipe.train.teacher == trainer.config.teacher
    if trainer.teacher and same_name and saved.state.get("teacher", "") not in ("", trainer.teacher.digest):
        state = f"train.teacher: {trainer.config.teacher} has other weights than when {run.folder} was trained"
        raise OnespikeError(f"{state}: restore it, or start a new run by --init-from {run.folder}")
    before, now = saved.state.get("looks"), trainer.looks
    if before and now and before != now and trainer.accelerator.is_main_process:
        advice = "unless you changed their preparation, give it those it began with"
        warn(f"{run.folder} goes on with other training images than it has seen: {advice}")
    trainer.progress = make(Progress, saved.state["progress"], "state.json: progress")
    trainer.progress.compare_with(trainer.config.energy_budget)
    epoch, epochs = trainer.progress.epoch, trainer.config.epochs
    planned = trainer.progress.enough_of or run.recipe.train.epochs
    trainer.enough &= epochs <= planned  # whoever asks for more does not hold it for enough
    if epoch > epochs:
        state = f"{run.folder} has been trained for {epoch} epochs already"
        raise OnespikeError(f"{state}, more than --train.epochs {epochs}: raise it")
    if run.is_complete and (epoch == epochs or trainer.enough):
        raise OnespikeError(f"{run.folder} is complete after {epoch} epochs: to train longer, raise --train.epochs")
    with trainer.averaged():
        saved.put_into(trainer.network, f"{run.folder} is of another network")
    raw = {name.removeprefix("raw."): t for name, t in saved.training.items() if name.startswith("raw.")}
    saved.put_into(trainer.network, f"{run.folder} is of another network", raw or saved.weights)
    try:
        lost = _take_over(trainer, saved)
    except _DAMAGE as error:
        raise OnespikeError(f"the checkpoint of {run.folder} is damaged: {reason(error)}") from error
    if lost and lost[0] == LossState.__name__:
        raise OnespikeError(f"{run.folder} was trained with a loss that kept a state: pass it again (loss=…)")
    if lost:
        state = f"{run.folder} was trained with the callback {shown(lost[0])}, which kept a state"
        raise OnespikeError(f"{state}: pass it again (callbacks=[…])")


def _take_over(trainer: Trainer, saved: Checkpoint) -> list[str]:
    """Restore position, optimiser and callbacks; a saved state that does not fit raises one of several errors.

    Returns the user's callbacks that kept a state, and are not there now.
    """
    progress, tensors = trainer.progress, dict(saved.training)
    optimizer, callbacks = (join_tensors(saved.state[key], tensors) for key in ("optimizer", "callbacks"))
    if unused := [name for name in tensors if not name.startswith("raw.")]:
        raise OnespikeError(f"state.json names no place for {unused[0]}")
    if len(progress.history) != progress.epoch or progress.step > len(trainer.batches):
        raise OnespikeError(f"epoch {progress.epoch}, step {progress.step}: not where it can have stopped")
    if bool(progress.step) != bool(progress.images):
        raise OnespikeError(f"{progress.images} images in {progress.step} steps")
    moving = expect_optimizer(optimizer, trainer.optimizer.state_dict(), trainer.config, trainer.network)
    # Values that no step changes come from the recipe: a file could say that the loss is to be maximised.
    chosen = [{k: v for k, v in group.items() if k not in moving} for group in trainer.optimizer.param_groups]
    trainer.optimizer.load_state_dict(optimizer)
    for group, values in zip(trainer.optimizer.param_groups, chosen, strict=True):
        group.update(values)
    # Lookahead's state is that of its inner optimiser.
    inner = getattr(trainer.optimizer.optimizer, "_base_optimizer", trainer.optimizer)
    for parameter, state in inner.state.items():  # fused optimisers look at memory, not at strides
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    kept = _numbered(callbacks)
    for name, callback in _numbered(trainer.named_callbacks()).items():
        if isinstance(callback, LossState) and not callback.takes(kept.get(name) or {}):
            continue  # another loss
        if state := kept.pop(name, None):
            own = type(callback).__module__.startswith("onespike.")  # a user's state may have grown
            if own and not isinstance(callback, LossState):
                expect_same(state, callback.state(), name[0])
            callback.load_state(state)
    if trainer.accelerator.scaler and saved.state.get("scaler"):
        trainer.accelerator.scaler.load_state_dict(saved.state["scaler"])
    kept.pop((EnergyBudget.__name__, False, 0), None)  # the library's, which options may leave out
    return [kind for (kind, *_), state in kept.items() if state]


def _numbered(by_place: Mapping[str, Any]) -> dict[tuple[str, bool, int], Any]:
    """Name callbacks, or their states, by type, and by which of that type it is; options of the recipe move places.

    A user's may be called as one that options ask for: it stands behind the monitor, which all trainings have.
    """
    found, behind = dict[tuple[str, bool, int], Any](), False
    for place, one in by_place.items():  # in the order of their places
        kind = place.partition(".")[2]
        found[kind, behind, sum((kind, behind) == other[:2] for other in found)] = one
        behind |= kind == Monitor.__name__
    return found


def _differences(trainer: Trainer, saved: Checkpoint) -> list[str]:
    """List the differences between a checkpoint and this training, such as "model.theta was 0.5, now 0.3"."""

    def described(card: ModelCard, trained: dict[str, object], images: int) -> dict[str, object]:
        values = flat(card.model, "model") | (flat(card.conversion, "conversion") if card.conversion else {})
        values |= {name: getattr(card, name) for name in ("classes", "in_channels", "image_size")}
        values |= {f"the images' {name}": getattr(card, name) for name in ("mean", "std")}
        return values | {f"train.{name}": trained.get(name) for name in FIXED} | {"training images": images}

    was = described(saved.card, saved.state.get("train", {}), saved.state.get("images", 0))
    now = described(trainer.card, {name: getattr(trainer.config, name) for name in FIXED}, len(trainer.data.train))
    keys = [name for name in dict.fromkeys([*was, *now]) if was.get(name) != now.get(name)]
    verbs = {"training images": "were"}
    found = [f"{name} {verbs.get(name, 'was')} {was.get(name)}, now {now.get(name)}" for name in keys]
    if not found and saved.state.get("labels") not in (None, trainer.labels):
        return ["the images had other labels, or another order"]
    return found


def expect_optimizer(saved: Any, own: dict[str, Any], config: TrainConfig, network: nn.Module) -> set[str]:
    """Raise an `OnespikeError` unless an optimiser's saved state is one that it could have for a network.

    Returns the names of the group values that steps change, among them the learning rate and the weights.

    The optimiser's kernels trust its state: they would read beyond the end of a tensor that is smaller than its weight.
    What state an optimiser has is seen from another one after a step, which is taken back: not every network can be
    copied. `own` is the fresh optimiser's.
    """
    weights = [one for one in network.parameters() if one.requires_grad]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer = make_optimizer(config, network)
    before = [dict(group) for group in optimizer.param_groups]
    with swapped([(one.detach().clone(), one) for one in weights]):
        optimizer.step()
    optimizer.zero_grad()
    after = optimizer.state_dict()
    if len(saved["param_groups"]) != len(own["param_groups"]):
        numbers = f"{len(saved['param_groups'])}, where the network's weights make {len(own['param_groups'])} here"
        raise OnespikeError(f"optimizer: its groups of weights are {numbers}: --init-from starts a new run from them")
    groups = zip(own["param_groups"], after["param_groups"], saved["param_groups"], strict=True)
    known = [{**fresh, **{key: one for key, one in now.items() if key in was}} for fresh, now, was in groups]
    expect_same(saved, {"state": {}, "param_groups": known}, "optimizer")
    if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in own["param_groups"]]:
        raise OnespikeError("optimizer: its groups are not of the weights that it has here")
    shapes = dict(enumerate(weight for group in optimizer.param_groups for weight in group["params"]))
    expected, found, like = dict[str, Tensor](), dict[str, Tensor](), after["state"]
    for number, state in saved["state"].items():
        if number not in shapes or not isinstance(state, dict):
            raise OnespikeError(f"optimizer: expected what it holds of each weight, got {shown(number)}")
        for key in dict.fromkeys([*like.get(number, {}), *state]):
            value, pattern, name = state.get(key), like.get(number, {}).get(key), f"optimizer {number}.{key}"
            if isinstance(value, Tensor):
                if value.is_floating_point() and not value.double().isfinite().all():
                    raise OnespikeError(f"{name}: expected finite numbers: its training failed")
                found[name] = value
                # A tensor that only a later step makes is as large as the weight.
                expected[name] = pattern if isinstance(pattern, Tensor) else shapes[number]
            else:
                expect_same(value, pattern, name)
    expect_alike(found, expected, "the tensors of the optimiser are not those of this network")
    pairs = zip(before, optimizer.param_groups, strict=True)
    return {"params", "lr"} | {k for was, now in pairs for k in now if k != "params" and was.get(k) != now[k]}


def expect_same(saved: Any, own: Any, where: str) -> None:
    """Raise an `OnespikeError` unless a tree has the structure of another: the same keys, a number for a number.

    Where `own` is empty or None, `saved` may hold anything.
    """
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (saved, own))
    if own is None or (isinstance(own, dict | list | tuple) and not own and isinstance(saved, dict | list)):
        return
    if isinstance(own, dict) and isinstance(saved, dict) and saved.keys() == own.keys():
        for key, one in own.items():
            expect_same(saved[key], one, f"{where}.{key}")
    elif isinstance(own, list | tuple) and isinstance(saved, list) and len(saved) == len(own):
        for number, one in enumerate(own):
            expect_same(saved[number], one, f"{where}.{number}")
    elif isinstance(own, Tensor) and isinstance(saved, Tensor):
        expect_alike({where: saved}, {where: own}, "a tensor is not what it was")
    elif not numbers and (type(saved) is not type(own) or isinstance(own, dict | list)):
        raise OnespikeError(f"{where}: expected {_kind(own)}, got {_kind(saved)}")


def _kind(value: Any) -> str:
    return f"the keys {', '.join(map(str, value))}" if isinstance(value, Mapping) else shown(value)
