"""How good a trained network is: one part of a data set, seen once or several times."""

import math
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import torch
from rich.console import Console
from rich.progress import track

from onespike.data.config import DataConfig
from onespike.data.dataset import Dataset, ImageSet, open_dataset
from onespike.data.loader import EvalLoader, Share
from onespike.errors import OnespikeError, unknown
from onespike.evaluation.result import Evaluation, Spread
from onespike.training.checkpoint import ModelCard
from onespike.training.device import make_accelerator
from onespike.training.recipe import load_recipe
from onespike.training.run import Run
from onespike.training.scores import score

Part = Literal["test", "validation", "train"]
Which = Literal["best", "last"]
Precision = Literal["trained", "fp32", "bf16", "fp16", "fp64"]
Device = Literal["auto", "cpu"]


def evaluate(
    run: Run,
    data: DataConfig | None = None,
    part: Part = "test",
    which: Which = "best",
    passes: int = 1,
    batch_size: int | None = None,
    precision: Precision = "trained",
    device: Device = "auto",
    time_steps: int | None = None,
) -> Evaluation:
    """Evaluate the network of a run; under a launcher such as torchrun, by all processes together.

    With the run's own data, batch size and precision, the first pass draws what the test at the end of training drew,
    and finds what that found.

    Args:
        run: The run.
        data: The images; those of the run if None.
        part: Which part of them.
        which: Which checkpoint; the other one if it is damaged.
        passes: How often to show the images to a network whose encoding draws; a deterministic one sees them once.
        batch_size: Images in a batch, over all processes together; that of training if None.
        precision: Arithmetic, as in `TrainConfig`; "trained" takes that of training.
        device: "auto" takes the accelerator if there is one, "cpu" never.
        time_steps: How often a network runs on one image; its own number if None.

    Returns:
        The same result on all processes.

    Raises:
        OnespikeError: The run or the data cannot be read, do not suit each other, or an argument is out of its range.
    """
    if part not in get_args(Part):
        raise unknown("part", part, get_args(Part))
    for name, number in (("passes", passes), ("batch size", batch_size)):
        if number is not None and number < 1:
            raise OnespikeError(f"{name}: expected at least 1, got {number}")
    recipe = load_recipe(str(run.config))
    checkpoint = run.checkpoint(which)
    card = checkpoint.card
    if time_steps is not None:
        card = replace(card, config=replace(card.config, time_steps=time_steps))  # type: ignore[call-arg]
    config = replace(recipe.train, device=device)
    if precision != "trained":
        config = replace(config, precision=precision)
    accelerator = make_accelerator(config)
    with accelerator.main_process_first():
        dataset = open_dataset(data or recipe.data)
    expect_same_images(dataset, card)
    images: ImageSet = getattr(dataset, part)
    if not len(images):
        raise OnespikeError(f"{dataset.name} has no {part} images: choose another part, or a --data.holdout above 0")

    dtype = torch.float64 if config.precision == "fp64" else torch.float32
    network = card.build()
    network.load_state_dict(checkpoint.weights)
    network = network.to(accelerator.device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    share = Share(accelerator.device, dtype, accelerator.process_index, accelerator.num_processes)
    # The network knows its images as they were normalised in training, wherever these come from.
    batches = EvalLoader(images, card.mean, card.std, batch_size or config.batch_size, share)
    deterministic = not card.config.draws
    console = Console(stderr=True)
    hidden = not (accelerator.is_main_process and console.is_terminal)
    bar = partial(
        track, total=math.ceil(len(images) / batches.batch_size), console=console, transient=True, disable=hidden
    )
    scores = [
        score(network, bar(batches, f"pass {number + 1}"), len(card.classes), accelerator, config.seed + number)
        for number in range(1 if deterministic else passes)
    ]
    if not all(math.isfinite(one.loss) for one in scores):
        raise OnespikeError(
            f"the network of {run.folder} answers with numbers that are not finite: its training failed"
        )
    return Evaluation(
        data=dataset.name,
        part=part,
        checkpoint=which,
        epochs=checkpoint.state["progress"]["epoch"],
        classes=card.classes,
        images=len(images),
        passes=len(scores),
        deterministic=deterministic,
        loss=Spread.over([one.loss for one in scores]),
        top1=Spread.over([one.top1 for one in scores]),
        top5=Spread.over([one.top5 for one in scores]),
        confusion=torch.stack([one.confusion for one in scores]).sum(0),
    )


def expect_same_images(data: Dataset, card: ModelCard) -> None:
    """Make sure that a data set has the classes that a network tells apart, in such images as it takes.

    Args:
        data: The data set.
        card: The network's.

    Raises:
        OnespikeError: It has not.
    """
    if data.classes != card.classes:
        raise OnespikeError(
            f"the classes of {data.name} are not the network's: {_difference(data.classes, card.classes)}"
        )
    if data.in_channels != card.in_channels:
        raise OnespikeError(
            f"the images of {data.name} have {data.in_channels} channels, the network takes {card.in_channels}"
        )
    if data.image_size != card.image_size:
        raise OnespikeError(
            f"the images of {data.name} have {data.image_size} pixels a side, the network takes {card.image_size}: "
            f"pass --data.image_size {card.image_size}"
        )


def _difference(found: tuple[str, ...], expected: tuple[str, ...]) -> str:
    if len(found) != len(expected):
        return f"{len(found)} of them, where the network has {len(expected)}"
    number, (name, wanted) = next(
        (number, pair) for number, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1]
    )
    return f"class {number} is {name!r}, where the network has {wanted!r}"
