"""From an exported program to maps of numbers, which C, and NIR, are written of."""
