"""Fitting decisions, and evaluating them on fields that they were not fitted to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, overload

import numpy as np
from threadpoolctl import threadpool_limits

from cytoloc.decide.cross_fitting import assign_parts, fit_probabilities, out_of_fold_probabilities, select_method
from cytoloc.decide.decision import Decision, provenance_of, with_provenance
from cytoloc.decide.inputs import (
    Bools,
    FieldGroups,
    FieldLabels,
    Floats,
    Ints,
    LabeledMembers,
    MemberArrays,
    MemberPredictions,
    as_labeled_members,
    row_keys,
)
from cytoloc.decide.methods import AnyMethod, Auto, Method, Ratio, Rules, Smooth, as_method
from cytoloc.decide.metrics import macro_f1
from cytoloc.decide.thresholds import apply_thresholds, average_groups
from cytoloc.errors import ArgumentTypeError, SettingsError, TableError
from cytoloc.labels.label_set import LabelSet
from cytoloc.predictions import Predictions

DEFAULT_RULES: Final = Rules()

THRESHOLD_RESAMPLES: Final = 100
"""Bootstrap resamples of the interval of a threshold."""

SMOOTH_RESAMPLES: Final = 20
"""The same for the method ``smooth``, which is a hundred times slower."""


def fit_decision(
    predictions: MemberPredictions | MemberArrays,
    labels: FieldLabels,
    *,
    method: AnyMethod = "auto",
    rules: Rules = DEFAULT_RULES,
    groups: FieldGroups | None = None,
    label_set: LabelSet | str | None = None,
    intervals: bool = True,
) -> Decision:
    """Return a decision that is fitted to out-of-fold predictions and labels.

    Args:
        predictions: Predictions, probabilities ``(n, locations)``, or a mapping of member names to either. No model may
            have been trained on the fields that it predicts. In arrays, a row of NaN is a field that a member lacks.
        labels: bool ``(n, locations)``; or, with Predictions, a mapping of ids to indices of locations, or a dataset.
        method: How the decision is found: a name or a value such as ``Grid()``. ``auto`` compares several methods on
            fields that they were not fitted to; ``grid`` is the silver-medal baseline. See docs/how-to/decide.md.
        rules: What is done after the thresholds.
        groups: A group per field, such as a well; cross-fitting keeps groups together. An array, or with Predictions a
            table with the columns ``id`` and ``group``, such as folds.
        label_set: The locations of arrays; by default they are numbered.
        intervals: Whether to compute the bootstrap interval of each threshold.

    Raises:
        ArgumentTypeError: If an argument has another type.
        TableError: If shapes differ, values are not probabilities, or the model was trained on some of the fields.
        SettingsError: If there is no such method, or the rules name more locations than there are.
        LabelSetError: If label sets differ.

    >>> truth = np.array([[True, False], [True, False], [False, True], [False, True]])
    >>> probabilities = np.where(truth, 0.9, 0.2)
    >>> rule = fit_decision(probabilities, truth, method="grid")
    >>> rule(probabilities)[:, 0]
    array([ True,  True, False, False])
    """
    given = as_labeled_members(predictions, labels, groups=groups, label_set=label_set)
    return _fit(given, as_method(method), _as_rules(rules), intervals=intervals)


def _as_rules(rules: Rules) -> Rules:
    if not isinstance(rules, Rules):
        raise ArgumentTypeError(f"rules must be Rules(…); this is {type(rules).__name__}.")
    return rules


def _fit(given: LabeledMembers, method: Method | Auto, rules: Rules, *, intervals: bool = False) -> Decision:
    if isinstance(method, Ratio) and method.ratios is not None and len(method.ratios) != given.truth.shape[1]:
        raise SettingsError(
            f"ratios must be {given.truth.shape[1]} shares, one per location, not {len(method.ratios)}."
        )
    rules = rules.fitted(method, given.truth)
    fitted_on: dict[str, Any] = {"fields": len(given.truth), "positives": given.truth.sum(axis=0).tolist()}
    # Sorted by their content, so that any order of the fields gives exactly the same decision.
    keys = row_keys(given.members.stack)
    order = np.lexsort([*given.truth.T, keys])
    fields, keys = given.of(order), keys[order]
    stack, truth, groups = fields.members.stack, fields.truth, fields.groups
    if isinstance(method, Auto):
        selection = select_method(stack, truth, keys=keys, groups=groups, rules=rules, max_fields=method.max_fields)
        method = selection.method
        fitted_on |= {"candidates": selection.candidates, "reason": selection.reason}
        fitted_on |= {"candidates_compared_on": selection.fields}
    with threadpool_limits(1):
        model = fit_probabilities(method, stack, truth)
    parts = assign_parts(keys, groups)
    if method.fits_probabilities and parts.max() < 1:
        raise TableError(
            f"The method {method.name!r} needs two groups of fields whose predictions differ; there is one.",
            hint="Give more fields, or choose a method such as 'grid'.",
        )
    probabilities = out_of_fold_probabilities(method, stack, truth, parts, start=model)
    return Decision(
        method,
        given.members.names,
        method.thresholds(probabilities, truth),
        model,
        given.truth.mean(axis=0),
        given.label_set,
        rules,
        threshold_intervals(method, probabilities, truth) if intervals else None,
        fitted_on,
    )


def threshold_intervals(
    method: Method, probabilities: Floats, truth: Bools, *, level: float = 0.95, seed: int = 0
) -> Floats:
    """Return the percentile bootstrap interval of each threshold, ``(classes, 2)``; probabilities are not refitted."""
    rng = np.random.default_rng(seed)
    found = np.empty((SMOOTH_RESAMPLES if isinstance(method, Smooth) else THRESHOLD_RESAMPLES, truth.shape[1]))
    for number in range(len(found)):
        rows = rng.integers(0, len(truth), len(truth))
        found[number] = method.thresholds(probabilities[rows], truth[rows])
    return np.asarray(np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0).T, np.float64)


@overload
def cross_fit(
    predictions: MemberPredictions,
    labels: FieldLabels,
    *,
    method: AnyMethod = ...,
    rules: Rules = ...,
    groups: FieldGroups | None = ...,
    label_set: LabelSet | None = ...,
) -> Predictions: ...


@overload
def cross_fit(
    predictions: MemberArrays,
    labels: FieldLabels,
    *,
    method: AnyMethod = ...,
    rules: Rules = ...,
    groups: FieldGroups | None = ...,
    label_set: LabelSet | None = ...,
) -> Bools: ...


def cross_fit(
    predictions: MemberPredictions | MemberArrays,
    labels: FieldLabels,
    *,
    method: AnyMethod = "auto",
    rules: Rules = DEFAULT_RULES,
    groups: FieldGroups | None = None,
    label_set: LabelSet | str | None = None,
) -> Predictions | Bools:
    """Return the locations of each field, by a decision that was fitted without the field and its group.

    Evaluate a decision by these. Thresholds look far better on the fields that they were fitted to than they are.
    Arguments and errors are those of :func:`fit_decision`; at least two groups of different fields are needed.

    Returns:
        For Predictions, Predictions with out-of-fold probabilities and ``decided``; for arrays, bool
        ``(n, locations)``.
    """
    given = as_labeled_members(predictions, labels, groups=groups, label_set=label_set)
    parts = list(cross_fit_parts(given, as_method(method), _as_rules(rules)))
    return _decide_parts(parts, given.truth) if given.members.ids is None else _joined(parts, given)


class CrossFitPart(NamedTuple):
    """Some of the fields, and a decision that was fitted to the others.

    Attributes:
        rows: Row numbers of the fields.
        probabilities: Their probabilities by the decision, ``(len(rows), locations)``.
        decision: The decision.
    """

    rows: Ints
    probabilities: Floats
    decision: Decision


def cross_fit_parts(given: LabeledMembers, method: Method | Auto, rules: Rules) -> Iterator[CrossFitPart]:
    """Yield each field once, with a decision that was fitted without the field and its group."""
    parts = assign_parts(row_keys(given.members.stack), given.groups)
    if parts.max() < 1:
        raise TableError(
            "A cross-fit needs at least two groups of fields whose predictions differ; there is one.",
            hint="Give more fields, of different predictions.",
        )
    for part in range(int(parts.max()) + 1):
        rows = parts == part
        decision = _fit(given.of(~rows), method, rules)
        yield CrossFitPart(np.flatnonzero(rows), decision.probability_model(given.members.of(rows).stack), decision)


def _decide_parts(parts: Sequence[CrossFitPart], truth: Bools, *, groups: Ints | None = None, **rules: Any) -> Bools:
    """Return the locations of all parts, by the decision of each part with some rules changed."""
    predicted = np.zeros_like(truth)
    for rows, probabilities, decision in parts:
        shared = probabilities if groups is None else average_groups(probabilities, groups[rows])
        predicted[rows] = apply_thresholds(shared, decision.thresholds, **decision.rules.options(**rules))
    return predicted


def _joined(parts: Sequence[CrossFitPart], given: LabeledMembers) -> Predictions:
    """Return the out-of-fold probabilities and decisions of all parts as Predictions."""
    probabilities = np.empty(given.truth.shape, np.float32)
    for rows, values, _ in parts:
        probabilities[rows] = values
    names = sorted({part.decision.method.name for part in parts})
    provenance = {**provenance_of(given.members), "decision": f"cross-fitted: {', '.join(names)}"}
    if any(part.decision.method.fits_probabilities for part in parts):
        provenance["calibrated_by"] = "cross-fitting"
    decided = _decide_parts(parts, given.truth)
    return Predictions(given.members.ids or (), probabilities, given.label_set, provenance, decided)


@dataclass(frozen=True)
class DecisionReport:
    """A decision with its evaluation.

    Attributes:
        decision: Fitted to all fields. Its ``fitted_on`` holds the values below as well.
        cross_fitted: The locations of each field by a decision that was fitted without it.
        macro_f1: Of these.
        macro_f1_in_sample: Of the decision on the fields that it was fitted to; it is too high.
        rules: A row per rule: whether it is on, how many fields it changes, and macro F1 with and without it, on fields
            that the decision was not fitted to.
    """

    decision: Decision
    cross_fitted: Predictions
    macro_f1: float
    macro_f1_in_sample: float
    rules: list[dict[str, Any]]


def fit_and_cross_fit(
    predictions: MemberPredictions,
    labels: FieldLabels,
    *,
    method: AnyMethod = "auto",
    rules: Rules = DEFAULT_RULES,
    groups: FieldGroups | None = None,
) -> DecisionReport:
    """Return a decision with its cross-fitted locations and scores, and the effect of each rule.

    Arguments and errors are those of :func:`fit_decision` and :func:`cross_fit`.
    """
    given = as_labeled_members(predictions, labels, groups=groups)
    chosen, rules = as_method(method), _as_rules(rules)
    decision = _fit(given, chosen, rules, intervals=True)
    in_sample = macro_f1(decision.decided(decision.probability_model(given.members.stack)), given.truth)
    parts = list(cross_fit_parts(given, chosen, rules))
    macro = macro_f1(_decide_parts(parts, given.truth), given.truth)
    effects = rule_effects(parts, given.truth, groups=given.groups)
    decision = with_provenance(decision, macro_f1_in_sample=in_sample, macro_f1_cross_fitted=macro, rules=effects)
    return DecisionReport(decision, _joined(parts, given), macro, in_sample, effects)


def rule_effects(parts: Sequence[CrossFitPart], truth: Bools, *, groups: Ints | None = None) -> list[dict[str, Any]]:
    """Return a row per rule: its name, whether it is on, how many fields it changes, macro F1 with and without it."""
    rules, locations = parts[0].decision.rules, truth.shape[1]
    most, blank = rules.max_locations or locations, "probability" if rules.blank == "none" else rules.blank
    usual = _decide_parts(parts, truth)
    effects = {
        "never blank": (
            rules.blank != "none",
            _decide_parts(parts, truth, blank=blank),
            _decide_parts(parts, truth, blank="none"),
        ),
        f"at most {most}": (most < locations, usual, _decide_parts(parts, truth, max_locations=locations)),
    }
    if rules.shrink:
        effects["shrunk thresholds"] = (True, usual, _decide_parts(parts, truth, shrink=()))
    if any(part.decision.rules.exclusive for part in parts):
        effects["exclusive locations"] = (True, usual, _decide_parts(parts, truth, exclusive=()))
    if groups is not None:
        effects["averaged groups"] = (False, _decide_parts(parts, truth, groups=groups), usual)
    return [
        {
            "rule": name,
            "on": on,
            "fields_changed": int((with_it != without).any(axis=1).sum()),
            "macro_f1_with": macro_f1(with_it, truth),
            "macro_f1_without": macro_f1(without, truth),
        }
        for name, (on, with_it, without) in effects.items()
    ]
