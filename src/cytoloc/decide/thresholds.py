"""Per-class thresholds, and rules that apply after them: functions of arrays.

A location is predicted where its probability is **above** its threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import leastsq
from scipy.special import expit

from cytoloc.choices import Blank
from cytoloc.decide.inputs import Bools, Floats, Ints

BASELINE_GRID: Final = np.arange(100, 700) / 1000
"""The silver-medal baseline's grid: 0.100 to 0.699 in steps of 0.001."""

NEVER: Final = 1.0
"""Threshold of a class without positives: no probability is above, and no rule predicts the class."""

ALWAYS: Final = -1.0
"""Threshold that even a probability of 0 is above."""

SMOOTH_STEEPNESS: Final = 50.0
SMOOTH_DECAY: Final = 1e-5
"""Steepness of the smoothed F1, and weight decay towards 0.5, in the silver-medal baseline's starter code."""

MIN_EXPECTED_TOGETHER: Final = 5.0
"""Two locations are exclusive if no field has both although independence would give this many such fields:
under independence, that has a probability below 0.7 %."""


def grid_thresholds(probabilities: NDArray[np.floating], truth: Bools, *, grid: Floats = BASELINE_GRID) -> Floats:
    """Return per class the first value of ``grid`` with the highest F1: the silver-medal baseline's rule.

    Each class is sorted once, so the cost does not grow with the grid. A class without positives is never predicted:
    its threshold is 1.
    """
    best = grid[np.argmax(_grid_f1(probabilities, truth, grid), axis=0)]
    best[~truth.any(axis=0)] = NEVER
    return np.asarray(best, np.float64)


def global_thresholds(probabilities: NDArray[np.floating], truth: Bools, *, grid: Floats = BASELINE_GRID) -> Floats:
    """Return the first value of ``grid`` with the highest macro F1, the same for every class with positives."""
    best = grid[np.argmax(_grid_f1(probabilities, truth, grid).mean(axis=1))]
    return np.where(truth.any(axis=0), best, NEVER)


def smooth_thresholds(probabilities: NDArray[np.floating], truth: Bools) -> Floats:
    """Return the thresholds of the silver-medal baseline's starter code.

    These are the least squares (MINPACK's ``lmdif``, from 0.5) of 1 - F1, where a prediction counts as
    ``sigmoid(50 (p - t))``, with the weight decay 1e-5 (t - 0.5).
    """
    scores = np.asarray(probabilities, np.float64)
    totals = truth.sum(axis=0)
    known: dict[tuple[int, float], float] = {}

    def soft_f1(i: int, threshold: float) -> float:
        # Numerical derivatives move one threshold at a time; the F1 of the others is cached.
        if (i, threshold) not in known:
            soft = expit(SMOOTH_STEEPNESS * (scores[:, i] - threshold))
            known[i, threshold] = float(2 * soft[truth[:, i]].sum() / (soft.sum() + totals[i] + 1e-6))
        return known[i, threshold]

    def misfit(thresholds: Floats) -> Floats:
        f1 = np.array([soft_f1(i, float(threshold)) for i, threshold in enumerate(thresholds)])
        return np.concatenate([f1 - 1, SMOOTH_DECAY * (thresholds - 0.5)])

    # The starter code does not check whether MINPACK converged.
    fitted = leastsq(misfit, np.full(scores.shape[1], 0.5), full_output=True)[0]
    return np.where(truth.any(axis=0), np.clip(fitted, ALWAYS, NEVER), NEVER)


def exact_thresholds(probabilities: NDArray[np.floating], truth: Bools) -> Floats:
    """Return per class a threshold of the highest F1, halfway between two neighboring probabilities.

    Of several best thresholds, the highest is returned. Only cuts just below a positive can be best. A class without
    positives is never predicted.
    """
    scores = np.asarray(probabilities)

    def best(i: int) -> float:
        positives = np.sort(scores[truth[:, i], i])
        if not len(positives):
            return NEVER
        everything = np.sort(scores[:, i])
        first = np.searchsorted(everything, positives, side="left")
        hits = len(positives) - np.searchsorted(positives, positives, side="left")
        f1 = 2 * hits / (len(everything) - first + len(positives))
        return _between(everything, int(first[len(f1) - 1 - np.argmax(f1[::-1])]))

    # NumPy releases the lock of the interpreter while it sorts.
    with ThreadPoolExecutor(2) as pool:
        return np.array(list(pool.map(best, range(scores.shape[1]))), np.float64)


def expected_thresholds(probabilities: NDArray[np.floating]) -> Floats:
    """Return per class the threshold of the highest expected F1, if the probabilities are calibrated.

    The expected F1 of predicting the ``k`` most probable fields is ``2 Σ_k p / (k + Σ p)``. The best threshold is half
    of the best expected F1 (Lipton, Elkan and Narayanaswamy, "Optimal thresholding of classifiers to maximize F1
    measure", 2014). No labels are needed, so the threshold of a class with three positives depends on all fields.
    """
    scores = np.asarray(probabilities, np.float64)
    counts = np.arange(1, len(scores) + 1)
    best = np.empty(scores.shape[1])
    for i in range(scores.shape[1]):
        captured = np.cumsum(np.sort(scores[:, i])[::-1])
        # The maximum avoids a division by zero if all probabilities are 0.
        best[i] = np.max(captured / (counts + max(float(captured[-1]), 1e-300)))
    return best


