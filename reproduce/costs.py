"""What each run of a sweep costs: an audit, kept beside the sweep's rows."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onespike.audit import CONVENTIONS, audit_run
from onespike.durable import csv_text, save_text
from onespike.errors import OnespikeError
from onespike.training.run import Run
from reproduce.ledger import Ledger
from reproduce.plan import Training

#: Test images that each network is audited on.
IMAGES = 512
#: What is kept of each audit: energy in microjoule by convention, and counts, all for one image; milliseconds for a
#: single image, and whether the machine was busy, 0 or 1.
FOUND = (*CONVENTIONS, "synaptic_operations", "macs", "real_macs", "milliseconds", "busy")
_KEY = ("digest", "seed")


def audit_training(training: Training, run: Run, out: Path, name: str) -> None:
    """Audit the best weights of a run, and add what it found to NAME.audit.csv; do nothing if it is there."""
    file = Ledger(out / f"{name}.audit.csv")
    if costs_of(training.digest, read_costs(file.path)).get(training.seed):
        return
    found = audit_run(run, images=IMAGES, device=training.recipe.train.device)
    energies = [1e6 * found.energy(convention).total for convention in CONVENTIONS]
    counts = [found.operations.synaptic_operations, found.operations.macs, found.operations.macs_of("real")]
    times = [1e3 * found.latency[0].median, float(found.latency[0].busy is not None)]
    own = training.digest, training.seed
    row = dict(zip((*_KEY, *FOUND), (*own, *energies, *counts, *times), strict=True))
    with file.locked():
        rows = [one for one in read_costs(file.path) if (one["digest"], one["seed"]) != own]
        save_text(csv_text((*_KEY, *FOUND), [list(one.values()) for one in [*rows, row]]), file.path)


def read_costs(path: Path) -> list[dict[str, Any]]:
    """Read the file that `audit_training` writes.

    Args:
        path: The file; it need not be there.

    Returns:
        A row for each network that was audited: "digest", "seed", and the numbers of `FOUND`.

    Raises:
        OnespikeError: It is no such file.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                {"digest": row["digest"], "seed": int(row["seed"]), **{name: float(row[name]) for name in FOUND}}
                for row in csv.DictReader(file, strict=True)
            ]
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise OnespikeError(f"{path} cannot be read as audits: {error}; mend it, or choose another --out") from None


def costs_of(digest: str, costs: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """By seed, what was found of a recipe."""
    return {row["seed"]: row for row in costs if row["digest"] == digest}
