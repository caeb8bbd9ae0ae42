"""How a decision is fitted, and judged on fields that it did not see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Final, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from cytoloc.choices import Blank, CalibrationKind, EnsembleKind, Method
from cytoloc.decide.choice import PARTS, choose
from cytoloc.decide.decision_file import read_decision, write_decision
from cytoloc.decide.fitted import Decision, with_provenance
from cytoloc.decide.inputs import Members, check_truth, row_keys, stack_members
from cytoloc.decide.intervals import threshold_intervals
from cytoloc.decide.plan import Evidence, Plan, deal, find_thresholds, fit_evidence, unseen_probabilities
from cytoloc.decide.rules import Rules, decide, exclusive_pairs
from cytoloc.decide.thresholds import NEVER
from cytoloc.errors import LabelSetError, SettingsError, TableError
from cytoloc.labels import LabelSet

__all__ = [
    "Decision",
    "HeldOut",
    "cross_fit",
    "cross_fit_of",
    "fit_decision",
    "held_out_parts",
    "read_decision",
    "with_provenance",
    "write_decision",
]

Floats = NDArray[np.float64]

PLANS: Final[dict[Method, Plan]] = {
    "grid": Plan("mean", "none", "grid"),
    "global": Plan("mean", "none", "global"),
    "smooth": Plan("mean", "none", "smooth"),
    "fixed": Plan("mean", "none", "fixed"),
    "ratio": Plan("mean", "none", "ratio"),
    "shrunk": Plan("mean", "none", "grid"),
    "exact": Plan("mean", "none", "exact"),
    "expected": Plan("mean", "platt", "expected"),
    "stack": Plan("stack", "none", "expected"),
}

SHRINK: Final = (0.7, 0.6, 0.5)
"""The second-placed team's factors of the thresholds: for all fields, for blank ones, and for those still blank."""

FIXED: Final = 0.5
"""The threshold of ``fixed`` if none is given."""

MOST: Final = 5
"""The cap on locations per field if none is given and there are as many."""

CROSS_FIT_PARTS: Final = 5
"""Parts that the fields are dealt into to judge a decision: each is decided by a fit on the other four."""