def outstanding_thresholds(probabilities: NDArray[np.floating]) -> Floats:
    """Return per class the threshold that only the highest probability is above; none is if several are highest."""
    top = np.sort(np.asarray(probabilities, np.float64), axis=0)[-2:]
    return np.asarray(top.mean(axis=0), np.float64)


def ratio_thresholds(probabilities: NDArray[np.floating], ratios: NDArray[np.floating]) -> Floats:
    """Return per class the threshold that predicts it in the given share of the fields, to the nearest field."""
    scores = np.asarray(probabilities, np.float64)
    counts = np.rint(np.asarray(ratios) * len(scores)).astype(int)
    return np.array(
        [
            NEVER if not count else _between(np.sort(scores[:, i]), len(scores) - count)
            for i, count in enumerate(counts)
        ],
        np.float64,
    )


def _grid_f1(probabilities: NDArray[np.floating], truth: Bools, grid: Floats) -> Floats:
    """Return F1 at each value of ``grid`` and class, 0 where nothing is true or predicted."""
    scores = np.asarray(probabilities, np.float64)
    f1 = np.empty((len(grid), scores.shape[1]))
    for i in range(scores.shape[1]):
        order = np.sort(scores[:, i])
        positive_order = np.sort(scores[truth[:, i], i])
        predicted = len(order) - np.searchsorted(order, grid, side="right")
        hits = len(positive_order) - np.searchsorted(positive_order, grid, side="right")
        # F1 = 2 hits / (predicted + positives); the maximum avoids a division by zero.
        f1[:, i] = 2 * hits / np.maximum(predicted + len(positive_order), 1)
    return f1


def _between(rising: NDArray[np.floating], first: int) -> float:
    """Return a threshold that only the sorted values from ``first`` on are above, unless ties prevent it."""
    if first == 0 and rising[0] <= 0:
        return ALWAYS
    low, high = float(rising[first - 1]) if first else 0.0, float(rising[first])
    middle = (low + high) / 2
    return middle if middle < high else low


def apply_thresholds(
    probabilities: NDArray[np.floating],
    thresholds: Floats,
    *,
    max_locations: int,
    blank: Blank = "probability",
    shrink: Sequence[float] = (),
    exclusive: Sequence[tuple[int, int]] = (),
) -> Bools:
    """Return the locations of each field, bool ``(n, classes)``, by thresholds and rules."""
    possible = thresholds < NEVER
    shrunk = [np.where(possible, thresholds * factor, thresholds) for factor in shrink or (1.0,)]
    margin = probabilities - shrunk[0]
    predicted = probabilities > shrunk[0]
    for lower in shrunk[1:]:
        rows = ~predicted.any(axis=1)
        predicted[rows] = probabilities[rows] > lower
    if exclusive:
        predicted = keep_exclusive(predicted, margin, exclusive)
    if blank != "none":
        by_ratio = probabilities / np.maximum(shrunk[0], 1e-12)
        preference = {"probability": probabilities, "margin": margin, "ratio": by_ratio}[blank]
        predicted = fill_blanks(predicted, preference, possible=possible)
    return cap_locations(predicted, margin, max_locations)


def fill_blanks(predicted: Bools, preference: NDArray[np.floating], *, possible: Bools) -> Bools:
    """Return ``predicted``, where each field without location gets the possible one of the greatest preference.

    If no class is possible, all are.
    """
    filled = predicted.copy()
    rows = np.flatnonzero(~predicted.any(axis=1))
    filled[rows, np.argmax(np.where(possible | ~possible.any(), preference[rows], -np.inf), axis=1)] = True
    return filled


def cap_locations(predicted: Bools, margin: NDArray[np.floating], max_locations: int) -> Bools:
    """Return ``predicted`` with at most ``max_locations`` per field: those of the best margin."""
    capped = predicted.copy()
    for row in np.flatnonzero(predicted.sum(axis=1) > max_locations):
        order = np.argsort(-np.where(predicted[row], margin[row], -np.inf), kind="stable")
        capped[row, order[max_locations:]] = False
    return capped


def keep_exclusive(predicted: Bools, margin: NDArray[np.floating], pairs: Sequence[tuple[int, int]]) -> Bools:
    """Return ``predicted`` with only one of two exclusive locations: that of the better margin."""
    kept = predicted.copy()
    for one, other in pairs:
        both = kept[:, one] & kept[:, other]
        worse = margin[:, one] < margin[:, other]
        kept[both & worse, one] = False
        kept[both & ~worse, other] = False
    return kept


def exclusive_pairs(truth: Bools) -> tuple[tuple[int, int], ...]:
    """Return the pairs of locations that no field has together, although independence would give five such fields."""
    counts = truth.sum(axis=0, dtype=np.int64)
    together = truth.T.astype(np.int64) @ truth
    expected = np.outer(counts, counts) / max(len(truth), 1)
    ones, others = np.nonzero(np.triu((together == 0) & (expected >= MIN_EXPECTED_TOGETHER), k=1))
    return tuple((int(a), int(b)) for a, b in zip(ones, others, strict=True))


def average_groups(probabilities: Floats, groups: Ints) -> Floats:
    """Return each field's probabilities averaged over the fields of its group, such as one well."""
    _, group = np.unique(groups, return_inverse=True)
    sums = np.zeros((int(group.max()) + 1, probabilities.shape[1]))
    np.add.at(sums, group, probabilities)
    return np.asarray((sums / np.bincount(group)[:, None])[group], np.float64)
