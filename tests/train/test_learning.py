from __future__ import annotations

import math
import threading
import time
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
import torch

from cytoloc.atlas.store import Atlas
from cytoloc.errors import TrainingError
from cytoloc.folds.making import make_folds
from cytoloc.predict.views import dihedral, mean_logits, view_numbers
from cytoloc.train.augment import random_dihedral
from cytoloc.train.data import Fields, loader, split_atlas
from cytoloc.train.schedule import rate_factor


def test_the_eight_views_are_all_different_and_keep_pixels() -> None:
    fields = torch.arange(2 * 4 * 9, dtype=torch.uint8).reshape(2, 4, 3, 3)
    views = [dihedral(fields, number) for number in range(8)]
    assert torch.equal(views[0], fields)
    assert len({tuple(view.flatten().tolist()) for view in views}) == 8
    for view in views:
        assert torch.equal(view.flatten(2).sort().values, fields.flatten(2).sort().values)


@pytest.mark.parametrize("views", [1, 2, 4, 8])
def test_sets_of_views_are_closed(views: int) -> None:
    field = torch.rand(1, 1, 5, 5)
    numbers = view_numbers(views)
    assert len(set(numbers)) == views
    seen = [dihedral(field, number) for number in numbers]
    # Averaging over a set that is closed gives every member of it the same prediction.
    for one in seen:
        for number in numbers:
            assert any(torch.equal(dihedral(one, number), other) for other in seen)


def test_logits_are_averaged_and_do_not_depend_on_the_view() -> None:
    torch.manual_seed(0)
    weight = torch.rand(4 * 8 * 8, 28)

    def network(fields: torch.Tensor) -> torch.Tensor:
        return (fields.float().flatten(1) @ weight).sin()

    fields = torch.rand(3, 4, 8, 8)
    expected = torch.stack([network(dihedral(fields, view)) for view in range(8)]).mean(dim=0)
    assert torch.allclose(mean_logits(network, fields, views=8), expected)
    turned = mean_logits(network, dihedral(fields, 5), views=8)
    assert torch.allclose(turned, expected, atol=1e-5)
    assert torch.equal(mean_logits(network, fields, views=1), network(fields))


def test_augmentation_uses_every_allowed_view_and_no_other() -> None:
    field = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
    batch = field.repeat(400, 1, 1, 1)
    for flips, turns, allowed in ((True, True, range(8)), (True, False, (0, 4)), (False, True, range(4))):
        generator = torch.Generator().manual_seed(0)
        augmented = random_dihedral(batch, flips=flips, turns=turns, generator=generator)
        known = {tuple(dihedral(field, number).flatten().tolist()): number for number in range(8)}
        seen = [known[tuple(one.flatten().tolist())] for one in augmented]
        assert set(seen) == set(allowed)
        assert min(seen.count(number) for number in allowed) > 400 / len(allowed) / 2
    unchanged = random_dihedral(batch, flips=False, turns=False, generator=torch.Generator())
    assert torch.equal(unchanged, batch)


def test_the_rate_rises_once_and_falls_to_nearly_nothing() -> None:
    rates = [rate_factor(step, frozen=5, cycle=50) for step in range(56)]
    assert rates[:5] == [1.0] * 5
    top = int(np.argmax(rates[5:]))
    assert top == 15
    assert rates[5] == pytest.approx(1 / 25)
    assert all(np.diff(rates[5 : 5 + top]) > 0)
    assert all(np.diff(rates[5 + top :]) < 0)
    assert math.isclose(rates[-1], 0, abs_tol=1e-12)


def test_a_fold_is_held_out_whole(study: Atlas) -> None:
    folds = make_folds(study.fields, k=4)
    split = split_atlas(study, folds, 2)
    assert sorted([*split.train, *split.held_out]) == list(range(len(study)))
    held = set(folds.filter(pl.col("fold") == 2)["id"])
    assert {study.ids[row] for row in split.held_out} == held


def test_folds_of_another_atlas_are_refused(study: Atlas) -> None:
    folds = make_folds(study.fields, k=4)
    with pytest.raises(TrainingError, match="no fold 9; the folds are 0, 1, 2, 3"):
        split_atlas(study, folds, 9)
    without = folds.with_columns(pl.when(pl.col("id") == folds["id"][0]).then(None).otherwise("fold").alias("fold"))
    some = split_atlas(study, without, 2)
    assert len(some.train) + len(some.held_out) == len(study) - 1
    with pytest.raises(TrainingError, match="leave out 1 labelled"):
        split_atlas(study, folds.head(39), 0)
    with pytest.raises(TrainingError, match=r"lacks or has without labels, e\.g\. stranger"):
        split_atlas(study, folds.with_columns(pl.lit("stranger").alias("id")).head(1), 0)


def test_batches_hold_each_field_once_in_an_order_that_the_seed_decides(study: Atlas) -> None:
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


def test_the_next_batch_is_read_while_one_is_learnt_and_waiting_is_counted(study: Atlas) -> None:
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


def test_an_error_in_reading_comes_out_where_batches_are_asked_for(study: Atlas) -> None:
    class Broken(Fields):
        def __getitems__(self, indices: list[int]) -> Any:
            raise TrainingError("broken")

    with pytest.raises(TrainingError, match="broken"):
        list(loader(Broken(study, np.arange(24)), batch_size=8, shuffle_seed=None))
