"""The proof that an export computes the same as the network: on real images, through the target itself."""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from onespike.errors import OnespikeError, warn
from onespike.exporting.contract import Contract
from onespike.neurons.watch import Fired, answer_and_calls
from onespike.training.losses import over_time

#: A target maps raw or normalised images to logits (B, K), and to spikes, call by call of the layers of neurons; to no
#: spikes where it cannot show them, and to None for a layer whose spikes the logits do not need, which it leaves out.
Target = Callable[[Tensor], tuple[Tensor, Sequence[Tensor | None]]]
#: Largest distance from its threshold of a potential about which float arithmetic may decide otherwise; largest
#: difference of logits from the same spikes, in units of the largest logit, and in any case, where all are small.
NEAR, CLOSE, TINY = 1e-4, 1e-4, 1e-6
#: Stands for a distance that is not known, or not finite.
FAR = 1e9


@dataclass(frozen=True)
class Parity:
    """A target compared with the network that it was made from.

    Attributes:
        target: What it is called.
        images: Test images that both saw.
        top1: Accuracy of the network, in percent; None without labels.
        target_top1: Accuracy of the target, likewise.
        same_class: Share of the images that both put into the same class, in percent.
        logit_error: The largest difference of two logits; `FAR` if it is larger, or a target's logit is not finite.
        largest_logit: The largest logit of the network, with either sign.
        layers: Calls of layers of neurons whose spikes were compared; 0 where the target cannot show them.
        spikes: Outputs of neurons, spike or none, that were compared.
        differing: Outputs that differ, in the first layer where any do; after it all may differ.
        first: That layer; None if no spike differs.
        distance: Largest distance from the threshold of its potentials that decide otherwise.
        exact: Whether nothing at all may differ but the rounding of logits.
        holds: Whether the target computes the same as the network.
        weights: Those of the network: "fp32" or "int8"; "" in files of earlier versions.
    """

    target: str
    images: int
    top1: float | None
    target_top1: float | None
    same_class: float
    logit_error: float
    largest_logit: float
    layers: int
    spikes: int
    differing: int
    first: str | None
    distance: float | None
    exact: bool
    holds: bool
    weights: str = ""

    def to_json(self) -> dict[str, Any]:
        """All numbers."""
        return asdict(self)


@torch.no_grad()
def compare(
    name: str,
    network: nn.Module,
    target: Target,
    contract: Contract,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    resolution: float | None = None,
) -> Parity:
    """Compare a target with a network on batches of images and labels.

    Parity holds if the same spikes give close logits, for at least one image, and if spikes differ, in the first layer
    where any do, only at potentials that equal the threshold up to the rounding of floats. With a `resolution` of its
    logits the target is exact: no spike and no class may differ, and no logit by more than that.

    Raises:
        OnespikeError: There are no images.
    """
    dtype = next(network.parameters(), torch.empty(())).dtype
    images = clean = right = target_right = same = spikes = differing = layers = 0
    error = largest = 0.0
    first, place, distance, labelled, holds = None, sys.maxsize, 0.0, True, True
    for raw, labels in batches:
        answer, calls = answer_and_calls(network, contract.normalise(raw, dtype), foreign_potentials=True)
        logits = over_time(answer)
        if not logits.isfinite().all():
            raise OnespikeError("the network answers with numbers that are not finite: its training failed")
        answers, shown = target(raw)
        expected = len(raw), len(contract.classes)
        if not tuple(logits.shape) == tuple(answers.shape) == expected:
            shapes = f"{tuple(logits.shape)} by the network, {tuple(answers.shape)} by {name}"
            raise OnespikeError(f"export: expected logits {expected}, the same at every call, got {shapes}")
        pairs = [
            (call, one)
            for call, one in zip(calls, shown, strict=bool(shown))
            if one is not None and getattr(call.neuron, "spiking", True)
        ]
        errors = (answers.double() - logits.double()).abs().amax(1).nan_to_num(math.inf, math.inf)
        images += len(logits)
        same += int((answers.argmax(1) == logits.argmax(1)).sum())
        labelled = labelled and labels is not None
        if labels is not None:
            right, target_right = (
                count + int((one.argmax(1) == labels).sum())
                for count, one in ((right, logits), (target_right, answers))
            )
        error, largest = max(error, errors.max().item()), max(largest, logits.abs().max().item())
        pending = torch.ones(len(logits), dtype=torch.bool)  # images whose spikes were the same so far
        layers = len(pairs)
        for number, (call, found) in enumerate(pairs):
            if found.ndim > call.spikes.ndim:  # (B, …) of what one image gives
                found = found.movedim(0, call.batch_axis)
            wrong = call.spikes.sign() != found.reshape(call.spikes.shape).sign()
            spikes += wrong.numel()
            per_image = wrong.movedim(call.batch_axis, 0).flatten(1).any(1)
            fresh = per_image & pending
            if bool(fresh.any()):
                away = _distance(call, wrong, fresh)
                holds = holds and away <= NEAR
                if number < place:
                    first, place, differing, distance = call.path, number, 0, 0.0
                if number == place:
                    differing, distance = differing + int(wrong.sum()), max(distance, away)
            pending &= ~per_image
        clean += int(pending.sum())
        holds = holds and bool((errors[pending] <= CLOSE * largest + TINY).all())
    if not images:
        raise OnespikeError("export: expected test images to prove the export on, got none")
    if holds and not clean:
        warn(f"{name}: spikes of every image differ somewhere, so no logits were compared: prove it on more images")
    holds = holds and clean > 0
    if resolution is not None:
        holds = first is None and same == images and error <= resolution
    shares = [100 * count / images if labelled else None for count in (right, target_right)]
    return Parity(
        target=name,
        images=images,
        top1=shares[0],
        target_top1=shares[1],
        same_class=100 * same / images,
        logit_error=min(FAR, error),
        largest_logit=largest,
        layers=layers,
        spikes=spikes,
        differing=differing,
        first=first,
        distance=distance if first is not None else None,
        exact=resolution is not None,
        holds=holds,
        weights=contract.weights,
    )


def _distance(call: Fired, wrong: Tensor, images: Tensor) -> float:
    """Largest distance from the threshold of potentials whose spikes differ; `FAR` where that is not known."""
    if call.potential is None or call.threshold is None:
        return FAR
    threshold = torch.as_tensor(call.threshold).detach()
    away = (call.potential.abs() if getattr(call.neuron, "signed", False) else call.potential) - threshold
    away = torch.where(wrong, away.abs(), 0).movedim(call.batch_axis, 0)
    return min(FAR, away[images].max().item())
