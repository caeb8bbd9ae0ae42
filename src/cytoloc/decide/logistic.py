"""Logistic regressions of all classes at once: what they share is fitted to all, what they differ in is shrunk.

So a class with a handful of positives keeps to what the others teach. How far classes may differ is a prior's
precision, given or estimated from how far they do differ (empirical Bayes: MacKay, "Bayesian interpolation", Neural
Computation 4, 1992).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]
Design = Callable[[int], NDArray[np.floating]]
"""Gives the features of a class, ``(n, d)``."""

MOST_STEPS: Final = 40
CLOSE: Final = 1e-3
"""A fit is done when no logit moves further than this on average, and no precision by 2 %."""

ROUNDING: Final = 1e-7
"""A loss that rises by less, relatively, has not risen: features may be float32."""

FIRST_PRECISION: Final = 30.0
"""Where the estimate of a precision begins; it ends where it ends from any other."""


@dataclass(frozen=True)
class Shared:
    """Weights that all classes share, and an intercept for each.

    Attributes:
        weights: float64 ``(d,)``.
        intercepts: float64 ``(classes,)``.
    """

    weights: Floats
    intercepts: Floats


@dataclass(frozen=True)
class Shrunk:
    """What each class adds to the shared fit.

    Attributes:
        coefficients: float64 ``(classes, d)``.
        precisions: float64, one per kind of coefficient: the inverse of the variance over classes.
    """

    coefficients: Floats
    precisions: Floats


def fit_shared(
    design: Design, truth: NDArray[np.bool_], *, start: Shared | None = None, least: float = -np.inf
) -> Shared:
    """Return the logistic regression with the same weights for every class and an intercept for each.

    Weights have a standard normal prior, so features should have mean 0 and spread 1. Each class gets half a positive
    and half a negative at the features' means, which keeps the intercept of one without positives finite.

    Args:
        design: Features of each class.
        truth: bool ``(n, classes)``.
        start: Where to begin; the result does not depend on it.
        least: No weight may be less than this.
    """
    size = design(0).shape[1]
    rate = (truth.sum(axis=0) + 0.5) / (len(truth) + 1)
    weights = np.full(size, 1 / size) if start is None else start.weights.copy()
    intercepts = np.log(rate / (1 - rate)) if start is None else start.intercepts.copy()
    here = _evaluate(design, truth, weights, intercepts)
    for _ in range(MOST_STEPS):
        step, shift = _newton_step(here, weights, least)
        for _ in range(MOST_STEPS):
            moved, lifted = np.maximum(weights - step, least), intercepts - shift
            there = _evaluate(design, truth, moved, lifted)
            if there.loss <= here.loss * (1 + ROUNDING):
                break
            # Far from the optimum the whole step may overshoot.
            step, shift = step / 2, shift / 2
        change = max(float(np.abs(moved - weights).max()), float(np.abs(lifted - intercepts).max()))
        weights, intercepts, here = moved, lifted, there
        if change < CLOSE / 10:
            break
    return Shared(weights, intercepts)


class _Point(NamedTuple):
    """The loss at some weights and intercepts, and its derivatives."""

    loss: float
    gradient: Floats
    hessian: Floats
    slope: Floats
    cross: Floats
    curve: Floats


def _evaluate(design: Design, truth: NDArray[np.bool_], weights: Floats, intercepts: Floats) -> _Point:
    classes, size = truth.shape[1], len(weights)
    loss, gradient, hessian = float(weights @ weights) / 2, weights.copy(), np.eye(size)
    slope, cross, curve = np.empty(classes), np.empty((classes, size)), np.empty(classes)
    for i in range(classes):
        features = design(i)
        logits = features @ weights + intercepts[i]
        probability, middle = expit(logits), expit(intercepts[i])
        residual, weight = probability - truth[:, i], probability * (1 - probability)
        weighted = features * weight[:, None].astype(features.dtype)
        loss += float(np.logaddexp(0, logits).sum() - logits[truth[:, i]].sum())
        loss += float(np.logaddexp(0, intercepts[i]) - intercepts[i] / 2)
        gradient += features.T @ residual.astype(features.dtype)
        hessian += weighted.T @ features
        slope[i], cross[i] = residual.sum() + middle - 0.5, weighted.sum(axis=0)
        curve[i] = weight.sum() + middle * (1 - middle)
    return _Point(loss, gradient, hessian, slope, cross, np.maximum(curve, 1e-9))


def _newton_step(here: _Point, weights: Floats, least: float) -> tuple[Floats, Floats]:
    """Return how far weights and intercepts are from the optimum of the parabola that touches the loss here."""
    # Intercepts are solved for class by class, which leaves a system of the weights alone.
    scaled = here.cross / here.curve[:, None]
    slope = here.gradient - scaled.T @ here.slope
    free = (weights > least) | (slope < 0)
    step = np.zeros(len(weights))
    reduced = here.hessian - scaled.T @ here.cross
    step[free] = np.linalg.solve(reduced[np.ix_(free, free)], slope[free])
    reached = weights - np.maximum(weights - step, least)
    return step, (here.slope - here.cross @ reached) / here.curve


def fit_shrunk(
    design: Design,
    offsets: Floats,
    truth: NDArray[np.bool_],
    kinds: NDArray[np.int64],
    *,
    precision: float | None = None,
    start: Floats | None = None,
) -> Shrunk:
    """Return what each class adds to ``offsets``, shrunk towards nothing.

    Coefficients of one kind have one normal prior over all classes. Classes without positives, or without negatives,
    add nothing.

    Args:
        design: Features of each class.
        offsets: Logits of the shared fit, ``(n, classes)``.
        truth: bool ``(n, classes)``.
        kinds: The kind of each feature, 0 and up, ``(d,)``.
        precision: Of the priors; by default it is estimated, one per kind.
        start: Coefficients to begin with; the result does not depend on them.
    """
    classes, size = truth.shape[1], len(kinds)
    known = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    coefficients = np.zeros((classes, size)) if start is None else start.copy()
    precisions = np.full(int(kinds.max()) + 1, FIRST_PRECISION if precision is None else precision)
    spread = np.zeros((classes, size))
    coefficients[np.setdiff1d(np.arange(classes), known)] = 0
    for _ in range(MOST_STEPS if known.size else 0):
        furthest = 0.0
        for i in known:
            coefficients[i], spread[i], move = _descend(
                design(int(i)), offsets[:, i], truth[:, i], coefficients[i], precisions[kinds]
            )
            furthest = max(furthest, move)
        if precision is not None:
            if furthest < CLOSE:
                break
            continue
        better = _precisions(coefficients[known], spread[known], kinds, precisions)
        settled = float(np.abs(np.log(better / precisions)).max()) < 0.02
        precisions = better
        if furthest < CLOSE and settled:
            break
    return Shrunk(coefficients, precisions)


def _descend(
    features: NDArray[np.floating],
    offset: Floats,
    truth: NDArray[np.bool_],
    coefficients: Floats,
    precision: Floats,
) -> tuple[Floats, Floats, float]:
    """Return a class's coefficients after a Newton step, their variances, and how far logits moved on average."""

    def loss_at(logits: Floats, values: Floats) -> float:
        fit = np.logaddexp(0, logits).sum() - logits[truth].sum()
        return float(fit + (precision * values**2).sum() / 2)

    logits = offset + features @ coefficients.astype(features.dtype)
    probability = expit(logits)
    weighted = features * (probability * (1 - probability))[:, None].astype(features.dtype)
    covariance = np.linalg.inv((weighted.T @ features).astype(np.float64) + np.diag(precision))
    residual = (probability - truth).astype(features.dtype)
    step = covariance @ (features.T @ residual + precision * coefficients)
    moves = features @ step.astype(features.dtype)
    before = loss_at(logits, coefficients) * (1 + ROUNDING)
    for _ in range(MOST_STEPS):
        if loss_at(logits - moves, coefficients - step) <= before:
            break
        # Far from the optimum the whole step may overshoot.
        step, moves = step / 2, moves / 2
    return coefficients - step, np.diag(covariance), float(np.abs(moves).mean())


def _precisions(coefficients: Floats, spread: Floats, kinds: NDArray[np.int64], before: Floats) -> Floats:
    """Return MacKay's next estimate: the coefficients that the fields determine, by their sum of squares."""
    determined = np.clip(1 - spread * before[kinds], 1e-9, 1)
    after = np.empty_like(before)
    for kind in range(len(before)):
        columns = kinds == kind
        after[kind] = determined[:, columns].sum() / max(float((coefficients[:, columns] ** 2).sum()), 1e-12)
    # Between no shrinkage at all and none of the class's own; and at most tenfold at once.
    return np.asarray(np.clip(after, np.maximum(before / 10, 1e-2), np.minimum(before * 10, 1e5)), np.float64)
