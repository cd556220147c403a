"""What a run folder says of an optimiser, or a callback, is checked against the one that is there, then taken over."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from onespike.errors import OnespikeError, shown
from onespike.training.checkpoint import expect_alike
from onespike.training.config import TrainConfig
from onespike.training.optim import make_optimizer


def expect_optimizer(saved: Any, own: dict[str, Any], config: TrainConfig, network: nn.Module) -> None:
    """Raise an `OnespikeError` unless what was saved of an optimiser is what it would hold of a network.

    Its kernels trust it: a tensor smaller than the weight that it belongs to is read beyond its end. What an optimiser
    holds shows in a twin's after one step; `own` is of the fresh one.
    """
    expect_same(saved, {**own, "state": {}}, "optimizer")
    if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in own["param_groups"]]:
        raise OnespikeError("optimizer: its groups are not of the weights that it has here")
    twin = deepcopy(network)
    weights = [one for one in twin.parameters() if one.requires_grad]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer = make_optimizer(config, twin)
    optimizer.step()
    shapes = dict(enumerate(weight for group in optimizer.param_groups for weight in group["params"]))
    expected, found, like = dict[str, Tensor](), dict[str, Tensor](), optimizer.state_dict()["state"]
    for number, state in saved["state"].items():
        if number not in shapes or not isinstance(state, dict):
            raise OnespikeError(f"optimizer: expected what it holds of each weight, got {shown(number)}")
        for key in dict.fromkeys([*like.get(number, {}), *state]):
            value, pattern, name = state.get(key), like.get(number, {}).get(key), f"optimizer {number}.{key}"
            if isinstance(value, Tensor):
                if value.is_floating_point() and not value.double().isfinite().all():
                    raise OnespikeError(f"{name}: expected finite numbers: its training failed")
                found[name] = value
                # What comes later than in the first step is as large as the weight.
                expected[name] = pattern if isinstance(pattern, Tensor) else shapes[number]
            else:
                expect_same(value, pattern, name)
    expect_alike(found, expected, "the tensors of the optimiser are not those of this network")


def expect_same(saved: Any, own: Any, where: str) -> None:
    """Raise an `OnespikeError` unless a tree has the form of another: the same keys, numbers for numbers.

    What is empty or None in `own` may hold anything.
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
    elif not numbers and type(saved) is not type(own):
        raise OnespikeError(f"{where}: expected {_kind(own)}, got {_kind(saved)}")


def _kind(value: Any) -> str:
    return f"the keys {', '.join(map(str, value))}" if isinstance(value, Mapping) else shown(value)
