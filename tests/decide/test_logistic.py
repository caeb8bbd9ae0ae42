from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from cytoloc.decide.logistic import SharedFit, fit_shared, fit_shrunk


def test_the_shared_fit_is_ridge_regression_with_an_intercept_for_each_class() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3, 400, 2))
    intercepts = np.array([-2.0, 0.0, 1.0])
    truth = (rng.random((3, 400)) < expit(features @ [1.0, -0.5] + intercepts[:, None])).T
    found = fit_shared(features, truth)
    # Half a positive and half a negative more in each class, as two weighted rows at the features' means.
    rows = np.concatenate([np.hstack([features[i], np.tile(np.eye(3)[i], (400, 1))]) for i in range(3)])
    extra = np.hstack([np.zeros((6, 2)), np.repeat(np.eye(3), 2, axis=0)])
    weights = np.r_[np.ones(1200), np.full(6, 0.5)]
    # The intercepts are almost not penalized: their columns are large and their coefficients small.
    scale = np.r_[1, 1, np.full(3, 1e3)]
    plain = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=5000).fit(
        np.vstack([rows, extra]) * scale, np.r_[truth.T.ravel(), [0, 1] * 3], sample_weight=weights
    )
    expected = plain.coef_[0] * scale
    np.testing.assert_allclose(found.weights, expected[:2], atol=2e-3)
    np.testing.assert_allclose(found.intercepts, expected[2:], atol=2e-3)
    elsewhere = fit_shared(features, truth, start=SharedFit(np.array([-3.0, 3.0]), np.full(3, 2.0)))
    np.testing.assert_allclose(elsewhere.weights, found.weights, atol=1e-3)


def test_weights_stay_above_their_bound() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(2, 500, 2))
    truth = (rng.random((2, 500)) < expit(features @ [1.5, -1.0])).T
    found = fit_shared(features, truth, least=0.0)
    assert found.weights[1] == 0
    alone = fit_shared(features[:, :, :1], truth)
    assert found.weights[0] == pytest.approx(alone.weights[0], abs=1e-3)


def test_a_class_without_positives_has_a_finite_intercept() -> None:
    features = np.random.default_rng(2).normal(size=(2, 100, 1))
    truth = np.zeros((100, 2), bool)
    truth[:, 1] = True
    found = fit_shared(features, truth)
    assert expit(found.intercepts[0]) == pytest.approx(0.5 / 101, rel=0.05)
    assert expit(found.intercepts[1]) == pytest.approx(1 - 0.5 / 101, rel=0.05)


def test_the_shrunk_fit_at_a_given_precision_is_ridge_regression() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(2, 300, 3))
    truth = (rng.random((2, 300)) < expit(features @ [1.0, 0.5, -0.5])).T
    found = fit_shrunk(features, np.zeros((300, 2)), truth, np.array([0, 0, 0]), precision=4.0)
    for i in range(2):
        plain = LogisticRegression(C=0.25, fit_intercept=False, tol=1e-10).fit(features[i], truth[:, i])
        np.testing.assert_allclose(found.coefficients[i], plain.coef_[0], atol=2e-3)


def test_the_precision_of_each_kind_is_estimated() -> None:
    rng = np.random.default_rng(4)
    features = rng.normal(size=(30, 500, 2))
    own = np.stack([rng.normal(0, 1.0, 30), np.zeros(30)], axis=1)
    truth = (rng.random((30, 500)) < expit(np.einsum("cnd,cd->cn", features, own))).T
    truth[:, 29] = False
    found = fit_shrunk(features, np.zeros((500, 30)), truth, np.array([0, 1]))
    assert 0.5 < found.precisions[0] < 2
    assert found.precisions[1] > 50
    assert np.abs(found.coefficients[:29, 1]).max() < 0.1
    assert (found.coefficients[29] == 0).all()
