"""`onespike check-spikes`."""

from pathlib import Path
from typing import Literal

from onespike.cli.command import Overrides
from onespike.errors import OnespikeError
from onespike.terminal import person, plain_table


def check_spikes(run: Path, overrides: Overrides, images: int = 512, device: Literal["auto", "cpu"] = "auto") -> int:
    """Prove on test images, layer by layer, that behind the stem every weight layer reads spikes alone.

    The stem is every layer that reads the image with no weight layer in between, and whatever is in a module named
    stem. Spikes are 0 and one other value, which folds into the weights, perhaps with a sign. The exit code is 1 if
    that does not hold, or if nothing is behind the stem. A dot product of two activations that is written out,
    (q * k).sum(-1), has no line here. The images are the run's own; --data.* choose others.

    Args:
        run: Run folder.
        overrides: Other images.
        images: How many test images, evenly spread, at least 2: in a single one, real numbers look like spikes.
        device: auto takes the accelerator if there is one, cpu never.
    """
    from onespike.audit.audit import audit_run
    from onespike.audit.result import read_spikes
    from onespike.models.registry import MODELS
    from onespike.training.run import Run

    if images < 2:
        raise OnespikeError(f"images: expected at least 2, got {images}: of one, real numbers look like spikes")
    opened, console = Run.open(run), person()
    audit = audit_run(opened, opened.recipe_with(overrides).data, images, device=device, latency=False)
    if audit.operations.images < 2:
        raise OnespikeError(
            f"{audit.data}: expected at least 2 test images, got 1: of one, real numbers look like spikes"
        )
    readings = read_spikes(audit.operations)
    table = plain_table("layer", "product", "arrives", ">rate", "")
    for reading in readings:
        path, product, stem = reading
        each = "one value of each channel" if product.rate else "nothing else"
        step = f"{product.step:g}" if product.step is not None else each
        arrives, verdict = {
            "binary": (f"0 and {step}", "spikes"),
            "signed": (f"0, {step} and its negative", "spikes with a sign"),
            "graded": (f"sums of up to {product.levels}", "NO SPIKES"),
            "real": ("real", "NO SPIKES"),
        }[reading.arrives]
        table.add_row(path, product.name, arrives, f"{product.rate:.3f}", "the stem" if stem else verdict)
    console.print(table, soft_wrap=False)
    wrong = [reading for reading in readings if not reading.holds]
    behind = [reading for reading in readings if not reading.stem]
    signed = sum(reading.arrives == "signed" for reading in behind)
    where = f"on {audit.operations.images:,} test images of {audit.data}"
    silent = sum(not reading.product.rate for reading in behind)
    proved = silent < len(behind)
    if not behind:
        text = "nothing is proved: the network has no product behind the stem"
    elif not proved:
        text = f"nothing is proved: nothing arrived at any of the {len(behind)} products behind the stem {where}: the"
        text += " network does not fire"
    elif wrong:
        text = f"does not hold: {len(wrong)} of {len(behind)} products behind the stem read something else than"
        text += f" spikes {where}, the first in {wrong[0].path}"
        if getattr(opened.recipe.model, "preset", "") == "strict":
            text += "; the preset strict does not look into units and neurons of yours: make their layers read spikes"
        elif "strict" in getattr(MODELS.get(opened.recipe.model.name), "presets", ()):
            text += "; --model.preset strict makes networks where it holds"
    else:
        text = f"holds: behind the stem all {len(behind)} products read spikes alone"
        text += f", {signed} of them spikes with a sign, {where}" if signed else f" {where}"
    if proved and silent:
        text += f"; NOTHING arrived at {silent} of them, which proves little: does the network fire?"
    console.print(f"\n{text}")
    return 1 if wrong or not proved else 0
