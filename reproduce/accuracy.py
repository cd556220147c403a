"""Accuracy at one time step: the strictly spiking networks, their artificial twins, and SpikingJelly's, by budget."""

from typing import Any

import reproduce.spikingjelly_networks  # noqa: F401 - registers its models
from reproduce.outcome_figure import draw_rows
from reproduce.plan import FULL_SIZE, PLAIN, FastSweep, Setting

RESNET: dict[str, Any] = {"model.name": "spiking-resnet-m"}
FORMER = RESNET | PLAIN
TWIN: dict[str, Any] = {"model.preset": "ann"}

#: SpikingJelly's networks in their own way: plain SGD with momentum, no tricks.
MOMENTUM: dict[str, Any] = FULL_SIZE | {
    "data.crop_padding": 4,
    "data.crop_fill": "zero",
    "data.alternate_flip": False,
    "train.optimizer": "momentum",
    "train.lr": 0.1,
    "train.batch_size": 125,
    "train.label_smoothing": 0,
}
SPIKINGJELLY = MOMENTUM | {"model.name": "spikingjelly-vgg"}

#: Images that grow make room for more epochs.
GROWING: dict[str, Any] = {"train.epochs": 15}

#: Neurons with the same weights: they make room for more epochs, or for more channels.
TIED: dict[str, Any] = {"model.tied": True}

#: The paper's networks, with what they lack: the recipe cifar10/conv12-improved.
IMPROVED: dict[str, Any] = FULL_SIZE | {"model.preset": "improved", "train.epochs": 8, "train.weight_decay": 0.2}

#: The recipes cifar10/hour and cifar100/hour as they were at first; then as they were before images grew.
LARGE: dict[str, Any] = PLAIN | {"model.name": "spiking-resnet-l", "train.epochs": 30}
LARGE_AS_IT_WAS: dict[str, Any] = FULL_SIZE | PLAIN | {"model.name": "spiking-resnet-l", "train.epochs": 20}

#: Evenly spaced thresholds, by which the neurons of a channel together round its current.
SPACED: dict[str, Any] = {"model.spacing": 0.7, "model.neuron.surrogate_width": 1.0}

#: The recipe cifar100/fast, and cifar10/fast as it was: three such neurons, and fewer channels, which costs as much.
THREE_SPACED: dict[str, Any] = TIED | {
    "model.population": 3,
    "model.spacing": 0.8,
    "model.neuron.surrogate_width": 1.0,
    "model.width": 60,
    "train.epochs": 18,
}

#: The recipe cifar10/fast: it costs as much, and gives a network with a sixth fewer synaptic operations.
NARROWER: dict[str, Any] = {"model.width": 54, "train.epochs": 22}

#: The recipes cifar10/hour and cifar100/hour but for the spacing and the surrogate's width.
LARGE_TIED: dict[str, Any] = TIED | {
    "model.name": "spiking-resnet-l",
    "model.population": 4,
    "model.width": 96,
    "data.crop_padding": 4,
    "data.cutout": 8,
    "train.epochs": 28,
}

#: The recipe cifar10/best as it was before; cifar100/best had fewer epochs.
LARGEST: dict[str, Any] = PLAIN | {
    "model.name": "spiking-resnet-xl",
    "data.crop_padding": 4,
    "data.cutout": 8,
    "train.epochs": 40,
    "train.batch_size": 500,
    "train.lr": 0.025,
}

#: The recipes cifar10/best and cifar100/best: eight tied neurons, whose range is about that of four, and 128 channels.
LARGEST_TIED: dict[str, Any] = LARGE_TIED | {
    "model.population": 8,
    "model.spacing": 0.3,
    "model.neuron.surrogate_width": 1.0,
    "model.width": 128,
    "train.epochs": 40,
    "train.batch_size": 500,
    "train.lr": 0.025,
}

#: 40 images of each class of Tiny-ImageNet: by the recipe tiny-imagenet/fast, and as that was before images grew.
FEW: dict[str, Any] = RESNET | {"data.limit": 8000, "data.crop_padding": 4}
GROWING_TINY: dict[str, Any] = FEW | {"train.start_size": 40, "train.epochs": 30}
SPACED_TINY: dict[str, Any] = GROWING_TINY | THREE_SPACED | {"train.epochs": 36}
RANDOM_CHANGES: dict[str, Any] = {"data.auto_augment": "rand-m7-mstd0.5"}
TINY: dict[str, Any] = FULL_SIZE | FEW
IMPROVED_TINY: dict[str, Any] = TINY | IMPROVED | {"train.epochs": 3, "train.batch_size": 125}
SPIKINGJELLY_TINY = TINY | MOMENTUM | {"model.name": "spikingjelly-resnet18", "model.time_steps": 4, "train.epochs": 6}

