"""Thresholds per class, and the rules that are applied after them.

A location is predicted if its probability is **above** its threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cytoloc.choices import Blank
from cytoloc.decide.inputs import Bools, Floats, Ints

BASELINE_GRID: Final = np.arange(100, 700) / 1000
"""The grid of the silver-medal baseline: 0.100 to 0.699 in steps of 0.001."""

NEVER: Final = 1.0
"""Threshold of a class that is never predicted: no probability is above it, and no rule predicts the class."""

ALWAYS: Final = -1.0
"""Threshold of a class that is always predicted, even with probability 0."""

SMOOTH_STEEPNESS: Final = 50.0
SMOOTH_DECAY: Final = 1e-5
"""Steepness of the smoothed F1, and weight decay towards 0.5, in the starter code of the silver-medal baseline."""

MIN_EXPECTED_TOGETHER: Final = 5.0
"""Expected number of fields with both locations from which two locations that never occur together are exclusive.
Under independence, no such field has a probability below 0.7 %."""


def grid_thresholds(probabilities: NDArray[np.floating], truth: Bools, *, grid: Floats = BASELINE_GRID) -> Floats:
    """Return the first threshold of a grid with the best F1, for each class, as in the silver-medal baseline.

    Each class is sorted once, so the cost hardly depends on the size of the grid.

    Args:
        probabilities: Shape ``(n, classes)``.
        truth: bool of shape ``(n, classes)``.
        grid: The thresholds to compare, ascending.

    Returns:
        float64 of shape ``(classes,)``; 1 for classes without positives, which are never predicted.
    """
    best = grid[np.argmax(_grid_f1(probabilities, truth, grid), axis=0)]
    best[~truth.any(axis=0)] = NEVER
    return np.asarray(best, np.float64)


def global_thresholds(probabilities: NDArray[np.floating], truth: Bools, *, grid: Floats = BASELINE_GRID) -> Floats:
    """Return the first threshold of a grid with the best macro F1, the same for all classes with positives.

    Args:
        probabilities: Shape ``(n, classes)``.
        truth: bool of shape ``(n, classes)``.
        grid: The thresholds to compare, ascending.

    Returns:
        float64 of shape ``(classes,)``; 1 for classes without positives.
    """
    best = grid[np.argmax(_grid_f1(probabilities, truth, grid).mean(axis=1))]
    return np.where(truth.any(axis=0), best, NEVER)


def smooth_thresholds(probabilities: NDArray[np.floating], truth: Bools) -> Floats:
    """Return the thresholds of the starter code of the silver-medal baseline.

    They minimize the squares of 1 - F1 by MINPACK's ``lmdif``, starting from 0.5. Predictions are smoothed to
    ``sigmoid(50 (p - t))``, and ``1e-5 (t - 0.5)`` is added as weight decay.

    Args:
        probabilities: Shape ``(n, classes)``.
        truth: bool of shape ``(n, classes)``.

    Returns:
        float64 of shape ``(classes,)``; 1 for classes without positives.
    """
    # Imported late, because it takes long and few need it.
    from scipy.optimize import leastsq

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
    """Return a threshold with the best F1 for each class, halfway between two neighboring probabilities.

    If several thresholds are best, the highest is returned. Only thresholds just below a positive can be best.

    Args:
        probabilities: Shape ``(n, classes)``.
        truth: bool of shape ``(n, classes)``.

    Returns:
        float64 of shape ``(classes,)``; 1 for classes without positives, which are never predicted.
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

    # NumPy releases the global interpreter lock while it sorts.
    with ThreadPoolExecutor(2) as pool:
        return np.array(list(pool.map(best, range(scores.shape[1]))), np.float64)


