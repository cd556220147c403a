"""Evaluation of a trained network: its accuracy, and what it does with one image. Pictures are in `drawing`."""

from onespike.evaluation.evaluate import Evaluation, evaluate
from onespike.evaluation.inspect import inspect_image, inspect_network, inspect_sample
from onespike.evaluation.views import Inspection

__all__ = ["Evaluation", "Inspection", "evaluate", "inspect_image", "inspect_network", "inspect_sample"]
