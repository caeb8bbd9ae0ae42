from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cytoloc.decide.decision import held_out_parts
from cytoloc.decide.effects import rule_effects
from cytoloc.decide.metrics import macro_f1
from cytoloc.decide.rules import Rules, decide, exclusive_pairs, keep_apart, share_evidence
from cytoloc.decide.thresholds import NEVER
from cytoloc.errors import TableError
from tests.decide.cases import study_of


def test_every_rule_can_be_switched_off() -> None:
    probabilities = np.array([[0.1, 0.2, 0.3], [0.9, 0.9, 0.9]])
    thresholds = np.full(3, 0.5)
    off = Rules(most=28, blank="none")
    assert decide(probabilities, thresholds, off, never=NEVER).sum(axis=1).tolist() == [0, 3]
    assert decide(probabilities, thresholds, replace(off, most=2), never=NEVER).sum(axis=1).tolist() == [0, 2]
    assert decide(probabilities, thresholds, Rules(), never=NEVER).sum(axis=1).tolist() == [1, 3]


def test_blanks_are_filled_by_what_is_asked_for() -> None:
    probabilities = np.array([[0.05, 0.30, 0.40, 0.45]])
    thresholds = np.array([0.06, 0.32, 0.80, NEVER])
    chosen = {}
    for blank in ("probability", "margin", "ratio"):
        row = decide(probabilities, thresholds, Rules(blank=blank), never=NEVER)[0]
        chosen[blank] = row.nonzero()[0].tolist()
    # The best margin is .05 - .06, the best ratio .30 / .32; the last is never given.
    assert chosen == {"probability": [2], "margin": [0], "ratio": [1]}


def test_thresholds_shrink_for_all_and_further_for_blanks() -> None:
    thresholds = np.array([0.5, NEVER])
    probabilities = np.array([[0.36, 0.8], [0.31, 0.8], [0.26, 0.8], [0.24, 0.8]])
    rules = Rules(blank="none", shrink=(0.7, 0.6, 0.5))
    assert decide(probabilities, thresholds, rules, never=NEVER)[:, 0].tolist() == [True, True, True, False]
    # A field that has a location gets no further one from the lower thresholds.
    both = decide(np.array([[0.36, 0.31]]), np.array([0.5, 0.5]), rules, never=NEVER)
    assert both.tolist() == [[True, False]]


def test_locations_exclude_each_other_only_where_chance_would_have_joined_them() -> None:
    truth = np.zeros((100, 4), bool)
    truth[:50, 0] = truth[50:, 1] = True  # Expected together 25 times, never seen so.
    truth[:8, 2] = truth[50:58, 3] = True  # Expected together .64 times.
    truth[:30, 3] = True
    assert exclusive_pairs(truth) == ((0, 1),)
    predicted = np.array([[True, True, True, False], [True, False, False, False]])
    probabilities = np.array([[0.6, 0.9, 0.7, 0.1], [0.6, 0.1, 0.1, 0.1]])
    kept = keep_apart(predicted, probabilities, np.full(4, 0.5), ((0, 1),))
    assert kept.tolist() == [[False, True, True, False], [True, False, False, False]]


def test_fields_of_a_group_share_their_evidence() -> None:
    probabilities = np.array([[0.2, 0.4], [0.6, 0.0], [0.9, 0.9]])
    shared = share_evidence(probabilities, np.array([7, 7, -1]))
    np.testing.assert_allclose(shared, [[0.4, 0.2], [0.4, 0.2], [0.9, 0.9]])
    with pytest.raises(TableError, match="3 fields, and groups"):
        share_evidence(probabilities, np.array([1, 2]))


def test_what_each_rule_does_is_counted_on_unseen_fields() -> None:
    members, truth = study_of(0)
    groups = np.arange(300) // 2
    parts = list(held_out_parts(members, truth, groups=groups, method="expected", most=2, cooccurrence=True))
    rows = {row["rule"]: row for row in rule_effects(parts, truth, groups=groups)}
    predicted = np.zeros_like(truth)
    free = np.zeros_like(truth)
    for place, probabilities, decision in parts:
        own = decision.rules
        predicted[place] = decide(probabilities, decision.thresholds, own, never=NEVER)
        free[place] = decide(probabilities, decision.thresholds, replace(own, most=28), never=NEVER)
    assert rows["at most 2"]["fields_changed"] == (free.sum(axis=1) > 2).sum() > 0
    assert rows["at most 2"]["macro_f1_with"] == macro_f1(predicted, truth)
    assert rows["at most 2"]["macro_f1_without"] == macro_f1(free, truth)
    assert rows["never blank"]["on"] is True
    assert rows["groups share their evidence"]["on"] is False
    assert rows["groups share their evidence"]["fields_changed"] > 50
    off = list(held_out_parts(members, truth, fill_blank=False, most=28))
    assert [row["on"] for row in rule_effects(off, truth)] == [False, False]
