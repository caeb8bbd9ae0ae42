from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cytoloc.decide import Auto, Exact, ExpectedF1, Fixed, Rules, Stack, fit_decision, macro_f1
from cytoloc.decide.cross_fitting import (
    CANDIDATES,
    N_PARTS,
    assign_parts,
    fit_probabilities,
    nested_cross_fit,
    select_method,
)
from cytoloc.decide.inputs import row_keys, stack_members
from cytoloc.errors import TableError
from tests.conftest import DATA
from tests.decide.cases import study_of


def test_auto_reports_its_choice_and_the_reason() -> None:
    members, truth = study_of(0)
    decision = fit_decision(members, truth, method="auto", intervals=False)
    table = decision.fitted_on["candidates"]
    assert len(table) == len(CANDIDATES)
    assert {row["method"] for row in table} >= {"mean + grid", "stack 100 + expected", decision.method.name}
    assert decision.method.name in decision.fitted_on["reason"]
    losses = [row["log_loss"] for row in table if row["log_loss"] is not None]
    chosen = next(row for row in table if row["method"] == decision.method.name)
    assert chosen["log_loss"] in (None, min(losses))


def test_auto_beats_the_baseline_on_other_fields() -> None:
    members, truth = study_of(1, 900, members=4)
    members["m0"] = members["m3"][::-1].copy()  # A member without information.
    half = np.arange(900) < 450
    here, there = ({name: each[rows] for name, each in members.items()} for rows in (half, ~half))
    scores = {
        method: macro_f1(fit_decision(here, truth[half], method=method, intervals=False)(there), truth[~half])
        for method in ("auto", "grid")
    }
    assert scores["auto"] > scores["grid"] + 0.02


@pytest.mark.slow
def test_auto_beats_the_baseline_on_real_predictions() -> None:
    folder = DATA / "predictions"
    if not folder.is_dir():
        pytest.skip(f"real predictions are not at {folder}; set CYTOLOC_TEST_DATA")
    from benchmarks.decide import AUTO, BASELINE, WAYS, compare_on_halves, read_folder

    members, truth = read_folder(folder)
    baseline, auto = compare_on_halves(members, truth, {name: WAYS[name] for name in (BASELINE, AUTO)}, splits=1)
    assert auto.macro_f1 > baseline.macro_f1 + 0.03
    assert auto.wins == 1


@pytest.mark.slow
@given(seed=st.integers(0, 1000))
@settings(max_examples=3)
def test_the_order_of_fields_does_not_matter(seed: int) -> None:
    members, truth = study_of(seed, 120)
    once = fit_decision(members, truth, method="auto", intervals=False)
    rows = np.random.default_rng(seed).permutation(120)
    mixed = {name: each[rows] for name, each in members.items()}
    again = fit_decision(mixed, truth[rows], method="auto", intervals=False)
    np.testing.assert_array_equal(once.thresholds, again.thresholds)
    np.testing.assert_array_equal(once(members)[rows], again(mixed))


@pytest.mark.slow
@given(seed=st.integers(0, 1000))
@settings(max_examples=3)
def test_the_order_of_classes_does_not_matter(seed: int) -> None:
    members, truth = study_of(seed, 120)
    once = fit_decision(members, truth, method="auto", intervals=False)
    columns = np.random.default_rng(seed).permutation(28)
    mixed = {name: each[:, columns] for name, each in members.items()}
    again = fit_decision(mixed, truth[:, columns], method="auto", intervals=False)
    np.testing.assert_allclose(once.thresholds[columns], again.thresholds, atol=1e-3)
    np.testing.assert_allclose(once.probabilities(members)[:, columns], again.probabilities(mixed), atol=1e-3)
    assert (once(members)[:, columns] == again(mixed)).mean() > 0.999


