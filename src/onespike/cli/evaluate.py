"""`onespike evaluate`."""

from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onespike.data.config import DataConfig
from onespike.durable import save_json
from onespike.errors import OnespikeError
from onespike.evaluation.evaluate import Device, Evaluation, Part, Precision, Spread, Which, evaluate
from onespike.training.recipe import parse, run_folder
from onespike.training.run import Run

#: Up to so many classes all are printed, of more only the worst ten; and so many confusions.
CLASSES, WORST, CONFUSIONS = 20, 10, 5


def run(arguments: Sequence[str]) -> int:
    """Evaluate a run.

    Args:
        arguments: The command line behind `onespike evaluate`.

    Returns:
        The exit code.
    """
    parser = ArgumentParser(
        prog="onespike evaluate",
        usage="onespike evaluate RUN [options]",
        description="Accuracy of a run's network, by class, and which classes it takes for which. The images are the "
        "run's own; other ones with the options --data.*, such as: --data.name folder --data.root FOLDER",
        exit_on_error=False,
    )
    parser.add_argument("run", type=str | None, nargs="?", metavar="RUN", help="run folder")
    parser.add_argument("--part", type=Part, default="test", help="which images of the data set")
    parser.add_argument("--checkpoint", type=Which, default="best", help="which weights of the run")
    parser.add_argument(
        "--passes", type=int, default=1, help="how often to show the images to a network whose Bernoulli encoding draws"
    )
    parser.add_argument("--batch-size", type=int | None, help="images in a batch; by default as in training")
    parser.add_argument("--precision", type=Precision, default="trained", help="arithmetic; trained: as in training")
    parser.add_argument("--time-steps", type=int | None, help="how often the network runs on one image")
    parser.add_argument("--device", type=Device, default="auto", help="auto takes the accelerator if there is one")
    parser.add_argument("--out", type=str | None, help="folder for the results; by default RUN/evaluation")
    parser.add_argument("--json", type=str | None, help="a further file for the numbers; - prints them")
    folder = run_folder(parser, arguments)
    values = parse(parser, arguments, Run.open(folder).config if folder else None, sections=("data",))
    if not folder:
        raise OnespikeError("expected a run folder: onespike evaluate RUN")
    result = evaluate(
        Run(folder),
        DataConfig(**values.data.as_dict()),
        values.part,
        values.checkpoint,
        values.passes,
        values.batch_size,
        values.precision,
        values.device,
        values.time_steps,
    )
    if PartialState().is_main_process:
        # Where the standard output is for JSON, a person reads the standard error.
        console = Console(stderr=values.json == "-", highlight=False)
        _print(result, console, values.passes)
        out = Path(values.out) if values.out else folder / "evaluation"
        result.save(out)
        if values.json:
            save_json(result.to_json(), values.json)
        console.print(
            f"\nconfusion.png, confusion.csv, per_class.csv and evaluation.json are in {out}",
            markup=False,
            soft_wrap=True,
        )
    return 0


def _print(result: Evaluation, console: Console, wanted: int) -> None:
    """Print what came out, for a person."""
    console.print(
        f"{result.data}, {result.part}: {result.images:,} images, {result.checkpoint} weights (epoch {result.epochs})"
        + (f", {result.passes} passes" if result.passes > 1 else ""),
        markup=False,
    )
    if wanted > result.passes:
        console.print("the encoding draws nothing, so every pass is the same: one was made")
    console.print(f"top-1 {_percent(result.top1)}   top-5 {_percent(result.top5)}   loss {result.loss.mean:.4f}\n")

    accuracies = [(name, value) for name, value in result.per_class.items() if value is not None]
    if len(accuracies) > CLASSES:
        accuracies = sorted(accuracies, key=lambda pair: pair[1])[:WORST]
        console.print(f"the {WORST} worst of {len(result.classes)} classes:")
    table = Table("class", box=None, pad_edge=False, header_style="dim")
    table.add_column("accuracy", justify="right")
    table.add_column("")
    for name, value in accuracies:
        table.add_row(escape(name), f"{value:.1f}%", "█" * round(value / 5))
    console.print(table)

    confusions = result.most_confused(CONFUSIONS)
    if confusions:
        console.print()
        table = Table("true class", "taken for", box=None, pad_edge=False, header_style="dim")
        table.add_column("images", justify="right")
        table.add_column("of the class", justify="right")
        for one in confusions:
            table.add_row(escape(one.truth), escape(one.guess), f"{one.images:,}", f"{one.share:.1f}%")
        console.print(table)


def _percent(value: Spread) -> str:
    return f"{value.mean:.2f}%" if value.std is None else f"{value.mean:.2f}% ± {value.std:.2f}"
