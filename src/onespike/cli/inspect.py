"""`onespike inspect`."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onespike.durable import save_json
from onespike.errors import OnespikeError
from onespike.evaluation.evaluate import Which
from onespike.evaluation.inspect import Inspection, inspect_image
from onespike.training.recipe import parse
from onespike.training.run import Run

GUESSES = 3


def run(arguments: Sequence[str]) -> int:
    """Draw what the network of a run makes of one image.

    Args:
        arguments: The command line behind `onespike inspect`.

    Returns:
        The exit code.
    """
    parser = ArgumentParser(
        prog="onespike inspect",
        usage="onespike inspect RUN --image FILE [options]",
        description="Draw what a run's network makes of one image: the spikes and potentials of every block or layer "
        "of neurons, the windows if it has any, the answer.",
        exit_on_error=False,
    )
    parser.add_argument("run", type=str | None, nargs="?", metavar="RUN", help="run folder")
    parser.add_argument("--image", type=str | None, help="the image file; made to fit the network's size and channels")
    parser.add_argument("--out", type=str | None, help="the PNG to write; by default RUN/inspection/IMAGE.png")
    parser.add_argument("--json", type=str | None, help="a file for the same as numbers; - prints them")
    parser.add_argument("--checkpoint", type=Which, default="best", help="which weights of the run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws of a Bernoulli encoding")
    values = parse(parser, arguments, sections=())
    if not values.run or not values.image:
        raise OnespikeError("expected a run folder and an image: onespike inspect RUN --image FILE")
    image = Path(values.image)
    view = inspect_image(Run.open(Path(values.run)), image, values.checkpoint, values.seed)
    from onespike.evaluation.drawing import draw_inspection, save_figure

    out = Path(values.out) if values.out else Path(values.run) / "inspection" / f"{image.stem}.png"
    save_figure(draw_inspection(view), out, dpi=100)
    if values.json:
        save_json(view.to_json(), values.json)
    # Where the standard output is for JSON, a person reads the standard error.
    console = Console(stderr=values.json == "-", highlight=False)
    _print(view, console)
    console.print(f"\nthe picture is {out}", markup=False, soft_wrap=True)
    return 0


def _print(view: Inspection, console: Console) -> None:
    """Print what came out, for a person."""
    answer = ", ".join(f"{name} {probability:.1%}" for name, probability in view.guesses(GUESSES))
    console.print(f"{view.path}: {answer}", markup=False, soft_wrap=True)
    if view.note:
        console.print(f"the image was {view.note}\n")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("block", "map", "firing rate", "layers of neurons"):
        table.add_column(column, justify="right" if column == "firing rate" else "left")
    for block in view.blocks:
        rates = ", ".join(f"{layer.name} {layer.firing_rate:.3f}" for layer in block.layers) if block.windows else ""
        name, shape = str(block.number) if block.windows else block.name, f"{block.shape} {block.window_kind}"
        table.add_row(escape(name), shape.rstrip(), f"{block.firing_rate:.3f}", escape(rates))
    console.print(table)
