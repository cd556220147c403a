"""`onespike check-spikes`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onespike.cli.audit import WIDTH
from onespike.cli.command import Overrides, call

if TYPE_CHECKING:
    from rich.console import Console

    from onespike.audit.result import Reading


def run(arguments: Sequence[str]) -> int:
    """Run the command."""
    return call(check_spikes, arguments, "onespike check-spikes RUN", ("data",))


def check_spikes(run: Path, overrides: Overrides, images: int = 512, device: Literal["auto", "cpu"] = "auto") -> int:
    """Prove on test images, layer by layer, that behind the stem every weight layer reads spikes alone.

    Spikes are 0 and one other value, which folds into the weights, or that with a sign. Exit code 1 where that does not
    hold. The images are the run's own; --data.* choose others.

    Args:
        run: Run folder.
        overrides: Other images.
        images: How many test images, evenly spread.
        device: auto takes the accelerator if there is one, cpu never.
    """
    from rich.console import Console

    from onespike.audit.audit import audit_run
    from onespike.audit.result import read_spikes
    from onespike.training.run import Run

    opened = Run.open(run)
    audit = audit_run(opened, opened.recipe_with(overrides).data, images, device=device, latency=False)
    readings = read_spikes(audit.operations)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH  # in a file nothing needs to be cut
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


def _print(readings: "Sequence[Reading]", console: "Console") -> None:
    from rich.markup import escape
    from rich.table import Table

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
