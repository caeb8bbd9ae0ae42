"""Decisions: from probabilities to locations, and their metrics. Needs NumPy, SciPy and scikit-learn only."""

from cytoloc.decide.decision import Decision, read_decision, write_decision
from cytoloc.decide.evaluation import AveragePrecision, Evaluation, evaluate, mean_average_precision
from cytoloc.decide.fitting import DecisionReport, cross_fit, fit_and_cross_fit, fit_decision
from cytoloc.decide.label_errors import find_label_errors
from cytoloc.decide.members import ensemble, member_contributions, member_correlations
from cytoloc.decide.methods import (
    Auto,
    Exact,
    ExpectedF1,
    Fixed,
    GlobalGrid,
    Grid,
    Ratio,
    Rules,
    Shrunk,
    Smooth,
    Stack,
    method_named,
)
from cytoloc.decide.metrics import macro_f1

__all__ = [
    "Auto",
    "AveragePrecision",
    "Decision",
    "DecisionReport",
    "Evaluation",
    "Exact",
    "ExpectedF1",
    "Fixed",
    "GlobalGrid",
    "Grid",
    "Ratio",
    "Rules",
    "Shrunk",
    "Smooth",
    "Stack",
    "cross_fit",
    "ensemble",
    "evaluate",
    "find_label_errors",
    "fit_and_cross_fit",
    "fit_decision",
    "macro_f1",
    "mean_average_precision",
    "member_contributions",
    "member_correlations",
    "method_named",
    "read_decision",
    "write_decision",
]
