"""Prediction sets: for each field the locations that contain all true ones with a stated probability.

This is split conformal prediction. The score of a labeled field is the lowest probability of its true locations. A new
field gets all locations whose probability is at least the limit that a share ``coverage`` of the labeled fields reach
(Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World, 2005; Angelopoulos & Bates, 2023). If new fields are
like the labeled ones, the coverage holds on average, for any model. Fields of a group, such as a well, are not
independent. So each group counts once (Dunn, Wasserman & Ramdas, J. American Statistical Association, 2022).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoloc.decide.inputs import Bools, Floats, Ints
from cytoloc.errors import SettingsError


@dataclass(frozen=True)
class CoverageRule:
    """The limit of prediction sets.

    Attributes:
        coverage: The share of fields whose sets contain all true locations.
        limit: The smallest probability of a location in a set.
        groups: Number of groups of labeled fields that the limit was fitted to; fields without groups count as groups.
        covered: The share of labeled fields whose sets contain all true locations, from limits that were fitted without
            them.
        mean_size: The mean number of locations in these sets.
    """

    coverage: float
    limit: float
    groups: int
    covered: float
    mean_size: float

    def sets(self, probabilities: NDArray[np.floating]) -> Bools:
        """Return the prediction set of each field.

        Args:
            probabilities: Calibrated probabilities, shape ``(n, locations)``.

        Returns:
            bool of shape ``(n, locations)``.
        """
        return np.asarray(probabilities >= self.limit, np.bool_)

    def to_json(self) -> dict[str, Any]:
        """Return the rule as JSON values."""
        return dict(vars(self))


def check_coverage(coverage: float) -> float:
    """Return a coverage if it is valid.

    Args:
        coverage: The coverage.

    Returns:
        The coverage.

    Raises:
        SettingsError: If it is not a number between 0.5 and 1.
    """
    if isinstance(coverage, bool) or not isinstance(coverage, int | float) or not 0.5 <= coverage < 1:
        raise SettingsError(
            f"`coverage` is {coverage!r}, but must be from 0.5 to less than 1.", hint="Choose for example 0.9."
        )
    return float(coverage)


def fit_coverage(
    probabilities: Floats, truth: Bools, *, coverage: float, groups: Ints | None = None, parts: Ints | None = None
) -> CoverageRule:
    """Fit the limit of prediction sets.

    Args:
        probabilities: Cross-fitted probabilities, shape ``(n, locations)``.
        truth: The labels, bool of shape ``(n, locations)``.
        coverage: The share of fields whose sets contain all true locations, from 0.5 to less than 1.
        groups: The group of each field. None: each field is a group.
        parts: The cross-fitting part of each field, from 0, to measure the coverage. Default: ten parts of groups.

    Returns:
        The rule.

    Raises:
        SettingsError: If the coverage is invalid, or so high that it cannot be reached with so few groups.

    >>> probabilities = np.linspace(0.05, 0.95, 19)[:, None]
    >>> round(fit_coverage(probabilities, np.ones((19, 1), bool), coverage=0.8).limit, 3)
    0.2
    """
    coverage = check_coverage(coverage)
    numbers = np.arange(len(truth)) if groups is None else np.unique(groups, return_inverse=True)[1]
    scores = np.where(truth, probabilities, np.inf).min(axis=1)
    parts = numbers % 10 if parts is None else parts
    count = int(numbers.max()) + 1
    needed = math.ceil(coverage / (1 - coverage) - 1e-9)
    if count < needed:
        raise SettingsError(
            f"`coverage` is {coverage:g}, which needs at least {needed} groups of labeled fields, not {count}.",
            hint="Choose a lower coverage, or label more fields.",
        )
    inside = np.zeros_like(truth)
    for part in np.unique(parts):
        rest = parts != part
        if rest.any():
            inside[~rest] = probabilities[~rest] >= _limit(scores[rest], numbers[rest], coverage)
    covered = (inside | ~truth).all(axis=1)
    limit = _limit(scores, numbers, coverage)
    return CoverageRule(coverage, limit, count, float(covered.mean()), float(inside.sum(axis=1).mean()))


def _limit(scores: Floats, numbers: Ints, coverage: float) -> float:
    """Return the largest limit that a share of the fields reach; each group, and a new one, has the same weight."""
    _, group, sizes = np.unique(numbers, return_inverse=True, return_counts=True)
    weights = 1 / (sizes[group] * (len(sizes) + 1))
    order = np.argsort(-scores, kind="stable")
    reached = np.flatnonzero(np.cumsum(weights[order]) >= coverage - 1e-12)
    return min(float(scores[order[reached[0]]]), 1.0) if len(reached) else 0.0
