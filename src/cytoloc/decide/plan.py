"""A plan says how members become probabilities and these become thresholds; here plans are fitted and judged.

Thresholds are fitted to probabilities that their fields' own labels had no part in, and judged on fields that neither
saw: for each part of the fields, by models that lack that part and one other.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from cytoloc.choices import CalibrationKind, EnsembleKind
from cytoloc.decide.calibrate import Calibration, fit_calibration
from cytoloc.decide.ensemble import Ensemble, fit_ensemble
from cytoloc.decide.thresholds import (
    NEVER,
    exact_thresholds,
    expected_thresholds,
    global_thresholds,
    grid_thresholds,
    outstanding_thresholds,
    ratio_thresholds,
    smooth_thresholds,
)

Floats = NDArray[np.float64]
Item = TypeVar("Item")
ThresholdKind = Literal["grid", "global", "smooth", "fixed", "ratio", "exact", "expected"]

TAKES_NO_TRUTH: Final = ("mean", "logit")
"""Ensembles that are the same whatever fields they are fitted to."""


@dataclass(frozen=True)
class Plan:
    """How to decide, before anything is fitted.

    Attributes:
        ensemble: How members become one.
        calibration: How that becomes probabilities.
        thresholds: How thresholds are found.
        precision: Of a stack; see :func:`~cytoloc.decide.ensemble.fit_ensemble`.
        value: The threshold of all classes, for ``fixed``.
        ratios: Share of fields of each class, for ``ratio``; by default that of the fitted fields.
    """

    ensemble: EnsembleKind = "mean"
    calibration: CalibrationKind = "none"
    thresholds: ThresholdKind = "grid"
    precision: float | None = None
    value: float = 0.5
    ratios: tuple[float, ...] | None = None

    @property
    def learns(self) -> bool:
        """Whether its probabilities depend on the fields that it is fitted to."""
        return self.calibration != "none" or self.ensemble not in TAKES_NO_TRUTH

    @property
    def calibrated(self) -> bool:
        """Whether its scores are meant as probabilities."""
        return self.calibration != "none" or self.ensemble == "stack"

    @property
    def name(self) -> str:
        """A name for tables."""
        parts = [self.ensemble if self.precision is None else f"{self.ensemble} {self.precision:g}"]
        parts += [self.calibration] if self.calibration != "none" else []
        return " + ".join([*parts, self.thresholds])

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Plan:
        """Return what :meth:`to_json` gave."""
        ratios = content["ratios"]
        return cls(**{**content, "ratios": None if ratios is None else tuple(ratios)})


@dataclass(frozen=True)
class Evidence:
    """A fitted ensemble and its calibration; call it with ``(members, n, classes)``."""

    ensemble: Ensemble
    calibration: Calibration

    def __call__(self, stack: Floats) -> Floats:
        """Return one probability per field and class, float64 ``(n, classes)``."""
        return self.calibration(self.ensemble(stack))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"ensemble": self.ensemble.to_json(), "calibration": self.calibration.to_json()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Evidence:
        """Return what :meth:`to_json` gave."""
        return cls(Ensemble.from_json(content["ensemble"]), Calibration.from_json(content["calibration"]))


def fit_evidence(plan: Plan, stack: Floats, truth: NDArray[np.bool_], *, start: Evidence | None = None) -> Evidence:
    """Return the plan's ensemble and calibration, fitted; ``start`` is one fitted to similar fields, to save time."""
    before = None if start is None else start.ensemble
    ensemble = fit_ensemble(plan.ensemble, stack, truth, precision=plan.precision, start=before)
    scores = ensemble(stack) if plan.calibration != "none" else np.zeros((1, truth.shape[1]))
    return Evidence(ensemble, fit_calibration(plan.calibration, scores, truth))


