"""Lower an exported program to maps of numbers, from which C and NIR are written."""