#: Rows by group, whose first word is the data set: what each changes.
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "cifar10, 0.4 PFLOP": {
        "spiking-resnet-m, three tied, spaced, narrower": RESNET | THREE_SPACED | NARROWER,
        "its ReLU twin, three tied, spaced, narrower": RESNET | THREE_SPACED | NARROWER | TWIN,
        "spiking-resnet-m, three tied, spaced": RESNET | THREE_SPACED,
        "spiking-resnet-m": RESNET | GROWING,
        "its ReLU twin": RESNET | GROWING | TWIN,
        "spiking-resnet-m, spiking stem": RESNET | {"model.stem": "spiking", "train.epochs": 14},
        "spiking-resnet-m, tied, 28 epochs": RESNET | TIED | {"model.population": 3, "train.epochs": 28},
        "spiking-resnet-m, tied, wider": RESNET | TIED | {"model.width": 66, "train.epochs": 15},
        "spiking-resnet-m, former stem and head": FORMER | GROWING,
        "its ReLU twin, former stem and head": FORMER | GROWING | TWIN,
        "spiking-resnet-m, full size": FORMER | FULL_SIZE,
        "its ReLU twin, full size": FORMER | FULL_SIZE | TWIN,
        "spiking-vgg-m, full size": {"model.name": "spiking-vgg-m"} | PLAIN | FULL_SIZE,
        "SpikingJelly, T = 1": SPIKINGJELLY | {"train.epochs": 11},
        "SpikingJelly, T = 4": SPIKINGJELLY | {"model.time_steps": 4, "train.epochs": 3},
    },
    "cifar10, 0.6 PFLOP": {"conv12, improved": {"model.name": "conv12"} | IMPROVED},
    "cifar10, 0.5 PFLOP": {"lstm12, improved": IMPROVED | {"model.name": "lstm12", "train.epochs": 6}},
    "cifar10, 2 PFLOP": {
        "spiking-resnet-l, tied, wider, spaced": LARGE_TIED | SPACED,
        "spiking-resnet-l, tied, wider": LARGE_TIED,
        "its ReLU twin, tied, wider": LARGE_TIED | TWIN,
        "spiking-resnet-l": LARGE,
        "its ReLU twin": LARGE | TWIN,
        "spiking-resnet-l, full size": LARGE_AS_IT_WAS,
        "spiking-resnet-l, rectified": {"model.name": "spiking-resnet-l", "train.epochs": 30},
    },
    "cifar10, 5 PFLOP": {
        "spiking-resnet-l, tied, widest, spaced": LARGEST_TIED,
        "spiking-resnet-xl": LARGEST,
    },
    "cifar10, 7 PFLOP": {"spiking-resnet-xl, 55 epochs": LARGEST | {"train.epochs": 55}},
    "cifar100, 0.4 PFLOP": {
        "spiking-resnet-m, three tied, spaced": RESNET | THREE_SPACED,
        "its ReLU twin, three tied, spaced": RESNET | THREE_SPACED | TWIN,
        "spiking-resnet-m": RESNET | GROWING,
        "spiking-resnet-m, tied, wider": RESNET | TIED | {"model.width": 66, "train.epochs": 15},
    },
    "cifar100, 2 PFLOP": {
        "spiking-resnet-l, tied, wider, spaced": LARGE_TIED | SPACED,
        "spiking-resnet-l, tied, wider": LARGE_TIED,
        "spiking-resnet-l": LARGE,
        "its ReLU twin": LARGE | TWIN,
        "spiking-resnet-l, Mixup 0.2": LARGE | {"train.mixup": 0.2},
    },
    "cifar100, 1.3 PFLOP": {
        "spiking-resnet-l": LARGE | {"train.epochs": 21},
        "spiking-resnet-l, full size": LARGE_AS_IT_WAS | {"train.epochs": 14},
    },
    "cifar100, 4 PFLOP": {"spiking-resnet-xl": LARGEST | {"train.epochs": 28}},
    "cifar100, 5 PFLOP": {"spiking-resnet-l, tied, widest, spaced": LARGEST_TIED},
    "tiny-imagenet, 0.15 PFLOP": {
        "spiking-resnet-m": GROWING_TINY,
        "spiking-resnet-m, tied, wider": GROWING_TINY | TIED | {"model.width": 66},
        "spiking-resnet-m, three tied, spaced": SPACED_TINY,
        "spiking-resnet-m, RandAugment": GROWING_TINY | RANDOM_CHANGES,
        "spiking-resnet-m, three tied, spaced, RandAugment": SPACED_TINY | RANDOM_CHANGES,
        "its ReLU twin": GROWING_TINY | TWIN,
        "spiking-resnet-m, former stem and head, full size": TINY | PLAIN | {"train.epochs": 20},
        "conv12, improved": IMPROVED_TINY | {"model.name": "conv12"},
        "lstm12, improved": IMPROVED_TINY | {"model.name": "lstm12"},
        "SpikingJelly's ResNet-18, T = 4": SPIKINGJELLY_TINY,
        "SpikingJelly's SEW-ResNet-18, T = 4": SPIKINGJELLY_TINY | {"model.name": "spikingjelly-sew-resnet18"},
    },
}

ACCURACY = FastSweep(
    name="accuracy",
    title="Accuracy at one time step",
    about="Every row starts from the recipe reproduce/fast.yaml; the list below the table has its options. Ours are "
    "strictly spiking behind the stem, but for the twins, conv12 and lstm12. In rows called tied, the neurons of "
    "a channel have the same weights; in rows called spaced, their thresholds are evenly spaced. Images grow in "
    "training except in rows of full size, of conv12 and lstm12, and of SpikingJelly's networks, which take "
    "--import reproduce.spikingjelly_networks as well. Rows of spiking-resnet-xl and of the tied spiking-resnet-l "
    "were trained in two processes, with spacing on CIFAR-100 in one. Tiny-ImageNet is 8,000 of its images, 40 of "
    "each class. There are no held-out images: the last weights are tested, once.",
    settings=[
        Setting(group, label, {"data.name": group.split(",")[0]} | changes)
        for group, rows in ROWS.items()
        for label, changes in rows.items()
    ],
    reference="best",
    draw=draw_rows,
    epochs=10,
)
