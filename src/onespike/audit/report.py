"""Networks side by side, and the report: one HTML file that needs nothing else, neither a server nor the internet.

An energy says nothing without the accuracy that it buys: no ratio is given without both.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from onespike.audit.result import Audit
from onespike.counting.energy import CONVENTIONS, Convention
from onespike.durable import expect_writable, path_of, save_text
from onespike.errors import OnespikeError, shown

TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True)
class Comparison:
    """The energy of one network over that of another, and both accuracies.

    Attributes:
        first: Name of the network that is compared.
        second: Name of the network that it is compared with.
        accuracies: Top-1 of the two, in percent.
        ratios: Energy of the second over that of the first: how many times less the first needs.
    """

    first: str
    second: str
    accuracies: tuple[float, float]
    ratios: dict[Convention, float]


def compare(audits: Sequence[Audit]) -> tuple[list[Comparison], list[str]]:
    """Compare the first network with each of the others; for a pair that cannot be compared, say why and what to do."""
    if not isinstance(audits, Sequence) or not audits or not all(isinstance(one, Audit) for one in audits):
        raise OnespikeError(f"audits: expected a list of Audit, one or more, got {shown(repr(audits))}")
    first, *others = audits
    made, refused = list[Comparison](), list[str]()
    for other in others:
        no_ratio = f"{first.name} and {other.name}: no ratio"
        same = (first.test_set == other.test_set) if first.test_set and other.test_set else (first.data == other.data)
        if not same:
            images = f"{first.data or 'unknown'}, {other.data or 'unknown'}"
            refused.append(f"{no_ratio}, since they were audited on different images or classes ({images})")
        elif first.table != other.table:
            files = f"{first.table.file}, {other.table.file}"
            refused.append(f"{no_ratio}, since they were priced by different energy tables ({files})")
        elif first.accuracy is None or other.accuracy is None:
            lacking = [one for one in (first, other) if one.accuracy is None]
            names, remedies = " and ".join(one.name for one in lacking), dict.fromkeys(map(_remedy, lacking))
            refused.append(f"{no_ratio} of energies, since the accuracy of {names} is not known: {'; '.join(remedies)}")
        elif not all(one.energy(convention).total for one in (first, other) for convention in CONVENTIONS):
            refused.append(f"{no_ratio}, since by {first.table.file} they take no energy")
        else:
            ratios = {one: other.energy(one).total / first.energy(one).total for one in CONVENTIONS}
            made.append(Comparison(first.name, other.name, (first.accuracy, other.accuracy), ratios))
    return made, refused


def _remedy(audit: Audit) -> str:
    """What makes the accuracy of a network known."""
    if not audit.trained:
        return "train the model, and audit its run"
    return "run onespike evaluate RUN on the same images" if audit.data else "pass it by accuracy=…"


def save_report(audits: Sequence[Audit], path: str | Path) -> None:
    """Write the report of one or more audits; the first is compared with the others.

    Raises:
        OnespikeError: It cannot be written, or would replace a file of a run.
    """
    path = path_of(path, "report")
    expect_writable(path)
    comparisons, refused = compare(audits)
    compared = [asdict(one) for one in comparisons]
    content = {"audits": [audit.to_json() for audit in audits], "comparisons": compared, "not_compared": refused}
    # The page puts every text in place as text, never as markup; here nothing may end the script that holds the data.
    data = json.dumps(content, allow_nan=False).replace("<", "\\u003c")
    save_text(TEMPLATE.read_text(encoding="utf-8").replace("__DATA__", data, 1), path)
