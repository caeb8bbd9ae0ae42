"""Synthetic predictions: members that agree with the truth, some more than others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from cytoloc.labels.label_set import LabelSet
from cytoloc.predictions import Predictions

Floats = NDArray[np.float64]
HPA28 = LabelSet.hpa28()


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


def tables_of(members: dict[str, Floats]) -> dict[str, Predictions]:
    """Return members' probabilities as predictions of the fields f0, f1 and so on."""
    return {
        name: Predictions(tuple(f"f{row}" for row in range(len(each))), each.astype(np.float32), HPA28)
        for name, each in members.items()
    }


def labels_of(truth: NDArray[np.bool_]) -> dict[str, tuple[int, ...]]:
    """Return the indices of the locations of the fields f0, f1 and so on."""
    return {f"f{row}": tuple(np.flatnonzero(each).tolist()) for row, each in enumerate(truth)}


def random_case(seed: int, rows: int = 50) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return rounded probabilities, which tie with each other and with the grid, and the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.random((rows, 28)) < 0.2
    return np.round(0.4 * truth + 0.6 * rng.random((rows, 28)), 2).astype(np.float32), truth
