from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import leastsq
from sklearn.metrics import f1_score

from cytoloc.choices import Blank
from cytoloc.decide.metrics import class_f1
from cytoloc.decide.thresholds import (
    BASELINE_GRID,
    NEVER,
    apply_thresholds,
    average_groups,
    cap_locations,
    exact_thresholds,
    exclusive_pairs,
    expected_thresholds,
    fill_blanks,
    global_thresholds,
    grid_thresholds,
    keep_exclusive,
    outstanding_thresholds,
    ratio_thresholds,
    smooth_thresholds,
)
from tests.conftest import DATA
from tests.decide.cases import calibrated, random_case


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
def test_exact_thresholds_depend_on_the_order_of_scores_only(seed: int) -> None:
    scores, truth = rounded_case(seed)
    decided = scores > exact_thresholds(scores, truth)
    bent = scores**3 / 2
    np.testing.assert_array_equal(decided, bent > exact_thresholds(bent, truth))
    rows = np.random.default_rng(seed).permutation(len(truth))
    np.testing.assert_array_equal(exact_thresholds(scores[rows], truth[rows]), exact_thresholds(scores, truth))
    twice = exact_thresholds(np.repeat(scores, 2, axis=0), np.repeat(truth, 2, axis=0))
    np.testing.assert_array_equal(twice, exact_thresholds(scores, truth))


def test_a_threshold_separates_neighboring_numbers() -> None:
    high = 0.3
    scores = np.array([[np.nextafter(high, 0)], [high]])
    truth = np.array([[False], [True]])
    assert (scores > exact_thresholds(scores, truth)).ravel().tolist() == [False, True]


def test_one_global_threshold_has_the_best_macro_f1_of_the_grid() -> None:
    scores, truth = rounded_case(3)
    truth[:, 4] = False
    found = global_thresholds(scores, truth)
    scored = [class_f1(scores > value, truth).mean() for value in BASELINE_GRID]
    assert found[:4].tolist() == [BASELINE_GRID[int(np.argmax(scored))]] * 4
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


def test_only_the_highest_probability_is_above() -> None:
    scores = np.array([[0.1, 0.4, 0.2], [0.3, 0.4, 0.2], [0.2, 0.1, 0.2]])
    assert (scores > outstanding_thresholds(scores)).sum(axis=0).tolist() == [1, 0, 0]
    assert outstanding_thresholds(scores[:1]).tolist() == [0.1, 0.4, 0.2]


def baseline_thresholds(probabilities: NDArray[Any], truth: NDArray[np.bool_]) -> list[float]:
    """Return the thresholds of the silver-medal baseline, by its own loop over 600 values of scikit-learn's F1."""
    best = []
    for i in range(probabilities.shape[1]):
        scores = [f1_score(truth[:, i], probabilities[:, i] > t, zero_division=0) for t in BASELINE_GRID]
        best.append(float(BASELINE_GRID[int(np.argmax(scores))]))
    return best


def test_the_grid_is_the_baseline_thresholdss() -> None:
    assert len(BASELINE_GRID) == 600
    assert BASELINE_GRID[0] == 0.1
    assert BASELINE_GRID[-1] == 0.699


@pytest.mark.slow
def test_thresholds_are_those_of_the_baselines_loop() -> None:
    probabilities, truth = random_case(0)
    columns = slice(0, 4)
    expected = baseline_thresholds(probabilities[:, columns], truth[:, columns])
    assert grid_thresholds(probabilities[:, columns], truth[:, columns]).tolist() == expected


def test_thresholds_on_real_predictions() -> None:
    path = DATA / "predictions"
    if not path.is_dir():
        pytest.skip(f"real predictions are not at {path}; set CYTOLOC_TEST_DATA")
    file = min(path.glob("*.npz"))
    probabilities = np.load(file)["probabilities"]
    rows = (path / "labels.csv").read_text().splitlines()[1:]
    truth = np.zeros(probabilities.shape, bool)
    for row, line in enumerate(rows):
        truth[row, [int(i) for i in line.split(",")[-1].split()]] = True
    rare = [15, 10, 14]
    expected = baseline_thresholds(probabilities[:, rare], truth[:, rare])
    assert grid_thresholds(probabilities[:, rare], truth[:, rare]).tolist() == expected


@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_thresholds_do_not_depend_on_the_order_of_rows(seed: int) -> None:
    probabilities, truth = random_case(seed)
    order = np.random.default_rng(seed).permutation(len(truth))
    once = grid_thresholds(probabilities, truth)
    np.testing.assert_array_equal(once, grid_thresholds(probabilities[order], truth[order]))
    doubled = grid_thresholds(np.repeat(probabilities, 2, axis=0), np.repeat(truth, 2, axis=0))
    np.testing.assert_array_equal(once, doubled)


