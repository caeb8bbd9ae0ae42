from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from cytoloc.training.sampling import epoch_order, field_weights, rarest_label, repeated, shuffled, stratified

PUBLISHED = {27: 10, 15: 10, 10: 4, 9: 4, 8: 4, 20: 3, 17: 3, 16: 2, 18: 2, 22: 2, 26: 2, 24: 2}


def some_truth(fields: int = 300) -> np.ndarray:
    rng = np.random.default_rng(0)
    truth = rng.random((fields, 28)) < np.geomspace(0.4, 0.005, 28)
    truth[:, 14] = False
    truth[truth.sum(axis=1) == 0, 0] = True
    return np.asarray(truth)


def weights_by_hand(truth: np.ndarray, mu: Fraction) -> list[float]:
    counts = [int(count) for count in truth.sum(axis=0)]
    present = [number for number, count in enumerate(counts) if count]
    weights = []
    for row in truth:
        best = Fraction(0)
        for number in np.flatnonzero(row):
            given = Fraction(counts[number], sum(counts))
            best = max(best, (mu * Fraction(1, len(present)) + (1 - mu) * given) / given)
        weights.append(float(best))
    return weights


@pytest.mark.parametrize("mu", [Fraction(0), Fraction(2, 5), Fraction(1)])
def test_fields_weigh_what_the_starter_code_says(mu: Fraction) -> None:
    truth = some_truth()
    np.testing.assert_allclose(field_weights(truth, mu=float(mu)), weights_by_hand(truth, mu))
    if mu == 0:
        np.testing.assert_allclose(field_weights(truth, mu=0), 1)


def test_fields_without_labels_weigh_least() -> None:
    truth = some_truth()
    blank = np.vstack([truth, np.zeros((1, 28), bool)])
    weights = field_weights(blank, mu=0.4)
    assert weights[-1] == pytest.approx(weights.min())
    np.testing.assert_array_equal(field_weights(np.zeros((3, 28), bool), mu=0.4), 1)


def test_balanced_draws_follow_the_weights() -> None:
    truth = some_truth(40)
    order = epoch_order("balanced", mu=1.0, oversample={}, batch_size=8)
    drawn = np.concatenate([order(truth, np.random.default_rng(seed)) for seed in range(2000)])
    assert len(drawn) == 2000 * 40
    weights = field_weights(truth, mu=1.0)
    shares = np.bincount(drawn, minlength=40) / len(drawn)
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.005)


def test_the_published_repeats_count_each_field_by_its_most_repeated_location() -> None:
    truth = some_truth()
    times = Counter(repeated(truth, PUBLISHED).tolist())
    for row, labels in enumerate(truth):
        assert times[row] == max([PUBLISHED.get(int(number), 1) for number in np.flatnonzero(labels)] or [1])


def test_every_batch_has_its_share_of_each_rarest_label() -> None:
    truth = some_truth()
    strata = rarest_label(truth)
    order = stratified(strata, batch_size=32, rng=np.random.default_rng(0))
    batches = order.reshape(-1, 32)
    assert len(batches) == 300 // 32
    assert len(set(order.tolist())) == len(order)
    for stratum in set(strata.tolist()):
        counts = [(strata[batch] == stratum).sum() for batch in batches]
        assert max(counts) - min(counts) <= 1
    few = stratified(strata[:5], batch_size=32, rng=np.random.default_rng(0))
    assert sorted(few.tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["shuffled", "balanced", "stratified"])
def test_an_order_depends_on_the_seed_alone(kind: str) -> None:
    truth = some_truth()
    order = epoch_order(kind, mu=0.4, oversample={27: 3}, batch_size=16)
    one, same, other = (order(truth, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert set(one.tolist()) <= set(range(300))


def test_by_default_every_field_comes_once() -> None:
    truth = some_truth()
    order = epoch_order("shuffled", mu=0.0, oversample={}, batch_size=8)
    once = order(truth, np.random.default_rng(3))
    assert sorted(once.tolist()) == list(range(300))
    np.testing.assert_array_equal(once, shuffled(truth, np.random.default_rng(3)))
