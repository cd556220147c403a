"""The proof that an export computes the same as the network: on real images, through the target itself."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from onespike.errors import OnespikeError, listed, warn
from onespike.exporting.contract import Contract
from onespike.models.strict_layers import adding_up
from onespike.neurons.watch import Fired, answer_and_calls, ask, depends_on_batch, reset_state
from onespike.training.losses import over_time

#: A target maps images, raw or normalised, to logits (B, K) and to the spikes of each call of a layer of neurons. There
#: are no spikes if it cannot show them, and None for a layer that it leaves out, since the logits do not need it.
Target = Callable[[Tensor], tuple[Tensor, Sequence[Tensor | None]]]
#: How far from its threshold a potential may lie whose spike differs, as floats may that are rounded otherwise; of the
#: largest potential, if that is below 1. How far logits from the same spikes may differ, in units of the largest logit,
#: and in any case, where all are small.
NEAR, CLOSE, TINY = 1e-4, 1e-4, 1e-6
#: Stands for a distance that is not known, or not finite.
FAR = 1e9
#: Images that a target and the network see at once.
BATCH = 50


@dataclass(frozen=True)
class Parity:
    """A target compared with the network that it was made from.

    Attributes:
        target: What it is called.
        images: Test images that both saw.
        top1: Accuracy of the network with the weights that were written (rounded, if they have 8 bits), in percent;
            None without labels.
        target_top1: Accuracy of the target, likewise.
        same_class: Share of the images that both put into the same class, in percent.
        logit_error: The largest difference of two logits; `FAR` if it is larger, or a target's logit is not finite.
        largest_logit: The largest logit of the network, with either sign.
        layers: Calls of layers of neurons whose spikes were compared; 0 where the target cannot show them.
        spikes: Outputs of neurons, spike or none, that were compared.
        differing: Outputs that differ, in the first layer where any do; after it all may differ.
        first: That layer; None if no spike differs.
        distance: Of its potentials whose spikes differ, the largest distance from the threshold.
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
    images: Tensor,
    labels: Tensor | None = None,
    resolution: float | None = None,
) -> Parity:
    """Compare a target with a network on images, raw or normalised, in batches.

    Parity holds if the same spikes give close logits and the same class, for at least one image, and if spikes differ,
    in the first layer where any do, only at potentials that equal the threshold up to the rounding of floats. With a
    `resolution` of its logits the target is exact: no spike and no class may differ, and no logit by more than that.

    Raises:
        OnespikeError: There are no images, or logits are not finite, or not one for each class.
    """
    if not len(images):
        raise OnespikeError("export: expected test images to prove the export on, got none")
    dtype = next(network.parameters(), torch.empty(())).dtype
    spikes, batches = _Spikes(), list[tuple[Tensor, Tensor, Tensor]]()
    for raw in images.split(BATCH):
        with adding_up(network):
            answer, calls = answer_and_calls(network, contract.normalise(raw, dtype), foreign_potentials=True)
        logits = over_time(answer)
        if not logits.isfinite().all():
            raise OnespikeError("the network answers with numbers that are not finite: its training failed")
        answers, shown = target(raw)
        expected = len(raw), len(contract.classes)
        if not tuple(logits.shape) == tuple(answers.shape) == expected:
            shapes = f"{tuple(logits.shape)} by the network, {tuple(answers.shape)} by {name}"
            raise OnespikeError(f"export: expected logits {expected}, the same at every call, got {shapes}")
        batches.append((logits, answers, spikes.see(calls, shown, len(raw))))
    if spikes.left_out:
        warn(f"{name}: the spikes of {listed(spikes.left_out)} have no row for each image: they were not compared")
    with adding_up(network):
        expect_the_same(network, contract.normalise(images[:BATCH], dtype), batches[0][0])
    logits, answers, same_spikes = map(torch.cat, zip(*batches, strict=True))
    guesses, target_guesses = logits.argmax(1), answers.argmax(1)
    same_class = _percent(guesses == target_guesses)
    largest = logits.abs().max().item()
    errors = (answers.double() - logits.double()).abs().amax(1).nan_to_num(math.inf, math.inf)
    error = errors.max().item()
    if resolution is not None:
        holds = spikes.first is None and same_class == 100 and error <= resolution
    else:
        if spikes.near and not same_spikes.any():
            warn(f"{name}: spikes of every image differ somewhere, so no logits were compared: prove it on more images")
        # Beside a logit of -1e9, as of a mask, any error is small: the class has to be the same, or as likely.
        pair = logits.gather(1, torch.stack([guesses, target_guesses], 1))
        alike = pair.diff().abs().flatten() <= CLOSE * pair.abs().amax(1) + TINY
        close = bool(((errors <= CLOSE * largest + TINY) & alike)[same_spikes].all())
        holds = spikes.near and bool(same_spikes.any()) and close
    return Parity(
        target=name,
        images=len(images),
        top1=None if labels is None else _percent(guesses == labels),
        target_top1=None if labels is None else _percent(target_guesses == labels),
        same_class=same_class,
        logit_error=min(FAR, error),
        largest_logit=largest,
        layers=spikes.layers,
        spikes=spikes.count,
        differing=spikes.differing,
        first=spikes.first,
        distance=None if spikes.first is None else spikes.distance,
        exact=resolution is not None,
        holds=holds,
        weights=contract.weights,
    )


