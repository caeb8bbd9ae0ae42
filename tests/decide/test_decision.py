from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from cytoloc.decide import fit_decision, macro_f1
from cytoloc.decide.decision import cross_fit, held_out_parts, read_decision, write_decision
from cytoloc.decide.rules import cap_labels, fill_blanks
from cytoloc.decide.thresholds import NEVER, SEED_GRID, grid_thresholds
from cytoloc.errors import FormatError, TableError
from tests.conftest import DATA


def random_case(seed: int, rows: int = 50) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    truth = rng.random((rows, 28)) < 0.2
    # Rounded, so that probabilities meet the grid and each other exactly.
    return np.round(0.4 * truth + 0.6 * rng.random((rows, 28)), 2).astype(np.float32), truth


def starting_system(probabilities: NDArray[Any], truth: NDArray[np.bool_]) -> list[float]:
    """Return the thresholds of the silver-medal baseline, by its own loop over 600 values of scikit-learn's F1."""
    best = []
    for i in range(probabilities.shape[1]):
        scores = [f1_score(truth[:, i], probabilities[:, i] > t, zero_division=0) for t in SEED_GRID]
        best.append(float(SEED_GRID[int(np.argmax(scores))]))
    return best


def test_the_grid_is_the_starting_systems() -> None:
    assert len(SEED_GRID) == 600
    assert SEED_GRID[0] == 0.1
    assert SEED_GRID[-1] == 0.699


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_thresholds_are_those_of_the_loop(seed: int) -> None:
    probabilities, truth = random_case(seed)
    columns = slice(0, 6)
    expected = starting_system(probabilities[:, columns], truth[:, columns])
    assert grid_thresholds(probabilities[:, columns], truth[:, columns]).tolist() == expected


def test_thresholds_on_real_scores() -> None:
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
    expected = starting_system(probabilities[:, rare], truth[:, rare])
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


def test_a_class_without_positives_is_never_predicted() -> None:
    probabilities, truth = random_case(0)
    truth[:, 3] = False
    probabilities[:, 3] = 0.65
    decision = fit_decision({"a": probabilities}, truth)
    assert decision.thresholds[3] == NEVER
    assert not decision({"a": probabilities})[:, 3].any()


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
    capped = cap_labels(np.ones((1, 28), bool), probabilities, thresholds, most=3)
    assert capped[0].nonzero()[0].tolist() == [2, 9, 20]
    few = np.zeros((1, 28), bool)
    few[0, :2] = True
    np.testing.assert_array_equal(cap_labels(few, probabilities, thresholds, most=3), few)


def test_a_decision_averages_its_members_and_obeys_its_rules() -> None:
    one, truth = random_case(1)
    two, _ = random_case(2)
    decision = fit_decision({"a": one, "b": two}, truth, most=4)
    predicted = decision({"b": two, "a": one})
    assert predicted.any(axis=1).all()
    assert predicted.sum(axis=1).max() <= 4
    mean = (one.astype(float) + two) / 2
    free = mean > grid_thresholds(mean, truth)
    untouched = free.any(axis=1) & (free.sum(axis=1) <= 4)
    np.testing.assert_array_equal(predicted[untouched], free[untouched])


def test_cross_fitting_never_shows_a_group_to_its_own_thresholds() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random((200, 28)).astype(np.float32)
    truth = rng.random((200, 28)) < 0.05
    decision = fit_decision({"a": probabilities}, truth, most=28)
    seen = macro_f1(decision({"a": probabilities}), truth)
    unseen = macro_f1(cross_fit({"a": probabilities}, truth, most=28), truth)
    # Noise: whatever thresholds gain on the fields that they saw is chance.
    assert seen > unseen + 0.01

    groups = np.repeat(np.arange(2), 100)
    halves = cross_fit({"a": probabilities}, truth, groups=groups)
    for group in (0, 1):
        other = fit_decision({"a": probabilities[groups != group]}, truth[groups != group])
        np.testing.assert_array_equal(halves[groups == group], other({"a": probabilities[groups == group]}))
    with pytest.raises(TableError, match="two groups"):
        cross_fit({"a": probabilities}, truth, groups=np.zeros(200, np.int64))


