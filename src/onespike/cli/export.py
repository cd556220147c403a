"""`onespike export`."""

from pathlib import Path
from typing import Literal

from onespike.cli.command import Overrides
from onespike.errors import OnespikeError
from onespike.terminal import person


def export(
    run: Path,
    overrides: Overrides,
    to: str = "onnx",
    out: Path | None = None,
    weights: Literal["auto", "fp32", "int8"] = "auto",
    pixels: bool = False,
    images: int = 1000,
    checkpoint: Literal["best", "last"] = "best",
    json: str | None = None,
) -> int:
    """Write a run's network for other runtimes and devices, and prove on test images that they compute the same.

    The proof is printed, and written to parity.json; the exit code is 1 if it does not hold. The images are the run's
    own; --data.* choose others. With 8-bit weights it compares with the rounded network: onespike evaluate gives the
    accuracy before rounding.

    Args:
        run: Run folder.
        overrides: Other images.
        to: Formats, with commas between them: onnx (ONNX Runtime and others), pt2 (torch.export), nir (neuromorphic
            tools), c (C99 with integers only, of strictly spiking networks; with --weights fp32 in floats, of most that
            are feed-forward).
        out: A new folder, or that of an earlier export, which it replaces.
        weights: fp32; int8, rounded to 8 bits; or auto, int8 for C and fp32 for all else.
        pixels: Whether ONNX and pt2 read uint8 pixels, and NIR floats 0 to 255, and normalise them in the graph; C
            always reads uint8 pixels.
        images: How many test images prove it, evenly spread.
        checkpoint: Which weights of the run: best or last.
        json: A further file for the proof; - prints it.
    """
    from onespike.durable import expect_writable, save_json
    from onespike.exporting import export as write
    from onespike.exporting.parity import FAR
    from onespike.folders import expect_outside
    from onespike.training.run import Run

    if out is None:
        raise OnespikeError("expected a folder to write: onespike export RUN --out FOLDER")
    if images < 1:
        raise OnespikeError(f"--images: expected at least 1, got {images}")
    expect_writable(json, folder=out)
    expect_outside(json, out)
    opened, console = Run.open(run), person(json)
    data = opened.recipe_with(overrides).data
    made = write(opened, out, to, weights=weights, pixels=pixels, count=images, which=checkpoint, data=data)
    for one in made.parity:
        tops = f", top-1 {one.target_top1:.2f}% (here {one.top1:.2f}%)" if one.top1 is not None else ""
        verdict = "holds" if one.holds else "DOES NOT HOLD"
        error = f"largest error of a logit {one.logit_error:.2g} (largest logit {one.largest_logit:.3g})"
        console.print(
            f"{one.target}: parity {verdict} on {one.images:,} images: same class {one.same_class:.2f}%{tops}, {error}"
        )
        if one.first is not None:
            near = f"within {one.distance:.2g} of the threshold" if one.distance != FAR else "not known"
            console.print(f"  spikes differ first: {one.differing:,} in {one.first}, whose potentials are {near}")
        elif one.layers:
            console.print(f"  none of {one.spikes:,} spikes differs, in {one.layers} calls of layers of neurons")
    if json:
        save_json({"parity": [one.to_json() for one in made.parity]}, json)
    console.print(f"\n{', '.join(made.files)} are in {made.folder}")
    return 0 if made.holds else 1
