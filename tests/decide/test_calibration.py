from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from pydantic import TypeAdapter
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from cytoloc.choices import CalibrationKind
from cytoloc.decide.calibration import Calibration, fit_calibration, reweighted, shifted_frequencies
from cytoloc.decide.inputs import Bools, Floats, logits_of
from cytoloc.decide.metrics import class_log_loss
from tests.decide.cases import calibrated

KINDS: tuple[CalibrationKind, ...] = get_args(CalibrationKind)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_calibrations_restore_probabilities(kind: CalibrationKind) -> None:
    probabilities, truth = calibrated(0, 4000, 6)
    # Logits that are twice too large, which a temperature alone corrects.
    spoiled = expit(2 * logits_of(probabilities))
    calibrated_again = fit_calibration(kind, spoiled, truth)(spoiled)
    assert np.abs(calibrated_again - probabilities).mean() < 0.025
    assert class_log_loss(calibrated_again, truth) < class_log_loss(spoiled, truth) - 0.05
    assert class_log_loss(calibrated_again, truth) == pytest.approx(class_log_loss(probabilities, truth), abs=0.015)


@pytest.mark.parametrize("kind", KINDS)
def test_calibrations_keep_the_order_of_scores_and_read_back(kind: CalibrationKind) -> None:
    probabilities, truth = calibrated(1, 300, 4)
    truth[:, 2], truth[:, 3] = False, True
    calibration = fit_calibration(kind, probabilities, truth)
    rising = np.repeat(np.linspace(0, 1, 200)[:, None], 4, axis=1)
    found = calibration(rising)
    assert (np.diff(found, axis=0) >= -1e-12).all()
    assert ((found >= 0) & (found <= 1)).all()
    adapter = TypeAdapter(Calibration)
    again = adapter.validate_python(adapter.dump_python(calibration, mode="json"))
    np.testing.assert_array_equal(again(rising), found)


def test_platt_is_logistic_regression_where_a_class_has_many_fields() -> None:
    rng = np.random.default_rng(0)
    scores = expit(rng.normal(size=(20_000, 2)))
    # Classes that differ so much that little is shared.
    truth = rng.random(scores.shape) < expit(logits_of(scores) * [3.0, 0.5] + [1.0, -2.0])
    found = fit_calibration("platt", scores, truth).curves
    for i in range(2):
        plain = LogisticRegression(C=np.inf).fit(logits_of(scores)[:, [i]], truth[:, i])
        assert found[i, 1] == pytest.approx(plain.coef_[0, 0], rel=0.03)
        assert found[i, 0] == pytest.approx(plain.intercept_[0], abs=0.05)


def test_a_rare_class_is_shrunk_towards_the_others() -> None:
    probabilities, truth = calibrated(2, 2000, 12)
    spoiled = expit(2 * logits_of(probabilities))
    truth[:, 0] = False
    truth[np.argsort(spoiled[:, 0])[[100, 900]], 0] = True  # Two positives, where chance put them.
    found = fit_calibration("platt", spoiled, truth).curves
    assert found[1:, 1] == pytest.approx(np.full(11, 0.5), abs=0.1)
    assert found[0, 1] == pytest.approx(0.5, abs=0.2)


def drawn(seed: int, rate: float, fields: int) -> tuple[Floats, Bools]:
    """Return scores of one class whose positives lie 2 above its negatives."""
    rng = np.random.default_rng(seed)
    truth = rng.random((fields, 1)) < rate
    return rng.normal(2.0 * truth, 1), truth


def test_new_frequencies_are_found() -> None:
    scores, truth = drawn(0, 0.4, 20_000)
    # Bayes' rule for two normals 2 apart where a tenth is positive.
    probabilities = expit(2 * scores - 2 + np.log(0.1 / 0.9))
    rates = shifted_frequencies(probabilities, np.array([0.1]), prior_fields=0)
    assert rates[0] == pytest.approx(truth.mean(), abs=0.01)
    corrected = reweighted(probabilities, np.array([0.1]), rates)
    np.testing.assert_allclose(corrected, expit(2 * scores - 2 + np.log(rates[0] / (1 - rates[0]))), rtol=1e-9)
    assert corrected.mean() == pytest.approx(rates[0], abs=1e-6)  # the fixed point of expectation maximization
    assert shifted_frequencies(probabilities, np.array([0.1]))[0] < rates[0]


def test_without_a_shift_little_changes() -> None:
    scores, _ = drawn(1, 0.1, 20_000)
    probabilities = expit(2 * scores - 2 + np.log(0.1 / 0.9))
    assert shifted_frequencies(probabilities, np.array([0.1]))[0] == pytest.approx(0.1, abs=0.01)


def test_classes_never_or_always_seen_are_left_alone() -> None:
    probabilities = np.array([[0.2, 0.7], [0.4, 0.9]])
    rates = np.array([0.0, 1.0])
    np.testing.assert_array_equal(reweighted(probabilities, rates, np.array([0.5, 0.5])), probabilities)
