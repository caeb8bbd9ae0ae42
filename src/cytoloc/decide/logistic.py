"""Logistic regressions of all classes at once: shared weights, and shrunken deviations of each class.

Shrinkage keeps a class with few positives close to the other classes. Deviations have a normal prior, whose precision
determines how far classes deviate. The precision is given, or estimated by empirical Bayes (MacKay, "Bayesian
interpolation", Neural Computation 4, 1992).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cytoloc.decide.inputs import Bools, Floats, Ints

FeaturesOf = Callable[[int], NDArray[np.floating]]
"""A function that returns the features of a class, shape ``(n, d)``."""

MAX_NEWTON_STEPS: Final = 40
LOGIT_TOLERANCE: Final = 1e-3
"""A fit has converged when logits change less than this on average, and precisions by less than 2 %."""

LOSS_TOLERANCE: Final = 1e-7
"""Relative increase of the loss that is regarded as rounding error, because features may be float32."""

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
    design: FeaturesOf, truth: Bools, *, start: SharedFit | None = None, least: float = -np.inf
) -> SharedFit:
    """Fit a logistic regression with the same weights for all classes and an intercept per class.

    Weights have a standard normal prior, so features should have mean 0 and standard deviation 1. Half a positive and
    half a negative with mean features are added to each class, so that all intercepts are finite.

    Args:
        design: The features of each class.
        truth: bool of shape ``(n, classes)``.
        start: Initial values. The result does not depend on them.
        least: The lower bound of the weights.

    Returns:
        The weights and intercepts.
    """
    size = design(0).shape[1]
    rate = (truth.sum(axis=0) + 0.5) / (len(truth) + 1)
    weights = np.full(size, 1 / size) if start is None else start.weights.copy()
    intercepts = np.log(rate / (1 - rate)) if start is None else start.intercepts.copy()
    here = _loss_at(design, truth, weights, intercepts)
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
            there = _loss_at(design, truth, moved, lifted)
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


def _loss_at(design: FeaturesOf, truth: Bools, weights: Floats, intercepts: Floats) -> _Point:
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


def fit_shrunk(
    design: FeaturesOf,
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
        design: The features of each class.
        offsets: The logits of the shared fit, shape ``(n, classes)``.
        truth: bool of shape ``(n, classes)``.
        kinds: The kind of each feature, from 0, shape ``(d,)``.
        precision: The precision of all priors. Default: estimated per kind.
        start: Initial values. The result does not depend on them.

    Returns:
        The coefficients and precisions.
    """
    classes, size = truth.shape[1], len(kinds)
    known = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    coefficients = np.zeros((classes, size)) if start is None else start.copy()
    precisions = np.full(int(kinds.max()) + 1, FIRST_PRECISION if precision is None else precision)
    variance = np.zeros((classes, size))
    coefficients[np.setdiff1d(np.arange(classes), known)] = 0
    for _ in range(MAX_NEWTON_STEPS if known.size else 0):
        furthest = 0.0
        for i in known:
            coefficients[i], variance[i], move = _descend(
                design(int(i)), offsets[:, i], truth[:, i], coefficients[i], precisions[kinds]
            )
            furthest = max(furthest, move)
        if precision is not None:
            if furthest < LOGIT_TOLERANCE:
                break
            continue
        # MacKay's update of the precisions: the number of determined coefficients by the sum of their squares.
        determined = np.clip(1 - variance[known] * precisions[kinds], 1e-9, 1)
        better = np.empty_like(precisions)
        for kind in range(len(precisions)):
            columns = kinds == kind
            squares = float((coefficients[known][:, columns] ** 2).sum())
            better[kind] = determined[:, columns].sum() / max(squares, 1e-12)
        # Precisions are limited to 0.01 (almost no shrinkage) … 100,000 (almost no deviation), and to a factor of 10
        # per step.
        better = np.clip(better, np.maximum(precisions / 10, 1e-2), np.minimum(precisions * 10, 1e5))
        is_stable = float(np.abs(np.log(better / precisions)).max()) < 0.02
        precisions = better
        if furthest < LOGIT_TOLERANCE and is_stable:
            break
    return ShrunkFit(coefficients, precisions)


def _descend(
    features: NDArray[np.floating],
    offset: Floats,
    truth: Bools,
    coefficients: Floats,
    precision: Floats,
) -> tuple[Floats, Floats, float]:
    """Return the coefficients of a class after a Newton step, their variances, and the mean change of the logits."""

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
    before = loss_at(logits, coefficients) * (1 + LOSS_TOLERANCE)
    for _ in range(MAX_NEWTON_STEPS):
        if loss_at(logits - moves, coefficients - step) <= before:
            break
        # Far from the optimum, a full step may overshoot.
        step, moves = step / 2, moves / 2
    return coefficients - step, np.diag(covariance), float(np.abs(moves).mean())
