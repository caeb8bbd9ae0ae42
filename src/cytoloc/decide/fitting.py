"""Fitting of decisions, and their evaluation by cross-fitting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, overload

import numpy as np

from cytoloc.decide.coverage import check_coverage, fit_coverage
from cytoloc.decide.cross_fitting import (
    assign_parts,
    fit_probabilities,
    one_thread,
    out_of_fold_probabilities,
    select_method,
)
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
"""Number of bootstrap resamples for the interval of a threshold."""

SMOOTH_RESAMPLES: Final = 20
"""Number of bootstrap resamples for the method ``smooth``, which is a hundred times slower."""


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
    """Fit a decision to out-of-fold predictions and labels.

    Args:
        predictions: Predictions, probabilities of shape ``(n, locations)``, or a mapping of member names to either. No
            model may have been trained on the fields that it predicts. In arrays, a field that a member does not
            predict is a row of NaN.
        labels: bool of shape ``(n, locations)``; or for Predictions a dataset, a label list, or a mapping of ids to
            indices of locations.
        method: A method, or its name. ``auto`` chooses the method with the lowest cross-fitted log loss, or one whose
            macro F1 is clearly higher; ``grid`` is the method of the silver-medal baseline. See 'Calibrate and decide'
            in the documentation.
        rules: The rules that are applied after the thresholds.
        groups: A group per field, such as a well, which cross-fitting never separates. An array, or for Predictions a
            table with the columns ``id`` and ``group``, such as folds.
        label_set: The label set of arrays. Default: numbers.
        intervals: Whether to compute a bootstrap interval of each threshold.

    Returns:
        The decision.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        TableError: If shapes differ, values are not probabilities, or a model was trained on some of the fields.
        SettingsError: If the method is unknown, or the rules require more locations than there are.
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
        raise ArgumentTypeError(f"`rules` must be Rules(…), not {type(rules).__name__}.")
    return rules


