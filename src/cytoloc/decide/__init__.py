"""From probabilities to locations, and how good they are. NumPy, SciPy and scikit-learn only."""

from cytoloc.decide.decision import Decision, fit_decision
from cytoloc.decide.metrics import macro_f1

__all__ = ["Decision", "fit_decision", "macro_f1"]
