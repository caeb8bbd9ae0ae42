from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from cytoloc.decide.label_shift import reweighted, shifted_rates


def drawn(seed: int, rate: float, fields: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scores of one class whose positives lie 2 above its negatives."""
    rng = np.random.default_rng(seed)
    truth = rng.random((fields, 1)) < rate
    return rng.normal(2.0 * truth, 1), truth


def test_new_frequencies_are_found() -> None:
    scores, truth = drawn(0, 0.4, 20_000)
    # Bayes' rule for two normals 2 apart where a tenth is positive.
    probabilities = expit(2 * scores - 2 + np.log(0.1 / 0.9))
    rates = shifted_rates(probabilities, np.array([0.1]), prior_fields=0)
    assert rates[0] == pytest.approx(truth.mean(), abs=0.01)
    mended = reweighted(probabilities, np.array([0.1]), rates)
    np.testing.assert_allclose(mended, expit(2 * scores - 2 + np.log(rates[0] / (1 - rates[0]))), rtol=1e-9)
    assert mended.mean() == pytest.approx(rates[0], abs=1e-6)  # where expectation maximization comes to rest
    assert shifted_rates(probabilities, np.array([0.1]))[0] < rates[0]


def test_without_a_shift_little_changes() -> None:
    scores, _ = drawn(1, 0.1, 20_000)
    probabilities = expit(2 * scores - 2 + np.log(0.1 / 0.9))
    assert shifted_rates(probabilities, np.array([0.1]))[0] == pytest.approx(0.1, abs=0.01)


def test_classes_never_or_always_seen_are_left_alone() -> None:
    probabilities = np.array([[0.2, 0.7], [0.4, 0.9]])
    rates = np.array([0.0, 1.0])
    np.testing.assert_array_equal(reweighted(probabilities, rates, np.array([0.5, 0.5])), probabilities)