def fit_decision(
    members: Members,
    truth: NDArray[np.bool_],
    *,
    label_set: LabelSet | None = None,
    method: Method = "grid",
    most: int | None = None,
    fill_blank: bool = True,
    blank: Blank = "probability",
    cooccurrence: bool = False,
    ensemble: EnsembleKind | None = None,
    calibration: CalibrationKind | None = None,
    fixed: float | None = None,
    ratios: NDArray[np.floating] | None = None,
    groups: NDArray[np.int64] | None = None,
    intervals: bool = True,
) -> Decision:
    """Return the decision that fits held-out probabilities to their truth.

    Args:
        members: Probabilities ``(n, locations)`` per member, of fields that the member was not trained on; a row of
            NaN is a field that it lacks.
        truth: bool ``(n, locations)``.
        label_set: The locations of the columns. By default they are called "0", "1", and so on; commands refuse such a
            decision for predictions of any other label set.
        method: ``grid`` is the silver-medal baseline's: plain mean, then per class the best F1 on a grid. ``auto``
        judges
            several by nested cross-fitting and says why it takes one. docs/decisions.md explains all.
        most: Locations that a field has at most; by default 5, or all if there are fewer.
        fill_blank: Whether no field may be left without location.
        blank: By what a blank field's location is chosen.
        cooccurrence: Whether locations that never occur together, though chance would have them, exclude each other.
        ensemble: How members become one, if not as the method has it.
        calibration: How that becomes probabilities, if not as the method has it.
        fixed: The threshold of ``fixed``; by default 0.5.
        ratios: Shares of fields, 0 to 1, for ``ratio``; by default those of ``truth``.
        groups: A group number per field; cross-fitting keeps a group together.
        intervals: Whether each threshold gets its bootstrap interval.

    Raises:
        TableError: If shapes differ, there is no field, or values are no probabilities.
        SettingsError: If an option is given that the method does not use, or ``most`` is more than there are locations.
        LabelSetError: If ``label_set`` has another number of locations.

    >>> truth = np.array([[True, False], [True, False], [False, True], [False, True]])
    >>> probabilities = np.where(truth, 0.9, 0.2)
    >>> fit_decision({"a": probabilities}, truth)({"a": probabilities})[:, 0]
    array([ True,  True, False, False])
    """
    stack = stack_members(members)
    check_truth(truth, stack)
    locations = _checked_label_set(label_set, truth.shape[1])
    _check_options(method, most, fixed, ratios, locations)
    rules = Rules(
        most=min(MOST, len(locations)) if most is None else most,
        blank=blank if fill_blank else "none",
        shrink=SHRINK if method == "shrunk" else (),
        exclusive=exclusive_pairs(truth) if cooccurrence else (),
    )
    fitted_on: dict[str, Any] = {"fields": len(truth), "positives": truth.sum(axis=0).tolist()}
    fields = _sorted_fields(stack, truth, groups)
    if method == "auto":
        if ensemble or calibration:
            raise TableError(
                "'auto' chooses ensemble and calibration itself.",
                hint="Leave them out, or choose the thresholds' method too, such as 'expected'.",
            )
        choice = choose(fields.stack, fields.truth, keys=fields.keys, groups=fields.groups, rules=rules)
        plan = choice.plan
        fitted_on |= {"candidates": choice.table, "why": choice.why, "candidates_judged_on": choice.fields}
    else:
        usual = PLANS[method]
        plan = replace(
            usual,
            ensemble=ensemble or usual.ensemble,
            calibration=calibration or usual.calibration,
            value=FIXED if fixed is None else float(fixed),
            ratios=_checked_ratios(ratios, len(locations)),
        )
    evidence, probabilities = _fit(plan, fields)
    return Decision(
        method,
        tuple(members),
        find_thresholds(plan, probabilities, fields.truth),
        plan,
        evidence,
        truth.mean(axis=0),
        locations,
        rules,
        threshold_intervals(plan, probabilities, fields.truth) if intervals else None,
        fitted_on,
    )


class HeldOut(NamedTuple):
    """Fields, and the decision that a fit on other fields makes of them.

    Attributes:
        rows: Their rows.
        probabilities: What their members' predictions become, ``(len(rows), locations)``.
        decision: Fitted to the other fields.
    """

    rows: NDArray[np.int64]
    probabilities: Floats
    decision: Decision


def held_out_parts(
    members: Members,
    truth: NDArray[np.bool_],
    *,
    groups: NDArray[np.int64] | None = None,
    **options: Any,
) -> Iterator[HeldOut]:
    """Yield every field once, with a decision that saw neither the field nor its group, in whatever order they come.

    Args:
        members: Probabilities ``(n, locations)`` per member.
        truth: bool ``(n, locations)``.
        groups: A group number per field; by default each field, with its copies, is its own.
        options: As for :func:`fit_decision`.

    Raises:
        TableError: If there are fewer than two groups of different fields.
    """
    parts = deal(row_keys(stack_members(members)), groups, parts=CROSS_FIT_PARTS)
    if parts.max() < 1:
        raise TableError(
            "A decision is judged on two groups of fields whose predictions differ, or more; here is one.",
            hint="Give more fields, of different predictions.",
        )
    for part in range(int(parts.max()) + 1):
        held_out = parts == part
        kept = None if groups is None else groups[~held_out]
        decision = fit_decision(
            _rows(members, ~held_out), truth[~held_out], groups=kept, **{"intervals": False, **options}
        )
        yield HeldOut(np.flatnonzero(held_out), decision.probabilities(_rows(members, held_out)), decision)


def cross_fit(
    members: Members,
    truth: NDArray[np.bool_],
    *,
    groups: NDArray[np.int64] | None = None,
    **options: Any,
) -> NDArray[np.bool_]:
    """Return each field's locations, decided by a fit that saw neither the field nor its group.

    This is what a decision may be judged by: thresholds judged on the fields that they were fitted to look far better
    than they are. Arguments and errors are those of :func:`held_out_parts`.
    """
    return cross_fit_of(held_out_parts(members, truth, groups=groups, **options), truth)


