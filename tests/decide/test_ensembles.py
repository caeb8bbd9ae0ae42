from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from pydantic import TypeAdapter
from scipy.special import expit, logit

from cytoloc.choices import EnsembleKind
from cytoloc.decide.ensembles import Ensemble, fit_ensemble
from cytoloc.decide.inputs import stack_members
from cytoloc.decide.metrics import class_log_loss
from tests.decide.cases import study_of

KINDS: tuple[EnsembleKind, ...] = get_args(EnsembleKind)
ADAPTER = TypeAdapter(Ensemble)


def test_means_are_means() -> None:
    members, truth = study_of(0)
    stack = stack_members(members)
    np.testing.assert_array_equal(fit_ensemble("mean", stack, truth)(stack), np.mean(list(members.values()), axis=0))
    mean_logit = expit(np.mean([logit(each) for each in members.values()], axis=0))
    np.testing.assert_allclose(fit_ensemble("logit", stack, truth)(stack), mean_logit, rtol=1e-10)


def test_ranks_depend_on_the_order_of_scores_only() -> None:
    members, truth = study_of(1)
    stack = stack_members(members)
    bent = stack.copy()
    bent[1] = stack[1] ** 3
    np.testing.assert_array_equal(fit_ensemble("rank", stack, truth)(stack), fit_ensemble("rank", bent, truth)(bent))
    ranks = fit_ensemble("rank", stack[:1], truth)(stack[:1])
    for i in range(28):
        assert (np.diff(ranks[np.argsort(stack[0, :, i]), i]) >= 0).all()


def test_weights_are_nonnegative_and_larger_for_better_members() -> None:
    members, truth = study_of(2, 1500)
    rng = np.random.default_rng(0)
    members["noise"] = rng.random(truth.shape)
    members["wrong"] = 1 - members["m0"]
    stack = stack_members(members)
    for kind in ("weighted", "class"):
        weights = fit_ensemble(kind, stack, truth).weights
        assert weights is not None
        assert (weights >= 0).all()
        np.testing.assert_allclose(weights.sum(axis=0), 1)
        shares = weights.mean(axis=1)
        assert shares[0] > shares[1] > shares[2]
        assert shares[3:].max() < 0.05


def test_members_without_information_have_equal_weights() -> None:
    _, truth = study_of(3)
    stack = np.full((2, *truth.shape), 0.5)
    weights = fit_ensemble("weighted", stack, truth).weights
    assert weights is not None
    np.testing.assert_array_equal(weights, 0.5)


def test_a_stack_predicts_a_location_from_another() -> None:
    members, truth = study_of(4, 2000)
    # Location 5 is where location 2 is; its own scores are noise.
    truth[:, 5] = truth[:, 2]
    for values in members.values():
        values[:, 5] = np.random.default_rng(1).random(len(truth)) * 0.2
    stack = stack_members(members)
    half = np.arange(2000) < 1000
    alone = fit_ensemble("weighted", stack[:, half], truth[half])(stack[:, ~half])
    stacked = fit_ensemble("stack", stack[:, half], truth[half])(stack[:, ~half])
    assert np.corrcoef(stacked[:, 5], truth[~half, 5])[0, 1] > 0.6
    assert abs(np.corrcoef(alone[:, 5], truth[~half, 5])[0, 1]) < 0.15
    assert class_log_loss(stacked, truth[~half]) < 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_missing_fields_are_imputed_from_other_members(kind: EnsembleKind) -> None:
    members, truth = study_of(5)
    stack = stack_members(members)
    whole = fit_ensemble(kind, stack, truth)(stack)
    stack[1, :40] = np.nan
    stack[2, 20:60] = np.nan
    ensemble = fit_ensemble(kind, stack, truth)
    found = ensemble(stack)
    assert np.isfinite(found).all()
    absent = slice(0, 60)
    assert np.corrcoef(found[absent].ravel(), whole[absent].ravel())[0, 1] > 0.8
    again = ADAPTER.validate_python(ADAPTER.dump_python(ensemble, mode="json"))
    np.testing.assert_array_equal(again(stack), found)


def test_a_missing_copy_of_a_member_changes_nothing() -> None:
    members, truth = study_of(6, members=1)
    stack = np.repeat(stack_members(members), 2, axis=0)
    ensemble = fit_ensemble("logit", stack, truth)
    gone = stack.copy()
    gone[1, ::2] = np.nan
    np.testing.assert_allclose(ensemble(gone), ensemble(stack), rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_without_fitted_fields_is_used_only_where_it_is_alone(kind: EnsembleKind) -> None:
    members, truth = study_of(7)
    stack = stack_members(members)
    without = fit_ensemble(kind, stack[:2], truth)
    absent = stack.copy()
    absent[2] = np.nan
    ensemble = fit_ensemble(kind, absent, truth)
    assert ensemble.fitted.tolist() == [True, True, False]
    np.testing.assert_allclose(ensemble(absent), without(stack[:2]), atol=1e-12)
    np.testing.assert_allclose(ensemble(stack), without(stack[:2]), atol=1e-12)
    if ensemble.weights is not None:
        assert not ensemble.weights[2].any()
    # It is used for fields that no other member has.
    alone = stack.copy()
    alone[:2, :30] = np.nan
    found = ensemble(alone)
    assert np.isfinite(found).all()
    assert np.corrcoef(found[:30].ravel(), stack[2, :30].ravel())[0, 1] > 0.5
    again = ADAPTER.validate_python(ADAPTER.dump_python(ensemble, mode="json"))
    np.testing.assert_array_equal(again(alone), found)
