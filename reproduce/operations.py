"""Accuracy against synaptic operations: the strictly spiking ResNet with a price on each of them, and its twin."""

from functools import partial

from reproduce.costs import audit_training
from reproduce.over_time import draw_costs, write_over_time
from reproduce.plan import Setting, Sweep

#: Weights in the loss of the operations, as a share of the dense multiply-accumulates.
PENALTIES = (0, 0.3, 1, 3, 10)
#: A penalty is of an image at its full size.
FULL = {"train.start_size": 0}

OPERATIONS = Sweep(
    name="operations",
    title="Accuracy against synaptic operations",
    about="The recipe cifar10/fast, with its weight decay, on images of full size; `train.rate_penalty` adds the "
    "synaptic operations to the loss, as a share of the dense multiply-accumulates. In the picture, the "
    "multiply-accumulates on real numbers are added to them: the stem's, and all of the ReLU twin's.",
    settings=[
        *(Setting("spiking-resnet-m", f"penalty {n:g}", FULL | {"train.rate_penalty": n}) for n in PENALTIES),
        Setting("twin", "ReLU", FULL | {"model.preset": "ann"}),
    ],
    reference="best",
    draw=partial(
        draw_costs,
        costs_summed=("synaptic_operations", "real_macs"),
        label="synaptic operations, and multiply-accumulates on real numbers, for one sample",
    ),
    recipe="cifar10/fast",
    epochs=10,
    limit=0,
    precision="bf16",
    measure=partial(audit_training, name="operations", latency=True),
    write=write_over_time,
)
