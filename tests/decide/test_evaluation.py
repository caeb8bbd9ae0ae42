from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

import cytoloc as cl
from cytoloc.decide import evaluate, fit_decision, macro_f1
from cytoloc.decide.metrics import class_f1, macro_f1_interval, overall, weighted_average_precision
from cytoloc.errors import ArgumentTypeError, LabelSetError, SettingsError, TableError
from cytoloc.labels.label_set import LabelSet
from tests.decide.cases import HPA28, labels_of, study_of, tables_of


def test_arrays_predictions_and_mappings_have_the_same_evaluation() -> None:
    members, truth = study_of(0, 120, members=1)
    table, labels = tables_of(members)["m0"], labels_of(truth)
    decided = fit_decision(table, labels, method="grid")(table)
    predicted = np.array(decided.decided)
    groups = np.arange(120) // 3
    found = evaluate(decided, labels, groups=pl.DataFrame({"id": list(table.ids), "group": groups}))
    assert found.macro_f1 == macro_f1(predicted, truth)
    assert found.interval == macro_f1_interval(predicted, truth)
    assert found.interval_by_group == macro_f1_interval(predicted, truth, groups=groups)
    assert (found.n_groups, found.fields, found.fields_with_labels) == (40, 120, 120)
    assert found.overall == overall(predicted, truth, table.probabilities)
    assert found.mean_average_precision == found.overall["mean_average_precision"]
    np.testing.assert_allclose(found.classes["f1"].fill_null(0), class_f1(predicted, truth))
    common = found.classes.filter(pl.col("positives") >= 5)
    assert found.common["classes"] == common.height < 28
    assert found.common["macro_f1"] == common["f1"].mean()
    plain = [evaluate(predicted, truth, groups=groups), evaluate(labels_of(predicted), labels, label_set=HPA28)]
    for other in plain:
        assert (other.macro_f1, other.interval, other.micro_f1) == (found.macro_f1, found.interval, found.micro_f1)
        assert other.mean_average_precision is None
    assert repr(found).startswith(f"Evaluation(macro F1 {found.macro_f1:.3f} (")
    assert found.to_polars().height == len(found.to_json()["classes"]) == len(found.to_pandas()) == 28


def test_a_leak_is_evaluated_with_and_without() -> None:
    predicted = {"a": (0,), "b": (0,), "c": (7,), "d": (7,)}
    labels = {"a": (0,), "b": (7,), "c": (7,), "d": (25,)}
    leak = evaluate(predicted, labels, label_set=HPA28, leak={"b": (7,), "d": (3,), "elsewhere": (1,)}).leak
    truth, given = HPA28.to_matrix(labels.values()), HPA28.to_matrix(predicted.values())
    assert leak is not None
    assert (leak.fields, leak.correct) == (2, 1)
    assert leak.macro_f1_with == macro_f1(HPA28.to_matrix([(0,), (7,), (7,), (3,)]), truth)
    assert leak.macro_f1_without == macro_f1(given, truth)
    assert leak.macro_f1_others == macro_f1(given[[0, 2]], truth[[0, 2]])
    everything = evaluate(predicted, labels, label_set=HPA28, leak=labels).leak
    assert everything is not None
    assert everything.macro_f1_others is None


def test_bad_arguments_are_refused() -> None:
    members, truth = study_of(0, 40, members=1)
    table, labels = tables_of(members)["m0"], labels_of(truth)
    calls: list[tuple[type[Exception], str, Any]] = [
        (SettingsError, "no decision was applied", lambda: evaluate(table, labels)),
        (ArgumentTypeError, "ndarray float64", lambda: evaluate(members["m0"], truth)),  # type: ignore[arg-type]
        (ArgumentTypeError, "`labels` must be a bool array", lambda: evaluate(truth, labels)),
        (ArgumentTypeError, "`leak` contains ids", lambda: evaluate(truth, truth, leak=labels)),
        (ArgumentTypeError, "`labels` must be a dataset", lambda: evaluate(labels, "labels.csv", label_set=HPA28)),  # type: ignore[arg-type]
        (SettingsError, "The label set of `predictions` is unknown", lambda: evaluate(labels, labels)),
        (SettingsError, "min_positives", lambda: evaluate(truth, truth, min_positives=0)),
        (TableError, "`labels` must be a bool array of shape", lambda: evaluate(truth, truth[:5])),
        (TableError, "have no label", lambda: evaluate(labels, {"f0": (1,)}, label_set=HPA28)),
        (LabelSetError, "28 columns", lambda: evaluate(truth, truth, label_set=LabelSet.hpa19())),
    ]
    for error, message, call in calls:
        with pytest.raises(error, match=message):
            call()


def test_mean_average_precision_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    probabilities, truth = rng.random((60, 3)).round(1), rng.random((60, 3)) < 0.2
    truth[:, 2] = False
    found = cl.mean_average_precision(probabilities, truth)
    expected = [average_precision_score(truth[:, i], probabilities[:, i]) for i in range(2)]
    assert found.mean == pytest.approx(np.mean(expected))
    assert found.classes["average_precision"].to_list() == [
        pytest.approx(expected[0]),
        pytest.approx(expected[1]),
        None,
    ]
    assert found.share_of_positives == pytest.approx(truth[:, :2].mean())
    assert found.interval is not None
    assert found.interval[0] < found.mean < found.interval[1]
    assert found.interval_by_group is None
    # Copies of fields are no new information, if they are resampled together.
    twice = cl.mean_average_precision(
        np.repeat(probabilities, 4, axis=0), np.repeat(truth, 4, axis=0), groups=np.repeat(np.arange(60), 4)
    )
    assert twice.mean == pytest.approx(found.mean)
    assert twice.interval_by_group == pytest.approx(found.interval)
    assert twice.interval is not None
    assert np.diff(twice.interval) < np.diff(found.interval)
    with pytest.raises(TableError, match="No field has a location"):
        cl.mean_average_precision(probabilities, np.zeros((60, 3), bool))


def test_intervals_of_average_precision_contain_the_expected_value() -> None:
    def study(seed: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        rng = np.random.default_rng(seed)
        truth = rng.random((300, 28)) < np.geomspace(0.01, 0.2, 28)
        return 1 / (1 + np.exp(-rng.normal(0.7 * truth, 1))), truth

    found = [cl.mean_average_precision(*study(seed)) for seed in range(40)]
    expected = np.mean([each.mean for each in found])
    covered = [each.interval[0] <= expected <= each.interval[1] for each in found if each.interval]
    assert len(covered) == 40
    assert np.mean(covered) >= 0.85


def test_weights_count_fields_several_times() -> None:
    rng = np.random.default_rng(1)
    scores, truth, weights = rng.random(80).round(1), rng.random(80) < 0.3, rng.integers(0, 4, (6, 80))
    found = weighted_average_precision(scores, truth, weights)
    for value, row in zip(found, weights, strict=True):
        assert value == pytest.approx(average_precision_score(np.repeat(truth, row), np.repeat(scores, row)))
    assert np.isnan(weighted_average_precision(scores, truth, weights * ~truth)).all()


def test_mean_average_precision_takes_calibrated_predictions() -> None:
    members, truth = study_of(0, 120, members=1)
    table, labels = tables_of(members)["m0"], labels_of(truth)
    calibrated = fit_decision(table, labels, method="expected")(table)
    assert "calibrated_by" in calibrated.provenance
    found = cl.mean_average_precision(calibrated, labels)
    assert found.mean == pytest.approx(evaluate(calibrated, labels).mean_average_precision, abs=1e-6)
