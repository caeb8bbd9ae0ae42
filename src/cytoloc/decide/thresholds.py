"""Per-class thresholds. A location is predicted where its probability is **above** its threshold."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

SEED_GRID: Final = np.arange(100, 700) / 1000
"""The starting system's grid: .100 to .699 in steps of .001."""

NEVER: Final = 1.0
"""Threshold of a class of which nothing is known: no probability is above."""


def grid_thresholds(
    probabilities: NDArray[np.floating], truth: NDArray[np.bool_], *, grid: NDArray[np.float64] = SEED_GRID
) -> NDArray[np.float64]:
    """Return per class the first value of ``grid`` with the highest F1: the starting system's rule.

    Sorting each class once gives the counts at every threshold, so the cost does not grow with the grid. A class
    without positives, which the starting system never met, is never predicted: its threshold is 1.

    Args:
        probabilities: ``(n, classes)``.
        truth: bool ``(n, classes)``.
        grid: Rising thresholds.

    Returns:
        float64 ``(classes,)``.
    """
    scores = np.asarray(probabilities, np.float64)
    best = np.empty(scores.shape[1])
    for i in range(scores.shape[1]):
        order = np.sort(scores[:, i])
        positive_order = np.sort(scores[truth[:, i], i])
        predicted = len(order) - np.searchsorted(order, grid, side="right")
        hits = len(positive_order) - np.searchsorted(positive_order, grid, side="right")
        # F1 = 2 hits / (predicted + positives). Where both are 0 it is 0; the maximum keeps the division defined.
        best[i] = grid[np.argmax(2 * hits / np.maximum(predicted + len(positive_order), 1))]
    best[~truth.any(axis=0)] = NEVER
    return best
