"""Checks before calibration: the network takes the images, its graph computes the same, images come first."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from onespike.conversion.kinds import WEIGHTS, reached_by_images
from onespike.conversion.over_time import OverMeans, PoolSpikes
from onespike.conversion.spiking import ConvertedNetwork
from onespike.errors import OnespikeError

#: Relative difference allowed between a network and its graph.
TOLERANCE = 1e-3
#: Relative difference from which on rows belong to other images; rounding may move a QCFS by a step.
MIXED = 0.05


@torch.no_grad()
def answers(model: nn.Module, images: Tensor, some: Tensor) -> Any:
    """The network's logits for some of the images, in evaluation mode; it stays as it is.

    Raises:
        OnespikeError: There are no images, they are not finite, or the network does not take them.
    """
    if not len(images):
        raise OnespikeError("calibration: expected at least one image, got none")
    if not images.isfinite().all():
        raise OnespikeError("calibration: expected finite images, got some values that are not")
    training = {module: module.training for module in model.modules()}
    try:
        return model.eval()(some)
    except Exception as error:  # whatever a network's own code does with them
        reason = " ".join(str(error).split())
        raise OnespikeError(f"the network does not take images of {tuple(images.shape[1:])}: {reason}") from error
    finally:
        for module, was in training.items():
            module.training = was


@torch.no_grad()
def expect_same(graph: fx.GraphModule, images: Tensor, expected: Any) -> None:
    """Make sure that a graph, with activations in it, computes what the network does.

    Raises:
        OnespikeError: It does not.
    """
    if not isinstance(expected, Tensor):
        raise OnespikeError(f"expected a network that gives a tensor of logits, got a {type(expected).__name__}")
    difference = ((graph(images) - expected).norm() / expected.norm().clamp(min=1e-12)).item()
    if difference > TOLERANCE:
        raise OnespikeError(
            f"the network's graph by torch.fx computes something else, by {difference:.1%}: expected a forward pass "
            "that is the same for all images and changes nothing in place"
        )


@torch.no_grad()
def expect_images_first(network: ConvertedNetwork, graph: fx.GraphModule, images: Tensor) -> None:
    """Make sure that images lie along the first axis of what every layer gives: time steps are stacked along it.

    Args:
        network: The converted network.
        graph: Its artificial twin, `network.analog()`.
        images: Some images.

    Raises:
        OnespikeError: They do not.
    """
    called = {str(node.target) for node in reached_by_images(graph) if node.op == "call_module"}
    timed = (OverMeans, PoolSpikes, *WEIGHTS)
    paths = {path for path in called if path in network.neurons or isinstance(graph.get_submodule(path), timed)}
    alone, among = _Noted(graph, paths), _Noted(graph, paths)
    alone.run(images)
    among.run(torch.cat([images, images.flip(0)]))
    for path, values in alone.noted.items():
        several = isinstance(values, tuple)
        # At one time step only the first of several outputs matters.
        pairs = list(zip(values, among.noted[path], strict=True)) if several else [(values, among.noted[path])]
        for one, more in pairs if network.time_steps > 1 else pairs[:1]:
            if one is None:
                continue
            if not isinstance(one, Tensor):
                raise OnespikeError(f"cannot be converted: {path} gives tensors within tuples, over several time steps")
            if len(more) != 2 * len(one) or (more[: len(one)] - one).norm() > MIXED * one.norm():
                raise OnespikeError(
                    f"cannot be converted: the rows of what {path} gives, {tuple(one.shape)} for {len(images)} images, "
                    "are not one image after the other; expected the images along the first axis (batch_first)"
                )


class _Noted(fx.Interpreter):
    """Records the outputs of some modules."""

    def __init__(self, graph: fx.GraphModule, paths: set[str]) -> None:
        super().__init__(graph)
        self.paths, self.noted = paths, dict[str, Any]()

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().call_module(target, args, kwargs)
        if target in self.paths:
            self.noted[target] = value
        return value
