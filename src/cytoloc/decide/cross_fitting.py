"""Cross-fitting: fields are predicted by fits on other fields. The method ``auto`` uses it to compare methods."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from cytoloc.decide.calibration import Calibration, fit_calibration
from cytoloc.decide.ensembles import Ensemble, fit_ensemble
from cytoloc.decide.inputs import Bools, Floats, Ints
from cytoloc.decide.methods import ExpectedF1, Grid, Method, Ratio, Rules, Stack
from cytoloc.decide.metrics import class_log_loss, macro_f1, paired_difference
from cytoloc.decide.thresholds import apply_thresholds
from cytoloc.errors import TableError

Work = TypeVar("Work")

N_PARTS: Final = 5
"""Number of parts of a cross-fit. Each part is predicted by a fit on the other four parts."""

CANDIDATES: Final[tuple[Method, ...]] = (
    Grid(),
    Ratio(),
    ExpectedF1(),
    ExpectedF1(ensemble="weighted"),
    *(Stack(precision=precision) for precision in (10.0, 30.0, 100.0, 300.0)),
)
"""The methods that ``auto`` compares."""


@dataclass(frozen=True)
class ProbabilityModel:
    """A fitted ensemble and its calibration.

    Call it with probabilities of shape ``(members, n, classes)`` to get calibrated probabilities.

    Attributes:
        ensemble: The ensemble, which combines the members.
        calibration: The calibration of the combined scores.
    """

    ensemble: Ensemble
    calibration: Calibration

    def __call__(self, stack: Floats) -> Floats:
        """Return the probabilities, float64 of shape ``(n, classes)``."""
        return self.calibration(self.ensemble(stack))


def fit_probabilities(
    method: Method, stack: Floats, truth: Bools, *, start: ProbabilityModel | None = None
) -> ProbabilityModel:
    """Fit the ensemble and the calibration of a method.

    Args:
        method: The method.
        stack: Probabilities, shape ``(members, n, classes)``.
        truth: bool of shape ``(n, classes)``.
        start: A model that was fitted to similar fields, to start from.

    Returns:
        The fitted model.
    """
    before = None if start is None else start.ensemble
    precision = method.precision if isinstance(method, Stack) else None
    ensemble = fit_ensemble(method.ensemble, stack, truth, precision=precision, start=before)
    scores = ensemble(stack) if method.calibration != "none" else np.zeros((1, truth.shape[1]))
    return ProbabilityModel(ensemble, fit_calibration(method.calibration, scores, truth))


def assign_parts(keys: Ints, groups: Ints | None, *, n_parts: int = N_PARTS) -> Ints:
    """Assign fields to parts for cross-fitting. The assignment does not depend on the order of the fields.

    Args:
        keys: A key per field from :func:`~cytoloc.decide.inputs.row_keys`, shape ``(n,)``. Fields with equal keys get
            the same part.
        groups: A group number per field. All fields of a group get the same part. Default: each key is a group.
        n_parts: The number of parts. If there are fewer groups, there are as many parts as groups.

    Returns:
        Part numbers from 0, int64 of shape ``(n,)``.
    """
    if groups is None:
        first = keys
    else:
        _, group = np.unique(groups, return_inverse=True)
        least = np.full(int(group.max()) + 1, np.iinfo(np.int64).max)
        np.minimum.at(least, group, keys)
        first = least[group]
    # Keys are hashes, so sorting them gives a random permutation.
    _, rank = np.unique(first, return_inverse=True)
    return np.asarray(rank % min(n_parts, int(rank.max()) + 1), np.int64)


def out_of_fold_probabilities(
    method: Method, stack: Floats, truth: Bools, parts: Ints, *, start: ProbabilityModel
) -> Floats:
    """Return the probabilities of each field from a model that is fitted without the field's part.

    Args:
        method: The method.
        stack: Probabilities, shape ``(members, n, classes)``.
        truth: bool of shape ``(n, classes)``.
        parts: The part of each field, shape ``(n,)``.
        start: The model that is fitted to all fields, to start from.

    Returns:
        float64 of shape ``(n, classes)``.
    """
    if not method.fits_probabilities:
        return start(stack)
    probabilities = np.empty(truth.shape)

    def fit_without(part: int) -> None:
        left_out = parts == part
        model = fit_probabilities(method, stack[:, ~left_out], truth[~left_out], start=start)
        probabilities[left_out] = model(stack[:, left_out])

    _in_two_threads(fit_without, np.unique(parts).tolist())
    return probabilities


class NestedCrossFit(NamedTuple):
    """Cross-fitted probabilities and thresholds of fields.

    Attributes:
        probabilities: Shape ``(n, classes)``.
        thresholds: The thresholds of the part of each field, shape ``(n, classes)``.
    """

    probabilities: Floats
    thresholds: Floats


def nested_cross_fit(method: Method, stack: Floats, truth: Bools, parts: Ints) -> NestedCrossFit:
    """Return cross-fitted probabilities, and thresholds that are fitted without the part of each field.

    The thresholds of part ``a`` are fitted to the other parts. The probabilities of each other part ``b`` come from a
    model that is fitted without ``a`` and ``b``.

    Args:
        method: The method.
        stack: Probabilities, shape ``(members, n, classes)``.
        truth: bool of shape ``(n, classes)``.
        parts: The part of each field, shape ``(n,)``.

    Returns:
        The probabilities and thresholds.
    """
    with one_thread():
        start = fit_probabilities(method, stack, truth)
    numbers = np.unique(parts).tolist()
    probabilities = out_of_fold_probabilities(method, stack, truth, parts, start=start)
    # inner[a] has the probabilities of fields in other parts, from models fitted without a and the part of the field.
    inner = {part: probabilities.copy() for part in numbers}
    if method.fits_probabilities:

        def fit_without(pair: tuple[int, int]) -> None:
            one, other = pair
            rest = (parts != one) & (parts != other)
            model = fit_probabilities(method, stack[:, rest], truth[rest], start=start)
            inner[one][parts == other] = model(stack[:, parts == other])
            inner[other][parts == one] = model(stack[:, parts == one])

        _in_two_threads(fit_without, list(combinations(numbers, 2)))
    thresholds = np.empty(truth.shape)
    for part in numbers:
        others = parts != part
        thresholds[~others] = method.thresholds(inner[part][others], truth[others])
    return NestedCrossFit(probabilities, thresholds)


def one_thread() -> AbstractContextManager[Any]:
    """Return a context in which linear algebra uses one thread, because the matrix products are too small for more."""
    limits: AbstractContextManager[Any] = _thread_pools().limit(limits=1)
    return limits


@cache
def _thread_pools() -> ThreadpoolController:
    """Return the thread pools of the loaded libraries. To find them takes longer than a small fit."""
    return ThreadpoolController()


def _in_two_threads(work: Callable[[Work], None], items: list[Work]) -> None:
    with one_thread(), ThreadPoolExecutor(2) as pool:
        for _ in pool.map(work, items):
            pass


class Selection(NamedTuple):
    """The method that ``auto`` chose.

    Attributes:
        method: The chosen method.
        candidates: For each candidate its name, cross-fitted macro F1, and normalized log loss if it has calibrated
            probabilities.
        reason: The reason for the choice, as a sentence.
        fields: The number of fields on which the candidates were compared.
    """

    method: Method
    candidates: list[dict[str, Any]]
    reason: str
    fields: int


def select_method(
    stack: Floats,
    truth: Bools,
    *,
    keys: Ints,
    groups: Ints | None,
    rules: Rules,
    max_fields: int,
    candidates: tuple[Method, ...] = CANDIDATES,
) -> Selection:
    """Choose the candidate with the lowest cross-fitted log loss, or one whose macro F1 is clearly higher.

    The candidate with the lowest log loss is chosen, because log loss varies less than F1, which depends on the few
    fields of rare classes. A candidate without calibrated probabilities is chosen instead if its macro F1 is higher by
    more than two standard errors of the difference.

    Args:
        stack: Probabilities, shape ``(members, n, classes)``.
        truth: bool of shape ``(n, classes)``.
        keys: A key per field; see :func:`assign_parts`.
        groups: A group number per field, to keep groups together.
        rules: The fitted rules.
        max_fields: The maximum number of fields on which candidates are compared.
        candidates: The methods to compare.

    Returns:
        The chosen method and the comparison.

    Raises:
        TableError: If there are fewer than three groups of fields with different predictions.
    """
    parts = assign_parts(keys, groups)
    if parts.max() < 2:
        raise TableError(
            "The method 'auto' needs at least three groups of fields with different predictions to compare methods, but"
            f" found {int(parts.max()) + 1}.",
            hint="Give more fields, or choose a method such as 'grid'.",
        )
    if len(truth) > max_fields:
        rows = np.sort(np.argsort(keys, kind="stable")[:max_fields])
        stack, truth, parts = stack[:, rows], truth[rows], parts[rows]
    decided, losses = [], []
    for method in candidates:
        found = nested_cross_fit(method, stack, truth, parts)
        predicted = np.zeros(truth.shape, bool)
        for part in np.unique(parts):
            rows = parts == part
            predicted[rows] = apply_thresholds(
                found.probabilities[rows], found.thresholds[rows][0], **rules.options(shrink=())
            )
        decided.append(predicted)
        losses.append(class_log_loss(found.probabilities, truth) if method.is_calibrated else None)
    known = {i: loss for i, loss in enumerate(losses) if loss is not None}
    if not np.isfinite(list(known.values())).all():
        raise AssertionError(f"The log loss of a candidate is not finite: {losses}.")
    first = min(known, key=known.__getitem__)
    table: list[dict[str, Any]] = []
    for method, predicted, loss in zip(candidates, decided, losses, strict=True):
        gain, error = paired_difference(predicted, decided[first], truth)
        row = {"method": method.name, "macro_f1": macro_f1(predicted, truth), "log_loss": loss}
        table.append(row | {"gain": gain, "standard_error": error})
    better = [i for i, row in enumerate(table) if losses[i] is None and row["gain"] > 2 * row["standard_error"]]
    best = max(better, key=lambda i: float(table[i]["macro_f1"]), default=first)
    reason = f"{table[first]['method']} has the lowest cross-fitted log loss ({known[first]:.4f})"
    if best == first:
        reason += ". The macro F1 of no candidate without a log loss is higher by more than two standard errors."
    else:
        gain, error = table[best]["gain"], table[best]["standard_error"]
        reason += f", but the macro F1 of {table[best]['method']} is higher by {gain:.4f} ± {error:.4f}."
    return Selection(candidates[best], table, reason, len(truth))
