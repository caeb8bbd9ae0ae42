"""The commands from predictions to locations: ensemble, decide, score."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cytoloc import read_predictions
from cytoloc.decide import cross_fit, ensemble, fit_decision, macro_f1, read_decision
from cytoloc.decide.metrics import class_log_loss
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import read_labels
from cytoloc.prediction_files import write_predictions
from cytoloc.predictions import Predictions
from tests.conftest import Cli
from tests.decide.cases import study_of

HPA28 = LabelSet.hpa28()


@pytest.fixture
def scored(tmp_path: Path) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.bool_]]:
    """Write three members' predictions, labels and folds of 75 fields; the third member lacks the last 15."""
    members, truth = study_of(0, 75)
    narrow = {name: values.astype(np.float32) for name, values in members.items()}
    ids = tuple(f"f{number}" for number in range(75))
    for name, values in narrow.items():
        kept = slice(0, 60) if name == "m2" else slice(None)
        write_predictions(Predictions(ids[kept], values[kept], HPA28), tmp_path / f"{name}.parquet")
    narrow["m2"][60:] = np.nan
    rows = [f"{name}," + " ".join(map(str, row.nonzero()[0])) for name, row in zip(ids, truth, strict=True)]
    (tmp_path / "labels.csv").write_text("Id,Target\n" + "\n".join(rows) + "\n")
    folds = [f"{name},{number // 3},{number // 3 % 2}" for number, name in enumerate(ids)]
    (tmp_path / "folds.csv").write_text("id,group,fold\n" + "\n".join(folds) + "\n")
    return narrow, truth


def predicted_in(path: Path) -> NDArray[np.bool_]:
    return HPA28.to_matrix(read_labels(path, HPA28, column="Predicted", blank=True).values())