@given(seed=st.integers(0, 1000), grouped=st.booleans())
@settings(max_examples=6)
def test_a_cross_fit_does_not_depend_on_the_order_of_fields(seed: int, grouped: bool) -> None:  # noqa: FBT001
    probabilities, truth = random_case(seed)
    groups = np.random.default_rng(seed).integers(0, 12, len(truth)) if grouped else None
    rows = np.random.default_rng(seed + 1).permutation(len(truth))
    once = cross_fit({"a": probabilities}, truth, groups=groups)
    mixed = None if groups is None else groups[rows]
    np.testing.assert_array_equal(once[rows], cross_fit({"a": probabilities[rows]}, truth[rows], groups=mixed))


def test_a_cross_fit_never_judges_a_field_by_its_copy() -> None:
    probabilities, truth = random_case(0)
    once = cross_fit({"a": probabilities}, truth)
    twice = cross_fit({"a": np.concatenate([probabilities] * 2)}, np.concatenate([truth] * 2))
    np.testing.assert_array_equal(twice, np.concatenate([once, once]))
    for rows, _, _ in held_out_parts({"a": np.repeat(probabilities, 2, axis=0)}, np.repeat(truth, 2, axis=0)):
        assert (np.bincount(rows // 2, minlength=50) != 1).all()
    with pytest.raises(TableError, match="two groups of fields whose predictions differ"):
        cross_fit({"a": np.repeat(probabilities[:1], 50, axis=0)}, truth)


def test_a_decision_file_reads_back(tmp_path: Path) -> None:
    probabilities, truth = random_case(3)
    decision = fit_decision({"mean": probabilities}, truth, most=3)
    write_decision(decision, tmp_path / "d.json")
    back = read_decision(tmp_path / "d.json")
    np.testing.assert_array_equal(back({"mean": probabilities}), decision({"mean": probabilities}))
    content = json.loads((tmp_path / "d.json").read_text())
    assert (content["format"], content["version"]) == ("cytoloc-decision", 1)
    nan = [float("nan"), *content["thresholds"][1:]]
    changes: list[dict[str, Any]] = [
        {"thresholds": nan}, {"thresholds": []}, {"method": "x"}, {"rules": {**content["rules"], "most": 0}},
        {"rules": {**content["rules"], "blank": "false"}}, {"evidence": {}}, {"rates": None},
        {"rules": {**content["rules"], "shrink": [float("nan")]}},
        {"rules": {**content["rules"], "exclusive": [[-1, 5]]}},
        {"rules": {**content["rules"], "exclusive": [[5, 28]]}},
        {"rules": {**content["rules"], "exclusive": [[1.5, 2]]}}, {"rules": {**content["rules"], "most": 2.5}},
        {"evidence": {**content["evidence"], "ensemble": {**content["evidence"]["ensemble"], "heard": [False]}}},
    ]  # fmt: skip
    for change in changes:
        (tmp_path / "damaged.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(FormatError, match="damaged"):
            read_decision(tmp_path / "damaged.json")
    ranked = fit_decision({"mean": probabilities}, truth, method="ratio", ensemble="rank")
    write_decision(ranked, tmp_path / "r.json")
    cut = json.loads((tmp_path / "r.json").read_text())
    quantiles = cut["evidence"]["ensemble"]["quantiles"]
    cut["evidence"]["ensemble"]["quantiles"] = [[each[:1] for each in member] for member in quantiles]
    for text in (json.dumps(cut), "[" * 100_000):
        (tmp_path / "damaged.json").write_text(text)
        with pytest.raises(FormatError, match=r"damaged\.json"):
            read_decision(tmp_path / "damaged.json")
    del content["thresholds"]
    (tmp_path / "damaged.json").write_text(json.dumps(content))
    with pytest.raises(FormatError, match="damaged"):
        read_decision(tmp_path / "damaged.json")


def test_bad_input_is_refused() -> None:
    probabilities, truth = random_case(0)
    with pytest.raises(TableError, match="logits"):
        fit_decision({"a": probabilities * 5}, truth)
    with pytest.raises(TableError, match="truth must be"):
        fit_decision({"a": probabilities}, truth[:10])
    with pytest.raises(TableError, match="one shape"):
        fit_decision({"a": probabilities, "b": probabilities[:10]}, truth)
    with pytest.raises(TableError, match="no predictions"):
        fit_decision({}, truth)
    with pytest.raises(TableError, match="no method"):
        fit_decision({"a": probabilities}, truth, method="best")  # type: ignore[arg-type]
    with pytest.raises(TableError, match="fitted with the members a"):
        fit_decision({"a": probabilities}, truth)({"b": probabilities})
