"""How frequent each location is in a new set of fields, estimated from its probabilities alone."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PRIOR_FIELDS: Final = 100.0
"""The frequencies among the fitted fields count as if so many fields of the new set had been seen to have them."""

MOST_ROUNDS: Final = 500
SETTLED: Final = 1e-10


def shifted_rates(probabilities: Floats, rates: Floats, *, prior_fields: float = PRIOR_FIELDS) -> Floats:
    """Return the frequency of each class in a new set, by expectation maximization.

    Each class is taken alone; what a positive field looks like is taken to be the same in both sets, and only the
    frequency to differ (Saerens, Latinne and Decaestecker, 2002).

    Args:
        probabilities: Calibrated to the fitted fields, of the new set, ``(n, classes)``.
        rates: Frequency of each class among the fitted fields.
        prior_fields: Weight of ``rates``; 0 for none, the plain maximum likelihood.
    """
    estimated = rates.copy()
    for _ in range(MOST_ROUNDS):
        total = reweighted(probabilities, rates, estimated).sum(axis=0)
        better = (total + prior_fields * rates) / (len(probabilities) + prior_fields)
        change = float(np.abs(better - estimated).max())
        estimated = better
        if change < SETTLED:
            break
    return estimated


def reweighted(probabilities: Floats, rates: Floats, new_rates: Floats) -> Floats:
    """Return what probabilities become where classes are as frequent as ``new_rates``, by Bayes' rule.

    Classes that are in no field, or in every field, of either set keep their probabilities.
    """
    known = (rates > 0) & (rates < 1) & (new_rates > 0) & (new_rates < 1)
    before, after = np.where(known, rates, 0.5), np.where(known, new_rates, 0.5)
    present = probabilities * (after / before)
    absent = (1 - probabilities) * ((1 - after) / (1 - before))
    return np.asarray(present / (present + absent), np.float64)
