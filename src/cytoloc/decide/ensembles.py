"""Ensembles: the probabilities of several members, combined by means, ranks, weights or a stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cytoloc.choices import EnsembleKind
from cytoloc.decide.inputs import Bools, Floats, logits_of
from cytoloc.decide.logistic import SharedFit, ShrunkFit, fit_shared, fit_shrunk

LEVELS: Final = expit(np.linspace(-9, 9, 181))
"""Levels of the quantiles for ranks, dense at both ends, where rare classes are decided."""

INTERCEPT, OWN, MEMBER, OTHER = range(4)
"""Kinds of coefficients of a class in a stack: intercept, own logit, weights of members, other classes."""

MIN_STD: Final = 1e-9
"""Standard deviation below which a feature is regarded as constant and not scaled."""


@dataclass(frozen=True)
class Ensemble:
    """A fitted ensemble. Call it with probabilities of shape ``(members, n, classes)`` to combine them.

    A field that a member does not predict is a row of NaN, which is imputed from the logits of the other members.

    Attributes:
        kind: The mean of probabilities (``mean``), of logits (``logit``) or of ranks among the fields used for
            fitting (``rank``). The weighted mean of logits, with one weight per member (``weighted``) or with weights
            per class (``class``). A regression in which each class also depends on the other classes (``stack``).
        center: Mean logit of each member and class, shape ``(members, classes)``.
        std: Standard deviation of the logits, shape ``(members, classes)``.
        fitted: Whether each member had fields in the fit, bool of shape ``(members,)``. An unfitted member has the mean
            ``center`` and ``std`` of the others, and is used only for fields that no fitted member predicts.
        weights: For ``weighted`` and ``class``: weights of the members, summing to 1 in each class, shape
            ``(members, classes)``.
        quantiles: For ``rank``: quantiles of each member's probabilities at :data:`LEVELS`, shape
            ``(members, classes, levels)``.
        stack: For ``stack``: the fitted regression.
    """

    kind: EnsembleKind
    center: Floats
    std: Floats
    fitted: Bools
    weights: Floats | None = None
    quantiles: Floats | None = None
    stack: FittedStack | None = None

    def __call__(self, stack: Floats) -> Floats:
        """Return the combined scores, from 0 to 1, float64 of shape ``(n, classes)``."""
        if self.kind == "mean":
            stack = _without_unfitted(stack, self.fitted)
            return np.asarray(np.nanmean(stack, axis=0) if np.isnan(stack).any() else stack.mean(axis=0), np.float64)
        whole = impute(stack, self.center, self.std, fitted=self.fitted)
        if self.stack is not None:
            return self.stack(whole)
        if self.quantiles is not None:
            return mean_rank(whole, self.quantiles)
        weights = np.full(whole.shape[::2], 1 / len(whole)) if self.weights is None else self.weights[self.fitted]
        return np.asarray(expit(np.einsum("mc,mnc->nc", weights, logits_of(whole))), np.float64)


def fit_ensemble(
    kind: EnsembleKind,
    stack: Floats,
    truth: Bools,
    *,
    precision: float | None = None,
    start: Ensemble | None = None,
) -> Ensemble:
    """Fit an ensemble.

    Args:
        kind: The kind of ensemble; see :class:`Ensemble`.
        stack: Probabilities, shape ``(members, n, classes)``. A field that a member does not predict is a row of NaN.
        truth: bool of shape ``(n, classes)``.
        precision: For ``stack``: how strongly classes are shrunk towards their common weights. Default: estimated.
        start: An ensemble of the same members that was fitted to similar fields, to start from.

    Returns:
        The ensemble.
    """
    fitted = np.asarray(~np.isnan(stack[:, :, 0]).all(axis=1), np.bool_)
    logits = logits_of(stack[fitted])
    center, std = np.empty(stack.shape[::2]), np.empty(stack.shape[::2])
    center[fitted], std[fitted] = np.nanmean(logits, axis=1), np.nanstd(logits, axis=1)
    center[~fitted], std[~fitted] = center[fitted].mean(axis=0), std[fitted].mean(axis=0)
    if kind in ("mean", "logit"):
        return Ensemble(kind, center, std, fitted)
    whole = impute(stack, center, std, fitted=fitted)
    if kind == "rank":
        quantiles = np.quantile(whole, LEVELS, axis=1, method="higher").transpose(1, 2, 0)
        return Ensemble(kind, center, std, fitted, quantiles=quantiles)
    if kind == "stack":
        before = start.stack if start is not None and (start.fitted == fitted).all() else None
        stacked = fit_stack(whole, truth, precision=precision, start=before)
        return Ensemble(kind, center, std, fitted, stack=stacked)
    weights = np.zeros(stack.shape[::2])
    weights[fitted] = fit_weights(whole, truth, by_class=kind == "class")
    return Ensemble(kind, center, std, fitted, weights=weights)


def impute(stack: Floats, center: Floats, std: Floats, *, fitted: Bools) -> Floats:
    """Return the predictions of the fitted members, with missing rows imputed from the other members.

    The logits of the other members are standardized and averaged. They are then scaled to the mean and standard
    deviation of the member.

    Args:
        stack: Probabilities, shape ``(members, n, classes)``.
        center: Mean logit, shape ``(members, classes)``.
        std: Standard deviation of the logits, shape ``(members, classes)``.
        fitted: Whether each member was fitted, shape ``(members,)``.

    Returns:
        Shape ``(fitted members, n, classes)``.
    """
    stack = _without_unfitted(stack, fitted)
    absent = np.isnan(stack)
    if not absent.any():
        return stack[fitted]
    scale = np.where(std > 0, std, 1.0)[:, None]
    usual = np.nanmean((logits_of(stack) - center[:, None]) / scale, axis=0)
    return np.asarray(np.where(absent, expit(center[:, None] + usual * scale), stack)[fitted])


def _without_unfitted(stack: Floats, fitted: Bools) -> Floats:
    """Return predictions with NaN for unfitted members, in fields that a fitted member predicts."""
    if fitted.all():
        return stack
    elsewhere = ~np.isnan(stack[fitted]).all(axis=0)
    return np.where(~fitted[:, None, None] & elsewhere, np.nan, stack)


def fit_weights(stack: Floats, truth: Bools, *, by_class: bool) -> Floats:
    """Fit nonnegative weights of the members' logits.

    Args:
        stack: Probabilities, shape ``(members, n, classes)``.
        truth: bool of shape ``(n, classes)``.
        by_class: Whether each class has its own weights.

    Returns:
        Weights that sum to 1 in each class, shape ``(members, classes)``.
    """
    logits = logits_of(stack)
    center, scale = logits.mean(axis=(1, 2)), np.maximum(logits.std(axis=(1, 2)), 1e-9)
    features = np.ascontiguousarray(((logits - center[:, None, None]) / scale[:, None, None]).transpose(2, 1, 0))
    shared = fit_shared(features, truth, least=0.0)
    weights = np.repeat((shared.weights / scale)[:, None], truth.shape[1], axis=1)
    if by_class:
        offsets = (features @ shared.weights).T + shared.intercepts
        kinds = np.repeat([0, 1], [1, len(stack)])
        designs = np.concatenate([np.ones_like(features[..., :1]), features], axis=2)
        shrunk = fit_shrunk(designs, offsets, truth, kinds)
        weights = np.maximum(weights + (shrunk.coefficients[:, 1:] / scale).T, 0)
    total = weights.sum(axis=0)
    # Members have equal weights in a class where all weights are 0.
    return np.asarray(np.where(total > 0, weights / np.where(total > 0, total, 1), 1 / len(stack)), np.float64)


def mean_rank(stack: Floats, quantiles: Floats) -> Floats:
    """Return the mean over members of the rank of each probability among the fields used for fitting.

    Args:
        stack: Probabilities, shape ``(members, n, classes)``.
        quantiles: Quantiles at :data:`LEVELS`, shape ``(members, classes, levels)``.

    Returns:
        Ranks from 0 to 1, shape ``(n, classes)``.
    """
    ranks = np.empty_like(stack)
    steps = np.concatenate([[0.0], LEVELS, [1.0]])
    for member in range(stack.shape[0]):
        for i in range(stack.shape[2]):
            known, values = quantiles[member, i], stack[member, :, i]
            # The mean of the levels of all equal quantiles, so that only the order of values matters.
            below = np.searchsorted(known, values, side="left")
            above = np.searchsorted(known, values, side="right")
            ranks[member, :, i] = (steps[below] + steps[above + 1]) / 2
    return np.asarray(ranks.mean(axis=0), np.float64)


@dataclass(frozen=True)
class FittedStack:
    """A fitted stack. Call it with probabilities of shape ``(members, n, classes)`` to get calibrated probabilities.

    The first regression has the same weights for all classes. Its features are the logits and probabilities of the
    members, and the standard deviation of the logits. Each class then adds its own shrunken coefficients, which include
    the logits of the other classes.

    Attributes:
        center: Mean of each feature over fields and classes, shape ``(features,)``.
        std: Standard deviation of each feature, shape ``(features,)``.
        shared: The weights that all classes share.
        own_center: Mean logit of the first regression per class, shape ``(classes,)``.
        own_std: Standard deviation of these logits, shape ``(classes,)``.
        shrunk: The coefficients of each class for 1, its own logit, its features, and the logits of other classes.
    """

    center: Floats
    std: Floats
    shared: SharedFit
    own_center: Floats
    own_std: Floats
    shrunk: ShrunkFit

    def __call__(self, stack: Floats) -> Floats:
        """Return calibrated probabilities, float64 of shape ``(n, classes)``."""
        features = _standardized(_features(stack), self.center, self.std)
        logits = _shared_logits(features, self.shared)
        scaled = ((logits - self.own_center) / self.own_std).astype(np.float32)
        added = np.empty_like(logits)
        for i in range(logits.shape[1]):
            design = _design(features, scaled, i)
            added[:, i] = design @ self.shrunk.coefficients[i].astype(np.float32)
        return np.asarray(expit(logits + added), np.float64)


def fit_stack(
    stack: Floats, truth: Bools, *, precision: float | None = None, start: FittedStack | None = None
) -> FittedStack:
    """Fit a stack.

    Args:
        stack: Probabilities, shape ``(members, n, classes)``, without NaN.
        truth: bool of shape ``(n, classes)``.
        precision: How strongly classes are shrunk towards their common weights. Default: estimated.
        start: A stack that was fitted to similar fields, to start from.

    Returns:
        The stack.
    """
    raw = _features(stack)
    center = raw.mean(axis=(0, 1), dtype=np.float64)
    std = raw.std(axis=(0, 1), dtype=np.float64)
    std[std < MIN_STD] = 1.0
    features = _standardized(raw, center, std)
    shared = fit_shared(features, truth, start=None if start is None else start.shared)
    logits = _shared_logits(features, shared)
    own_center, own_std = logits.mean(axis=0), logits.std(axis=0)
    own_std[own_std < MIN_STD] = 1.0
    scaled = ((logits - own_center) / own_std).astype(np.float32)
    designs = np.stack([_design(features, scaled, i) for i in range(truth.shape[1])])
    kinds = np.repeat([INTERCEPT, OWN, MEMBER, OTHER], [1, 1, len(center), truth.shape[1] - 1])
    shrunk = fit_shrunk(
        designs,
        logits,
        truth,
        kinds,
        precision=precision,
        start=None if start is None else start.shrunk.coefficients,
    )
    return FittedStack(center, std, shared, own_center, own_std, shrunk)


def _features(stack: Floats) -> NDArray[np.float32]:
    """Return each member's logit and probability, and the standard deviation of logits: ``(classes, n, features)``."""
    logits = logits_of(stack)
    parts = [*logits, *stack]
    if len(stack) > 1:
        parts.append(logits.std(axis=0))
    return np.stack(parts, axis=-1).transpose(1, 0, 2).astype(np.float32)


def _standardized(features: NDArray[np.float32], center: Floats, std: Floats) -> NDArray[np.float32]:
    return np.ascontiguousarray((features - center.astype(np.float32)) / std.astype(np.float32))


def _shared_logits(features: NDArray[np.float32], shared: SharedFit) -> Floats:
    logits = features @ shared.weights.astype(np.float32)
    return np.asarray(logits.T + shared.intercepts, np.float64)


def _design(features: NDArray[np.float32], scaled: NDArray[np.float32], number: int) -> NDArray[np.float32]:
    """Return 1, the logit of the class, its features, and the logits of other classes, shape ``(n, d)``."""
    others = np.delete(scaled, number, axis=1)
    return np.hstack([np.ones((len(scaled), 1), np.float32), scaled[:, [number]], features[number], others])
