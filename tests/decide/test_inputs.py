from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytoloc.decide import fit_decision
from cytoloc.decide.inputs import logits_of, row_keys, stack_members
from cytoloc.errors import TableError
from tests.decide.cases import study_of


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda values: np.log(values / (1 - values)),
            "'m1' has values that are not probabilities: they range from -.*like logits",
        ),
        (lambda values: values * 255, "they range from .* to 2"),
        (lambda values: np.where(values > 0.9, np.inf, values), "range from .* to inf"),
        (lambda values: values[:, :27], r"one shape \(n, locations\)"),
        (lambda values: values[:-1], r"one shape \(n, locations\)"),
        (lambda values: values[0], r"one shape \(n, locations\)"),
        (
            lambda values: np.where(np.arange(28) == 4, np.nan, values),
            r"Row 0 of 'm1' is NaN for location 4",
        ),
    ],
)
def test_members_that_are_not_probabilities_are_refused(change, message: str) -> None:  # type: ignore[no-untyped-def]
    members, truth = study_of(0, 40)
    members["m1"] = change(members["m1"])
    with pytest.raises(TableError, match=message):
        fit_decision(members, truth, method="auto")


def test_fields_that_no_member_has_and_empty_tables_are_refused() -> None:
    members, _ = study_of(0, 40)
    for values in members.values():
        values[7] = np.nan
    with pytest.raises(TableError, match="Row 7 is NaN for all members"):
        stack_members(members)
    with pytest.raises(TableError, match="n > 0"):
        stack_members({"a": np.empty((0, 28))})
    with pytest.raises(TableError, match="No predictions were given"):
        stack_members({})


def test_logits_of_sure_values_are_finite() -> None:
    found = logits_of(np.array([0.0, 0.5, 1.0]))
    assert found[1] == 0
    np.testing.assert_allclose(found[[0, 2]], [-np.log(1e6), np.log(1e6)], rtol=1e-6)


@given(seed=st.integers(0, 1000))
def test_keys_follow_the_field_and_not_its_place(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stack = rng.random((2, 12, 28))
    rows, columns = rng.permutation(12), rng.permutation(28)
    keys = row_keys(stack)
    assert len(set(keys.tolist())) == 12
    np.testing.assert_array_equal(row_keys(stack[:, rows][:, :, columns]), keys[rows])


def test_values_that_rounding_moved_over_1_are_clipped() -> None:
    stack = stack_members({"a": np.array([[1.0005, 0.5]], np.float16), "b": np.array([[-1e-7, 1.0]])})
    np.testing.assert_array_equal(stack, [[[1, 0.5]], [[0, 1]]])
