"""The inference engine: batch norm folded, spikes as bytes, weights as integers."""

from onespike.inference.engine import PRECISIONS, Engine
from onespike.inference.optimise import Report, optimise
from onespike.inference.storage import load_engine, save_engine

__all__ = ["PRECISIONS", "Engine", "Report", "load_engine", "optimise", "save_engine"]
