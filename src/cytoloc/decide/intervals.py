"""How sure thresholds are: bootstrap intervals, the fields being drawn with replacement."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from cytoloc.decide.plan import Plan, find_thresholds

Floats = NDArray[np.float64]

N_RESAMPLES: Final = 100
"""Resamples behind a threshold's interval."""

N_SMOOTH_RESAMPLES: Final = 20
"""The same for ``smooth``, whose fit takes a hundred times as long."""


def threshold_intervals(
    plan: Plan, probabilities: Floats, truth: NDArray[np.bool_], *, level: float = 0.95, seed: int = 0
) -> Floats:
    """Return the percentile interval of each threshold, ``(classes, 2)``; the probabilities are taken as they are.

    A class without positives keeps the threshold 1 at both ends.
    """
    rng = np.random.default_rng(seed)
    resamples = N_SMOOTH_RESAMPLES if plan.thresholds == "smooth" else N_RESAMPLES
    found = np.empty((resamples, truth.shape[1]))
    for number in range(resamples):
        rows = rng.integers(0, len(truth), len(truth))
        found[number] = find_thresholds(plan, probabilities[rows], truth[rows])
    ends = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0).T
    return np.asarray(ends, np.float64)
