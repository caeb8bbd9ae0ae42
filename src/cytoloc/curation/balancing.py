"""Balancing folds: groups are moved and exchanged while that brings the folds nearer to their targets."""

from __future__ import annotations

from typing import Final

import numpy as np

from cytoloc._typing import FloatArray, IntArray

MOST_MOVES: Final = 20_000
"""Groups that are moved at most; thirty thousand fields need about a hundred moves."""

RARE: Final = 400
"""Classes with at most so many fields are balanced by exchanges too, which compares groups pair by pair."""

_GAIN: Final = -1e-9


def balanced(fold_of_group: IntArray, what: FloatArray, *, targets: FloatArray) -> IntArray:
    """Return the folds after moving groups, the most useful move first, and exchanging groups of rare classes.

    This minimizes the sum of squared distances from the targets, each divided by the total of its column, so that rare
    classes weigh as much as frequent ones.

    Args:
        fold_of_group: The fold each group starts in, ``(groups,)``.
        what: What each group brings, ``(groups, columns)``.
        targets: How much of it each fold should have, ``(folds, columns)``.

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
    """Groups in folds, and by how much each fold exceeds its target.

    With x and y what two groups bring, D the excess of each fold, and · the product weighted by what is there in all,
    a move of x from fold f to g changes the sum by 2 (x·D[g] - x·D[f] + x·x), an exchange with y by what the two moves
    change, less 4 x·y.
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
        """Move a group at a time until no move helps."""
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
        """Exchange groups that have something rare, each with the best of the others; return whether any was."""
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
