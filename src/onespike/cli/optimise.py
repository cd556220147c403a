"""`onespike optimise`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from onespike.durable import save_json
from onespike.errors import OnespikeError
from onespike.evaluation.evaluate import Which
from onespike.inference.optimise import Report, optimise
from onespike.training.recipe import parse
from onespike.training.run import Run, environment


def run(arguments: Sequence[str]) -> int:
    """Make an inference engine of a run.

    Args:
        arguments: The command line behind `onespike optimise`.

    Returns:
        The exit code.
    """
    parser = ArgumentParser(
        prog="onespike optimise",
        usage="onespike optimise RUN [options]",
        description="Make an engine for fast inference on CPUs: batch norm folded, spikes as bytes, weights as "
        "integers. It is then compared with the run's network on the run's test images. "
        "In Python: onespike.inference.load_engine(FOLDER)(images)",
        exit_on_error=False,
    )
    parser.add_argument("run", type=str | None, nargs="?", metavar="RUN", help="run folder")
    parser.add_argument("--out", type=str | None, help="folder for the engine; by default RUN/engine")
    parser.add_argument(
        "--precision",
        type=Literal["int8", "int16"],
        default="int8",
        help="int8: 8 bits for weights that meet spikes, bf16 in layers that read real values; int16: 16 bits and "
        "fp32, slower, and nearly every spike stays the same",
    )
    parser.add_argument("--checkpoint", type=Which, default="best", help="which weights of the run")
    parser.add_argument("--images", type=int, default=0, help="compare at most so many test images; 0 takes all")
    parser.add_argument("--rounds", type=int, default=20, help="timings for each batch size")
    parser.add_argument("--json", type=str | None, help="a further file for the report; - prints it")
    values = parse(parser, arguments, sections=())
    if not values.run:
        raise OnespikeError("expected a run folder: onespike optimise RUN --out FOLDER")
    folder = Path(values.run)
    out = Path(values.out) if values.out else folder / "engine"
    report = optimise(Run.open(folder), out, values.precision, values.checkpoint, values.images, values.rounds)
    # Where the standard output is for JSON, a person reads the standard error.
    console = Console(stderr=values.json == "-", highlight=False)
    _print(report, console)
    facts = environment()
    machine = {name: facts[name] for name in ("processor", "onespike", "commit", "packages")}
    content = report.to_json() | {"environment": machine}
    save_json(content, str(out / "report.json"))
    if values.json:
        save_json(content, values.json)
    console.print(f"\nthe engine and report.json are in {out}", markup=False, soft_wrap=True)
    return 0


def _print(report: Report, console: Console) -> None:
    """Print what came out, for a person."""
    console.print(
        f"{report.precision}: top-1 {report.engine_top1:.2f}% instead of {report.top1:.2f}% on {report.images:,} "
        f"images, the same class on {report.same_class:.2f}%\n"
    )
    table = Table("block", box=None, pad_edge=False, header_style="dim")
    for column in ("firing rate", "engine's", "spikes flipped"):
        table.add_column(column, justify="right")
    for number, block in enumerate(report.blocks, 1):
        rates = (f"{block.firing_rate:.4f}", f"{block.engine_firing_rate:.4f}", f"{block.flipped:.2%}")
        table.add_row(str(number), *rates)
    console.print(table)
    console.print()
    table = Table("batch", box=None, pad_edge=False, header_style="dim")
    for column in ("eager fp32, ms", "engine, ms", "ratio"):
        table.add_column(column, justify="right")
    for one in report.latencies:
        table.add_row(str(one.batch), f"{one.eager:.2f}", f"{one.engine:.2f}", f"{one.ratio:.2f}")
    console.print(table)
    console.print(f"medians, on {report.threads} {'thread' if report.threads == 1 else 'threads'}")
