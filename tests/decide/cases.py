"""Predictions made by script: members that know something of the truth, some more than others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

Floats = NDArray[np.float64]


def study_of(seed: int, fields: int = 300, members: int = 3) -> tuple[dict[str, Floats], NDArray[np.bool_]]:
    """Return members' probabilities by name, and the truth: 28 classes of very different frequency, no field blank."""
    rng = np.random.default_rng(seed)
    rates = np.geomspace(0.4, 0.01, 28)
    truth = rng.random((fields, 28)) < rates
    truth[~truth.any(axis=1), 0] = True
    signal = 1.5 * (truth - rates)
    scores = {
        f"m{number}": expit(logit(rates) / 2 + (2.5 - 0.6 * number) * signal + rng.normal(size=truth.shape))
        for number in range(members)
    }
    return scores, truth


def calibrated(seed: int, fields: int, classes: int = 28) -> tuple[Floats, NDArray[np.bool_]]:
    """Return probabilities that mean what they say, and a truth drawn from them."""
    rng = np.random.default_rng(seed)
    probabilities = expit(rng.normal(-1.5, 1.5, (fields, classes)))
    return probabilities, rng.random((fields, classes)) < probabilities
