from __future__ import annotations

import numpy as np
import pytest

from cytoloc.decide.ensemble import fit_ensemble
from cytoloc.decide.inputs import stack_members
from cytoloc.decide.worth import correlations, member_worth, unseen_ensemble
from cytoloc.errors import TableError
from tests.decide.cases import study_of


def test_members_are_correlated_where_both_have_fields() -> None:
    members, _ = study_of(0)
    members["copy"] = members["m0"].copy()
    members["copy"][:100] = np.nan
    members["flat"] = np.full_like(members["m0"], 0.3)
    alike = correlations(members)
    assert alike[0, 3] == pytest.approx(1)
    assert 0 < alike[0, 1] < 0.9
    assert np.isnan(alike[4, :4]).all()
    np.testing.assert_array_equal(np.diag(alike), 1)


def test_what_a_member_adds_is_what_is_lost_without_it() -> None:
    members, truth = study_of(1, 800, members=2)
    members["noise"] = np.random.default_rng(0).random(truth.shape)
    members["m0"][:50] = np.nan
    rows = {row.name: row for row in member_worth(members, truth)}
    assert rows["m0"].fields == 750
    assert rows["m0"].log_loss < rows["m1"].log_loss < rows["noise"].log_loss
    assert rows["noise"].log_loss == pytest.approx(1, abs=0.02)
    assert rows["m0"].adds > rows["m1"].adds > 0
    assert abs(rows["noise"].adds) < 0.003
    assert rows["m0"].weight > rows["m1"].weight > rows["noise"].weight
    alone = member_worth({"m1": members["m1"]}, truth)[0]
    assert alone.adds == pytest.approx(1 - alone.log_loss)


def test_fitted_ensembles_score_fields_that_they_did_not_see() -> None:
    rng = np.random.default_rng(0)
    members = {name: rng.random((120, 28)) for name in "ab"}
    truth = rng.random((120, 28)) < 0.3
    unseen, evidence = unseen_ensemble("stack", members, truth)
    stack = stack_members(members)
    np.testing.assert_array_equal(evidence(stack), fit_ensemble("stack", stack, truth)(stack))
    seen = np.corrcoef(evidence(stack).ravel(), truth.ravel())[0, 1]
    assert np.corrcoef(unseen.ravel(), truth.ravel())[0, 1] < 0.1 < seen
    with pytest.raises(TableError, match="here is one"):
        unseen_ensemble("weighted", members, truth, groups=np.zeros(120, np.int64))


def test_a_member_that_cannot_be_judged_is_named() -> None:
    members, truth = study_of(2, 60)
    members["m1"][1:] = np.nan
    with pytest.raises(TableError, match="'m1' has 1 of the 60 labeled fields"):
        member_worth(members, truth)
