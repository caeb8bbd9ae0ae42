from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    coverage_error,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)

from cytoloc.decide.metrics import (
    calibration_errors,
    chance_f1,
    class_f1,
    class_log_loss,
    class_table,
    macro_f1,
    macro_f1_interval,
    overall,
    paired_difference,
)
from cytoloc.labels.label_set import LabelSet


def random_case(seed: int, rows: int = 60) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    truth = rng.random((rows, 28)) < np.linspace(0, 0.5, 28)
    probabilities = np.clip(0.4 * truth + 0.6 * rng.random((rows, 28)), 0, 1)
    return probabilities > 0.5, truth, probabilities


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 40))
def test_macro_f1_is_its_definition(seed: int, rows: int) -> None:
    predicted, truth, _ = random_case(seed, rows)
    per_class = []
    for i in range(28):
        hits = (predicted[:, i] & truth[:, i]).sum()
        total = predicted[:, i].sum() + truth[:, i].sum()
        per_class.append(2 * hits / total if total else 0.0)
    assert macro_f1(predicted, truth) == pytest.approx(np.mean(per_class), abs=1e-12)
    np.testing.assert_allclose(class_f1(predicted, truth), per_class, atol=1e-12)


def test_the_table_agrees_with_scikit_learn() -> None:
    predicted, truth, probabilities = random_case(1)
    predicted[:, 0] = False  # A class that is neither true nor predicted.
    table = class_table(predicted, truth, LabelSet.hpa28(), probabilities)
    assert table["positives"].to_list() == truth.sum(axis=0).tolist()
    assert table["f1"][0] is None
    assert table["average_precision"][0] is None
    for i in (5, 14, 27):
        assert table["f1"][i] == pytest.approx(f1_score(truth[:, i], predicted[:, i]), abs=1e-12)
        assert table["average_precision"][i] == pytest.approx(average_precision_score(truth[:, i], probabilities[:, i]))
        assert table["roc_auc"][i] == pytest.approx(roc_auc_score(truth[:, i], probabilities[:, i]))


def test_chance_is_the_f1_of_permuted_predictions() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((4000, 28)) < 0.3
    predicted = rng.random((4000, 28)) < 0.2
    # F1 of independent predictions: 2 · 0.3 · 0.2 / (0.3 + 0.2).
    np.testing.assert_allclose(chance_f1(predicted, truth), 0.24, atol=0.02)
    assert macro_f1(truth, truth) > 0.99
    np.testing.assert_allclose(chance_f1(truth, truth), 0.3, atol=0.02)


def test_the_interval_covers_and_narrows() -> None:
    few, many = random_case(2, 100), random_case(2, 2000)
    low, high = macro_f1_interval(few[0], few[1])
    assert low < macro_f1(few[0], few[1]) < high
    narrow_low, narrow_high = macro_f1_interval(many[0], many[1])
    assert narrow_low < macro_f1(many[0], many[1]) < narrow_high
    assert narrow_high - narrow_low < (high - low) / 2


@pytest.mark.slow
@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), rows=st.integers(2, 40))
def test_overall_measures_are_scikit_learns(seed: int, rows: int) -> None:
    predicted, truth, probabilities = random_case(seed, rows)
    found = overall(predicted, truth, probabilities)
    seen = truth.any(axis=0)
    both = seen & ~truth.all(axis=0)
    hit = seen & predicted.any(axis=0)
    expected = {
        "micro_f1": f1_score(truth, predicted, average="micro", zero_division=0),
        "micro_precision": precision_score(truth, predicted, average="micro", zero_division=0),
        "micro_recall": recall_score(truth, predicted, average="micro", zero_division=0),
        "macro_f1": f1_score(truth, predicted, average="macro", zero_division=0),
        "macro_recall": recall_score(truth[:, seen], predicted[:, seen], average="macro") if seen.any() else None,
        "macro_precision": precision_score(truth[:, hit], predicted[:, hit], average="macro") if hit.any() else None,
        "mean_average_precision": average_precision_score(truth[:, seen], probabilities[:, seen])
        if seen.any()
        else None,
        "macro_roc_auc": roc_auc_score(truth[:, both], probabilities[:, both]) if both.any() else None,
        "coverage_error": coverage_error(truth, probabilities),
    }
    for name, value in expected.items():
        assert found[name] == (None if value is None else pytest.approx(value, abs=1e-12)), name


def test_calibration_error_is_the_gap_of_scikit_learns_curve() -> None:
    _, truth, probabilities = random_case(3, 500)
    found = calibration_errors(probabilities, truth)
    for i in (4, 20):
        shares, means = calibration_curve(truth[:, i], probabilities[:, i], n_bins=10)
        fields = np.histogram(probabilities[:, i], np.linspace(0, 1, 11))[0]
        assert found[i] == pytest.approx(np.abs(shares - means) @ fields[fields > 0] / 500, abs=1e-12)
    rng = np.random.default_rng(0)
    honest = rng.random((100_000, 1))
    assert calibration_errors(honest, rng.random((100_000, 1)) < honest)[0] < 0.01


def test_absent_classes_count_0_for_f1_and_not_at_all_for_the_rest() -> None:
    predicted, truth, probabilities = random_case(4)
    predicted[:, :14] = truth[:, :14] = False
    found = overall(predicted, truth, probabilities)
    table = class_table(predicted, truth, LabelSet.hpa28(), probabilities)
    assert found["macro_f1"] == pytest.approx(table["f1"].drop_nulls().sum() / 28)
    assert found["macro_recall"] == pytest.approx(table["recall"].drop_nulls().mean())
    assert table["recall"].null_count() == 14


def test_the_interval_by_group_is_wider_where_fields_of_a_group_are_alike() -> None:
    predicted, truth, _ = random_case(5, 100)
    copies, alike = np.repeat(predicted, 8, axis=0), np.repeat(truth, 8, axis=0)
    groups = np.repeat(np.arange(100) * 3, 8)
    once = macro_f1_interval(predicted, truth)
    by_field = macro_f1_interval(copies, alike)
    by_group = macro_f1_interval(copies, alike, groups=groups)
    assert by_field[1] - by_field[0] < 0.6 * (once[1] - once[0])
    np.testing.assert_allclose(by_group, once, atol=1e-6)


def test_log_loss_is_divided_by_that_of_the_frequencies() -> None:
    _, truth, probabilities = random_case(6, 300)
    truth[:, 0] = False
    losses = []
    for i in range(1, 28):
        rate = np.full(300, truth[:, i].mean())
        losses.append(log_loss(truth[:, i], probabilities[:, i]) / log_loss(truth[:, i], rate))
    assert class_log_loss(probabilities, truth) == pytest.approx(np.mean(losses), rel=1e-9)
    rates = np.tile(truth.mean(axis=0), (300, 1))
    assert class_log_loss(rates, truth) == pytest.approx(1)
    assert class_log_loss(rates, np.zeros_like(truth)) == 0


def test_the_standard_error_of_a_difference_is_that_of_the_bootstrap() -> None:
    one, truth, _ = random_case(7, 800)
    other = one.copy()
    other[::9] = False
    gain, error = paired_difference(one, other, truth)
    assert gain == pytest.approx(macro_f1(one, truth) - macro_f1(other, truth))
    rng = np.random.default_rng(3)
    draws = []
    for _ in range(200):
        rows = rng.integers(0, 800, 800)
        draws.append(macro_f1(one[rows], truth[rows]) - macro_f1(other[rows], truth[rows]))
    assert error == pytest.approx(np.std(draws), rel=0.25)
    assert paired_difference(one, one, truth) == (0, 0)
