"""Accuracy against synaptic operations: the strictly spiking ResNet with a price on each of them, and its twin."""

from functools import partial

from reproduce.costs import draw_costs
from reproduce.plan import Setting, Sweep

#: Weights in the loss of the operations, as a share of the dense multiply-accumulates.
PENALTIES = (0, 0.3, 1, 3, 10)
#: The trained network, and how it is fine-tuned. A penalty is of an image at its full size.
START = "pretrained:cifar10-spiking-resnet-m"
FINE_TUNED = {"train.epochs": 2, "train.lr": 0.004, "train.warmup_epochs": 0.2, "train.start_size": 0}

OPERATIONS = Sweep(
    name="operations",
    title="Accuracy against synaptic operations",
    about=f"`{START}`, whose weights have 8 bits and took 0.3726 PFLOP, fine-tuned for 2 epochs by the recipe "
    "cifar10/fast, at a fifth of its learning rate, on images of full size; `train.rate_penalty` adds the "
    "synaptic operations to the loss, as a share of the dense multiply-accumulates. PFLOP is of these two epochs "
    "alone. Its ReLU twin is trained from the start by the same recipe, and its PFLOP is of all that. In the "
    "picture, the multiply-accumulates on real numbers are added to the operations: the stem's, and all of the "
    "twin's. These count the zeros of the padding, the operations do not.",
    settings=[
        *(
            Setting("spiking-resnet-m", f"penalty {n:g}", FINE_TUNED | {"train.rate_penalty": n}, start=START)
            for n in PENALTIES
        ),
        Setting("twin", "ReLU", {"model.preset": "ann", "train.epochs": 22}),
    ],
    reference="best",
    recipe="cifar10/fast",
    limit=0,
    precision="bf16",
    draw=partial(
        draw_costs,
        costs_summed=("synaptic_operations", "real_macs"),
        label="synaptic operations, and multiply-accumulates on real numbers, for one sample",
    ),
    epochs=10,
    audited=True,
)
