from __future__ import annotations

from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from cytoloc.curation.balancing import balanced


def test_it_ends_where_no_move_and_no_exchange_helps() -> None:
    rng = np.random.default_rng(1)
    what = rng.integers(0, 4, (60, 5)).astype(float)
    targets = np.tile(what.sum(axis=0) / 3, (3, 1))

    def badness(folds: NDArray[np.int64]) -> float:
        sums = np.stack([what[folds == fold].sum(axis=0) for fold in range(3)])
        return float(((sums - targets) ** 2 / what.sum(axis=0)).sum())

    start = rng.integers(0, 3, 60)
    folds = balanced(start, what, targets=targets)
    assert badness(folds) < 0.2 * badness(start)
    for group, fold in product(range(60), range(3)):
        moved = folds.copy()
        moved[group] = fold
        assert badness(moved) >= badness(folds) - 1e-9
    for one, other in combinations(range(60), 2):
        swapped = folds.copy()
        swapped[[one, other]] = folds[[other, one]]
        assert badness(swapped) >= badness(folds) - 1e-9


def test_an_exchange_mends_what_no_move_can() -> None:
    # Two folds of two groups each, of which one has both large ones: any single move makes the numbers uneven.
    what = np.array([[1.0, 3.0], [1.0, 3.0], [1.0, 1.0], [1.0, 1.0]])
    assert sorted(balanced(np.array([0, 0, 1, 1]), what, targets=np.array([[2.0, 4.0], [2.0, 4.0]]))[:2]) == [0, 1]