@pytest.mark.slow
@pytest.mark.usefixtures("short_steps")
def test_members_by_file_or_by_name_and_auto(
    cli: Cli, tmp_path: Path, scored: tuple[dict[str, Any], NDArray[np.bool_]]
) -> None:
    members, truth = scored
    files = [tmp_path / f"{name}.parquet" for name in members]
    said = cli(
        "decide", "fit", *files, "--members", "--method", "auto", "--labels", tmp_path / "labels.csv",
        "--folds", tmp_path / "folds.csv", "--out", tmp_path / "d.json", "--held-out", tmp_path / "h.csv",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert "<- chosen" in said.out
    assert "averaged groups (off; decide apply --groups, with the near-duplicates of the new fields)" in said.out
    decision = read_decision(tmp_path / "d.json")
    groups = np.arange(75) // 3
    expected = fit_decision(members, truth, method="auto", groups=groups)
    assert decision.members == ("m0", "m1", "m2")
    np.testing.assert_array_equal(decision.thresholds, expected.thresholds)
    crossed = cross_fit(members, truth, method="auto", groups=groups)
    np.testing.assert_array_equal(predicted_in(tmp_path / "h.csv"), crossed)
    assert decision.fitted_on["macro_f1_cross_fitted"] == macro_f1(crossed, truth)
    named = [word for name in members for word in ("--member", f"{name}={tmp_path / name}.parquet")]
    said = cli(
        "decide", "apply", *named, "--decision", tmp_path / "d.json", "--out", tmp_path / "s.csv",
        "--probabilities", tmp_path / "p.parquet",
    )  # fmt: skip
    assert said.code == 0, said.err
    np.testing.assert_array_equal(predicted_in(tmp_path / "s.csv"), expected(members))
    beside = read_predictions(tmp_path / "p.parquet")
    np.testing.assert_allclose(beside.probabilities, expected.probabilities(members), atol=1e-6)
    other = cli("decide", "apply", files[0], "--decision", tmp_path / "d.json", "--out", tmp_path / "o.csv")
    assert (other.code, "fitted with the members m0, m1, m2, but the predictions are of mean" in other.err) == (1, True)


def test_without_members_files_are_averaged(cli: Cli, tmp_path: Path, scored: tuple[dict[str, Any], Any]) -> None:
    members, truth = scored
    call = ["decide", "fit", tmp_path / "m0.parquet", tmp_path / "m1.parquet", "--labels", tmp_path / "labels.csv"]
    assert cli(*call, "--method", "grid", "--out", tmp_path / "d.json").code == 0
    decision = read_decision(tmp_path / "d.json")
    mean = np.asarray(np.mean([members["m0"], members["m1"]], axis=0, dtype=np.float64), np.float32)
    assert decision.members == ("mean",)
    np.testing.assert_array_equal(decision.thresholds, fit_decision({"mean": mean}, truth, method="grid").thresholds)


def test_rules_groups_and_known_labels_on_the_command_line(
    cli: Cli, tmp_path: Path, scored: tuple[dict[str, Any], Any]
) -> None:
    call = ["decide", "fit", tmp_path / "m0.parquet", "--labels", tmp_path / "labels.csv", "--method", "ratio"]
    call += ["--ratios", tmp_path / "labels.csv", "--blank", "none", "--max-locations", "28", "--calibration", "platt"]
    said = cli(*call, "--cooccurrence", "--out", tmp_path / "d.json")
    assert said.code == 0, said.err
    assert "never blank (off; --blank)" in said.out
    (tmp_path / "known.csv").write_text("Id,Target\nf3,27 5\nelsewhere,1\n")
    said = cli(
        "decide", "apply", tmp_path / "m0.parquet", "--decision", tmp_path / "d.json", "--out", tmp_path / "s.csv",
        "--groups", tmp_path / "folds.csv", "--leak", tmp_path / "known.csv", "--label-shift",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert "1 field with the labels of" in said.out
    found = predicted_in(tmp_path / "s.csv")
    assert found[3].nonzero()[0].tolist() == [5, 27]
    np.testing.assert_array_equal(found[4], found[5])  # of one group


def test_a_member_without_scores_of_new_fields_is_said_to_have_none(
    cli: Cli, tmp_path: Path, scored: tuple[dict[str, Any], NDArray[np.bool_]]
) -> None:
    members, truth = scored
    named = [word for name in members for word in ("--member", f"{name}={tmp_path / name}.parquet")]
    files = ["--labels", tmp_path / "labels.csv", "--out", tmp_path / "d.json"]
    assert cli("decide", "fit", *named, "--method", "stack", *files).code == 0
    call = ["decide", "apply", *named[:4], "--decision", tmp_path / "d.json", "--out", tmp_path / "s.csv"]
    refused = cli(*call)
    assert refused.code == 1
    assert "without" in refused.err
    for name, reason in (
        ("m1", "The member 'm1' in --without has predictions"),
        ("m7", "is not a member of the decision"),
    ):
        refused = cli(*call, "--without", name)
        assert refused.code == 2
        assert reason in refused.err
    assert cli(*call, "--without", "m2").code == 0
    decision = fit_decision(members, truth, method="stack")
    expected = decision({**members, "m2": np.full_like(members["m2"], np.nan)})
    np.testing.assert_array_equal(predicted_in(tmp_path / "s.csv"), expected)


def test_an_ensemble_reports_contributions(
    cli: Cli, tmp_path: Path, scored: tuple[dict[str, Any], NDArray[np.bool_]]
) -> None:
    members, truth = scored
    files = [tmp_path / f"{name}.parquet" for name in members]
    said = cli("ensemble", *files, "--out", tmp_path / "mean.parquet")
    assert said.code == 0, said.err
    mean = read_predictions(tmp_path / "mean.parquet")
    np.testing.assert_allclose(mean.probabilities, np.nanmean(list(members.values()), axis=0), rtol=1e-5)
    call = ["ensemble", *files, "--labels", tmp_path / "labels.csv", "--folds", tmp_path / "folds.csv"]
    shown = cli(*call, "--method", "weighted", "--out", tmp_path / "w.parquet")
    assert "adds" in shown.out
    facts = json.loads(cli(*call, "--method", "stack", "--out", tmp_path / "s.parquet", "--json").out)
    assert [row["fields"] for row in facts["contributions"]] == [75, 75, 60]
    assert np.array(facts["correlations"]).shape == (3, 3)
    predictions = read_predictions(tmp_path / "s.parquet")
    assert predictions.provenance["ensemble"] == "stack"
    # Better than the plain mean, on fields that the stack was not fitted to.
    assert class_log_loss(predictions.probabilities, truth) < class_log_loss(mean.probabilities, truth) - 0.1
    refused = cli("ensemble", *files, "--method", "stack", "--out", tmp_path / "x.parquet")
    assert (refused.code, "ensemble method stack needs labels" in refused.err) == (2, True)
    (tmp_path / "others.csv").write_text("Id,Target\nz,1\n")
    refused = cli("ensemble", *files, "--labels", tmp_path / "others.csv", "--out", tmp_path / "x.parquet")
    assert (refused.code, "--labels has no labels of the 75 predicted fields" in refused.err) == (1, True)


def test_fields_without_labels_are_scored_by_the_fit_on_all_that_have_them(
    cli: Cli, tmp_path: Path, scored: tuple[dict[str, Any], NDArray[np.bool_]]
) -> None:
    members, _ = scored
    rows = (tmp_path / "labels.csv").read_text().splitlines()
    (tmp_path / "some.csv").write_text("\n".join(rows[:101]) + "\n")
    files = [tmp_path / f"{name}.parquet" for name in members]
    call = ["ensemble", *files, "--labels", tmp_path / "some.csv", "--method", "class", "--out", tmp_path / "c.parquet"]
    assert cli(*call).code == 0
    found = read_predictions(tmp_path / "c.parquet").probabilities
    tables = {name: read_predictions(tmp_path / f"{name}.parquet") for name in members}
    expected = ensemble(tables, method="class", labels=read_labels(tmp_path / "some.csv", HPA28))
    np.testing.assert_array_equal(found, expected.probabilities)


def test_members_trained_on_the_fields_are_told_of(cli: Cli, tmp_path: Path, scored: object) -> None:
    leaking = Predictions(("f0", "f1"), np.full((2, 28), 0.4, np.float32), HPA28, {"fields_trained_on": 2})
    write_predictions(leaking, tmp_path / "leaking.parquet")
    call = [tmp_path / "leaking.parquet", tmp_path / "m0.parquet", "--out"]
    said = cli("ensemble", *call, tmp_path / "e.parquet")
    assert said.code == 0
    assert said.err.startswith("Warning: ")
    assert "leaking.parquet: the model was trained on 2 of these 2 fields" in said.err
    fit = ["--labels", tmp_path / "labels.csv", "--out", tmp_path / "d.json", "--method", "grid"]
    said = cli("decide", "fit", *call, tmp_path / "d.json", "--members", *fit[:2])
    assert (said.code, "so a fit would be biased" in said.err) == (1, True)
    # Nor does an ensemble, or a decision's probabilities, wash it off.
    said = cli("decide", "fit", tmp_path / "e.parquet", *fit)
    assert (said.code, "e.parquet: the model was trained on 2 of these 75 fields" in said.err) == (1, True)
    assert cli("decide", "fit", tmp_path / "m0.parquet", *fit).code == 0
    apply = ["decide", "apply", tmp_path / "e.parquet", "--decision", tmp_path / "d.json", "--out", tmp_path / "s.csv"]
    assert cli(*apply, "--probabilities", tmp_path / "p.parquet").code == 0
    assert read_predictions(tmp_path / "p.parquet").provenance["fields_trained_on"] == 2


def test_cautions_go_with_whatever_is_made_of_scores(cli: Cli, tmp_path: Path, scored: object) -> None:
    careful = replace(read_predictions(tmp_path / "m0.parquet"), provenance={"caution": "For trying out."})
    write_predictions(careful, tmp_path / "careful.parquet")
    files = [tmp_path / "careful.parquet", tmp_path / "m1.parquet"]
    assert cli("ensemble", *files, "--out", tmp_path / "e.parquet").code == 0
    fit = ["decide", "fit", tmp_path / "e.parquet", "--labels", tmp_path / "labels.csv", "--out", tmp_path / "d.json"]
    assert cli(*fit, "--method", "grid").code == 0
    apply = ["decide", "apply", tmp_path / "e.parquet", "--decision", tmp_path / "d.json", "--out", tmp_path / "s.csv"]
    assert cli(*apply, "--probabilities", tmp_path / "p.parquet").code == 0
    for name in ("e", "p"):
        assert read_predictions(tmp_path / f"{name}.parquet").provenance["caution"] == "For trying out."


@pytest.mark.usefixtures("short_steps")
def test_what_a_decision_calibrated_is_not_fitted_again(cli: Cli, tmp_path: Path, scored: object) -> None:
    labels = ["--labels", tmp_path / "labels.csv", "--out"]
    for method, calibrated in (("exact", False), ("expected", True)):
        rule, made = tmp_path / f"{method}.json", tmp_path / f"{method}.parquet"
        assert cli("decide", "fit", tmp_path / "m0.parquet", "--method", method, *labels, rule).code == 0
        apply = ["decide", "apply", tmp_path / "m0.parquet", "--decision", rule, "--out", tmp_path / f"{method}.csv"]
        assert cli(*apply, "--probabilities", made).code == 0
        said = cli("decide", "fit", made, *labels, tmp_path / f"{method}-again.json")
        assert ("were calibrated by a decision already" in said.err) == calibrated == bool(said.code)


def test_two_outputs_are_written_both_or_neither(cli: Cli, tmp_path: Path, scored: object) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken.csv").write_text("old")
    given = [tmp_path / "m0.parquet", "--labels", tmp_path / "labels.csv"]
    fit = ["decide", "fit", *given, "--method", "grid", "--out", tmp_path / "a.json", "--held-out"]
    assert cli("decide", "fit", *given, "--method", "grid", "--out", tmp_path / "d.json").code == 0
    apply = ["decide", "apply", given[0], "--decision", tmp_path / "d.json", "--out", tmp_path / "s.csv"]
    truth = (tmp_path / "labels.csv").read_text().replace("Target", "Predicted")
    (tmp_path / "held-out.csv").write_text(truth)
    score = ["evaluate", tmp_path / "held-out.csv", *given[1:], "--table", tmp_path / "t.csv", "--plot"]
    before = sorted(tmp_path.iterdir())
    for call, name in ((fit, "x.csv"), ([*apply, "--probabilities"], "x.parquet"), (score, "x.png")):
        said = cli(*call, tmp_path / "file" / name)
        assert (said.code, "cannot be written, because a parent folder is a file" in said.err) == (1, True)
    for call in ([*fit, tmp_path / "a.json"], [*score, tmp_path / "t.png", "--table", tmp_path / "t.png"]):
        same = cli(*call)
        assert (same.code, "was given for two outputs" in same.err) == (2, True)
    assert cli(*fit, tmp_path / "taken.csv").code == 1
    assert "end" in cli(*apply, "--probabilities", tmp_path / "p.csv").err
    assert "PNG" in cli(*score, tmp_path / "p.gif").err
    assert sorted(tmp_path.iterdir()) == before


def test_a_leak_of_no_field_changes_nothing(cli: Cli, tmp_path: Path, scored: object) -> None:
    (tmp_path / "leak.csv").write_text("Id,Target\n")
    rule, given = tmp_path / "d.json", tmp_path / "m0.parquet"
    assert cli("decide", "fit", given, "--labels", tmp_path / "labels.csv", "--method", "grid", "--out", rule).code == 0
    for name, leak in (("a.csv", []), ("b.csv", ["--leak", tmp_path / "leak.csv"])):
        assert cli("decide", "apply", given, "--decision", rule, "--out", tmp_path / name, *leak).code == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    score = ["evaluate", tmp_path / "a.csv", "--labels", tmp_path / "labels.csv", "--leak", tmp_path / "leak.csv"]
    said = cli(*score, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["leak"]["fields"] == 0


def test_a_leak_that_matches_no_field_is_an_error(cli: Cli, tmp_path: Path, scored: object) -> None:
    given = [tmp_path / "m0.parquet", "--labels", tmp_path / "labels.csv"]
    assert cli("decide", "fit", *given, "--method", "grid", "--out", tmp_path / "d.json").code == 0
    (tmp_path / "leak.csv").write_text("Id,Target\nelsewhere,1\n")
    apply = ["decide", "apply", given[0], "--decision", tmp_path / "d.json", "--out", tmp_path / "s.csv"]
    said = cli(*apply, "--leak", tmp_path / "leak.csv")
    assert (said.code, "contains no labels of these 75 fields. Its ids look like elsewhere" in said.err) == (1, True)
    assert not (tmp_path / "s.csv").exists()
    assert cli(*apply).code == 0
    said = cli("evaluate", tmp_path / "s.csv", *given[1:], "--leak", tmp_path / "leak.csv")
    assert (said.code, "contains no labels of these 75 fields" in said.err) == (1, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "grid", "--threshold", ".9"], "The method 'grid' has no option 'threshold'"),
        (
            ["--method", "fixed", "--threshold", ".9", "--ratios", "labels.csv"],
            "The method 'fixed' has no option 'ratios'",
        ),
    ],
)
def test_options_that_the_method_does_not_use_are_a_wrong_call(
    cli: Cli, tmp_path: Path, scored: object, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = cli("decide", "fit", "m0.parquet", "--labels", "labels.csv", *words, "--out", "d.json")
    assert (said.code, message in said.err) == (2, True)


def test_score_by_group_as_table_plot_and_json(cli: Cli, tmp_path: Path, scored: tuple[Any, NDArray[np.bool_]]) -> None:
    _, truth = scored
    rows = [f"f{number}," + " ".join(map(str, row.nonzero()[0])) for number, row in enumerate(truth)]
    (tmp_path / "p.csv").write_text("Id,Predicted\n" + "\n".join(rows[::-1]) + "\n")
    call = [
        "evaluate",
        tmp_path / "p.csv",
        "--labels",
        tmp_path / "labels.csv",
        "--predictions",
        tmp_path / "m0.parquet",
    ]
    said = cli(*call, "--folds", tmp_path / "folds.csv", "--plot", tmp_path / "s.png", "--table", tmp_path / "t.csv")
    assert said.code == 0, said.err
    assert "by group: 95 % interval" in said.out
    assert "(25 groups)" in said.out
    assert (tmp_path / "s.png").stat().st_size > 1000
    with (tmp_path / "t.csv").open() as file:
        assert {"f1_low", "f1_high", "calibration_error"} <= set(next(csv.reader(file)))
    facts = json.loads(cli(*call, "--groups", tmp_path / "folds.csv", "--json").out)
    assert facts["groups"] == 25
    assert facts["overall"]["micro_f1"] == 1
    assert set(facts["overall"]) >= {"mean_average_precision", "macro_roc_auc", "coverage_error"}
    assert len(facts["macro_f1_interval_95_by_group"]) == 2
    (tmp_path / "runs").mkdir()
    labels = ("--labels", tmp_path / "labels.csv")
    for words, message in (
        ((tmp_path / "m0.parquet",), "m0.parquet has predictions, not locations.\n  Use --metric map, or"),
        ((tmp_path / "runs",), "runs has predictions, not locations"),
        ((tmp_path / "p.csv", "--metric", "map"), "p.csv has locations, not probabilities"),
        ((tmp_path / "m0.parquet", "--metric", "map", "--min-positives", 5), "is for --metric f1"),
    ):
        said = cli("evaluate", *words, *labels)
        assert (said.code, message in said.err) == (1 if "p.csv" in message else 2, True), said.err
    both = cli(*call, "--groups", tmp_path / "folds.csv", "--folds", tmp_path / "folds.csv")
    assert both.code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["m0.parquet", "--member", "a=m1.parquet"], "m0.parquet has no member name"),
        (["--member", "m1.parquet"], "does not have the form NAME=PREDICTIONS"),
        (["m0.parquet", "sub/m0.parquet", "--members"], "Two ensemble members have the same name, 'm0'"),
        ([], "PREDICTIONS"),
    ],
)
def test_members_that_cannot_be_told_apart_are_a_wrong_call(
    cli: Cli,
    tmp_path: Path,
    scored: object,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "m0.parquet").write_bytes((tmp_path / "m0.parquet").read_bytes())
    said = cli("decide", "fit", *words, "--labels", "labels.csv", "--out", "d.json")
    assert said.code == 2
    assert message in said.err


