"""Balancing of folds: groups are moved and exchanged while this reduces the distance from the targets."""

from __future__ import annotations

from typing import Final

import numpy as np

from cytoloc._typing import FloatArray, IntArray

MOST_MOVES: Final = 20_000
"""Maximum number of moves. Thirty thousand fields need about a hundred."""

RARE: Final = 400
"""Classes with at most this number of fields are also balanced by exchanges, which compare all pairs of groups."""

_GAIN: Final = -1e-9


def balanced(fold_of_group: IntArray, what: FloatArray, *, targets: FloatArray) -> IntArray:
    """Return balanced folds.

    First groups are moved between folds, the most useful move first. Then groups with rare classes are exchanged. This
    minimizes the sum of squared differences from the targets. Each difference is divided by the total of its column, so
    that rare classes have the same weight as frequent ones.

    Args:
        fold_of_group: The initial fold of each group, shape ``(groups,)``.
        what: The quantities to balance, shape ``(groups, columns)``.
        targets: The target total of each fold, shape ``(folds, columns)``.

    Returns:
        The balanced fold of each group, shape ``(groups,)``.

    Examples:
        >>> balanced(np.array([0, 0, 0, 1]), np.ones((4, 1)), targets=np.full((2, 1), 2.0)).tolist()
        [1, 0, 0, 1]
    """
    assignment = _Assignment(fold_of_group, what, targets)
    assignment.move()
    if assignment.exchange():
        assignment.move()
    return assignment.folds


class _Assignment:
    """An assignment of groups to folds, with the excess of each fold over its target.

    Let x and y be the quantities of two groups, D the excess of each fold, and · the product weighted by the inverse
    totals. Moving x from fold f to fold g changes the sum by 2 (x·D[g] - x·D[f] + x·x). Exchanging x and y changes it
    by the sum of both moves, minus 4 x·y.
    """

    def __init__(self, fold_of_group: IntArray, what: FloatArray, targets: FloatArray) -> None:
        self.folds = fold_of_group.copy()
        self._what = what
        self._total = what.sum(axis=0)
        self._weighted = what / np.maximum(self._total, 1)
        self._own = (self._weighted * what).sum(axis=1)
        inside = [what[self.folds == fold].sum(axis=0) for fold in range(len(targets))]
        self._excess = np.stack(inside) - targets

    def move(self) -> None:
        """Move one group at a time until no move improves the balance."""
        rows = np.arange(len(self.folds))
        product = self._weighted @ self._excess.T
        for _ in range(MOST_MOVES):
            change = product - product[rows, self.folds][:, None] + self._own[:, None]
            change[rows, self.folds] = 0
            group, fold = divmod(int(np.argmin(change)), len(self._excess))
            if change[group, fold] > _GAIN:
                return
            before = int(self.folds[group])
            self._put(group, fold)
            product[:, [before, fold]] = self._weighted @ self._excess[[before, fold]].T

    def exchange(self) -> bool:
        """Exchange groups with rare classes until no exchange improves the balance; return whether any was made."""
        rare = np.flatnonzero((self._what[:, self._total <= RARE] > 0).any(axis=1))
        exchanges = 0
        while made := sum(self._exchange_best(int(group), rare) for group in rare):
            exchanges += made
        return exchanges > 0

    def _exchange_best(self, group: int, others: IntArray) -> bool:
        here, there = int(self.folds[group]), self.folds[others]
        mine = self._weighted[group] @ self._excess.T
        theirs = self._weighted[others] @ self._excess.T
        going = mine[there] - mine[here] + self._own[group]
        coming = theirs[:, here] - theirs[np.arange(len(others)), there] + self._own[others]
        change = going + coming - 2 * self._what[others] @ self._weighted[group]
        change[there == here] = 0
        best = int(np.argmin(change))
        if change[best] > _GAIN:
            return False
        self._put(group, int(there[best]))
        self._put(int(others[best]), here)
        return True

    def _put(self, group: int, fold: int) -> None:
        self._excess[self.folds[group]] -= self._what[group]
        self._excess[fold] += self._what[group]
        self.folds[group] = fold
