"""A page for the browser: a run's network looks at drawings, photos and the camera, and shows what it does."""

from onespike.demo.build import Demo, build
from onespike.demo.serve import server

__all__ = ["Demo", "build", "server"]