def find_thresholds(plan: Plan, probabilities: Floats, truth: NDArray[np.bool_]) -> Floats:
    """Return the plan's thresholds, float64 ``(classes,)``.

    A class without positives is never predicted; but for ``expected``, which needs none: what all classes share tells a
    probability, and it is predicted where that stands out from all but one of the fitted fields.
    """
    ways: dict[ThresholdKind, Callable[[], Floats]] = {
        "grid": lambda: grid_thresholds(probabilities, truth),
        "global": lambda: global_thresholds(probabilities, truth),
        "smooth": lambda: smooth_thresholds(probabilities, truth),
        "exact": lambda: exact_thresholds(probabilities, truth),
        "expected": lambda: expected_thresholds(probabilities),
        "fixed": lambda: np.full(truth.shape[1], plan.value),
        "ratio": lambda: ratio_thresholds(
            probabilities, truth.mean(axis=0) if plan.ratios is None else np.array(plan.ratios)
        ),
    }
    found, seen = ways[plan.thresholds](), truth.any(axis=0)
    if plan.thresholds != "expected":
        return np.where(seen, found, NEVER)
    return np.where(seen, found, np.maximum(found, outstanding_thresholds(probabilities)))


def unseen_probabilities(
    plan: Plan, stack: Floats, truth: NDArray[np.bool_], parts: NDArray[np.int64], *, start: Evidence
) -> Floats:
    """Return each field's probabilities, of evidence fitted without the field's part."""
    if not plan.learns:
        return start(stack)
    unseen = np.empty(truth.shape)

    def fit_without(part: int) -> None:
        held_out = parts == part
        evidence = fit_evidence(plan, stack[:, ~held_out], truth[~held_out], start=start)
        unseen[held_out] = evidence(stack[:, held_out])

    _side_by_side(fit_without, [int(part) for part in np.unique(parts)])
    return unseen


@dataclass(frozen=True)
class Judged:
    """What a plan does to fields that it did not see.

    Attributes:
        probabilities: Of evidence that lacked the field's part.
        thresholds: Of each field's part, fitted without it, ``(n, classes)``.
    """

    probabilities: Floats
    thresholds: Floats


def judge(plan: Plan, stack: Floats, truth: NDArray[np.bool_], parts: NDArray[np.int64]) -> Judged:
    """Return the plan's probabilities and thresholds for fields that had no part in either.

    The thresholds of a part are fitted to the other parts, each of which has its probabilities from evidence that
    lacked both. Evidence without parts ``a`` and ``b`` serves both ways.
    """
    with threadpool_limits(1):
        start = fit_evidence(plan, stack, truth)
    numbers = [int(part) for part in np.unique(parts)]
    probabilities = unseen_probabilities(plan, stack, truth, parts, start=start)
    # inner[part] holds what the fields of other parts get from evidence that lacks their own part and this one.
    inner = {part: probabilities.copy() for part in numbers}
    if plan.learns:

        def fit_without(pair: tuple[int, int]) -> None:
            """Give each of two parts what evidence that lacks both says of it."""
            one, other = pair
            rest = (parts != one) & (parts != other)
            evidence = fit_evidence(plan, stack[:, rest], truth[rest], start=start)
            inner[one][parts == other] = evidence(stack[:, parts == other])
            inner[other][parts == one] = evidence(stack[:, parts == one])

        _side_by_side(fit_without, list(combinations(numbers, 2)))
    thresholds = np.empty(truth.shape)
    for part in numbers:
        others = parts != part
        thresholds[~others] = find_thresholds(plan, inner[part][others], truth[others])
    return Judged(probabilities, thresholds)


def _side_by_side(work: Callable[[Item], None], items: list[Item]) -> None:
    """Do ``work`` with each item, on two threads.

    Each works with one thread of the matrix library: its own threads would wait for each other at every small product.
    """
    with threadpool_limits(1), ThreadPoolExecutor(2) as pool:
        for _ in pool.map(work, items):
            pass


def deal(keys: NDArray[np.int64], groups: NDArray[np.int64] | None, *, parts: int) -> NDArray[np.int64]:
    """Return a part for each field, 0 to ``parts`` - 1, that follows from what the fields are and not from their order.

    Args:
        keys: Of the fields; equal fields have equal keys, and get the same part.
        groups: A group number per field; a group gets one part. By default each key is its own group.
        parts: How many; fewer if there are fewer groups.
    """
    if groups is None:
        first = keys
    else:
        _, group = np.unique(groups, return_inverse=True)
        least = np.full(int(group.max()) + 1, np.iinfo(np.int64).max)
        np.minimum.at(least, group, keys)
        first = least[group]
    # Keys are hashes, so their order is as good as a shuffle.
    _, rank = np.unique(first, return_inverse=True)
    return np.asarray(rank % min(parts, int(rank.max()) + 1), np.int64)
