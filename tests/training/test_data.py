"""Splits, batches, and the fields of an epoch."""

from __future__ import annotations

import threading
import time
from collections import Counter
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
import torch

from cytoloc.curation.folds import make_folds
from cytoloc.dataset.store import Dataset
from cytoloc.errors import TableError, TrainingError
from cytoloc.training.data import (
    FieldBatches,
    Sampling,
    batch_loader,
    field_weights,
    folds_to_train,
    oversampled_rows,
    rarest_label,
    split_dataset,
    stratified_order,
)
from cytoloc.training.distributed import Processes


def test_a_fold_is_held_out_whole(study: Dataset) -> None:
    folds = make_folds(study.fields, k=4)
    split = split_dataset(study, folds, 2)
    assert sorted([*split.train, *split.held_out]) == list(range(len(study)))
    held = set(folds.filter(pl.col("fold") == 2)["id"])
    assert {study.ids[row] for row in split.held_out} == held


def test_folds_of_another_dataset_are_refused(study: Dataset) -> None:
    folds = make_folds(study.fields, k=4)
    with pytest.raises(TrainingError, match="no fold 9; they are numbered 0, 1, 2, 3"):
        split_dataset(study, folds, 9)
    without = folds.with_columns(pl.when(pl.col("id") == folds["id"][0]).then(None).otherwise("fold").alias("fold"))
    some = split_dataset(study, without, 2)
    assert len(some.train) + len(some.held_out) == len(study) - 1
    with pytest.raises(TrainingError, match="The folds lack 1 labeled fields of "):
        split_dataset(study, folds.head(39), 0)
    with pytest.raises(TrainingError, match=r"not labeled fields of .*, such as stranger"):
        split_dataset(study, folds.with_columns(pl.lit("stranger").alias("id")).head(1), 0)


def test_batches_hold_each_field_once_in_an_order_that_the_seed_decides(study: Dataset) -> None:
    fields = FieldBatches(study, np.arange(30))
    in_order = list(batch_loader(fields, np.arange(30), batch_size=8))
    assert [len(pixels) for pixels, *_ in in_order] == [8, 8, 8, 6]
    np.testing.assert_array_equal(torch.cat([pixels for pixels, *_ in in_order]).numpy(), study.read(range(30)))
    np.testing.assert_array_equal(torch.cat([targets for _, targets, _ in in_order]).numpy(), study.truth[:30])
    orders = [Sampling().rows(fields.truth, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    shuffled = [[images for images, *_ in batch_loader(fields, rows, batch_size=8)] for rows in orders]
    assert [len(pixels) for pixels in shuffled[0]] == [8, 8, 8]
    assert all(torch.equal(a, b) for a, b in zip(shuffled[0], shuffled[1], strict=True))
    assert not torch.equal(shuffled[0][0], shuffled[2][0])
    few = FieldBatches(study, np.arange(5))
    assert len(Sampling().rows(few.truth, np.random.default_rng(0))) == 5


def test_processes_share_each_batch_in_order(study: Dataset) -> None:
    fields, rows = FieldBatches(study, np.arange(30)), np.random.default_rng(3).permutation(30)
    whole = list(batch_loader(fields, rows, batch_size=8))
    shares = [
        list(batch_loader(fields, rows, batch_size=8, processes=Processes(per_node=4, rank=rank))) for rank in range(4)
    ]
    assert {len(batches) for batches in shares} == {len(whole)} == {4}
    for number, batch in enumerate(whole):
        for part, parts in zip(batch, zip(*(share[number] for share in shares), strict=True), strict=True):
            together = torch.cat(parts)
            assert torch.equal(together[: len(part)], part)
            # Six fields for four processes: the last one fills up.
            assert len({len(one) for one in parts}) == 1
            assert all(torch.equal(extra, part[-1]) for extra in together[len(part) :])


def test_the_next_batch_is_read_while_one_is_trained_and_waiting_is_counted(study: Dataset) -> None:
    class Slow(FieldBatches):
        read: ClassVar[list[int]] = []

        def __getitems__(self, indices: list[int]) -> Any:
            self.read.append(len(indices))
            may_read.wait()
            return super().__getitems__(indices)

    may_read = threading.Event()
    ahead = batch_loader(Slow(study, np.arange(24)), np.arange(24), batch_size=8)
    threading.Timer(0.2, may_read.set).start()
    batches = iter(ahead)
    next(batches)
    assert ahead.waited > 0.1
    deadline = time.monotonic() + 10
    while len(Slow.read) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert Slow.read == [8, 8]
    assert len(list(batches)) == 2
    assert Slow.read == [8, 8, 8]


def test_an_error_in_reading_comes_out_where_batches_are_asked_for(study: Dataset) -> None:
    class Broken(FieldBatches):
        def __getitems__(self, indices: list[int]) -> Any:
            raise TrainingError("broken")

    with pytest.raises(TrainingError, match="broken"):
        list(batch_loader(Broken(study, np.arange(24)), np.arange(24), batch_size=8))


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
    order = Sampling(order="balanced", mu=1.0).rows
    drawn = np.concatenate([order(truth, np.random.default_rng(seed)) for seed in range(2000)])
    assert len(drawn) == 2000 * 40
    weights = field_weights(truth, mu=1.0)
    shares = np.bincount(drawn, minlength=40) / len(drawn)
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.005)


def test_the_published_repeats_count_each_field_by_its_most_repeated_location() -> None:
    truth = some_truth()
    times = Counter(oversampled_rows(truth, PUBLISHED).tolist())
    for row, labels in enumerate(truth):
        assert times[row] == max([PUBLISHED.get(int(number), 1) for number in np.flatnonzero(labels)] or [1])


def test_every_batch_has_its_share_of_each_rarest_label() -> None:
    truth = some_truth()
    strata = rarest_label(truth)
    order = stratified_order(strata, batch_size=32, rng=np.random.default_rng(0))
    batches = order.reshape(-1, 32)
    assert len(batches) == 300 // 32
    assert len(set(order.tolist())) == len(order)
    for stratum in set(strata.tolist()):
        counts = [(strata[batch] == stratum).sum() for batch in batches]
        assert max(counts) - min(counts) <= 1
    few = stratified_order(strata[:5], batch_size=32, rng=np.random.default_rng(0))
    assert sorted(few.tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["shuffled", "balanced", "stratified"])
def test_an_order_depends_on_the_seed_alone(kind: str) -> None:
    truth = some_truth()
    order = Sampling(order=kind, mu=0.4, oversample={27: 3}, batch_size=16).rows
    one, same, other = (order(truth, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert set(one.tolist()) <= set(range(300))


def test_by_default_every_field_comes_once() -> None:
    truth = some_truth()
    order = Sampling(batch_size=10).rows
    once = order(truth, np.random.default_rng(3))
    assert sorted(once.tolist()) == list(range(300))
    np.testing.assert_array_equal(once, np.random.default_rng(3).permutation(300))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"id": ["a", "a", "b"], "group": [0, 1, 2], "fold": [0, 1, 1]}, "the id a occurs twice"),
        (
            {"id": ["a", "b", "c"], "group": [0, 0, 1], "fold": [0, 1, 1]},
            "1 groups are in several folds, such as group 0",
        ),
        ({"id": ["a", "b"], "fold": [0, 0]}, "only one fold"),
    ],
)
def test_tables_of_folds_are_checked_as_files_are(rows: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(TableError, match=message):
        folds_to_train(pl.DataFrame(rows), "all")
