"""Conversion: an artificial network, converted at several numbers of time steps; trained on at one, by each route."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch

from onespike.audit import audit_run
from onespike.clock import interleaved, watch_machine
from onespike.data.dataset import open_dataset
from onespike.durable import write_whole
from onespike.errors import OnespikeError
from onespike.evaluation.convert import convert_run
from onespike.training.checkpoint import ModelCard
from onespike.training.pretrained import is_pretrained
from onespike.training.run import Run, load
from reproduce.conversion_table import TRAINED_ON, Entry, Measurement, write
from reproduce.trained import open_or_train, some_test_images

#: What the small network for a first look changes in the recipe "digits".
SMALL = {"model.name": "resmlp12", "train.epochs": 10, "train.lr": 0.05, "train.mixup": 0.0}
#: The activation of the second route.
STAIRCASE = "qcfs"
#: Images that energy and latency are measured on, and how often each network is timed.
MEASURED, ROUNDS = 64, 7


def conversion(
    run: Path | None = None,
    longer: Path | None = None,
    staircase: Path | None = None,
    finetuned: tuple[Path, ...] = (),
    time_steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32),
    populations: tuple[int, ...] = (2, 4),
    images: int = 512,
    test_images: int = 10_000,
    allow_real: bool = False,
    out: Path = Path("results"),
    work: Path = Path("runs/paper"),
) -> str:
    """An artificial network, converted at several numbers of time steps, and after training on at one.

    Args:
        run: The run of the artificial network; a small ResMLP on the digits, trained first, by default.
        longer: A run of the same network trained for as many epochs as those of `finetuned` have in all.
        staircase: A run of the same network with a staircase for its activations, the second route.
        finetuned: Runs that were trained on at one time step after conversion, by either route.
        time_steps: Numbers of time steps to convert for.
        populations: Numbers of neurons for each activation to convert for as well, at one time step.
        images: Training images that calibrate.
        test_images: Test images, spread evenly over the test set; all of them if there are fewer.
        allow_real: Leave real-valued what cannot be converted, as the softmax of an attention.
        out: Folder for conversion-MODEL-DATA.csv, .md and .png (conversion-MODEL-spiking-DATA with spiking branches).
        work: Folder for the converted runs and what was measured; what is there is not made again.

    Returns:
        What the files are called.
    """
    if not time_steps or min(time_steps) < 1:
        raise OnespikeError(f"time_steps: expected numbers of at least 1, got {list(time_steps)}")
    if populations and min(populations) < 2:
        raise OnespikeError(f"populations: expected numbers of at least 2, got {list(populations)}")
    if test_images < 2:
        raise OnespikeError(f"test_images: expected at least 2, which an interval takes, got {test_images}")
    ann = open_or_train(run, "conversion/ann", SMALL, work)
    card = _card(ann)
    own = card.model.activation
    if own == STAIRCASE:
        raise OnespikeError(f"{ann.folder} has a staircase for its activations: give it as --staircase")
    _kin(ann, ann, own)
    trained_on = [_kin(ann, Run.open(one), own, STAIRCASE, trained_on=True) for one in finetuned]
    long = _kin(ann, Run.open(longer), own) if longer else None
    stairs = _kin(ann, Run.open(staircase), STAIRCASE) if staircase else None
    if long:
        _expect_as_long(long, trained_on)
    folder = work / "conversion"

    def entry(network: str, one: Run) -> Entry:
        """A row; its time is still to be measured."""
        how = _card(one).conversion
        steps, neurons = (how.time_steps, how.population) if how else (0, 0)
        return Entry(network, steps, neurons, one.epochs(), one, _measure(one, test_images, folder), 0.0)

    def converted(network: str, source: Run) -> list[Entry]:
        sizes = [(one, 1) for one in time_steps] + [(1, one) for one in populations]
        return [entry(network, _converted(source, folder, *size, images, allow_real)) for size in sizes]

    found = [entry("artificial network", ann)]
    if long:
        found.append(entry("artificial network, trained as long", long))
    found += converted("converted", ann)
    if stairs:
        found += [entry("staircase network", stairs), *converted("staircase, converted", stairs)]
    found += [entry(f"{TRAINED_ON}{_route(one)}", one) for one in trained_on]
    times, busy = _milliseconds([one.run for one in found])
    found = [replace(one, milliseconds=time) for one, time in zip(found, times, strict=True)]
    name = f"conversion-{card.model.name}{'-spiking' if _branches(card) == 'spiking' else ''}-{card.data}"
    write(found, found[1] if long else found[0], MEASURED, out, name, busy)
    return name


def _converted(source: Run, folder: Path, steps: int, population: int, images: int, allow_real: bool) -> Run:
    """Convert a run, or open what an earlier call made of it."""
    kind = f"{source.checkpoint('best').digest[:12]}-{images}{'-real' if allow_real else ''}"
    made = Run(folder / f"{kind}-T{steps}-P{population}")
    if not made.has_checkpoint():
        if made.folder.exists():  # interrupted before it was whole
            shutil.rmtree(made.folder)
        convert_run(source, made.folder, time_steps=steps, population=population, images=images, allow_real=allow_real)
    return made


def _branches(card: ModelCard) -> str:
    """What the layers of its blocks read, where that can be chosen."""
    return getattr(card.model, "branches", "real")


def _card(run: Run) -> ModelCard:
    """What a run's network is; an `OnespikeError` if it is not of an artificial one."""
    if is_pretrained(run.folder):
        raise OnespikeError(f"{run.folder}: expected a run that was trained here, got a pretrained network")
    card = run.checkpoint("best").card
    if not hasattr(card.model, "activation"):
        raise OnespikeError(f"{run.folder}: expected a run of an artificial network, such as of cifar10/resnet18")
    return card


