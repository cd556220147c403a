"""Search for good values of a recipe's options: trials are run folders, Optuna chooses what is tried next."""

from onespike.search.search import search
from onespike.search.study import Tried

__all__ = ["Tried", "search"]
