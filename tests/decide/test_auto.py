from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cytoloc.decide.choice as choice
from cytoloc.decide import fit_decision, macro_f1
from cytoloc.decide.choice import choose
from cytoloc.decide.inputs import row_keys, stack_members
from cytoloc.decide.plan import Plan, deal, fit_evidence, judge
from cytoloc.decide.rules import Rules
from cytoloc.errors import TableError
from tests.conftest import DATA
from tests.decide.cases import study_of


def test_auto_says_what_it_took_and_why() -> None:
    members, truth = study_of(0)
    decision = fit_decision(members, truth, method="auto", intervals=False)
    table = decision.fitted_on["candidates"]
    assert len(table) == len(choice.PLAIN) + len(choice.PRECISIONS)
    assert {row["plan"] for row in table} >= {"mean + grid", "stack 100 + expected", decision.plan.name}
    assert decision.plan.name in decision.fitted_on["why"]
    losses = [row["log_loss"] for row in table if row["log_loss"] is not None]
    chosen = next(row for row in table if row["plan"] == decision.plan.name)
    assert chosen["log_loss"] in (None, min(losses))


def test_auto_beats_the_starting_system_on_other_fields() -> None:
    members, truth = study_of(1, 900, members=4)
    members["m0"] = members["m3"][::-1].copy()  # A member that knows nothing of these fields.
    half = np.arange(900) < 450
    here, there = ({name: each[rows] for name, each in members.items()} for rows in (half, ~half))
    scores = {
        method: macro_f1(fit_decision(here, truth[half], method=method, intervals=False)(there), truth[~half])
        for method in ("auto", "grid")
    }
    assert scores["auto"] > scores["grid"] + 0.02


@pytest.mark.slow
def test_auto_beats_the_starting_system_on_real_scores() -> None:
    folder = DATA / "predictions"
    if not folder.is_dir():
        pytest.skip(f"real predictions are not at {folder}; set CYTOLOC_TEST_DATA")
    from benchmarks.decide import AUTO, PEER, WAYS, compare_on_halves, read_folder

    members, truth = read_folder(folder)
    peer, auto = compare_on_halves(members, truth, {name: WAYS[name] for name in (PEER, AUTO)}, splits=1)
    assert auto.macro_f1 > peer.macro_f1 + 0.03
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


def test_thresholds_and_probabilities_of_a_part_never_saw_it() -> None:
    members, truth = study_of(2, 200)
    stack = stack_members(members)
    parts = deal(row_keys(stack), None, parts=4)
    for plan in (Plan("mean", "none", "exact"), Plan("weighted", "platt", "expected"), Plan("stack", "none", "exact")):
        usual = judge(plan, stack, truth, parts)
        for part in (0, 3):
            mine = parts == part
            other = truth.copy()
            other[mine] = ~truth[mine]
            changed = judge(plan, stack, other, parts)
            # Fits begin from one of all fields, and end within the tolerance of where they would from anywhere.
            np.testing.assert_allclose(usual.probabilities[mine], changed.probabilities[mine], atol=0.01)
            np.testing.assert_allclose(usual.thresholds[mine], changed.thresholds[mine], atol=0.03)
            if plan.learns:
                assert np.abs(usual.probabilities[~mine] - changed.probabilities[~mine]).max() > 0.05


def test_where_a_fit_begins_does_not_show() -> None:
    members, truth = study_of(3, 300)
    stack = stack_members(members)
    plan = Plan("stack", "none", "expected", 30.0)
    start = fit_evidence(plan, stack[:, 100:], ~truth[100:])
    np.testing.assert_allclose(
        fit_evidence(plan, stack, truth, start=start)(stack), fit_evidence(plan, stack, truth)(stack), atol=0.005
    )


def test_copies_and_groups_are_dealt_to_one_part() -> None:
    members, _ = study_of(4, 100)
    stack = np.repeat(stack_members(members), 2, axis=1)
    parts = deal(row_keys(stack), None, parts=5)
    np.testing.assert_array_equal(parts[::2], parts[1::2])
    assert np.bincount(parts[::2]).tolist() == [20] * 5
    groups = np.arange(200) // 20
    by_group = deal(row_keys(stack), groups, parts=5)
    assert all(len(set(by_group[groups == group])) == 1 for group in range(10))
    assert np.bincount(by_group).tolist() == [40] * 5
    assert deal(row_keys(stack[:, :2]), None, parts=5).tolist() == [0, 0]


def test_many_fields_are_judged_on_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "MOST_JUDGED", 150)
    monkeypatch.setattr(choice, "PRECISIONS", (30.0,))
    members, truth = study_of(5, 200)
    stack = stack_members(members)
    chosen = choose(stack, truth, keys=row_keys(stack), groups=None, rules=Rules())
    assert chosen.fields == 150


def test_a_candidate_without_probabilities_must_be_surely_better(monkeypatch: pytest.MonkeyPatch) -> None:
    members, truth = study_of(6, 400)
    stack = stack_members(members)
    monkeypatch.setattr(choice, "PRECISIONS", ())
    # Predictions that calibration cannot mend: its candidate predicts each class everywhere or nowhere.
    monkeypatch.setattr(choice, "PLAIN", (Plan("mean", "none", "exact"), Plan("rank", "platt", "fixed", value=0.999)))
    chosen = choose(stack, truth, keys=row_keys(stack), groups=None, rules=Rules(blank="none"))
    assert chosen.plan.name == "mean + exact"
    assert "higher by" in chosen.why


@pytest.mark.parametrize("kept", [1, 2, 30])
def test_a_member_with_few_fields_or_all_in_one_part_is_no_hindrance(kept: int) -> None:
    members, truth = study_of(8, 150)
    stack = stack_members(members)
    part = np.flatnonzero(deal(row_keys(stack), None, parts=choice.PARTS) == 0)
    scarce = stack.copy()
    scarce[2] = np.nan
    # Its fields are dealt by groups, so that the holes do not move them.
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
    with pytest.raises(TableError, match="needs two groups"):
        fit_decision({"a": np.full((30, 28), 0.4)}, truth, method="expected")
    members, truth = study_of(7, 30)
    with pytest.raises(TableError, match="chooses ensemble and calibration itself"):
        fit_decision(members, truth, method="auto", ensemble="mean")