def expect_the_same(network: nn.Module, images: Tensor, before: Tensor) -> None:
    """Raise an `OnespikeError` unless a network answers the same images as `before`: else nothing can be proved.

    It has to answer some of them alone as it does beside the others, too.
    """
    reset_state(network)
    logits = over_time(ask(network, images.clone()))  # it may change them in place
    if not (logits - before).abs().max() <= CLOSE * before.abs().max() + TINY:
        what = "the network answers the same images differently the second time"
        advice = "reset in its forward what it keeps, and draw no random numbers"
        raise OnespikeError(f"export: {what}, and no target can do the same: {advice}")
    reset_state(network)
    few = over_time(ask(network, images[: len(images) // 3 + 1].clone()))
    if depends_on_batch(few, before[: len(few)]):
        what = "the network's answer for an image depends on the other images of the batch"
        advice = "look for batch norm without running statistics, and for means over the batch"
        raise OnespikeError(f"export: {what}, and no target can do the same: {advice}")


@dataclass
class _Spikes:
    """A target's spikes beside the network's, over all batches; the attributes without a comment are as in `Parity`."""

    layers: int = 0
    count: int = 0
    differing: int = 0
    first: str | None = None
    distance: float = 0.0
    near: bool = True  # whether the first spikes of an image that differ all lie near the threshold
    place: int = sys.maxsize  # the number of the call of the layer `first`
    left_out: list[str] = field(default_factory=list)  # layers whose spikes cannot be compared
    one_by_one: bool = False  # whether the network calls neurons for some of the images at a time

    def see(self, calls: Sequence[Fired], shown: Sequence[Tensor | None], images: int) -> Tensor:
        """Add a batch; returns the images whose spikes are all the same, (B,)."""
        same, self.layers = torch.ones(images, dtype=torch.bool), 0  # so far
        paths = list(dict.fromkeys(call.path for call in calls))
        if self.one_by_one or len(paths) <= len(shown) < len(calls):  # a target that drops a layer shows fewer
            self.one_by_one, self.left_out = True, paths
            return same
        for place, (call, found) in enumerate(zip(calls, shown, strict=bool(shown))):
            if found is None or not getattr(call.neuron, "spiking", True):
                continue
            if (wrong := differing(call, found)) is None:
                self.left_out.append(call.path)
                continue
            self.layers += 1
            self.count += wrong.numel()
            rows = wrong.movedim(call.batch_axis, 0).flatten(1).any(1)
            # Of rows such as tokens it is not known whose they are: if any differs, all images may.
            known = len(rows) == images
            differ = rows if known else rows.any().expand(images)
            if bool((differ & same).any()) and (known or bool(same.all())):
                away = _distance(call, wrong, differ & same)
                largest = 0.0 if call.potential is None else call.potential.detach().abs().max().item()
                self.near = self.near and away <= NEAR * min(1.0, largest)
                if place < self.place:
                    self.first, self.place, self.differing, self.distance = call.path, place, 0, 0.0
                if place == self.place:
                    self.differing, self.distance = self.differing + int(wrong.sum()), max(self.distance, away)
            same &= ~differ
        return same


def differing(call: Fired, found: Tensor) -> Tensor | None:
    """Which spikes of a call a target has otherwise, of their shape; None if its order of them is not known.

    Spikes are compared by their sign, those of several levels by their number.
    """
    if found.ndim > call.spikes.ndim:  # (B, …) of what one image gives
        found = found.movedim(0, call.batch_axis).squeeze(call.batch_axis + 1)
        if found.shape != call.spikes.shape:
            return None
    whole = torch.round if _levels(call) > 1 else torch.sign
    return whole(call.spikes) != whole(found.reshape(call.spikes.shape))


def _levels(call: Fired) -> int:
    return int(getattr(call.neuron, "levels", 1))


def _percent(hits: Tensor) -> float:
    return 100 * int(hits.sum()) / len(hits)


def _distance(call: Fired, wrong: Tensor, images: Tensor) -> float:
    """Largest distance from a threshold of potentials whose spikes differ; `FAR` where that is not known."""
    beyond = call.distance
    if beyond is None:
        return FAR
    if (levels := _levels(call)) > 1:  # there is a threshold for each level
        threshold = torch.as_tensor(call.threshold).detach()
        beyond = beyond - threshold * (beyond / threshold).round().clamp(0, levels - 1)
    away = torch.where(wrong, beyond.detach().abs(), 0).movedim(call.batch_axis, 0)
    return min(FAR, (away[images] if len(away) == len(images) else away).max().item())
