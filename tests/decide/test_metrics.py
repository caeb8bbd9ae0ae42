from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from cytoloc.decide.metrics import chance_f1, class_f1, class_table, macro_f1, macro_f1_interval


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
    table = class_table(predicted, truth, probabilities)
    assert table["positives"].to_list() == truth.sum(axis=0).tolist()
    assert table["f1"][0] is None
    assert table["average_precision"][0] is None
    for i in (5, 14, 27):
        assert table["f1"][i] == pytest.approx(f1_score(truth[:, i], predicted[:, i]), abs=1e-12)
        assert table["average_precision"][i] == pytest.approx(average_precision_score(truth[:, i], probabilities[:, i]))
        assert table["roc_auc"][i] == pytest.approx(roc_auc_score(truth[:, i], probabilities[:, i]))


def test_chance_is_what_random_dealing_gives() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((4000, 28)) < 0.3
    predicted = rng.random((4000, 28)) < 0.2
    # F1 of independent predictions: 2 · .3 · .2 / (.3 + .2).
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
