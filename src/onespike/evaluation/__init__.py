"""Looking at a trained network: how good it is, and what it makes of one image."""

from onespike.evaluation.confusion import draw_confusion
from onespike.evaluation.drawing import draw_inspection
from onespike.evaluation.evaluate import evaluate
from onespike.evaluation.inspect import Inspection, inspect_image
from onespike.evaluation.result import Evaluation

__all__ = ["Evaluation", "Inspection", "draw_confusion", "draw_inspection", "evaluate", "inspect_image"]
