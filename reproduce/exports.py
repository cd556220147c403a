"""Every export of networks of every kind, each with the proof of its parity on test images."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from onespike._version import __version__
from onespike.configs import make, read_json
from onespike.durable import read_whole, save_json, save_text
from onespike.environment import environment
from onespike.errors import OnespikeError, requires
from onespike.exporting import export
from onespike.exporting.export import PARITY, expect_free
from onespike.exporting.onnx import expect_packages
from onespike.exporting.parity import Parity
from onespike.training.run import Run
from reproduce.report import Table, expect_apart, provenance
from reproduce.trained import expect_images

#: What is written, by its folder: the format, and its weights.
WRITTEN = {
    "onnx-fp32": ("onnx", "fp32"),
    "onnx-int8": ("onnx", "int8"),
    "pt2": ("pt2", "fp32"),
    "nir": ("nir", "fp32"),
    "c": ("c", "int8"),
    "c-fp32": ("c", "fp32"),
}
COLUMNS = {
    "network": "",
    "export": "",
    "target": "",
    "images": ",",
    "top-1 %": ".2f",
    "target's": ".2f",
    "same class %": ".2f",
    "spikes that differ": ",",
    "of": ",",
    "error of a logit": ".2g",
    "largest logit": ".3g",
    "parity": "",
}
HOW = (
    "A row is a target that reads an export: its answers on test images, evenly spread, beside those of the network in "
    "PyTorch with the same weights (of 8 bits in `onnx-int8` and `c`). *Spikes that differ* are those of the first "
    "layer where any does, *of* all spikes and places without. `docs/export.md` says when parity holds."
)


def exports(
    runs: list[Path] = [],  # noqa: B006 - only read
    out: Path = Path("results"),
    work: Path = Path("runs/exports"),
    images: int = 500,
) -> str:
    """Export runs to every format, and gather the proofs of parity.

    Each run leaves OUT/export-RUN.json. An export stays in WORK/RUN/FORMAT, and is not made again from the same network
    and as many images.

    Args:
        runs: Run folders.
        out: Folder for the table and the numbers.
        work: Folder for the exports.
        images: How many test images prove each.
    """
    if not runs:
        raise OnespikeError("exports: expected run folders: --runs RUN RUN …")
    expect_apart(runs)
    expect_images(images)
    opened = [Run.open(run) for run in runs]
    expect_packages()
    with requires("export"):
        import nir  # noqa: F401
    # Images or weights that are not there are no refusal of a format: they end it before anything is exported.
    counts = [min(images, len(run.dataset().test)) for run in opened]
    networks = [run.checkpoint("best").digest for run in opened]
    rows, refusals = list[list[Any]](), list[str]()
    for run, one, count, network in zip(runs, opened, counts, networks, strict=True):
        made = {name: _proved(one, network, work / run.name / name, *WRITTEN[name], count) for name in WRITTEN}
        facts = environment()
        machine = {name: facts[name] for name in ("processor", "onespike", "commit", "packages")}
        save_json({"run": run.name, "exports": made, "environment": machine}, str(out / f"export-{run.name}.json"))
        rows += [row for name, found in made.items() for row in _rows(run.name, name, found)]
        refusals += [f"- {run.name}, {name}: {found['refused']}" for name, found in made.items() if "refused" in found]
    parts = ["# Exports and their parity", HOW, Table(COLUMNS, rows).markdown()]
    parts += ["Not written:", "\n".join(refusals)] if refusals else []
    save_text("\n\n".join([*parts, provenance()]) + "\n", out / "export.md")
    return "export"


def _proved(run: Run, network: str, folder: Path, to: str, weights: Any, images: int) -> dict[str, Any]:
    """The proofs of one export, which is made if they are not there; or why it is not written."""
    proof = _earlier(folder, network, images)
    if proof is None:
        expect_free(folder)
        try:
            export(run, folder, to, weights=weights, count=images)
        except OnespikeError as error:
            return {"refused": str(error)}
        proof = read_json(read_whole(folder / PARITY), PARITY)
    return proof | {"bytes": {path.name: path.stat().st_size for path in sorted(folder.glob("model.*"))}}


def _earlier(folder: Path, network: str, images: int) -> dict[str, Any] | None:
    """The proofs of an earlier export by this version, of a network of this digest and of so many images."""
    with suppress(OnespikeError, OSError, KeyError, TypeError):
        proof: dict[str, Any] = read_json(read_whole(folder / PARITY), PARITY)
        shown = {make(Parity, one, PARITY).images for one in proof["targets"]}
        if (proof["onespike"], proof["network"], shown) == (__version__, network, {images}):
            return proof
    return None


def _rows(run: str, name: str, found: dict[str, Any]) -> Iterator[list[Any]]:
    """A row for each target."""
    for one in found.get("targets", ()):
        shares = one["top1"], one["target_top1"], one["same_class"]
        errors = one["differing"], one["spikes"], one["logit_error"], one["largest_logit"]
        yield [run, name, one["target"], one["images"], *shares, *errors, "holds" if one["holds"] else "DOES NOT HOLD"]
