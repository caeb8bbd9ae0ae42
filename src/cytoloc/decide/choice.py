"""``auto``: which plan decides unseen fields best, by nested cross-fitting, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cytoloc.decide.metrics import class_log_loss, macro_f1, paired_difference
from cytoloc.decide.plan import Judged, Plan, deal, judge
from cytoloc.decide.rules import Rules, decide
from cytoloc.decide.thresholds import NEVER
from cytoloc.errors import TableError

Floats = NDArray[np.float64]

PARTS: Final = 5
"""Parts that the fields are dealt into."""

MOST_JUDGED: Final = 8000
"""Candidates are judged on at most so many fields; the chosen one is then fitted to all."""

PRECISIONS: Final = (10.0, 30.0, 100.0, 300.0)
"""From classes that may go their own way to classes that are nearly held to what they share."""

PLAIN: Final = (
    Plan("mean", "none", "grid"),
    Plan("mean", "none", "ratio"),
    Plan("mean", "platt", "expected"),
    Plan("weighted", "platt", "expected"),
)
"""What a stack is held against: the silver-medal baseline, class ratios, and calibrated means."""


@dataclass(frozen=True)
class Choice:
    """The chosen plan, and what the candidates were found to be worth.

    Attributes:
        plan: The plan.
        table: A row per candidate: cross-fitted macro F1 and, of probabilities, class-averaged log loss.
        why: In words.
        fields: How many fields they were judged on.
    """

    plan: Plan
    table: list[dict[str, Any]]
    why: str
    fields: int


def choose(
    stack: Floats,
    truth: NDArray[np.bool_],
    *,
    keys: NDArray[np.int64],
    groups: NDArray[np.int64] | None,
    rules: Rules,
) -> Choice:
    """Return the plan that is best on unseen fields.

    Log loss, averaged over classes as the score is, tells good probabilities from bad ones with much less luck than F1,
    which hangs on a handful of fields of the rare classes. So of the candidates with probabilities that with the least
    is taken; unless the macro F1 of one without is higher by more than the standard error of the difference.

    Args:
        stack: ``(members, n, classes)``.
        truth: bool ``(n, classes)``.
        keys: Of the fields; see :func:`~cytoloc.decide.plan.deal`.
        groups: Of the fields, kept together in the deal.
        rules: What is done after the thresholds.

    Raises:
        TableError: If there are fewer than three groups of different fields.
    """
    parts = deal(keys, groups, parts=PARTS)
    if parts.max() < 2:
        raise TableError(
            "'auto' needs at least three groups of fields whose predictions differ, to judge candidates on fields"
            " that they"
            f" did not see; here are {int(parts.max()) + 1}.",
            hint="Give more fields, or choose a method such as 'grid'.",
        )
    if len(truth) > MOST_JUDGED:
        rows = np.sort(np.argsort(keys, kind="stable")[:MOST_JUDGED])
        stack, truth, parts = stack[:, rows], truth[rows], parts[rows]
    candidates = [*PLAIN, *(Plan("stack", "none", "expected", precision) for precision in PRECISIONS)]
    judged = [judge(plan, stack, truth, parts) for plan in candidates]
    predicted = [_decided(each, parts, rules) for each in judged]
    losses = [
        class_log_loss(each.probabilities, truth) if plan.calibrated else None
        for plan, each in zip(candidates, judged, strict=True)
    ]
    if not np.isfinite([loss for loss in losses if loss is not None]).all():
        raise AssertionError(f"a candidate's log loss is no number: {losses}")
    first = min((i for i, loss in enumerate(losses) if loss is not None), key=lambda i: losses[i] or 0.0)
    table: list[dict[str, Any]] = []
    for plan, guess, loss in zip(candidates, predicted, losses, strict=True):
        gain, error = paired_difference(guess, predicted[first], truth)
        row = {"plan": plan.name, "macro_f1": macro_f1(guess, truth), "log_loss": loss}
        table.append(row | {"gain": gain, "error": error})
    surer = [i for i, row in enumerate(table) if losses[i] is None and row["gain"] > row["error"]]
    best = max(surer, key=lambda i: float(table[i]["macro_f1"]), default=first)
    return Choice(candidates[best], table, _reason(table[first], table[best]), len(truth))


def _reason(first: dict[str, Any], best: dict[str, Any]) -> str:
    least = f"{first['plan']} has the least log loss on unseen fields ({first['log_loss']:.4f})"
    if best is first:
        return f"{least}, and no candidate without probabilities has a macro F1 surely higher than its own."
    return f"{least}, but the macro F1 of {best['plan']} is higher by {best['gain']:.4f} ± {best['error']:.4f}."


def _decided(judged: Judged, parts: NDArray[np.int64], rules: Rules) -> NDArray[np.bool_]:
    predicted = np.zeros(judged.probabilities.shape, bool)
    for part in np.unique(parts):
        rows = parts == part
        thresholds = judged.thresholds[rows][0]
        predicted[rows] = decide(judged.probabilities[rows], thresholds, replace(rules, shrink=()), never=NEVER)
    return predicted