def _kin(ann: Run, run: Run, *activations: str, trained_on: bool = False) -> Run:
    """Return a run if it is complete, and of the same network on the same data as `ann`; else an `OnespikeError`.

    It has one of these activations; or, as `trained_on` asks for, it was converted from one of them, and then trained
    on at one time step.
    """
    network, card = _card(ann), _card(run)
    if trained_on:
        if card.conversion is None or card.conversion.time_steps > 1 or not run.is_complete:
            raise OnespikeError(
                f"{run.folder}: expected a run that was trained on at one time step after conversion, such as of "
                "cifar10/finetune, to its end"
            )
    elif card.conversion:
        raise OnespikeError(f"{run.folder}: expected a run of an artificial network, such as of cifar10/resnet18")
    if not run.is_complete:
        raise OnespikeError(f"{run.folder}: expected a run that was trained to its end; go on with --resume")
    if (card.data, card.name, _branches(card)) != (network.data, network.name, _branches(network)):
        raise OnespikeError(
            f"{run.folder}: expected {network.name} with {_branches(network)} branches on {network.data} like the "
            f"others, got {card.name} with {_branches(card)} branches on {card.data}"
        )
    images, others = (one.recipe.data for one in (ann, run))
    for name in ("limit", "holdout", "image_size"):
        if getattr(images, name) != getattr(others, name):
            raise OnespikeError(
                f"{run.folder}: expected the images of {ann.folder}, with data.{name} {getattr(images, name)}, "
                f"got {getattr(others, name)}"
            )
    if (found := card.model.activation) not in activations:
        raise OnespikeError(f"{run.folder}: expected {' or '.join(activations)} activations here, got {found}")
    return run


def _expect_as_long(longer: Run, finetuned: Sequence[Run]) -> None:
    for run in finetuned:
        if run.epochs() != longer.epochs():
            raise OnespikeError(
                f"{longer.folder} was trained for {longer.epochs()} epochs, {run.folder} for {run.epochs()} in all: "
                "expected as many"
            )


def _route(run: Run) -> str:
    """How a run that was trained on came to its network, in words."""
    card = _card(run)
    route, how = "staircase route" if card.model.activation == STAIRCASE else "calibrated route", card.conversion
    more = ["real shortcuts"] if how and how.shortcuts == "real" else []
    more += [f"{how.population} neurons each"] if how and how.population > 1 else []
    more += ["a teacher"] if run.recipe.train.teacher else []
    return f"{route} with {' and '.join(more)}" if more else route


def _measure(run: Run, test_images: int, folder: Path) -> Measurement:
    """Classify the test images and audit, once."""
    kept = folder / "measured" / f"{run.checkpoint('best').digest[:12]}-{test_images}.json"
    if kept.is_file():
        return Measurement(**json.loads(kept.read_text()))
    audit = audit_run(run, images=MEASURED, latency=False)
    energies = (1e6 * audit.energy(convention).total for convention in ("field", "memory"))
    measured = Measurement(_hits(run, test_images), *energies)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept, json.dumps(asdict(measured), indent=2))
    return measured


@torch.no_grad()
def _milliseconds(runs: list[Run]) -> tuple[list[float], str | None]:
    """Median time for an image of each run's network, in turns, in batches of the same images; why not to trust it."""
    ((images, _),) = some_test_images(runs[0], runs[0].checkpoint("best"), MEASURED)
    networks = {str(number): partial(load(run.folder), images) for number, run in enumerate(runs)}
    with watch_machine() as machine:
        taken = interleaved(networks, ROUNDS)
    return [1e3 * median(seconds) / len(images) for seconds in taken.values()], machine.busy


@torch.no_grad()
def _hits(run: Run, test_images: int) -> str:
    network, checkpoint = load(run.folder), run.checkpoint("best")
    count = min(test_images, len(open_dataset(run.recipe.data).test))
    return "".join(
        "01"[hit]
        for batch, labels in some_test_images(run, checkpoint, count)
        for hit in (network(batch).argmax(1) == labels).int().tolist()
    )