def test_blanks_get_the_most_probable_location() -> None:
    probabilities = np.tile(np.linspace(0.01, 0.05, 28), (2, 1))
    predicted = np.zeros((2, 28), bool)
    predicted[1, 4] = True
    filled = fill_blanks(predicted, probabilities, possible=np.ones(28, bool))
    assert filled[0].nonzero()[0].tolist() == [27]
    assert filled[1].nonzero()[0].tolist() == [4]
    assert not predicted[0].any()
    possible = np.arange(28) < 20
    assert fill_blanks(predicted, probabilities, possible=possible)[0].nonzero()[0].tolist() == [19]
    assert fill_blanks(predicted, probabilities, possible=possible & False)[0].nonzero()[0].tolist() == [27]


def test_the_cap_keeps_those_furthest_above_their_thresholds() -> None:
    probabilities = np.full((1, 28), 0.5)
    thresholds = np.full(28, 0.45)
    thresholds[[2, 9]] = 0.1, 0.2
    probabilities[0, 20] = 0.9
    capped = cap_locations(np.ones((1, 28), bool), probabilities - thresholds, 3)
    assert capped[0].nonzero()[0].tolist() == [2, 9, 20]
    few = np.zeros((1, 28), bool)
    few[0, :2] = True
    np.testing.assert_array_equal(cap_locations(few, probabilities - thresholds, 3), few)


def test_every_rule_can_be_switched_off() -> None:
    probabilities = np.array([[0.1, 0.2, 0.3], [0.9, 0.9, 0.9]])
    thresholds = np.full(3, 0.5)
    cases: list[tuple[int, Blank, list[int]]] = [(28, "none", [0, 3]), (2, "none", [0, 2]), (5, "probability", [1, 3])]
    for most, blank, counts in cases:
        found = apply_thresholds(probabilities, thresholds, max_locations=most, blank=blank)
        assert found.sum(axis=1).tolist() == counts


def test_blanks_are_filled_by_what_is_asked_for() -> None:
    probabilities = np.array([[0.05, 0.30, 0.40, 0.45]])
    thresholds = np.array([0.06, 0.32, 0.80, NEVER])
    chosen = {}
    blanks: tuple[Blank, ...] = ("probability", "margin", "ratio")
    for blank in blanks:
        row = apply_thresholds(probabilities, thresholds, max_locations=5, blank=blank)[0]
        chosen[blank] = row.nonzero()[0].tolist()
    # The best margin is 0.05 - 0.06, the best ratio 0.30 / 0.32; the last class is never predicted.
    assert chosen == {"probability": [2], "margin": [0], "ratio": [1]}


def test_thresholds_shrink_for_all_and_further_for_blanks() -> None:
    thresholds = np.array([0.5, NEVER])
    probabilities = np.array([[0.36, 0.8], [0.31, 0.8], [0.26, 0.8], [0.24, 0.8]])
    shrink = (0.7, 0.6, 0.5)
    found = apply_thresholds(probabilities, thresholds, max_locations=5, blank="none", shrink=shrink)
    assert found[:, 0].tolist() == [True, True, True, False]
    # A field that has a location gets no other one from the lower thresholds.
    both = apply_thresholds(
        np.array([[0.36, 0.31]]), np.array([0.5, 0.5]), max_locations=5, blank="none", shrink=shrink
    )
    assert both.tolist() == [[True, False]]


def test_locations_are_exclusive_only_if_independence_would_join_them() -> None:
    truth = np.zeros((100, 4), bool)
    truth[:50, 0] = truth[50:, 1] = True  # Expected together 25 times, but never together.
    truth[:8, 2] = truth[50:58, 3] = True  # Expected together 0.64 times.
    truth[:30, 3] = True
    assert exclusive_pairs(truth) == ((0, 1),)
    predicted = np.array([[True, True, True, False], [True, False, False, False]])
    probabilities = np.array([[0.6, 0.9, 0.7, 0.1], [0.6, 0.1, 0.1, 0.1]])
    kept = keep_exclusive(predicted, probabilities - 0.5, ((0, 1),))
    assert kept.tolist() == [[False, True, True, False], [True, False, False, False]]


def test_probabilities_are_averaged_over_groups() -> None:
    probabilities = np.array([[0.2, 0.4], [0.6, 0.0], [0.9, 0.9]])
    shared = average_groups(probabilities, np.array([7, 7, -1]))
    np.testing.assert_allclose(shared, [[0.4, 0.2], [0.4, 0.2], [0.9, 0.9]])
