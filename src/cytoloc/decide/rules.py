"""What a field's answer must look like whatever the thresholds say: never blank, never more than a few."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def fill_blanks(
    predicted: NDArray[np.bool_], probabilities: NDArray[np.floating], *, possible: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return ``predicted`` with the most probable of the ``possible`` locations given to each field that has none.

    If none is possible, the most probable of all is given.
    """
    filled = predicted.copy()
    blank = np.flatnonzero(~predicted.any(axis=1))
    eligible = np.where(possible | ~possible.any(), probabilities[blank], -1.0)
    filled[blank, np.argmax(eligible, axis=1)] = True
    return filled


def cap_labels(
    predicted: NDArray[np.bool_],
    probabilities: NDArray[np.floating],
    thresholds: NDArray[np.float64],
    *,
    most: int,
) -> NDArray[np.bool_]:
    """Return ``predicted`` with at most ``most`` locations a field: those furthest above their thresholds."""
    capped = predicted.copy()
    margin = np.where(predicted, probabilities - thresholds, -np.inf)
    for row in np.flatnonzero(predicted.sum(axis=1) > most):
        capped[row, np.argsort(-margin[row], kind="stable")[most:]] = False
    return capped