def test_ordered_fields_may_lack_members_that_others_have(cli: Cli, tmp_path: Path) -> None:
    members, truth = study_of(1, 90, members=2)
    ids = tuple(f"f{number}" for number in range(90))
    for (name, values), rows in zip(members.items(), (slice(0, 60), slice(30, 90)), strict=True):
        write_predictions(Predictions(ids[rows], values[rows].astype(np.float32), HPA28), tmp_path / f"{name}.parquet")
    cells = [f"{name}," + " ".join(map(str, row.nonzero()[0])) for name, row in zip(ids, truth, strict=True)]
    (tmp_path / "labels.csv").write_text("Id,Target\n" + "\n".join(cells) + "\n")
    ordered = [*ids[80:], *ids[:10]]
    (tmp_path / "order.csv").write_text("Id\n" + "\n".join(ordered) + "\n")
    parts = [tmp_path / "m0.parquet", tmp_path / "m1.parquet", "--members"]
    fitted = cli(
        "decide", "fit", *parts, "--method", "grid", "--labels", tmp_path / "labels.csv", "--out", tmp_path / "d"
    )
    assert fitted.code == 0, fitted.err
    call = ["decide", "apply", *parts, "--decision", tmp_path / "d", "--out"]
    assert cli(*call, tmp_path / "all.csv").code == 0
    said = cli(*call, tmp_path / "some.csv", "--order", tmp_path / "order.csv")
    assert said.code == 0, said.err
    every, some = (
        read_labels(tmp_path / name, HPA28, column="Predicted", blank=True) for name in ("all.csv", "some.csv")
    )
    assert list(some) == ordered
    assert some == {name: every[name] for name in ordered}
