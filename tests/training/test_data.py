from __future__ import annotations

import threading
import time
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
import torch

from cytoloc.curation.folds import make_folds
from cytoloc.dataset.store import Dataset
from cytoloc.errors import TrainingError
from cytoloc.training.data import Fields, loader, split_dataset
from cytoloc.training.together import Share


def test_a_fold_is_held_out_whole(study: Dataset) -> None:
    folds = make_folds(study.fields, k=4)
    split = split_dataset(study, folds, 2)
    assert sorted([*split.train, *split.held_out]) == list(range(len(study)))
    held = set(folds.filter(pl.col("fold") == 2)["id"])
    assert {study.ids[row] for row in split.held_out} == held


def test_folds_of_another_dataset_are_refused(study: Dataset) -> None:
    folds = make_folds(study.fields, k=4)
    with pytest.raises(TrainingError, match="no fold 9; the folds are 0, 1, 2, 3"):
        split_dataset(study, folds, 9)
    without = folds.with_columns(pl.when(pl.col("id") == folds["id"][0]).then(None).otherwise("fold").alias("fold"))
    some = split_dataset(study, without, 2)
    assert len(some.train) + len(some.held_out) == len(study) - 1
    with pytest.raises(TrainingError, match="leave out 1 labeled"):
        split_dataset(study, folds.head(39), 0)
    with pytest.raises(TrainingError, match=r"lacks or has without labels, e\.g\. stranger"):
        split_dataset(study, folds.with_columns(pl.lit("stranger").alias("id")).head(1), 0)


def test_batches_hold_each_field_once_in_an_order_that_the_seed_decides(study: Dataset) -> None:
    fields = Fields(study, np.arange(30))
    in_order = list(loader(fields, batch_size=8, shuffle_seed=None))
    assert [len(pixels) for pixels, *_ in in_order] == [8, 8, 8, 6]
    np.testing.assert_array_equal(torch.cat([pixels for pixels, *_ in in_order]).numpy(), study.read(range(30)))
    np.testing.assert_array_equal(torch.cat([targets for _, targets, _ in in_order]).numpy(), study.truth[:30])
    shuffled = [[pixels for pixels, *_ in loader(fields, batch_size=8, shuffle_seed=seed)] for seed in (1, 1, 2)]
    assert [len(pixels) for pixels in shuffled[0]] == [8, 8, 8]
    assert all(torch.equal(a, b) for a, b in zip(shuffled[0], shuffled[1], strict=True))
    assert not torch.equal(shuffled[0][0], shuffled[2][0])
    few = Fields(study, np.arange(5))
    assert [len(pixels) for pixels, *_ in loader(few, batch_size=8, shuffle_seed=0)] == [5]


@pytest.mark.parametrize("seed", [None, 3])
def test_processes_share_each_batch_in_order(seed: int | None, study: Dataset) -> None:
    fields = Fields(study, np.arange(30))
    whole = list(loader(fields, batch_size=8, shuffle_seed=seed))
    shares = [list(loader(fields, batch_size=8, shuffle_seed=seed, share=Share(rank, 4))) for rank in range(4)]
    assert {len(batches) for batches in shares} == {len(whole)}
    assert len(whole) == (4 if seed is None else 3)
    for number, batch in enumerate(whole):
        for part, parts in zip(batch, zip(*(share[number] for share in shares), strict=True), strict=True):
            together = torch.cat(parts)
            assert torch.equal(together[: len(part)], part)
            # Six fields for four processes: the last one fills up.
            assert len({len(one) for one in parts}) == 1
            assert all(torch.equal(extra, part[-1]) for extra in together[len(part) :])


def test_the_next_batch_is_read_while_one_is_learnt_and_waiting_is_counted(study: Dataset) -> None:
    class Slow(Fields):
        read: ClassVar[list[int]] = []

        def __getitems__(self, indices: list[int]) -> Any:
            self.read.append(len(indices))
            may_read.wait()
            return super().__getitems__(indices)

    may_read = threading.Event()
    ahead = loader(Slow(study, np.arange(24)), batch_size=8, shuffle_seed=None)
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
    class Broken(Fields):
        def __getitems__(self, indices: list[int]) -> Any:
            raise TrainingError("broken")

    with pytest.raises(TrainingError, match="broken"):
        list(loader(Broken(study, np.arange(24)), batch_size=8, shuffle_seed=None))
