"""Inference on CPUs: our integer engine for most of the paper's networks, ONNX Runtime or OpenVINO for all others."""

from onespike.inference.compare import Candidate, Comparison, compare
from onespike.inference.engine import PRECISIONS, Engine
from onespike.inference.optimise import Report, optimise
from onespike.inference.storage import load_engine, save_engine

__all__ = ["PRECISIONS", "Candidate", "Comparison", "Engine", "Report", "compare", "load_engine", "optimise"]
__all__ += ["save_engine"]
