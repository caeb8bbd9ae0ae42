"""Agreement of a segmentation with known cells."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from cytoloc.cells.labels import Labels, consecutive
from cytoloc.cells.measures import overlaps
from cytoloc.errors import ImageError


class Agreement(NamedTuple):
    """The agreement of found objects with true objects at one limit of their intersection over union (IoU).

    Attributes:
        matched: The number of pairs of a found and a true object with at least this IoU.
        found: The number of found objects.
        true: The number of true objects.
    """

    matched: int
    found: int
    true: int

    @property
    def precision(self) -> float:
        """The share of found objects that are matched."""
        return self.matched / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        """The share of true objects that are matched."""
        return self.matched / self.true if self.true else 0.0


def match_objects(found: Labels, truth: Labels, *, iou: float = 0.5) -> Agreement:
    """Match found objects with true objects, one to one, so that the number of pairs is largest.

    Args:
        found: Numbers of found objects, shape ``(height, width)``.
        truth: Numbers of true objects.
        iou: The smallest intersection over union of a pair.

    Returns:
        The agreement.

    Raises:
        ImageError: If the shapes differ.

    Examples:
        >>> truth = np.repeat([[0, 1, 1, 2, 2]], 4, axis=0)
        >>> match_objects(np.repeat([[0, 1, 1, 1, 2]], 4, axis=0), truth, iou=0.6)
        Agreement(matched=1, found=2, true=2)
    """
    if found.shape != truth.shape:
        raise ImageError(f"The label images have the shapes {found.shape} and {truth.shape}.", hint="Give one size.")
    one, other = consecutive(found)[0], consecutive(truth)[0]
    shared = overlaps(one, other)
    sizes = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0, keepdims=True) - shared
    ratio = (shared / np.maximum(sizes, 1))[1:, 1:]
    rows, columns = linear_sum_assignment(-(ratio >= iou).astype(float) - ratio * 1e-6)
    return Agreement(int((ratio[rows, columns] >= iou).sum()), *ratio.shape)
