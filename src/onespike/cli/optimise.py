"""`onespike optimise`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onespike.cli.command import call

if TYPE_CHECKING:
    from rich.console import Console

    from onespike.inference.optimise import Report


def run(arguments: Sequence[str]) -> int:
    """Run the command."""
    return call(optimise, arguments, "onespike optimise RUN")


def optimise(
    run: Path,
    out: Path | None = None,
    precision: Literal["int8", "int16"] = "int8",
    checkpoint: Literal["best", "last"] = "best",
    images: int = 0,
    rounds: int = 20,
    json: str | None = None,
) -> int:
    """Make an engine for fast inference on CPUs: batch norm folded, spikes as bytes, weights as integers.

    It is then compared with the run's network on the run's test images. In Python:
    onespike.inference.load_engine(FOLDER)(images)

    Args:
        run: Run folder.
        out: Folder for the engine; by default RUN/engine.
        precision: int8, 8 bits for weights that meet spikes, bf16 in layers that read real values; or int16, 16 bits
            and fp32, slower, and nearly every spike stays the same.
        checkpoint: Which weights of the run: best or last.
        images: Compare at most so many test images; 0 takes all.
        rounds: Timings for each batch size.
        json: A further file for the report; - prints it.
    """
    from rich.console import Console

    from onespike.durable import save_json
    from onespike.inference.optimise import optimise as make_engine
    from onespike.training.run import Run, environment

    folder = out or run / "engine"
    report = make_engine(Run.open(run), folder, precision, checkpoint, images, rounds)
    # Where the standard output is for JSON, a person reads the standard error.
    console = Console(stderr=json == "-", highlight=False)
    _print(report, console)
    facts = environment()
    machine = {name: facts[name] for name in ("processor", "onespike", "commit", "packages")}
    content = report.to_json() | {"environment": machine}
    save_json(content, str(folder / "report.json"))
    if json:
        save_json(content, json)
    console.print(f"\nthe engine and report.json are in {folder}", markup=False, soft_wrap=True)
    return 0


def _print(report: "Report", console: "Console") -> None:
    """Print what came out, for a person."""
    from rich.table import Table

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
