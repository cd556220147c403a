"""Callbacks that change what is learned: penalties in the loss, and the width of surrogates."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onespike.configs import convert
from onespike.errors import OnespikeError, shown
from onespike.neurons.base import Neuron, along_channels
from onespike.neurons.watch import Fired, watch_neurons
from onespike.tensors import wide
from onespike.training.callbacks import Callback, Step
from onespike.training.cost import ASCENT, CostMeter

if TYPE_CHECKING:
    from onespike.training.trainer import Trainer


class EnergyBudget(Callback):
    """Trains for few synaptic operations: a penalty in the loss, raised until an energy budget is kept (dual ascent).

    `image` is a shape (C, H, W). The penalty is `weight` times the synaptic operations, as a share of the dense
    multiply-accumulates. `budget` is the energy of an image in microjoule, 0 for none. It is an `OnespikeError` if no
    layer of the network reads spikes, or if the budget is out of reach.
    """

    def __init__(self, network: nn.Module, image: tuple[int, ...], weight: float, budget: float) -> None:
        self.meter, self.weight, self.budget, self.raised = CostMeter(network, image), weight, budget, 0.0
        if not self.meter.reads_spikes:
            expected = "expected a network of which some layers read spikes, got one that reads real values alone"
            raise OnespikeError(f"train.rate_penalty and train.energy_budget: {expected}")
        if 0 < budget <= (least := 1e6 * self.meter.least):
            state = f"the layers that read real values take {least:.4g} µJ an image, however little the network fires"
            fewer = "spiking-vgg and spiking-resnet have fewer by --model.stem spiking, others by --model.preset strict"
            raise OnespikeError(f"train.energy_budget: {state}; expected more, got {budget:g} ({fewer})")
        # Sums of synaptic operations and joules: of this process's images in this step, and of all images in this
        # epoch, with their number. A penalty that was added at a resumption has not seen the epoch's first images.
        self._step, self._epoch = [0.0, 0.0], [0.0, 0.0, 0.0]

    def forward(self) -> AbstractContextManager[None]:
        """Count the cost of the forward passes."""
        return self.meter.watch()

    def penalty(self, trainer: "Trainer", images: int) -> Tensor:
        """The weight, raised as far as the budget has required, times the share of synaptic operations."""
        cost = self.meter.read(images)
        # Of AugMix's splits, each image counts once.
        size = trainer.config.batch_size / trainer.accelerator.num_processes / trainer.config.accumulate
        self._step = [self._step[0] + cost.operations.item() * size, self._step[1] + cost.joules.item() * size]
        return (self.weight + self.raised) * cost.share

    def after_step(self, trainer: "Trainer", step: Step) -> None:
        """Add up the step's cost, and move the penalty's weight towards the budget."""
        operations, joules = trainer.add_up(self._step)
        self._step = [0.0, 0.0]
        self._epoch = [so_far + own for so_far, own in zip(self._epoch, (operations, joules, step.images), strict=True)]
        if self.budget:
            least, budget = self.meter.least, 1e-6 * self.budget
            over = (joules / step.images - least) / (budget - least) - 1
            self.raised = max(0.0, self.raised + ASCENT / (trainer.config.epochs * len(trainer.batches)) * over)

    def measure(self, trainer: "Trainer", row: dict[str, Any]) -> None:  # noqa: ARG002
        """Add the columns."""
        operations, joules, images = self._epoch
        row["synaptic_operations"] = operations / images if images else None
        row["energy_uj"] = energy = 1e6 * (joules / images) if images else None
        row["penalty_weight"] = self.weight + self.raised
        if self.budget:
            row["energy_of_budget"] = energy and energy / self.budget
        self._epoch = [0.0, 0.0, 0.0]

    def state(self) -> dict[str, Any]:
        """The raised weight and the epoch's sums."""
        return {"raised": self.raised, "epoch": self._epoch if self._epoch[2] else []}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore them."""
        # Without a budget, as if it were gone since, nothing would lower it again.
        self.raised = state["raised"] if self.budget else 0.0
        epoch = convert(state["epoch"], tuple[float, ...], "the epoch's sums")
        if len(epoch) not in (0, 3):
            raise OnespikeError(f"the epoch's sums: expected 3 numbers, got {shown(epoch)}")
        self._epoch = list(epoch) or [0.0, 0.0, 0.0]


class Hoyer(Callback):
    """Hoyer regularisation (Datta et al. 2022): a penalty that makes potentials few and large, or zero.

        penalty = weight * sum over layers of the mean over images of (sum |z|)^2 / sum z^2

    z are potentials clipped to [0, threshold]; for signed neurons, their absolute values. The sums run over the neurons
    of a layer for one image. Their ratio is 1 if a single z is above 0, and the number of neurons if all z are the
    same. Where neurons are called several times, as over time steps, each call counts. The authors' released code also
    sums over a whole batch of B images, with a weight of 1e-8: about B * 1e-8 here. Their threshold, the Hoyer
    extremum, is not used: neurons keep their own. A network without spiking neurons of the library is an
    `OnespikeError`.
    """

    #: Below this sum of squares, potentials are as good as 0.
    LEAST = 1e-6

    def __init__(self, network: nn.Module, weight: float) -> None:
        spiking_neurons(network, "train.hoyer")
        self.network, self.weight, self._calls = network, weight, list[Fired]()

    def forward(self) -> AbstractContextManager[None]:
        """Record the potentials."""
        return watch_neurons(self.network, self._calls.append, foreign_potentials=False)

    def penalty(self, trainer: "Trainer", images: int) -> Tensor | float:  # noqa: ARG002
        """Compute the penalty, in float32 at least."""
        with torch.autocast(trainer.accelerator.device.type, enabled=False):
            own = [call for call in self._calls if isinstance(call.neuron, Neuron) and call.neuron.spiking]
            self._calls.clear()  # or they would lie in memory until the next step, in evaluations, too
            return self.weight * sum(self._of(call) for call in own)

    def _of(self, call: Fired) -> Tensor:
        neuron, potential = call.neuron, call.potential
        assert isinstance(neuron, Neuron)
        assert potential is not None
        z = wide(potential)
        threshold = along_channels(neuron.threshold, z)
        # Filled, since copying a number to an accelerator would wait for it.
        threshold = threshold.to(z.dtype) if isinstance(threshold, Tensor) else z.new_full((), threshold)
        z = (z.abs() if neuron.signed else z.relu()).minimum(threshold)
        z = z.movedim(call.batch_axis, 0).flatten(1)
        return (z.sum(1).square() / z.square().sum(1).clamp(min=self.LEAST)).mean()


class SurrogateWidth(Callback):
    """Moves the width of surrogates geometrically, from the neurons' own, w, at the first step to `end` at the last.

    At a share t of the training it is w^(1 - t) * end^t: it depends on the step's number alone. A network without
    spiking neurons of the library is an `OnespikeError`.
    """

    def __init__(self, network: nn.Module, end: float) -> None:
        neurons = spiking_neurons(network, "train.surrogate_width_end")
        self.end, self._own = end, {neuron: neuron.surrogate for neuron in neurons}

    def before_step(self, trainer: "Trainer", number: int) -> None:
        """Set the width."""
        t = number / max(1, trainer.config.epochs * len(trainer.batches) - 1)
        for neuron, own in self._own.items():
            neuron.surrogate = own._replace(width=own.width ** (1 - t) * self.end**t)

    def close(self) -> None:
        """Restore the neurons' own widths."""
        for neuron, own in self._own.items():
            neuron.surrogate = own


def spiking_neurons(network: nn.Module, option: str) -> list[Neuron]:
    """Find the library's spiking neurons; an `OnespikeError` that names the option if there are none."""
    neurons = [one for one in network.modules() if isinstance(one, Neuron) and one.spiking]
    if not neurons:
        expected = "expected a network with spiking neurons of onespike.neurons, or subclasses of its Neuron"
        raise OnespikeError(f"{option}: {expected}, got one without: set 0")
    return neurons
