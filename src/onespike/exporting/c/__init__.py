"""C99, with integers only, for strictly spiking networks."""

from onespike.exporting.c.target import READS, write

__all__ = ["READS", "write"]