def _fit(given: LabeledMembers, method: Method | Auto, rules: Rules, *, intervals: bool = False) -> Decision:
    if isinstance(method, Ratio) and method.ratios is not None and len(method.ratios) != given.truth.shape[1]:
        raise SettingsError(
            f"`ratios` has {len(method.ratios)} shares for {given.truth.shape[1]} locations.",
            hint="Give one share per location.",
        )
    rules = rules.fitted(method, given.truth)
    fitted_on: dict[str, Any] = {"fields": len(given.truth), "positives": given.truth.sum(axis=0).tolist()}
    # Fields are sorted by their predictions, so that the decision does not depend on their order.
    keys = row_keys(given.members.stack)
    order = np.lexsort([*given.truth.T, keys])
    fields, keys = given.of(order), keys[order]
    stack, truth, groups = fields.members.stack, fields.truth, fields.groups
    if isinstance(method, Auto):
        selection = select_method(stack, truth, keys=keys, groups=groups, rules=rules, max_fields=method.max_fields)
        method = selection.method
        fitted_on |= {"candidates": selection.candidates, "reason": selection.reason}
        fitted_on |= {"candidates_compared_on": selection.fields}
    with one_thread():
        model = fit_probabilities(method, stack, truth)
    parts = assign_parts(keys, groups)
    if method.fits_probabilities and parts.max() < 1:
        raise TableError(
            f"The method {method.name!r} needs at least two groups of fields with different predictions.",
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
    """Return the percentile bootstrap interval of each threshold. Probabilities are not refitted.

    Args:
        method: The method.
        probabilities: Shape ``(n, classes)``.
        truth: bool of shape ``(n, classes)``.
        level: The confidence level.
        seed: Random seed.

    Returns:
        float64 of shape ``(classes, 2)``.
    """
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
    """Decide on each field with a decision that is fitted without the field and its group.

    Use the result to evaluate a method. Metrics on the fields that thresholds were fitted to are too high. At least two
    groups of fields with different predictions are needed.

    Args:
        predictions: Out-of-fold predictions; see :func:`fit_decision`.
        labels: The labels; see :func:`fit_decision`.
        method: A method, or its name; see :func:`fit_decision`.
        rules: The rules that are applied after the thresholds.
        groups: A group per field; see :func:`fit_decision`.
        label_set: The label set of arrays. Default: numbers.

    Returns:
        For Predictions, Predictions with cross-fitted probabilities and ``decided``. For arrays, bool of shape
        ``(n, locations)``.

    Raises:
        ArgumentTypeError, TableError, SettingsError, LabelSetError: For the reasons of :func:`fit_decision`.
    """
    given = as_labeled_members(predictions, labels, groups=groups, label_set=label_set)
    parts = list(cross_fit_parts(given, as_method(method), _as_rules(rules)))
    return _decide_parts(parts, given.truth) if given.members.ids is None else _joined(parts, given)


class CrossFitPart(NamedTuple):
    """A part of the fields, and a decision that was fitted to all other fields.

    Attributes:
        rows: Row numbers of the fields.
        probabilities: Their probabilities from the decision, shape ``(len(rows), locations)``.
        decision: The decision.
    """

    rows: Ints
    probabilities: Floats
    decision: Decision


def cross_fit_parts(given: LabeledMembers, method: Method | Auto, rules: Rules) -> Iterator[CrossFitPart]:
    """Yield all parts of the fields, each with a decision that was fitted without them and their groups.

    Args:
        given: The predictions and labels.
        method: The method.
        rules: The rules that are applied after the thresholds.

    Raises:
        TableError: If there are fewer than two groups of fields with different predictions.
    """
    parts = assign_parts(row_keys(given.members.stack), given.groups)
    if parts.max() < 1:
        raise TableError(
            "Cross-fitting needs at least two groups of fields with different predictions, but found one.",
            hint="Give more fields with different predictions.",
        )
    for part in range(int(parts.max()) + 1):
        rows = parts == part
        decision = _fit(given.of(~rows), method, rules)
        yield CrossFitPart(np.flatnonzero(rows), decision.probability_model(given.members.of(rows).stack), decision)


def _decide_parts(parts: Sequence[CrossFitPart], truth: Bools, *, groups: Ints | None = None, **rules: Any) -> Bools:
    """Return the locations of all fields, with the decision of each part and some rules changed."""
    predicted = np.zeros_like(truth)
    for rows, probabilities, decision in parts:
        shared = probabilities if groups is None else average_groups(probabilities, groups[rows])
        predicted[rows] = apply_thresholds(shared, decision.thresholds, **decision.rules.options(**rules))
    return predicted


def _joined(parts: Sequence[CrossFitPart], given: LabeledMembers) -> Predictions:
    """Return the cross-fitted probabilities and locations of all parts as Predictions."""
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

    decision: The decision, fitted to all fields. ``fitted_on`` contains the values below too.
    cross_fitted: The cross-fitted locations of each field.
    macro_f1: Macro F1 of the cross-fitted locations.
    macro_f1_in_sample: Macro F1 of the decision on the fields that it was fitted to, which is too high.
    rules: For each rule: whether it is on, the number of fields that it changes, and the cross-fitted macro F1 with
        and without it.
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
    coverage: float | None = None,
) -> DecisionReport:
    """Fit a decision, and evaluate its method and each rule by cross-fitting.

    Args:
        predictions: Out-of-fold predictions, or a mapping of member names to them; see :func:`fit_decision`.
        labels: The labels; see :func:`fit_decision`.
        method: A method, or its name; see :func:`fit_decision`.
        rules: The rules that are applied after the thresholds.
        groups: A group per field; see :func:`fit_decision`.
        coverage: Also fit prediction sets, which contain all true locations of this share of fields; from 0.5 to less
            than 1. See :meth:`cytoloc.Decision.prediction_sets`.

    Returns:
        The decision, the cross-fitted locations, and the metrics.

    Raises:
        SettingsError: If there are too few fields for the coverage.
        ArgumentTypeError, TableError, SettingsError, LabelSetError: For the reasons of :func:`fit_decision`.
    """
    if coverage is not None:
        check_coverage(coverage)
    given = as_labeled_members(predictions, labels, groups=groups)
    chosen, rules = as_method(method), _as_rules(rules)
    decision = _fit(given, chosen, rules, intervals=True)
    in_sample = macro_f1(decision.decide_calibrated(decision.probability_model(given.members.stack)), given.truth)
    parts = list(cross_fit_parts(given, chosen, rules))
    macro = macro_f1(_decide_parts(parts, given.truth), given.truth)
    effects = rule_effects(parts, given.truth, groups=given.groups)
    decision = with_provenance(decision, macro_f1_in_sample=in_sample, macro_f1_cross_fitted=macro, rules=effects)
    joined = _joined(parts, given)
    if coverage is not None:
        part_of = np.empty(len(given.truth), np.int64)
        for number, part in enumerate(parts):
            part_of[part.rows] = number
        values = np.asarray(joined.probabilities, np.float64)
        sets = fit_coverage(values, given.truth, coverage=coverage, groups=given.groups, parts=part_of)
        decision = replace(decision, sets=sets)
    return DecisionReport(decision, joined, macro, in_sample, effects)


def rule_effects(parts: Sequence[CrossFitPart], truth: Bools, *, groups: Ints | None = None) -> list[dict[str, Any]]:
    """Return the cross-fitted effect of each rule.

    Args:
        parts: The parts of a cross-fit.
        truth: bool of shape ``(n, locations)``.
        groups: A group per field, to evaluate averaging over groups.

    Returns:
        For each rule its name, whether it is on, the number of fields that it changes, and the macro F1 with and
        without it.
    """
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