def cross_fit_of(parts: Iterable[HeldOut], truth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the locations of the fields of all ``parts``, bool ``(n, locations)`` as ``truth``."""
    predicted = np.zeros_like(truth)
    for rows, probabilities, decision in parts:
        predicted[rows] = decide(probabilities, decision.thresholds, decision.rules, never=NEVER)
    return predicted


class _Fields(NamedTuple):
    """Fields in an order of their own."""

    stack: Floats
    truth: NDArray[np.bool_]
    keys: NDArray[np.int64]
    groups: NDArray[np.int64] | None


def _sorted_fields(stack: Floats, truth: NDArray[np.bool_], groups: NDArray[np.int64] | None) -> _Fields:
    """Return the fields sorted by what they are, so that any order of them gives the same decision to the last bit."""
    keys = row_keys(stack)
    # Copies of a field may have different truths; these decide among them.
    order = np.lexsort([*truth.T, keys])
    return _Fields(
        np.ascontiguousarray(stack[:, order]),
        truth[order],
        keys[order],
        None if groups is None else np.asarray(groups)[order],
    )


def _fit(plan: Plan, fields: _Fields) -> tuple[Evidence, Floats]:
    """Return the plan's evidence, and what it says of each field when fitted without the field's part."""
    with threadpool_limits(1):
        evidence = fit_evidence(plan, fields.stack, fields.truth)
    if not plan.learns:
        return evidence, evidence(fields.stack)
    parts = deal(fields.keys, fields.groups, parts=PARTS)
    if parts.max() < 1:
        raise TableError(
            f"{plan.name!r} needs two groups of fields whose predictions differ; here is one.",
            hint="Give more fields, or choose a method such as 'grid'.",
        )
    return evidence, unseen_probabilities(plan, fields.stack, fields.truth, parts, start=evidence)


def _checked_label_set(label_set: LabelSet | None, classes: int) -> LabelSet:
    if label_set is None:
        return LabelSet.numbered(classes)
    if len(label_set) != classes:
        raise LabelSetError(
            f"The probabilities have {classes} columns; the label set is {label_set}.",
            hint="Give the label set of these columns.",
        )
    return label_set


def _check_options(
    method: Method,
    most: int | None,
    fixed: float | None,
    ratios: NDArray[np.floating] | None,
    locations: LabelSet,
) -> None:
    if method not in get_args(Method):
        known = ", ".join(repr(each) for each in get_args(Method))
        raise TableError(f"There is no method {method!r}.", hint=f"Choose {known}.")
    if most is not None and not 1 <= most <= len(locations):
        raise SettingsError(
            f"A field cannot keep at most {most} locations of the label set {locations}.",
            hint=f"Choose a number from 1 to {len(locations)}.",
        )
    for name, user, value in (("fixed", "fixed", fixed), ("ratios", "ratio", ratios)):
        if value is not None and method != user:
            raise SettingsError(
                f"The method {method!r} does not use {name!r}.", hint=f"Leave it out, or choose the method {user!r}."
            )
    if fixed is not None and not 0 <= fixed < 1:
        raise TableError(
            f"A fixed threshold lies from 0 to below 1; this is {fixed:g}.", hint="Choose one such as 0.5."
        )


def _checked_ratios(ratios: NDArray[np.floating] | None, locations: int) -> tuple[float, ...] | None:
    if ratios is None:
        return None
    values = np.asarray(ratios, np.float64)
    if values.shape != (locations,) or not ((values >= 0) & (values <= 1)).all():
        raise TableError(
            f"There must be {locations} ratios from 0 to 1.", hint="Give each location's share of the fields."
        )
    return tuple(values.tolist())


def _rows(members: Members, rows: NDArray[np.bool_]) -> dict[str, NDArray[np.floating]]:
    return {name: values[rows] for name, values in members.items()}
