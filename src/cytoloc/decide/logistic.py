"""Logistic regressions of all classes at once: what they share is fitted to all, what they differ in is shrunk.

So a class with a handful of positives keeps to what the others teach. How far classes may differ is a prior's
precision, given or estimated from how far they do differ (empirical Bayes: MacKay, "Bayesian interpolation", Neural
Computation 4, 1992).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]
Design = Callable[[int], NDArray[np.floating]]
"""Gives the features of a class, ``(n, d)``."""

MOST_STEPS: Final = 40
CLOSE: Final = 1e-3
"""A fit is done when no logit moves further than this on average, and no precision by 2 %."""

FIRST_PRECISION: Final = 30.0
"""Where the estimate of a precision begins; it ends where it ends from any other."""

LARGEST_STEP: Final = 4.0
"""No Newton step may move a logit further: far from the optimum the whole step would overshoot."""


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
    classes = truth.shape[1]
    size = design(0).shape[1]
    rate = (truth.sum(axis=0) + 0.5) / (len(truth) + 1)
    weights = np.full(size, 1 / size) if start is None else start.weights.copy()
    intercepts = np.log(rate / (1 - rate)) if start is None else start.intercepts.copy()
    for _ in range(MOST_STEPS):
        gradient, hessian = weights.copy(), np.eye(size)
        slope, cross, curve = np.empty(classes), np.empty((classes, size)), np.empty(classes)
        for i in range(classes):
            features = design(i)
            probability = expit(features @ weights + intercepts[i])
            residual, weight = probability - truth[:, i], probability * (1 - probability)
            middle = expit(intercepts[i])
            weighted = features * weight[:, None].astype(features.dtype)
            gradient += features.T @ residual.astype(features.dtype)
            hessian += weighted.T @ features
            slope[i], cross[i] = residual.sum() + middle - 0.5, weighted.sum(axis=0)
            curve[i] = weight.sum() + middle * (1 - middle)
        # Intercepts are solved for class by class, which leaves a system of the weights alone.
        scaled = cross / curve[:, None]
        free = (weights > least) | (gradient - scaled.T @ slope < 0)
        step = np.zeros(size)
        reduced = hessian - scaled.T @ cross
        step[free] = np.linalg.solve(reduced[np.ix_(free, free)], (gradient - scaled.T @ slope)[free])
        moved = np.maximum(weights - step, least)
        shift = (slope - cross @ (weights - moved)) / curve
        change = max(float(np.abs(moved - weights).max()), float(np.abs(shift).max()))
        weights, intercepts = moved, intercepts - np.clip(shift, -LARGEST_STEP, LARGEST_STEP)
        if change < CLOSE / 10:
            break
    return Shared(weights, intercepts)


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
            features = design(int(i))
            probability = expit(offsets[:, i] + features @ coefficients[i].astype(features.dtype))
            weighted = features * (probability * (1 - probability))[:, None].astype(features.dtype)
            hessian = (weighted.T @ features).astype(np.float64) + np.diag(precisions[kinds])
            residual = (probability - truth[:, i]).astype(features.dtype)
            covariance = np.linalg.inv(hessian)
            step = covariance @ (features.T @ residual + precisions[kinds] * coefficients[i])
            moves = np.abs(features @ step.astype(features.dtype))
            step *= min(1.0, LARGEST_STEP / max(float(moves.max()), 1e-12))
            coefficients[i] -= step
            spread[i] = np.diag(covariance)
            furthest = max(furthest, float(moves.mean()))
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


def _precisions(coefficients: Floats, spread: Floats, kinds: NDArray[np.int64], before: Floats) -> Floats:
    """Return MacKay's next estimate: the coefficients that the fields determine, by their sum of squares."""
    determined = np.clip(1 - spread * before[kinds], 1e-9, 1)
    after = np.empty_like(before)
    for kind in range(len(before)):
        columns = kinds == kind
        after[kind] = determined[:, columns].sum() / max(float((coefficients[:, columns] ** 2).sum()), 1e-12)
    # Between no shrinkage at all and none of the class's own; and at most tenfold at once.
    return np.asarray(np.clip(after, np.maximum(before / 10, 1e-2), np.minimum(before * 10, 1e5)), np.float64)
