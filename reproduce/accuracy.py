"""Accuracy at one time step: the strictly spiking networks, their artificial twins, and SpikingJelly's, by budget."""

from typing import Any

import reproduce.spikingjelly_networks  # noqa: F401 - registers its models
from reproduce.outcome_figure import draw_rows
from reproduce.plan import Setting, Sweep

#: SpikingJelly's networks in their own way: plain SGD with momentum, no tricks.
MOMENTUM: dict[str, Any] = {
    "data.crop_padding": 4,
    "data.crop_fill": "zero",
    "data.alternate_flip": False,
    "train.optimizer": "momentum",
    "train.lr": 0.1,
    "train.batch_size": 125,
    "train.label_smoothing": 0,
}
SPIKINGJELLY = MOMENTUM | {"model.name": "spikingjelly-vgg"}

#: Images that grow while a network trains: more epochs for the same cost, and more weight decay.
GROWING: dict[str, Any] = {"train.epochs": 15, "train.start_size": 20, "train.weight_decay": 0.5}

#: The paper's networks, with what they lack: the recipe cifar10/conv12-improved.
IMPROVED: dict[str, Any] = {"model.preset": "improved", "train.epochs": 8, "train.weight_decay": 0.2}

#: The recipes cifar10/hour and cifar100/hour.
LARGE: dict[str, Any] = {"model.name": "spiking-resnet-l", "train.epochs": 20}

#: The recipe tiny-imagenet/fast on 40 images of each class.
TINY: dict[str, Any] = {
    "data.name": "tiny-imagenet",
    "data.limit": 8000,
    "data.crop_padding": 4,
    "model.name": "spiking-resnet-m",
}
SPIKINGJELLY_TINY = TINY | MOMENTUM | {"model.name": "spikingjelly-resnet18"}

ACCURACY = Sweep(
    name="accuracy",
    title="Accuracy at one time step",
    about="Everything is trained by the recipe cifar10/fast, on Tiny-ImageNet by tiny-imagenet/fast; SpikingJelly's "
    "networks by momentum at 0.1. Ours are strictly spiking behind the stem, but for the twins. There are no held-out "
    "images: the last weights are tested, once.",
    settings=[
        Setting("cifar10, 0.4 PFLOP", "spiking-resnet-m", {"model.name": "spiking-resnet-m"}),
        Setting("cifar10, 0.4 PFLOP", "spiking-resnet-m, growing images", {"model.name": "spiking-resnet-m"} | GROWING),
        Setting("cifar10, 0.4 PFLOP", "its ReLU twin", {"model.name": "spiking-resnet-m", "model.preset": "ann"}),
        Setting("cifar10, 0.4 PFLOP", "spiking-vgg-m", {"model.name": "spiking-vgg-m"}),
        Setting("cifar10, 0.4 PFLOP", "SpikingJelly, T = 1", SPIKINGJELLY | {"train.epochs": 11}),
        Setting("cifar10, 0.4 PFLOP", "SpikingJelly, T = 4", SPIKINGJELLY | {"model.time_steps": 4, "train.epochs": 3}),
        Setting("cifar10, 0.6 PFLOP", "conv12, improved", {"model.name": "conv12"} | IMPROVED),
        *(
            Setting(f"{data}, 2 PFLOP", label, LARGE | {"data.name": data} | changes)
            for data in ("cifar10", "cifar100")
            for label, changes in {"spiking-resnet-l": {}, "its ReLU twin": {"model.preset": "ann"}}.items()
        ),
        Setting("cifar100, 1.3 PFLOP", "spiking-resnet-l", LARGE | {"data.name": "cifar100", "train.epochs": 14}),
        Setting("tiny-imagenet, 0.15 PFLOP", "spiking-resnet-m", TINY | {"train.epochs": 20}),
        Setting(
            "tiny-imagenet, 0.15 PFLOP",
            "SpikingJelly's ResNet-18, T = 4",
            SPIKINGJELLY_TINY | {"model.time_steps": 4, "train.epochs": 6},
        ),
        Setting(
            "tiny-imagenet, 0.15 PFLOP",
            "SpikingJelly's SEW-ResNet-18, T = 4",
            SPIKINGJELLY_TINY | {"model.name": "spikingjelly-sew-resnet18", "model.time_steps": 4, "train.epochs": 6},
        ),
    ],
    reference="best",
    draw=draw_rows,
    recipe="cifar10/fast",
    epochs=10,
    limit=0,
    precision="bf16",
)
