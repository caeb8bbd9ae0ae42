"""Per-class thresholds. A location is predicted where its probability is **above** its threshold."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import leastsq
from scipy.special import expit

Floats = NDArray[np.float64]

SEED_GRID: Final = np.arange(100, 700) / 1000
"""The silver-medal baseline's grid: 0.100 to 0.699 in steps of 0.001."""

NEVER: Final = 1.0
"""Threshold of a class of which nothing is known: no probability is above."""

ALWAYS: Final = -1.0
"""Threshold that even a probability of 0 is above."""

SMOOTH_STEEPNESS: Final = 50.0
SMOOTH_DECAY: Final = 1e-5
"""How the silver-medal baseline's starter code softens F1, and how it holds thresholds to 0.5."""


def grid_thresholds(
    probabilities: NDArray[np.floating], truth: NDArray[np.bool_], *, grid: Floats = SEED_GRID
) -> Floats:
    """Return per class the first value of ``grid`` with the highest F1: the silver-medal baseline's rule.

    Sorting each class once gives the counts at every threshold, so the cost does not grow with the grid. A class
    without positives, which the silver-medal baseline never met, is never predicted: its threshold is 1.

    Args:
        probabilities: ``(n, classes)``.
        truth: bool ``(n, classes)``.
        grid: Rising thresholds.

    Returns:
        float64 ``(classes,)``.
    """
    best = grid[np.argmax(_grid_f1(probabilities, truth, grid), axis=0)]
    best[~truth.any(axis=0)] = NEVER
    return np.asarray(best, np.float64)


def global_thresholds(
    probabilities: NDArray[np.floating], truth: NDArray[np.bool_], *, grid: Floats = SEED_GRID
) -> Floats:
    """Return the first value of ``grid`` with the highest macro F1, the same for every class with positives."""
    best = grid[np.argmax(_grid_f1(probabilities, truth, grid).mean(axis=1))]
    return np.where(truth.any(axis=0), best, NEVER)


def smooth_thresholds(probabilities: NDArray[np.floating], truth: NDArray[np.bool_]) -> Floats:
    """Return the thresholds that the silver-medal baseline's starter code fits, all at once.

    Least squares (MINPACK's ``lmdif``, from 0.5) of 1 - F1, in which a prediction counts as ``sigmoid(50 (p - t))``,
    with 1e-5 (t - 0.5) as weight decay.
    """
    scores = np.asarray(probabilities, np.float64)
    totals = truth.sum(axis=0)
    known: dict[tuple[int, float], float] = {}

    def soft_f1(i: int, threshold: float) -> float:
        """Return the soft F1 of class ``i``."""
        # The differences that stand for derivatives move one threshold at a time: the others are known.
        if (i, threshold) not in known:
            soft = expit(SMOOTH_STEEPNESS * (scores[:, i] - threshold))
            known[i, threshold] = float(2 * soft[truth[:, i]].sum() / (soft.sum() + totals[i] + 1e-6))
        return known[i, threshold]

    def misfit(thresholds: Floats) -> Floats:
        f1 = np.array([soft_f1(i, float(threshold)) for i, threshold in enumerate(thresholds)])
        return np.concatenate([f1 - 1, SMOOTH_DECAY * (thresholds - 0.5)])

    # Where MINPACK runs out of calls the starter code takes what it has come to, and so it is here.
    fitted = leastsq(misfit, np.full(scores.shape[1], 0.5), full_output=True)[0]
    return np.where(truth.any(axis=0), np.clip(fitted, ALWAYS, NEVER), NEVER)


def exact_thresholds(probabilities: NDArray[np.floating], truth: NDArray[np.bool_]) -> Floats:
    """Return per class a threshold of the highest F1 of all, halfway to the next lower probability.

    Of equally good ones it is that which predicts least. Only cuts just below a positive can be best, so the
    probabilities are sorted, not searched. A class without positives is never predicted.
    """
    scores = np.asarray(probabilities)

    def best(i: int) -> float:
        """Return the threshold of class ``i``."""
        positives = np.sort(scores[truth[:, i], i])
        if not len(positives):
            return NEVER
        everything = np.sort(scores[:, i])
        first = np.searchsorted(everything, positives, side="left")
        hits = len(positives) - np.searchsorted(positives, positives, side="left")
        f1 = 2 * hits / (len(everything) - first + len(positives))
        return _between(everything, int(first[len(f1) - 1 - np.argmax(f1[::-1])]))

    # NumPy sorts without Python's lock, so two cores take two classes.
    with ThreadPoolExecutor(2) as pool:
        return np.array(list(pool.map(best, range(scores.shape[1]))), np.float64)


def expected_thresholds(probabilities: NDArray[np.floating]) -> Floats:
    """Return per class the threshold of the highest expected F1, if the probabilities are calibrated.

    F1 is expected to be ``2 Σ p / (k + Σ p)``, over the ``k`` fields predicted above the line and over all below it;
    the best threshold is half of the best F1 (Lipton, Elkan and Narayanaswamy, "Optimal thresholding of classifiers to
    maximize F1 measure", 2014). No truth is needed, so a class with three positives is decided by all fields, not by
    the luck of three.
    """
    scores = np.asarray(probabilities, np.float64)
    counts = np.arange(1, len(scores) + 1)
    best = np.empty(scores.shape[1])
    for i in range(scores.shape[1]):
        captured = np.cumsum(np.sort(scores[:, i])[::-1])
        # Without any probability at all nothing is expected: the maximum keeps the division defined.
        best[i] = np.max(captured / (counts + max(float(captured[-1]), 1e-300)))
    return best


def outstanding_thresholds(probabilities: NDArray[np.floating]) -> Floats:
    """Return per class the threshold that only the highest probability is above; none is if several are highest."""
    top = np.sort(np.asarray(probabilities, np.float64), axis=0)[-2:]
    return np.asarray(top.mean(axis=0), np.float64)


def ratio_thresholds(probabilities: NDArray[np.floating], ratios: NDArray[np.floating]) -> Floats:
    """Return per class the threshold that predicts it in the given share of the fields, to the nearest field.

    Args:
        probabilities: ``(n, classes)``.
        ratios: Share of fields of each class, 0 to 1.
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


def _grid_f1(probabilities: NDArray[np.floating], truth: NDArray[np.bool_], grid: Floats) -> Floats:
    """Return F1 at each value of ``grid`` and class, 0 where nothing is true or predicted."""
    scores = np.asarray(probabilities, np.float64)
    f1 = np.empty((len(grid), scores.shape[1]))
    for i in range(scores.shape[1]):
        order = np.sort(scores[:, i])
        positive_order = np.sort(scores[truth[:, i], i])
        predicted = len(order) - np.searchsorted(order, grid, side="right")
        hits = len(positive_order) - np.searchsorted(positive_order, grid, side="right")
        # F1 = 2 hits / (predicted + positives). Where both are 0 it is 0; the maximum keeps the division defined.
        f1[:, i] = 2 * hits / np.maximum(predicted + len(positive_order), 1)
    return f1


def _between(rising: NDArray[np.floating], first: int) -> float:
    """Return a threshold that just the values from ``first`` on are above, unless they tie with the one below it."""
    if first == 0 and rising[0] <= 0:
        return ALWAYS
    low, high = float(rising[first - 1]) if first else 0.0, float(rising[first])
    middle = (low + high) / 2
    return middle if middle < high else low
