"""The report: one HTML file that needs nothing else, neither a server nor a network."""

import json
from collections.abc import Sequence
from pathlib import Path

from onespike.audit.compare import compare
from onespike.audit.result import Audit
from onespike.evaluation.output import save_text

TEMPLATE = Path(__file__).with_name("report.html")


def save_report(audits: Sequence[Audit], path: Path) -> None:
    """Write the report.

    Args:
        audits: One or more; the first is held against the others.
        path: The file.

    Raises:
        OnespikeError: It cannot be written.
    """
    comparisons, refused = compare(audits)
    content = {
        "audits": [audit.to_json() for audit in audits],
        "comparisons": [one.to_json() for one in comparisons],
        "not_compared": refused,
    }
    # The page puts every text in place as text, never as markup; here nothing may end the script that holds the data.
    data = json.dumps(content, allow_nan=False).replace("<", "\\u003c")
    save_text(TEMPLATE.read_text(encoding="utf-8").replace("__DATA__", data, 1), path)
