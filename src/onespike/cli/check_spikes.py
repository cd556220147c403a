"""`onespike check-spikes`."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onespike.audit.audit import audit_run
from onespike.audit.result import Reading, read_spikes
from onespike.data.config import DataConfig
from onespike.errors import OnespikeError
from onespike.evaluation.evaluate import Device
from onespike.training.recipe import option_value, parse
from onespike.training.run import Run

#: Characters in a line that goes to a file: room for long names of layers.
_WIDTH = 120


def run(arguments: Sequence[str]) -> int:
    """Check on real images that behind its stem a network reads spikes alone.

    Args:
        arguments: The command line behind `onespike check-spikes`.

    Returns:
        The exit code: 0 where it holds, 1 where it does not.
    """
    parser = ArgumentParser(
        prog="onespike check-spikes",
        usage="onespike check-spikes RUN [options]",
        description="Prove on test images, layer by layer, that behind the stem every weight layer reads spikes alone: "
        "0 and one other value, which folds into the weights, or that with a sign. Exit code 1 where that does not "
        "hold. --data.* choose other images than the run's.",
        exit_on_error=False,
    )
    parser.add_argument("run", type=str | None, nargs="?", metavar="RUN", help="run folder")
    parser.add_argument("--images", type=int, default=512, help="how many test images, evenly spread")
    parser.add_argument("--device", type=Device, default="auto", help="auto takes the accelerator if there is one")
    folder = option_value(arguments, "--run") or (arguments[0] if arguments and arguments[0][:1] != "-" else None)
    values = parse(parser, arguments, Run.open(Path(folder)).config if folder else None, sections=("data",))
    if not folder:
        raise OnespikeError("expected a run folder first: onespike check-spikes RUN")
    data = DataConfig(**values.data.as_dict())
    audit = audit_run(Run.open(Path(folder)), data, values.images, device=values.device, latency=False)
    readings = read_spikes(audit.operations)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH  # in a file nothing needs to be cut
    _print(readings, console)
    wrong = [reading for reading in readings if not reading.holds]
    where = f"on {audit.operations.images:,} test images of {audit.data}"
    if wrong:
        console.print(
            f"\ndoes not hold: {len(wrong)} of {len(readings) - 1} products behind the stem read something else than "
            f"spikes {where}, the first in {wrong[0].path}; --model.preset strict makes networks where it holds",
            markup=False,
            soft_wrap=True,
        )
        return 1
    signed = sum(reading.product.arrives == "signed" for reading in readings[1:])
    console.print(
        f"\nholds: behind the stem all {len(readings) - 1} products read spikes alone"
        + (f", {signed} of them spikes with a sign, " if signed else " ")
        + where,
        markup=False,
        soft_wrap=True,
    )
    return 0


def _print(readings: Sequence[Reading], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("layer", "product", "arrives"):
        table.add_column(column, no_wrap=True)
    table.add_column("rate", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for path, product, stem in readings:
        each = "one value of each channel" if product.rate else "nothing else"
        step = f"{product.step:g}" if product.step is not None else each
        arrives = {
            "binary": f"0 and {step}",
            "signed": f"0, {step} and its negative",
            "graded": f"sums of up to {product.levels}",
        }.get(product.arrives, "real")
        verdict = {"binary": "spikes", "signed": "spikes with a sign"}.get(product.arrives, "NO SPIKES")
        verdict = "the image" if stem else verdict
        table.add_row(escape(path), product.name, arrives, f"{product.rate:.3f}", verdict)
    console.print(table)