def test_thresholds_and_probabilities_of_a_part_do_not_depend_on_its_labels() -> None:
    members, truth = study_of(2, 200)
    stack = stack_members(members)
    parts = assign_parts(row_keys(stack), None, n_parts=4)
    for method in (Exact(), ExpectedF1(ensemble="weighted"), Exact(ensemble="stack")):
        usual = nested_cross_fit(method, stack, truth, parts)
        for part in (0, 3):
            mine = parts == part
            other = truth.copy()
            other[mine] = ~truth[mine]
            changed = nested_cross_fit(method, stack, other, parts)
            # Fits start from a fit to all fields, and agree within the tolerance.
            np.testing.assert_allclose(usual.probabilities[mine], changed.probabilities[mine], atol=0.01)
            np.testing.assert_allclose(usual.thresholds[mine], changed.thresholds[mine], atol=0.03)
            if method.fits_probabilities:
                assert np.abs(usual.probabilities[~mine] - changed.probabilities[~mine]).max() > 0.05


def test_fits_do_not_depend_on_their_start() -> None:
    members, truth = study_of(3, 300)
    stack = stack_members(members)
    method = Stack(precision=30.0)
    start = fit_probabilities(method, stack[:, 100:], ~truth[100:])
    started = fit_probabilities(method, stack, truth, start=start)(stack)
    np.testing.assert_allclose(started, fit_probabilities(method, stack, truth)(stack), atol=0.005)


def test_copies_and_groups_are_assigned_to_one_part() -> None:
    members, _ = study_of(4, 100)
    stack = np.repeat(stack_members(members), 2, axis=1)
    parts = assign_parts(row_keys(stack), None)
    np.testing.assert_array_equal(parts[::2], parts[1::2])
    assert np.bincount(parts[::2]).tolist() == [20] * 5
    groups = np.arange(200) // 20
    by_group = assign_parts(row_keys(stack), groups)
    assert all(len(set(by_group[groups == group])) == 1 for group in range(10))
    assert np.bincount(by_group).tolist() == [40] * 5
    assert assign_parts(row_keys(stack[:, :2]), None).tolist() == [0, 0]


def test_candidates_are_compared_on_some_of_many_fields() -> None:
    members, truth = study_of(5, 200)
    stack = stack_members(members)
    chosen = select_method(
        stack, truth, keys=row_keys(stack), groups=None, rules=Rules().fitted(Auto(), truth), max_fields=150,
        candidates=(ExpectedF1(),),
    )  # fmt: skip
    assert chosen.fields == 150


def test_a_candidate_without_probabilities_must_be_better_by_more_than_the_error() -> None:
    members, truth = study_of(6, 400)
    stack = stack_members(members)
    # The calibrated candidate predicts each class everywhere or nowhere.
    candidates = (Exact(), Fixed(ensemble="rank", calibration="platt", threshold=0.999))
    rules = Rules(blank="none").fitted(Auto(), truth)
    chosen = select_method(
        stack, truth, keys=row_keys(stack), groups=None, rules=rules, max_fields=8000, candidates=candidates
    )
    assert chosen.method.name == "mean + exact"
    assert "higher by" in chosen.reason


@pytest.mark.parametrize("kept", [1, 2, 30])
def test_a_member_may_have_few_fields_or_all_in_one_part(kept: int) -> None:
    members, truth = study_of(8, 150)
    stack = stack_members(members)
    part = np.flatnonzero(assign_parts(row_keys(stack), None, n_parts=N_PARTS) == 0)
    scarce = stack.copy()
    scarce[2] = np.nan
    # Parts are assigned by groups, so that missing fields do not change them.
    groups = np.arange(1, 151)
    groups[part] = 0
    scarce[2, part[:kept]] = stack[2, part[:kept]]
    few = dict(zip(members, scarce, strict=True))
    decision = fit_decision(few, truth, method="auto", groups=groups, intervals=False)
    losses = [row["log_loss"] for row in decision.fitted_on["candidates"] if row["log_loss"] is not None]
    assert np.isfinite(losses).all()
    assert np.isfinite(decision.probabilities(few)).all()
    assert np.isfinite(decision.probabilities(members)).all()


def test_auto_needs_fields_that_differ() -> None:
    truth = np.zeros((30, 28), bool)
    truth[:, 3] = True
    with pytest.raises(TableError, match="at least three groups"):
        fit_decision({"a": np.full((30, 28), 0.4)}, truth, method="auto")
    with pytest.raises(TableError, match="needs at least two groups"):
        fit_decision({"a": np.full((30, 28), 0.4)}, truth, method="expected")
