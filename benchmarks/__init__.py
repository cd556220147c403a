"""Side-by-side timings, and the plain implementation that they and the tests compare with."""
