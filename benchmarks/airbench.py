"""`python -m benchmarks.airbench`: seconds of training to 90% and 92% of the test images, after cifar10-airbench.

The recipe is trained to its end. The test images are looked at after each epoch, for the clock alone: nothing is chosen
by them. The clock runs while the network trains; a short training before it warms up whatever is compiled.
"""

import sys
import tempfile
from functools import partial
from typing import Any

from benchmarks.machine import Device, describe, expect_device
from onespike import Callback, OnespikeError, load_recipe, train
from onespike.cli.command import Overrides, call
from onespike.cli.main import exit_with
from onespike.clock import watch_machine
from onespike.durable import expect_writable, save_json
from onespike.training.loop import Stopped
from onespike.training.trainer import Trainer

#: Test top-1, in percent, that the clock is read at; `cifar10/hour` reaches both.
GOALS = (90, 92)
#: Batches of the training that warms up: enough for images that grow to have all their sizes.
WARM_UP = 8


class Clock(Callback):
    """Tests after each epoch; tells how many seconds of training came before."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def after_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Test, and print."""
        seconds = row["epoch_seconds"] + (self.epochs[-1]["seconds"] if self.epochs else 0)
        self.epochs.append({"seconds": seconds, "test_top1": trainer.evaluate(trainer.test).top1})
        print(f"epoch {row['epoch']:3}{seconds:9.1f} s{self.epochs[-1]['test_top1']:8.2f}%", file=sys.stderr)

    def seconds_to(self, goal: float) -> float | None:
        """Seconds of training until a test top-1, in percent; None if that was not reached."""
        return next((epoch["seconds"] for epoch in self.epochs if epoch["test_top1"] >= goal), None)


def airbench(
    recipe: str = "cifar10/hour",
    device: Device = "cpu",
    json: str = "results/airbench.json",
    overrides: Overrides | None = None,
) -> int:
    """Train a recipe, and say after how many seconds it knew how many of the test images.

    Args:
        recipe: A recipe's name, or a YAML file.
        device: Where it is trained.
        json: A file for what was found; - prints it.
        overrides: Values of the recipe to change, such as --data.root FOLDER.
    """
    expect_device(device)
    expect_writable(json)
    if taken := {"train.device", "train.track"} & {*(overrides or {})}:
        raise OnespikeError(f"--{min(taken)}: --device says where it is trained, and nothing is tracked; leave it out")
    changed = dict(overrides or {}) | {"train.device": "cpu" if device == "cpu" else "auto", "train.track": "[]"}
    asked, clock = load_recipe(recipe, changed), Clock()
    few = WARM_UP * asked.train.batch_size
    few = min(asked.data.limit or few, few)
    warm_up = load_recipe(recipe, {**changed, "train.epochs": "1", "data.limit": f"{few}"})
    try:
        with tempfile.TemporaryDirectory() as folder:
            train(warm_up, f"{folder}/warm", quiet=True)
            with watch_machine(device) as machine:
                summary = train(asked, f"{folder}/run", callbacks=[clock], quiet=True)
    except Stopped:
        print("stopped; nothing is kept", file=sys.stderr)
        return 130
    found = {
        "recipe": recipe,
        "changed": {name: str(value) for name, value in (overrides or {}).items()},
        "seconds_to": {str(goal): clock.seconds_to(goal) for goal in GOALS},
        "seconds": clock.epochs[-1]["seconds"],
        **{name: summary[name] for name in ("test_top1", "images_per_second")},
        "epochs": clock.epochs,
        "machine": describe() | {"device": device, "busy": machine.busy},
    }
    save_json(found, json)
    return 0


main = partial(call, airbench, usage="python -m benchmarks.airbench", sections=("data", "model", "train"))


if __name__ == "__main__":
    exit_with(main)
