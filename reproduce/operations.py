"""Accuracy against synaptic operations: the strictly spiking ResNet with a price on each of them, and its twin."""

from functools import partial

from reproduce.costs import audit_training
from reproduce.over_time import draw_costs, write_over_time
from reproduce.plan import Setting, Sweep
from reproduce.statistics import Estimate

#: Weights in the loss of the operations, as a share of the dense multiply-accumulates.
PENALTIES = (0, 0.3, 1, 3, 10)

#: A penalty is of an image at its full size.
FULL = {"train.start_size": 0}


def operations(costs: dict[str, Estimate]) -> float:
    """Synaptic operations for one sample; of the twin, multiply-accumulates."""
    return costs["synaptic_operations"].mean or costs["macs"].mean


OPERATIONS = Sweep(
    name="operations",
    title="Accuracy against synaptic operations",
    about="The recipe cifar10/fast with images of full size; `train.rate_penalty` adds the synaptic operations to the "
    "loss, as a share of the dense multiply-accumulates. The ReLU twin multiplies real numbers.",
    settings=[
        *(Setting("spiking-resnet-m", f"penalty {n:g}", FULL | {"train.rate_penalty": n}) for n in PENALTIES),
        Setting("twin", "ReLU", FULL | {"model.preset": "ann"}),
    ],
    reference="best",
    draw=partial(draw_costs, cost=operations),
    recipe="cifar10/fast",
    epochs=10,
    limit=0,
    precision="bf16",
    measure=partial(audit_training, name="operations", latency=True),
    write=write_over_time,
)
