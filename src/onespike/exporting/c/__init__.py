"""C99, with integers only, for strictly spiking networks."""

from onespike.exporting.c.target import write

__all__ = ["write"]
