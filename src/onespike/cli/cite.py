"""`onespike cite`."""

from collections.abc import Sequence
from importlib.resources import files

from onespike.errors import OnespikeError


def run(arguments: Sequence[str]) -> int:
    """Print, in BibTeX, the references of the method and of what else is implemented here."""
    if arguments in (["-h"], ["--help"]):
        print("usage: onespike cite\n\nPrint the references of what is implemented here, in BibTeX.")
        return 0
    if arguments:
        raise OnespikeError(f"onespike cite takes no options, got {' '.join(arguments)}")
    print((files("onespike.cli") / "references.bib").read_text(), end="")
    return 0
