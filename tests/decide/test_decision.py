"""Decisions: fitted, applied, cross-fitted, written and read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cytoloc.decide import (
    Auto,
    Exact,
    ExpectedF1,
    Fixed,
    Grid,
    Ratio,
    Rules,
    Shrunk,
    Smooth,
    Stack,
    cross_fit,
    fit_and_cross_fit,
    fit_decision,
    macro_f1,
    read_decision,
    write_decision,
)
from cytoloc.decide.decision import with_provenance
from cytoloc.decide.fitting import cross_fit_parts
from cytoloc.decide.inputs import as_labeled_members
from cytoloc.decide.methods import AnyMethod
from cytoloc.decide.thresholds import NEVER, apply_thresholds, grid_thresholds
from cytoloc.errors import ArgumentTypeError, FormatError, LabelSetError, SettingsError, TableError
from cytoloc.labels.label_set import LabelSet
from cytoloc.predictions import Predictions
from tests.decide.cases import HPA28, labels_of, random_case, study_of, tables_of

OWN = LabelSet.from_names([f"Place {number}" for number in range(28)], name="own")


class Labeled:
    """What a dataset has of labels."""

    def __init__(self, truth: Any, label_set: LabelSet = HPA28) -> None:
        self.ids = tuple(f"f{row}" for row in range(len(truth)))[::-1]
        self.truth = truth[::-1]
        self.labeled = np.ones(len(truth), bool)
        self.label_set = label_set


def test_a_class_without_positives_is_never_predicted() -> None:
    probabilities, truth = random_case(0)
    truth[:, 3] = False
    probabilities[:, 3] = 0.65
    decision = fit_decision(probabilities, truth, method="grid")
    assert decision.thresholds[3] == NEVER
    assert not decision(probabilities)[:, 3].any()


def test_a_decision_averages_its_members_and_applies_its_rules() -> None:
    one, truth = random_case(1)
    two, _ = random_case(2)
    decision = fit_decision({"a": one, "b": two}, truth, method=Grid(), rules=Rules(max_locations=4))
    predicted = decision({"b": two, "a": one})
    assert predicted.any(axis=1).all()
    assert predicted.sum(axis=1).max() <= 4
    mean = (one.astype(float) + two) / 2
    free = mean > grid_thresholds(mean, truth)
    untouched = free.any(axis=1) & (free.sum(axis=1) <= 4)
    np.testing.assert_array_equal(predicted[untouched], free[untouched])


@pytest.mark.parametrize("method", ["grid", "expected", "stack"])
def test_arrays_predictions_mappings_and_datasets_give_the_same_decision(method: AnyMethod) -> None:
    members, truth = study_of(0, 120, members=2)
    narrow = {name: values.astype(np.float32) for name, values in members.items()}
    tables, groups = tables_of(members), np.arange(120) // 3
    folds = pl.DataFrame({"id": [f"f{row}" for row in range(120)], "group": groups, "fold": groups % 2})
    usual = fit_decision(narrow, truth, method=method, groups=groups, label_set=HPA28)
    for labels in (labels_of(truth), Labeled(truth)):
        decision = fit_decision(tables, labels, method=method, groups=folds.sample(fraction=1, shuffle=True, seed=0))
        assert decision.fingerprint == usual.fingerprint
    result = usual(tables)
    assert isinstance(result, Predictions)
    np.testing.assert_array_equal(result.decided, usual(narrow))
    np.testing.assert_allclose(result.probabilities, usual.probabilities(narrow), rtol=1e-6)
    held = cross_fit(tables, Labeled(truth), method=method, groups=folds)
    np.testing.assert_array_equal(held.decided, cross_fit(narrow, truth, method=method, groups=groups))
    # One member needs no name.
    alone = fit_decision(tables["m0"], Labeled(truth), method=method)
    np.testing.assert_array_equal(alone(tables["m0"]).decided, alone({"mean": narrow["m0"]}))


def test_decided_predictions_state_where_they_come_from() -> None:
    members, truth = study_of(1, 80, members=1)
    table = tables_of(members)["m0"]
    given = Predictions(table.ids, table.probabilities, HPA28, {"caution": "For tests."}, rejected={"x": "damaged"})
    for method, calibrated in ((Exact(), False), (ExpectedF1(), True)):
        decision = fit_decision(given, labels_of(truth), method=method, intervals=False)
        made = decision(given)
        assert (made.caution, made.rejected) == ("For tests.", {"x": "damaged"})
        assert made.provenance["decision"] == decision.method.name
        assert made.provenance.get("calibrated_by") == (decision.fingerprint if calibrated else None)
        if calibrated:
            with pytest.raises(TableError, match="were calibrated by a decision already"):
                fit_decision(made, labels_of(truth))
            with pytest.raises(TableError, match="were calibrated by a decision already"):
                decision(made)


def test_a_member_without_predictions_is_named() -> None:
    members, truth = study_of(0, 100)
    decision = fit_decision(members, truth, method="stack", intervals=False)
    here = {name: members[name] for name in ("m0", "m1")}
    expected = decision({**here, "m2": np.full_like(members["m2"], np.nan)})
    np.testing.assert_array_equal(decision(here, without=["m2"]), expected)
    tables = tables_of(here)
    assert replace(decision, label_set=HPA28)(tables, without=["m2"]).ids == tables["m0"].ids
    with pytest.raises(TableError, match="fitted with the members m0, m1, m2, but the predictions are of m0, m1"):
        decision(here)
    for name, wrong in (("m1", "in `without` has predictions"), ("m7", "is not a member")):
        with pytest.raises(SettingsError, match=wrong):
            decision(here, without=[name])


def test_cross_fitting_never_shows_a_group_to_its_own_thresholds() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random((200, 28)).astype(np.float32)
    truth = rng.random((200, 28)) < 0.05
    rules = Rules(max_locations=28)
    seen = macro_f1(fit_decision(probabilities, truth, method="grid", rules=rules)(probabilities), truth)
    # Noise: what thresholds gain on the fields that they were fitted to is chance.
    assert seen > macro_f1(cross_fit(probabilities, truth, method="grid", rules=rules), truth) + 0.01
    groups = np.repeat(np.arange(2), 100)
    halves = cross_fit(probabilities, truth, method="grid", groups=groups)
    for group in (0, 1):
        other = fit_decision(probabilities[groups != group], truth[groups != group], method="grid")
        np.testing.assert_array_equal(halves[groups == group], other(probabilities[groups == group]))
    with pytest.raises(TableError, match="two groups"):
        cross_fit(probabilities, truth, method="grid", groups=np.zeros(200, np.int64))


@given(seed=st.integers(0, 1000), grouped=st.booleans())
@settings(max_examples=6)
def test_a_cross_fit_does_not_depend_on_the_order_of_fields(seed: int, grouped: bool) -> None:  # noqa: FBT001
    probabilities, truth = random_case(seed)
    groups = np.random.default_rng(seed).integers(0, 12, len(truth)) if grouped else None
    rows = np.random.default_rng(seed + 1).permutation(len(truth))
    once = cross_fit(probabilities, truth, method="grid", groups=groups)
    mixed = None if groups is None else groups[rows]
    again = cross_fit(probabilities[rows], truth[rows], method="grid", groups=mixed)
    np.testing.assert_array_equal(once[rows], again)


def test_a_cross_fit_never_decides_a_field_by_its_copy() -> None:
    probabilities, truth = random_case(0)
    once = cross_fit(probabilities, truth, method="grid")
    twice = cross_fit(np.concatenate([probabilities] * 2), np.concatenate([truth] * 2), method="grid")
    np.testing.assert_array_equal(twice, np.concatenate([once, once]))
    copies = as_labeled_members(np.repeat(probabilities, 2, axis=0), np.repeat(truth, 2, axis=0))
    for rows, _, _ in cross_fit_parts(copies, Grid(), Rules()):
        assert (np.bincount(rows // 2, minlength=50) != 1).all()
    with pytest.raises(TableError, match="two groups of fields with different predictions"):
        cross_fit(np.repeat(probabilities[:1], 50, axis=0), truth, method="grid")


def test_a_report_holds_the_decision_its_cross_fit_and_the_effect_of_each_rule() -> None:
    members, truth = study_of(0, 200)
    groups = np.arange(200) // 2
    tables, labels, method = tables_of(members), labels_of(truth), ExpectedF1()
    rules = Rules(max_locations=2, cooccurrence=True)
    report = fit_and_cross_fit(tables, labels, method=method, rules=rules, groups=groups)
    decision, held = report.decision, report.cross_fitted
    expected = cross_fit(tables, labels, method=method, rules=rules, groups=groups)
    np.testing.assert_array_equal(held.decided, expected.decided)
    assert held.decided is not None
    assert report.macro_f1 == macro_f1(held.decided, truth) == decision.fitted_on["macro_f1_cross_fitted"]
    assert report.macro_f1_in_sample == macro_f1(np.array(decision(tables).decided), truth) > report.macro_f1
    effects = {row["rule"]: row for row in report.rules}
    free = np.zeros_like(truth)
    for rows, probabilities, part in cross_fit_parts(as_labeled_members(tables, labels, groups=groups), method, rules):
        free[rows] = apply_thresholds(probabilities, part.thresholds, **part.rules.options(max_locations=28))
    assert effects["at most 2"]["fields_changed"] == (free.sum(axis=1) > 2).sum() > 0
    assert effects["at most 2"]["macro_f1_with"] == report.macro_f1
    assert effects["at most 2"]["macro_f1_without"] == macro_f1(free, truth)
    assert (effects["never blank"]["on"], effects["averaged groups"]["on"]) == (True, False)
    assert effects["averaged groups"]["fields_changed"] > 30
    off = fit_and_cross_fit(tables, labels, method=method, rules=Rules(blank="none", max_locations=28))
    assert [row["on"] for row in off.rules] == [False, False]


METHODS: list[tuple[AnyMethod, Rules]] = [
    ("global", Rules()), (Smooth(), Rules()), (Fixed(threshold=0.3), Rules()), (Shrunk(), Rules()),
    (Exact(), Rules(exclusive=((0, 3),))), (Ratio(ratios=(0.1,) * 28, ensemble="rank"), Rules()),
    (ExpectedF1(calibration="isotonic", ensemble="class"), Rules()), (Grid(calibration="beta"), Rules()),
    (Stack(precision=30), Rules(cooccurrence=True, blank="margin")), ("auto", Rules()),
]  # fmt: skip


@pytest.mark.parametrize(("method", "rules"), METHODS)
def test_every_method_reads_back(tmp_path: Path, method: AnyMethod, rules: Rules) -> None:
    members, truth = study_of(0, 150)
    members["m1"][:20] = np.nan
    decision = with_provenance(fit_decision(members, truth, method=method, rules=rules, label_set=OWN), note="x")
    write_decision(decision, tmp_path / "d.json")
    back = read_decision(tmp_path / "d.json")
    np.testing.assert_array_equal(back(members), decision(members))
    np.testing.assert_array_equal(back.probabilities(members), decision.probabilities(members))
    for name in ("method", "members", "rules", "label_set", "fitted_on", "fingerprint"):
        assert getattr(back, name) == getattr(decision, name)
    np.testing.assert_array_equal(back.intervals, decision.intervals)
    assert decision.method.name in repr(back)
    content = json.loads((tmp_path / "d.json").read_text())
    assert (content["format"], content["version"]) == ("cytoloc-decision", 1)


def test_damaged_files_and_other_versions_are_refused(tmp_path: Path) -> None:
    probabilities, truth = random_case(3)
    path, damaged = tmp_path / "d.json", tmp_path / "damaged.json"
    write_decision(fit_decision(probabilities, truth, method=Grid(ensemble="rank"), label_set=OWN), path)
    content = json.loads(path.read_text())
    rules, model, label_set = content["rules"], content["probability_model"], content["label_set"]
    ensemble, locations = model["ensemble"], label_set["locations"]
    cut = [[each[:1] for each in member] for member in ensemble["quantiles"]]
    changes: list[dict[str, Any]] = [
        {"thresholds": [float("nan"), *content["thresholds"][1:]]}, {"thresholds": []}, {"frequencies": None},
        *({"method": {"name": name}} for name in ("x", "auto", None)), {"method": {"name": "grid", "precision": 1}},
        *({"rules": {**rules, **one}} for one in (
            {"max_locations": 0}, {"max_locations": 2.5}, {"max_locations": 29}, {"blank": "false"},
            {"shrink": [float("nan")]}, {"exclusive": [[-1, 5]]}, {"exclusive": [[5, 28]]}, {"exclusive": [[1.5, 2]]},
        )),
        {"probability_model": {}},
        {"probability_model": {**model, "ensemble": {**ensemble, "fitted": [False]}}},
        {"probability_model": {**model, "ensemble": {**ensemble, "quantiles": cut}}},
        {"probability_model": {**model, "ensemble": {**ensemble, "quantiles": None}}},
        *({"label_set": {**label_set, **one}} for one in (
            {"locations": locations[:-1]}, {"locations": locations[:1]}, {"name": None}, {"locations": None},
        )),
    ]  # fmt: skip
    for change in changes:
        damaged.write_text(json.dumps({**content, **change}))
        with pytest.raises(FormatError, match=r"damaged\.json is damaged"):
            read_decision(damaged)
    del content["thresholds"]
    for text in (json.dumps(content), "[" * 100_000):
        damaged.write_text(text)
        with pytest.raises(FormatError, match=r"damaged\.json"):
            read_decision(damaged)
    damaged.write_text(json.dumps({"format": "cytoloc-decision", "version": 2}))
    with pytest.raises(FormatError, match="of version 2, but this release reads version 1"):
        read_decision(damaged)


def test_two_and_three_locations_are_enough() -> None:
    for count in (2, 3):
        members, truth = study_of(1, 80)
        few = {name: values[:, :count] for name, values in members.items()}
        for method in (Grid(), ExpectedF1(), Auto()):
            decision = fit_decision(few, truth[:, :count], method=method)
            assert decision.rules.max_locations == count
            assert decision(few).shape == (80, count)
        with pytest.raises(SettingsError, match=f"`max_locations` is {count + 1}, but there are {count} locations"):
            fit_decision(few, truth[:, :count], rules=Rules(max_locations=count + 1))


def test_label_shift_changes_the_frequencies() -> None:
    members, truth = study_of(1, 400)
    decision = fit_decision(members, truth, method="expected", intervals=False)
    often = np.concatenate([np.flatnonzero(truth[:, 15]).repeat(6), np.arange(400)])
    here = {name: each[often] for name, each in members.items()}
    plain, shifted = decision.probabilities(here), decision.probabilities(here, label_shift=True)
    assert shifted[:, 15].mean() > plain[:, 15].mean()
    assert abs(shifted[:, 15].mean() - truth[often, 15].mean()) < abs(plain[:, 15].mean() - truth[often, 15].mean())
    assert decision(here, label_shift=True)[:, 15].sum() != decision(here)[:, 15].sum()
    with pytest.raises(TableError, match="does not calibrate probabilities"):
        fit_decision(members, truth, method="grid", intervals=False)(members, label_shift=True)


def test_fields_of_a_group_get_the_same_locations() -> None:
    members, truth = study_of(2, 100)
    decision = fit_decision(members, truth, method="expected", intervals=False)
    predicted = decision(members, groups=np.arange(100) // 2)
    np.testing.assert_array_equal(predicted[::2], predicted[1::2])


def test_ratios_and_fixed_thresholds_are_used() -> None:
    members, truth = study_of(3, 30)
    free = Rules(max_locations=28, blank="none")
    given = fit_decision(members, truth, method=Ratio(ratios=[0.1] * 28), rules=free)
    assert given(members)[:, truth.any(axis=0)].sum(axis=0).tolist() == [3] * int(truth.any(axis=0).sum())
    assert fit_decision(members, truth, method=Fixed(threshold=0.3)).thresholds[0] == 0.3


def test_intervals_hold_the_threshold_and_narrow() -> None:
    widths = []
    for fields in (100, 1600):
        members, truth = study_of(4, fields)
        decision = fit_decision(members, truth, method="expected")
        assert decision.intervals is not None
        low, high = decision.intervals.T
        assert ((low <= decision.thresholds + 0.02) & (decision.thresholds <= high + 0.02)).mean() > 0.9
        widths.append(float((high - low).mean()))
    assert widths[1] < widths[0] / 2


def test_bad_arguments_are_refused_by_name() -> None:
    members, truth = study_of(3, 30)
    values, table, labels = members["m0"], tables_of(members)["m0"], labels_of(truth)
    seen = Predictions(table.ids, table.probabilities, HPA28, {"fields_trained_on": 30})
    decision = fit_decision(table, labels, method="grid")
    other = Predictions(table.ids, table.probabilities, OWN)
    strangers, hpa19 = pl.DataFrame({"id": ["a"], "group": [1]}), LabelSet.hpa19()
    fit: Any = fit_decision
    calls: list[tuple[type[Exception], str, Any]] = [
        (ArgumentTypeError, "`method` must be a name or a value", lambda: fit(values, truth, method=Grid)),
        (ArgumentTypeError, "`rules` must be Rules", lambda: fit(values, truth, rules=5)),
        (ArgumentTypeError, "`predictions` must be", lambda: fit("runs", truth)),
        (ArgumentTypeError, "it has Predictions for 'a'", lambda: fit({"a": table, "b": values}, truth)),
        (ArgumentTypeError, "`labels` must be a bool array", lambda: fit(values, labels)),
        (ArgumentTypeError, "`labels` must be a dataset", lambda: fit(table, "labels.csv")),
        (ArgumentTypeError, "`groups` must be an array", lambda: fit(values, truth, groups=[0.5] * 30)),
        (ArgumentTypeError, "`groups` must be", lambda: fit(values, truth, groups=pl.DataFrame({"id": ["a"]}))),
        (ArgumentTypeError, "label_set must be a LabelSet", lambda: fit(values, truth, label_set=28)),
        (TableError, r"`groups` has the shape \(4,\), but", lambda: decision(values, groups=np.zeros(4, int))),
        (TableError, "`groups` contains no group for 30 of", lambda: decision(table, groups=strangers)),
        (TableError, "must be a bool array .* not int64", lambda: fit(values, truth.astype(int))),
        (TableError, r"not bool of shape \(10, 28\)", lambda: fit(values, truth[:10])),
        (TableError, "has none of the 30 ids of the predictions", lambda: fit(table, {"elsewhere": (1,)})),
        (TableError, "indices of the label set hpa28", lambda: fit(table, {**labels, "f0": (28,)})),
        (TableError, "trained on 30 of these 30 fields", lambda: fit(seen, labels)),
        (LabelSetError, "The label sets differ", lambda: fit(table, Labeled(truth, OWN))),
        (LabelSetError, "28 columns, but the label set is hpa19", lambda: fit(values, truth, label_set=hpa19)),
        (LabelSetError, "in the predictions, hpa28", lambda: decision(other)),
        (TableError, "but the probabilities have 20 columns", lambda: decision(values[:, :20])),
        (SettingsError, "`ratios` has 1 shares for 28", lambda: fit(values, truth, method=Ratio(ratios=[0.1]))),
    ]  # fmt: skip
    for error, message, call in calls:
        with pytest.raises(error, match=message):
            call()
    with pytest.raises(TableError, match="at least three groups"):
        fit_decision(np.full((30, 28), 0.4), truth, method=Auto())