def expected_thresholds(probabilities: NDArray[np.floating]) -> Floats:
    """Return the threshold with the best expected F1 for each class, given calibrated probabilities.

    The expected F1 of predicting the ``k`` most probable fields is ``2 Σ_k p / (k + Σ p)``. The best threshold is half
    of the best expected F1 (Lipton, Elkan & Narayanaswamy, "Optimal thresholding of classifiers to maximize F1
    measure", 2014). No labels are needed, so the threshold of a class with few positives depends on all fields.

    Args:
        probabilities: Calibrated probabilities, shape ``(n, classes)``.

    Returns:
        float64 of shape ``(classes,)``.
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
    """Return thresholds that only the highest probability of each class exceeds, or none if the highest are equal."""
    top = np.sort(np.asarray(probabilities, np.float64), axis=0)[-2:]
    return np.asarray(top.mean(axis=0), np.float64)


def ratio_thresholds(probabilities: NDArray[np.floating], ratios: NDArray[np.floating]) -> Floats:
    """Return thresholds that predict each class in a given share of the fields, to the nearest field.

    Args:
        probabilities: Shape ``(n, classes)``.
        ratios: The share of each class, from 0 to 1, shape ``(classes,)``.

    Returns:
        float64 of shape ``(classes,)``.
    """
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
    """Return the F1 for each threshold and class, 0 if nothing is true or predicted."""
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
    """Return a threshold that only the sorted values from position ``first`` exceed, unless values are equal."""
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
    """Return the locations of each field by thresholds and rules.

    Args:
        probabilities: Shape ``(n, classes)``.
        thresholds: Shape ``(classes,)``.
        max_locations: The maximum number of locations per field.
        blank: The location of fields without a probability above its threshold; see :class:`~cytoloc.Rules`.
        shrink: Factors of the thresholds; see :class:`~cytoloc.Rules`.
        exclusive: Pairs of locations that cannot occur together.

    Returns:
        bool of shape ``(n, classes)``.
    """
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
    """Add a location to each field that has none: the possible one with the highest preference.

    Args:
        predicted: bool of shape ``(n, classes)``.
        preference: Shape ``(n, classes)``.
        possible: The classes that can be added, bool of shape ``(classes,)``. If none is true, all classes can be.

    Returns:
        The locations, bool of shape ``(n, classes)``.
    """
    filled = predicted.copy()
    rows = np.flatnonzero(~predicted.any(axis=1))
    filled[rows, np.argmax(np.where(possible | ~possible.any(), preference[rows], -np.inf), axis=1)] = True
    return filled


def cap_locations(predicted: Bools, margin: NDArray[np.floating], max_locations: int) -> Bools:
    """Return the locations with at most ``max_locations`` per field; those with the best margin are kept."""
    capped = predicted.copy()
    for row in np.flatnonzero(predicted.sum(axis=1) > max_locations):
        order = np.argsort(-np.where(predicted[row], margin[row], -np.inf), kind="stable")
        capped[row, order[max_locations:]] = False
    return capped


def keep_exclusive(predicted: Bools, margin: NDArray[np.floating], pairs: Sequence[tuple[int, int]]) -> Bools:
    """Return the locations with at most one of two exclusive ones; the one with the better margin is kept."""
    kept = predicted.copy()
    for one, other in pairs:
        both = kept[:, one] & kept[:, other]
        worse = margin[:, one] < margin[:, other]
        kept[both & worse, one] = False
        kept[both & ~worse, other] = False
    return kept


def exclusive_pairs(truth: Bools) -> tuple[tuple[int, int], ...]:
    """Return the pairs of locations that never occur together, although at least five fields are expected to have both.

    Args:
        truth: bool of shape ``(n, locations)``.

    Returns:
        Pairs of indices of locations.
    """
    counts = truth.sum(axis=0, dtype=np.int64)
    together = truth.T.astype(np.int64) @ truth
    expected = np.outer(counts, counts) / max(len(truth), 1)
    ones, others = np.nonzero(np.triu((together == 0) & (expected >= MIN_EXPECTED_TOGETHER), k=1))
    return tuple((int(a), int(b)) for a, b in zip(ones, others, strict=True))


def average_groups(probabilities: Floats, groups: Ints) -> Floats:
    """Return the probabilities of each field averaged over its group, such as the fields of one well."""
    _, group = np.unique(groups, return_inverse=True)
    sums = np.zeros((int(group.max()) + 1, probabilities.shape[1]))
    np.add.at(sums, group, probabilities)
    return np.asarray((sums / np.bincount(group)[:, None])[group], np.float64)
