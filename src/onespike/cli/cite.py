"""`onespike cite`."""

from importlib.resources import files


def cite() -> int:
    """Print the references of what is implemented here, in BibTeX."""
    print((files("onespike.cli") / "references.bib").read_text(), end="")
    return 0
