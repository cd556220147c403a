"""The choices of the former recipe, before images grew: each is changed alone, on a small budget."""

from typing import Any

from reproduce.outcome_figure import draw_rows
from reproduce.plan import FULL_SIZE, PLAIN, FastSweep, Setting

#: What all rows share: the test images choose nothing, and the network is a smaller one.
BASE: dict[str, Any] = FULL_SIZE | PLAIN | {"data.holdout": 0.1, "model.width": 32}

#: Rows by factor: what each changes. Where a choice makes a layer dearer, the width shrinks so that the cost stays.
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "optimiser": {
        "Nesterov SGD": {"train.optimizer": "nesterov", "train.lr": 0.1, "train.weight_decay": 5e-4},
        "AdamW": {"train.optimizer": "adamw", "train.lr": 0.002, "train.weight_decay": 0.05},
        "Muon with lookahead": {"train.optimizer": "lookahead_muon"},
        "learning rate / 2": {"train.lr": 0.01},
        "learning rate x 2": {"train.lr": 0.04},
        "norms and thresholds at a quarter of it": {"train.norm_lr_factor": 0.25},
        "norms and thresholds at four times it": {"train.norm_lr_factor": 4},
        "average of the weights, 0.98": {"train.ema": 0.98},
        "weight decay": {"train.weight_decay": 0.2},
    },
    "surrogate": {
        "rectangle of width 2": {"model.neuron.surrogate": "rectangle"},
        "arctan": {"model.neuron.surrogate": "arctan"},
        "gaussian": {"model.neuron.surrogate": "gaussian"},
        "sigmoid": {"model.neuron.surrogate": "sigmoid"},
        "triangle of half-width 1": {"model.neuron.surrogate_width": 1},
        "triangle of half-width 4": {"model.neuron.surrogate_width": 4},
        "triangle, from 2 to 0.5": {"train.surrogate_width_end": 0.5},
    },
    "images": {
        "flip at random": {"data.alternate_flip": False},
        "crop with zeros": {"data.crop_fill": "zero"},
        "no crop": {"data.crop_padding": 0},
        "Cutout, 12 pixels": {"data.cutout": 12},
        "from 20 pixels on": {"train.start_size": 20},
        "no label smoothing": {"train.label_smoothing": 0},
        "Mixup, 0.1": {"train.mixup": 0.1},
    },
    "network": {
        "VGG": {"model.name": "spiking-vgg-m"},
        "no whitening": {"model.stem": "none"},
        "stem of two layers": {"model.stem_layers": 2},
        "half of the neurons fire at the start": {"model.firing_rate": 0.5},
        "head: mean": {"model.head": "mean"},
        "one neuron a channel": {"model.population": 1, "model.width": 44},
        "three neurons a channel": {"model.population": 3, "model.width": 26},
        "channel attention": {"model.attention": 8},
        "RPReLU": {"model.stream": "rprelu"},
        "ternary spikes": {"model.neuron": "ternary"},
        "ReLU (its artificial twin)": {"model.preset": "ann"},
    },
    "loss": {
        "taught by its twin": {"train.teacher": "twin"},
        "taught by its twin, features too": {"train.teacher": "twin", "train.teacher_features": 1},
        "Hoyer, 1e-8": {"train.hoyer": 1e-8},
        "synaptic operations, 0.3": {"train.rate_penalty": 0.3},
    },
}

CHOICES = FastSweep(
    name="choices",
    title="Choices of a strictly spiking network and its training",
    about="One choice of the recipe cifar10/fast as it was at first, on images of full size, is changed at a time, "
    "on a small budget; the held-out images are what choices go by. The twin's row is no spiking network. "
    "What a teacher's training cost is not in the row's PFLOP.",
    settings=[
        Setting("baseline", "baseline", BASE),
        *(Setting(group, name, BASE | changes) for group, rows in ROWS.items() for name, changes in rows.items()),
    ],
    reference="baseline",
    draw=draw_rows,
    epochs=1,
)
