from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import leastsq
from sklearn.metrics import f1_score

from cytoloc.decide.metrics import class_f1
from cytoloc.decide.thresholds import (
    NEVER,
    SEED_GRID,
    exact_thresholds,
    expected_thresholds,
    global_thresholds,
    outstanding_thresholds,
    ratio_thresholds,
    smooth_thresholds,
)
from tests.decide.cases import calibrated


def rounded_case(seed: int, rows: int = 40) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return scores with many ties."""
    rng = np.random.default_rng(seed)
    truth = rng.random((rows, 5)) < 0.3
    return np.round(0.3 * truth + 0.7 * rng.random((rows, 5)), 1), truth


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 40))
@settings(max_examples=60)
def test_exact_thresholds_have_the_best_f1_of_all_cuts(seed: int, rows: int) -> None:
    scores, truth = rounded_case(seed, rows)
    found = exact_thresholds(scores, truth)
    reached = class_f1(scores > found, truth)
    for i in range(5):
        cuts = [-1.0, *np.unique(scores[:, i])]
        best = max(f1_score(truth[:, i], scores[:, i] > cut, zero_division=0) for cut in cuts)
        assert reached[i] == pytest.approx(best, abs=1e-12)
        if not truth[:, i].any():
            assert found[i] == NEVER


@given(seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_exact_thresholds_only_know_the_order_of_scores(seed: int) -> None:
    scores, truth = rounded_case(seed)
    decided = scores > exact_thresholds(scores, truth)
    bent = scores**3 / 2
    np.testing.assert_array_equal(decided, bent > exact_thresholds(bent, truth))
    rows = np.random.default_rng(seed).permutation(len(truth))
    np.testing.assert_array_equal(exact_thresholds(scores[rows], truth[rows]), exact_thresholds(scores, truth))
    twice = exact_thresholds(np.repeat(scores, 2, axis=0), np.repeat(truth, 2, axis=0))
    np.testing.assert_array_equal(twice, exact_thresholds(scores, truth))


def test_a_cut_between_neighboring_numbers_still_parts_them() -> None:
    high = 0.3
    scores = np.array([[np.nextafter(high, 0)], [high]])
    truth = np.array([[False], [True]])
    assert (scores > exact_thresholds(scores, truth)).ravel().tolist() == [False, True]


def test_one_global_threshold_has_the_best_macro_f1_of_the_grid() -> None:
    scores, truth = rounded_case(3)
    truth[:, 4] = False
    found = global_thresholds(scores, truth)
    scored = [class_f1(scores > value, truth).mean() for value in SEED_GRID]
    assert found[:4].tolist() == [SEED_GRID[int(np.argmax(scored))]] * 4
    assert found[4] == NEVER


def starter_code(probabilities: NDArray[Any], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the starter code's thresholds, by its own formulas on whole arrays."""

    def misfit(thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        soft = 1.0 / (1.0 + np.exp(-50.0 * (probabilities - thresholds)))
        f1 = 2.0 * (soft * truth).sum(axis=0) / ((soft + truth).sum(axis=0) + 1e-6)
        return np.concatenate((f1 - 1.0, 1e-5 * (thresholds - 0.5)))

    return np.asarray(leastsq(misfit, 0.5 * np.ones(truth.shape[1]), full_output=True)[0])


def test_the_smooth_fit_is_the_starter_codes() -> None:
    scores, truth = calibrated(1, 400, 6)
    np.testing.assert_allclose(smooth_thresholds(scores, truth), starter_code(scores, truth), atol=1e-5)


def test_expected_thresholds_are_half_of_the_best_expected_f1() -> None:
    scores, _ = calibrated(2, 60, 4)
    for i, found in enumerate(expected_thresholds(scores)):
        best = 0.0
        for cut in [-1.0, *scores[:, i]]:
            marked = scores[:, i] > cut
            best = max(best, 2 * scores[marked, i].sum() / (marked.sum() + scores[:, i].sum()))
        assert found == pytest.approx(best / 2, abs=1e-12)
        # That is the optimum: predicting just the fields above it reaches it.
        marked = scores[:, i] > found
        assert 2 * scores[marked, i].sum() / (marked.sum() + scores[:, i].sum()) == pytest.approx(best, abs=1e-12)


def test_expected_thresholds_do_well_on_other_fields() -> None:
    known, truth = calibrated(3, 300)
    new, new_truth = calibrated(4, 20_000)
    expected = class_f1(new > expected_thresholds(known), new_truth).mean()
    best = class_f1(new > exact_thresholds(new, new_truth), new_truth).mean()
    exact = class_f1(new > exact_thresholds(known, truth), new_truth).mean()
    assert exact < expected <= best
    assert expected > best - 0.01


def test_ratios_are_met() -> None:
    scores, _ = calibrated(5, 200, 3)
    predicted = scores > ratio_thresholds(scores, np.array([0.1, 0.0, 1.0]))
    assert predicted.sum(axis=0).tolist() == [20, 0, 200]


def test_only_what_stands_out_is_above() -> None:
    scores = np.array([[0.1, 0.4, 0.2], [0.3, 0.4, 0.2], [0.2, 0.1, 0.2]])
    assert (scores > outstanding_thresholds(scores)).sum(axis=0).tolist() == [1, 0, 0]
    assert outstanding_thresholds(scores[:1]).tolist() == [0.1, 0.4, 0.2]
