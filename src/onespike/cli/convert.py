"""`onespike convert`."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onespike.conversion import Calibration, Conversion
from onespike.data.config import DataConfig
from onespike.data.dataset import open_dataset
from onespike.errors import OnespikeError
from onespike.evaluation.convert import convert_run
from onespike.training.config import TrainConfig
from onespike.training.device import make_accelerator
from onespike.training.loop import Stopped, train
from onespike.training.recipe import load_recipe, parse, recipe_path, run_folder
from onespike.training.run import Run
from onespike.training.trainer import Trainer


def run(arguments: Sequence[str]) -> int:
    """Convert a run.

    Args:
        arguments: The command line behind `onespike convert`.

    Returns:
        The exit code.
    """
    parser = ArgumentParser(
        prog="onespike convert",
        usage="onespike convert RUN --out RUN [options]",
        description="Turn the artificial network of a run into a spiking one: integrate-and-fire neurons in place of "
        "its activations, thresholds calibrated on training images. These are the run's own; --data.* changes them, as "
        "--data.root FOLDER does where they have moved. The options --train.* are for --finetune.",
        exit_on_error=False,
    )
    parser.add_argument("run", type=str | None, nargs="?", metavar="RUN", help="run folder of an artificial network")
    parser.add_argument("--out", type=str | None, help="run folder of the spiking network, new or empty")
    parser.add_argument("--time-steps", type=int, default=1, help="how often the spiking network runs on one image")
    parser.add_argument("--images", type=int, default=512, help="how many training images calibrate")
    parser.add_argument(
        "--neurons", type=Literal["layer", "channel"], default="channel", help="what has a threshold of its own"
    )
    parser.add_argument(
        "--shortcuts",
        type=Literal["spikes", "real"],
        default="spikes",
        help="what residual additions read: spikes, or the activation as it is",
    )
    parser.add_argument(
        "--batch-norm",
        type=Literal["folded", "kept"] | None,
        help="fold batch norm, or keep it for fine-tuning (default: kept with --finetune, else folded)",
    )
    parser.add_argument(
        "--population", type=int, default=1, help="how many neurons replace one activation; at one time step only"
    )
    parser.add_argument(
        "--allow-real", action="store_true", help="leave real-valued what cannot be converted, rather than refuse it"
    )
    parser.add_argument(
        "--finetune", action="store_true", help="then fine-tune at one time step, into the run folder OUT-finetuned"
    )
    parser.add_class_arguments(Calibration, "calibration")
    folder = run_folder(parser, arguments)
    start = Run.open(folder).config if folder else None
    values = parse(parser, arguments, recipe_path("cifar10/finetune"), sections=("data", "train"), start=start)
    if not folder or not values.out:
        raise OnespikeError("expected two run folders: onespike convert RUN --out RUN")
    data = DataConfig(**values.data.as_dict())
    training = TrainConfig(**values.train.as_dict())
    if not values.finetune and any(argument.startswith("--train.") for argument in arguments):
        raise OnespikeError("--train.* options are for --finetune; leave them out, or add it")
    finetuned = Run(Path(f"{values.out.rstrip('/')}-finetuned"))
    source, out = Run(folder), Path(values.out)
    if values.finetune:  # what training would refuse is refused before anything is written
        if values.time_steps != 1:
            raise OnespikeError(f"--finetune trains at one time step: leave out --time-steps {values.time_steps}")
        finetuned.expect_free()
        recipe = replace(load_recipe(str(source.config)), data=data, train=training)
        Trainer(recipe, open_dataset(recipe.data), make_accelerator(training))
    conversion = convert_run(
        source,
        out,
        data=data,
        time_steps=values.time_steps,
        images=values.images,
        neurons=values.neurons,
        shortcuts=values.shortcuts,
        population=values.population,
        batch_norm=values.batch_norm or ("kept" if values.finetune else "folded"),
        allow_real=values.allow_real,
        calibration=Calibration(**values.calibration.as_dict()),
    )
    if not source.summary.is_file():
        print(
            f"warning: {source.folder} is not trained to its end (epochs so far: {source.epochs()}): its best weights "
            "until now were converted",
            file=sys.stderr,
        )
    _print(conversion, out, values.finetune)
    if not values.finetune:
        return 0
    try:
        train(replace(load_recipe(str(Run(out).config)), train=training), finetuned.folder, init_from=out)
    except Stopped:
        Console(stderr=True).print(
            f"stopped and saved; go on with: onespike train --resume {finetuned.folder}", markup=False, soft_wrap=True
        )
        return 130
    return 0


def _print(conversion: Conversion, out: Path, finetune: bool) -> None:
    """Print the layers' errors, for a person."""
    console = Console(highlight=False)
    table = Table("layer", "replaces", box=None, pad_edge=False, header_style="dim")
    for column in ("thresholds", "mean", "L2 error", "cosine", "rate"):
        table.add_column(column, justify="right")
    for layer in conversion.layers:
        numbers = (layer.threshold, layer.relative_l2, layer.cosine, layer.firing_rate)
        rounded = (f"{number:.3f}" for number in numbers)
        table.add_row(escape(layer.layer), layer.activation, str(layer.thresholds), *rounded)
    console.print(table)
    if conversion.real:
        console.print(f"\nleft real-valued: {', '.join(conversion.real)}", markup=False, soft_wrap=True)
    then = f", then: onespike evaluate {out}; to fine-tune it at one time step, convert with --finetune"
    network = conversion.network
    each = f", {network.population} for each activation" if network.population > 1 else ""
    console.print(
        f"\n{len(conversion.layers)} layers of neurons{each}, {network.time_steps} time steps, calibrated on "
        f"{conversion.images} images; the run is in {out}, see conversion.csv{'' if finetune else then}",
        markup=False,
        soft_wrap=True,
    )
