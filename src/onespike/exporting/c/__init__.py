"""C99: in integers for strictly spiking networks, or in floats."""

from onespike.exporting.c.target import READS, write

__all__ = ["READS", "write"]
