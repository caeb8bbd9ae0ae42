"""Prediction sets: coverage on unseen fields, with and without groups, and in files and commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import cytoloc as cl
from cytoloc.decide.coverage import fit_coverage
from cytoloc.errors import SettingsError
from tests.conftest import DATA, Cli
from tests.decide.cases import study_of

LABELS = cl.LabelSet.hpa28()


def fields(seed: int, count: int) -> tuple[Any, Any]:
    """Return probabilities of one model, and labels."""
    members, truth = study_of(seed, count)
    return members["m0"], truth


def test_the_stated_coverage_holds_on_average_on_unseen_fields() -> None:
    found = []
    for seed in range(60):
        probabilities, truth = fields(seed, 240)
        rule = fit_coverage(probabilities[:120], truth[:120], coverage=0.8)
        found.append((rule.sets(probabilities[120:]) | ~truth[120:]).all(axis=1).mean())
    # The standard error of the mean of 60 trials is below 0.01.
    assert np.mean(found) == pytest.approx(0.8, abs=0.025)


def test_groups_count_once() -> None:
    # 20 groups: 19 of one field that is easy, and one of 100 fields that is hard.
    probabilities = np.array([[0.9]] * 19 + [[0.1]] * 100)
    truth = np.ones((119, 1), np.bool_)
    numbers = np.array([*range(19), *[19] * 100])
    assert fit_coverage(probabilities, truth, coverage=0.9, groups=numbers).limit == 0.9
    assert fit_coverage(probabilities, truth, coverage=0.9).limit == 0.1


def test_a_field_without_labels_has_any_set_and_few_fields_are_refused() -> None:
    probabilities = np.full((9, 2), 0.3)
    truth = np.zeros((9, 2), np.bool_)
    assert fit_coverage(probabilities, truth, coverage=0.9).covered == 1
    with pytest.raises(SettingsError, match="at least 9 groups of labeled fields, not 8"):
        fit_coverage(probabilities[:8], truth[:8], coverage=0.9)
    for wrong in (0.2, 1, 1.0, True, "0.9"):
        with pytest.raises(SettingsError, match="`coverage` is"):
            fit_coverage(probabilities, truth, coverage=wrong)  # type: ignore[arg-type]


def predictions(values: Any) -> cl.Predictions:
    return cl.Predictions(tuple(f"f{row}" for row in range(len(values))), values.astype(np.float32), LABELS)


def test_a_decision_keeps_its_prediction_sets(tmp_path: Path) -> None:
    values, truth = fields(1, 200)
    labels = {f"f{row}": tuple(np.flatnonzero(each).tolist()) for row, each in enumerate(truth)}
    report = cl.fit_and_cross_fit(predictions(values), labels, method="grid", coverage=0.9)
    assert report.decision.sets is not None
    assert report.decision.sets.covered == pytest.approx(0.9, abs=0.05)
    cl.write_decision(report.decision, tmp_path / "decision.json")
    again = cl.read_decision(tmp_path / "decision.json")
    assert again.sets == report.decision.sets
    sets = again.prediction_sets(predictions(values))
    assert (sets | ~truth).all(axis=1).mean() >= 0.88
    without = cl.fit_decision(predictions(values), labels, method="grid")
    with pytest.raises(SettingsError, match="has no prediction sets"):
        without.prediction_sets(predictions(values))


def test_the_commands_fit_and_write_prediction_sets(cli: Cli, tmp_path: Path) -> None:
    values, truth = fields(2, 150)
    cl.write_predictions(predictions(values), tmp_path / "p.parquet")
    rows = [f"f{row}," + " ".join(map(str, np.flatnonzero(each))) for row, each in enumerate(truth)]
    (tmp_path / "labels.csv").write_text("Id,Target\n" + "\n".join(rows) + "\n")
    fit = ["decide", "fit", tmp_path / "p.parquet", "--labels", tmp_path / "labels.csv", "--method", "grid"]
    done = cli(*fit, "--coverage", 0.8, "--out", tmp_path / "d.json")
    assert "Prediction sets for a coverage of 0.8" in done.out, done.err
    apply = ["decide", "apply", tmp_path / "p.parquet", "--out", tmp_path / "s.csv", "--sets", tmp_path / "sets.csv"]
    assert cli(*apply, "--decision", tmp_path / "d.json").code == 0
    sets = pl.read_csv(tmp_path / "sets.csv", schema_overrides={"Predicted": pl.String})
    limit = cl.read_decision(tmp_path / "d.json").sets
    assert limit is not None
    found = [{int(word) for word in (text or "").split()} for text in sets["Predicted"]]
    assert found == [set(np.flatnonzero(row >= limit.limit).tolist()) for row in values.astype(np.float32)]
    assert cli(*fit, "--out", tmp_path / "e.json").code == 0
    for name in ("s.csv", "sets.csv"):
        (tmp_path / name).unlink()
    outcome = cli(*apply, "--decision", tmp_path / "e.json")
    assert "has no prediction sets" in outcome.err
    assert "--coverage 0.9" not in cli(*fit, "--coverage", 2, "--out", tmp_path / "f.json").out


def test_the_coverage_holds_on_real_predictions() -> None:
    folder = DATA / "predictions"
    if not folder.is_dir():
        pytest.skip(f"real predictions are not at {folder}; set CYTOLOC_TEST_DATA")
    values = np.load(folder / "resnet_256.npz")["probabilities"]
    listed = pl.read_csv(folder / "labels.csv", infer_schema=False)
    truth = LABELS.to_matrix([LABELS.parse(text, where="labels") for text in listed[listed.columns[-1]]])
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(10):
        order = rng.permutation(len(truth))
        half, rest = order[: len(order) // 2], order[len(order) // 2 :]
        rule = fit_coverage(values[half], truth[half], coverage=0.9)
        covered.append((rule.sets(values[rest]) | ~truth[rest]).all(axis=1).mean())
    assert np.mean(covered) == pytest.approx(0.9, abs=0.01)
