"""Logistic regressions of all classes at once: shared weights, and shrunken deviations of each class.

Shrinkage keeps a class with few positives close to the other classes. Deviations have a normal prior, whose precision
determines how far classes deviate. The precision is given, or estimated by empirical Bayes (MacKay, "Bayesian
interpolation", Neural Computation 4, 1992).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cytoloc.decide.inputs import Bools, Floats, Ints

Features = NDArray[np.floating]
"""The features of all classes, shape ``(classes, n, d)``."""

MAX_NEWTON_STEPS: Final = 40
LOGIT_TOLERANCE: Final = 1e-3
"""A fit has converged when logits change less than this on average, and precisions by less than 2 %."""

LOSS_TOLERANCE: Final = 1e-7
"""Relative increase of the loss that is regarded as rounding error, because features may be float32."""

AT_ONCE: Final = 500_000
"""Maximum number of features of the classes that are computed at once: few enough for the cache of a processor."""

FIRST_PRECISION: Final = 30.0
"""Initial value of a precision. The result does not depend on it."""


@dataclass(frozen=True)
class SharedFit:
    """Weights that all classes share, and an intercept per class.

    Attributes:
        weights: float64 of shape ``(d,)``.
        intercepts: float64 of shape ``(classes,)``.
    """

    weights: Floats
    intercepts: Floats


@dataclass(frozen=True)
class ShrunkFit:
    """Coefficients that each class adds to the shared fit.

    Attributes:
        coefficients: float64 of shape ``(classes, d)``.
        precisions: The inverse variance over classes of each kind of coefficient, float64.
    """

    coefficients: Floats
    precisions: Floats


def fit_shared(
    features: Features, truth: Bools, *, start: SharedFit | None = None, least: float = -np.inf
) -> SharedFit:
    """Fit a logistic regression with the same weights for all classes and an intercept per class.

    Weights have a standard normal prior, so features should have mean 0 and standard deviation 1. Half a positive and
    half a negative with mean features are added to each class, so that all intercepts are finite.

    Args:
        features: Shape ``(classes, n, d)``.
        truth: bool of shape ``(n, classes)``.
        start: Initial values. The result does not depend on them.
        least: The lower bound of the weights.

    Returns:
        The weights and intercepts.
    """
    size = features.shape[2]
    rate = (truth.sum(axis=0) + 0.5) / (len(truth) + 1)
    weights = np.full(size, 1 / size) if start is None else start.weights.copy()
    intercepts = np.log(rate / (1 - rate)) if start is None else start.intercepts.copy()
    here = _loss_at(features, truth, weights, intercepts)
    for _ in range(MAX_NEWTON_STEPS):
        # The Newton step. The intercepts are eliminated class by class, which leaves a linear system for the weights.
        scaled = here.cross / here.curve[:, None]
        slope = here.gradient - scaled.T @ here.slope
        free = (weights > least) | (slope < 0)
        step = np.zeros(size)
        reduced = here.hessian - scaled.T @ here.cross
        step[free] = np.linalg.solve(reduced[np.ix_(free, free)], slope[free])
        reached = weights - np.maximum(weights - step, least)
        shift = (here.slope - here.cross @ reached) / here.curve
        for _ in range(MAX_NEWTON_STEPS):
            moved, lifted = np.maximum(weights - step, least), intercepts - shift
            there = _loss_at(features, truth, moved, lifted)
            if there.loss <= here.loss * (1 + LOSS_TOLERANCE):
                break
            # Far from the optimum, a full step may overshoot.
            step, shift = step / 2, shift / 2
        change = max(float(np.abs(moved - weights).max()), float(np.abs(lifted - intercepts).max()))
        weights, intercepts, here = moved, lifted, there
        if change < LOGIT_TOLERANCE / 10:
            break
    return SharedFit(weights, intercepts)


class _Point(NamedTuple):
    """The loss at some weights and intercepts, with its derivatives."""

    loss: float
    gradient: Floats
    hessian: Floats
    slope: Floats
    cross: Floats
    curve: Floats


def _loss_at(features: Features, truth: Bools, weights: Floats, intercepts: Floats) -> _Point:
    classes, size = truth.shape[1], len(weights)
    middle = expit(intercepts)
    loss = float(weights @ weights / 2 + (np.logaddexp(0, intercepts) - intercepts / 2).sum())
    gradient, hessian = weights.copy(), np.eye(size)
    slope, cross, curve = middle - 0.5, np.empty((classes, size)), middle * (1 - middle)
    for some in _blocks(features):
        part, positive = features[some], truth.T[some]
        logits = part @ weights + intercepts[some, None]
        probability = expit(logits)
        residual, weight = probability - positive, probability * (1 - probability)
        weighted = part * weight[..., None].astype(part.dtype)
        loss += float(np.logaddexp(0, logits).sum() - logits[positive].sum())
        gradient += (residual[:, None].astype(part.dtype) @ part).sum(axis=(0, 1), dtype=np.float64)
        hessian += (weighted.transpose(0, 2, 1) @ part).sum(axis=0, dtype=np.float64)
        slope[some] += residual.sum(axis=1)
        cross[some] = weighted.sum(axis=1)
        curve[some] += weight.sum(axis=1)
    return _Point(loss, gradient, hessian, slope, cross, np.maximum(curve, 1e-9))


def _blocks(features: Features) -> Iterator[slice]:
    """Yield slices of classes that are computed at once."""
    classes, each = len(features), features[0].size
    count = max(1, AT_ONCE // max(1, each))
    for start in range(0, classes, count):
        yield slice(start, start + count)


def fit_shrunk(
    features: Features,
    offsets: Floats,
    truth: Bools,
    kinds: Ints,
    *,
    precision: float | None = None,
    start: Floats | None = None,
) -> ShrunkFit:
    """Fit the coefficients that each class adds to ``offsets``, shrunk towards 0.

    Coefficients of one kind have the same normal prior in all classes. Coefficients of classes without positives or
    without negatives are 0.

    Args:
        features: Shape ``(classes, n, d)``.
        offsets: The logits of the shared fit, shape ``(n, classes)``.
        truth: bool of shape ``(n, classes)``.
        kinds: The kind of each feature, from 0, shape ``(d,)``.
        precision: The precision of all priors. Default: estimated per kind.
        start: Initial values. The result does not depend on them.

    Returns:
        The coefficients and precisions.
    """
    classes, size = truth.shape[1], len(kinds)
    is_known = truth.any(axis=0) & ~truth.all(axis=0)
    coefficients = np.zeros((classes, size)) if start is None else start.copy()
    coefficients[~is_known] = 0
    precisions = np.full(int(kinds.max()) + 1, FIRST_PRECISION if precision is None else precision)
    # Classes without positives or without negatives do not take part.
    known = coefficients[is_known]
    features, offsets, truth = (
        (features, offsets.T, truth.T)
        if is_known.all()
        else (features[is_known], offsets.T[is_known], truth.T[is_known])
    )
    variance = np.zeros_like(known)
    for _ in range(MAX_NEWTON_STEPS if len(known) else 0):
        furthest = 0.0
        for some in _blocks(features):
            known[some], variance[some], move = _descend(
                features[some], offsets[some], truth[some], known[some], precisions[kinds]
            )
            furthest = max(furthest, move)
        if precision is not None:
            if furthest < LOGIT_TOLERANCE:
                break
            continue
        # MacKay's update of the precisions: the number of determined coefficients by the sum of their squares.
        determined = np.clip(1 - variance * precisions[kinds], 1e-9, 1)
        better = np.empty_like(precisions)
        for kind in range(len(precisions)):
            columns = kinds == kind
            squares = float((known[:, columns] ** 2).sum())
            better[kind] = determined[:, columns].sum() / max(squares, 1e-12)
        # Precisions are limited to 0.01 (almost no shrinkage) … 100,000 (almost no deviation), and to a factor of 10
        # per step.
        better = np.clip(better, np.maximum(precisions / 10, 1e-2), np.minimum(precisions * 10, 1e5))
        is_stable = float(np.abs(np.log(better / precisions)).max()) < 0.02
        precisions = better
        if furthest < LOGIT_TOLERANCE and is_stable:
            break
    coefficients[is_known] = known
    return ShrunkFit(coefficients, precisions)


def _descend(
    features: Features, offsets: Floats, truth: Bools, coefficients: Floats, precision: Floats
) -> tuple[Floats, Floats, float]:
    """Take a Newton step: return the coefficients, their variances, and the largest mean change of the logits.

    ``offsets`` and ``truth`` have shape ``(classes, n)``; coefficients and variances have shape ``(classes, d)``.
    """

    def losses_at(logits: Floats, values: Floats) -> Floats:
        fit = np.logaddexp(0, logits).sum(axis=1) - np.where(truth, logits, 0).sum(axis=1)
        return np.asarray(fit + (precision * values**2).sum(axis=1) / 2)

    def times(values: Floats) -> Floats:
        return np.asarray((features @ values[..., None].astype(features.dtype))[..., 0])

    logits = offsets + times(coefficients)
    probability = expit(logits)
    weighted = features * (probability * (1 - probability))[..., None].astype(features.dtype)
    hessian = (weighted.transpose(0, 2, 1) @ features).astype(np.float64) + np.diag(precision)
    covariance = np.linalg.inv(hessian)
    residual = (probability - truth).astype(features.dtype)
    slope = (residual[:, None] @ features)[:, 0] + precision * coefficients
    step = (covariance @ slope[..., None])[..., 0]
    moves = times(step)
    before = losses_at(logits, coefficients) * (1 + LOSS_TOLERANCE)
    for _ in range(MAX_NEWTON_STEPS):
        is_worse = ~(losses_at(logits - moves, coefficients - step) <= before)
        if not is_worse.any():
            break
        # Far from the optimum, a full step may overshoot.
        step[is_worse] /= 2
        moves[is_worse] /= 2
    return coefficients - step, np.diagonal(covariance, axis1=1, axis2=2), float(np.abs(moves).mean(axis=1).max())
