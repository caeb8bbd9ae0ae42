"""Calibration of probabilities per class, and adaptation to other class frequencies (label shift)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import expit

from cytoloc.choices import CalibrationKind
from cytoloc.decide.inputs import LEAST_PROBABILITY, Bools, Floats, logits_of
from cytoloc.decide.logistic import fit_shared, fit_shrunk

PRIOR_POSITIVES: Final = 20.0
"""Number of positives for which the isotonic curve of a class has the same weight as its Platt curve."""

PRIOR_FIELDS: Final = 100.0
"""Weight of the fitted frequencies in the estimate of new frequencies, in number of fields."""

MAX_EM_STEPS: Final = 500
EM_TOLERANCE: Final = 1e-10


@dataclass(frozen=True)
class Calibration:
    """A fitted calibration. Call it with scores of shape ``(n, classes)`` to get probabilities.

    Attributes:
        kind: ``platt`` (two parameters per class), ``temperature`` (one parameter per class), ``beta`` (three
            parameters per class; Kull, Silva Filho & Flach 2017), ``isotonic`` (an isotonic curve, averaged with the
            Platt curve of the class), or ``none``.
        curves: ``c, a, b`` of each class in ``logit q = c + a log p - b log(1 - p)``, shape ``(classes, 3)``.
        steps: For ``isotonic``, for each class: scores, their probabilities, and the weight of this curve.
    """

    kind: CalibrationKind
    curves: Floats
    steps: tuple[tuple[Floats, Floats, float], ...] = ()

    def __call__(self, scores: Floats) -> Floats:
        """Return calibrated probabilities, float64 of shape ``(n, classes)``, which never decrease with the score."""
        if self.kind == "none":
            return np.asarray(scores, np.float64)
        clipped = np.clip(scores, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        logits = self.curves[:, 0] + self.curves[:, 1] * np.log(clipped) - self.curves[:, 2] * np.log1p(-clipped)
        smooth = np.asarray(expit(logits), np.float64)
        for i, (places, heights, weight) in enumerate(self.steps):
            if weight > 0:
                smooth[:, i] = weight * np.interp(scores[:, i], places, heights) + (1 - weight) * smooth[:, i]
        return smooth


def fit_calibration(kind: CalibrationKind, scores: Floats, truth: Bools) -> Calibration:
    """Fit a calibration.

    The parameters of each class are shrunk towards parameters that all classes share. The amount of shrinkage is
    estimated from the data.

    Args:
        kind: The kind of calibration; see :class:`Calibration`.
        scores: Shape ``(n, classes)``.
        truth: bool of shape ``(n, classes)``.

    Returns:
        The calibration.
    """
    # Imported late, because it takes long and few need it.
    from sklearn.isotonic import IsotonicRegression

    logits = logits_of(scores)
    if kind == "none":
        return Calibration(kind, np.tile([0.0, 1.0, 1.0], (truth.shape[1], 1)))
    if kind == "temperature":
        pooled = logits.T.reshape(1, -1, 1)
        zeros = np.zeros((pooled.shape[1], 1))
        first = fit_shrunk(pooled, zeros, truth.T.reshape(-1, 1), np.array([0]), precision=1e-6)
        shared = first.coefficients[0, 0]
        columns = np.ascontiguousarray(logits.T[..., None])
        added = fit_shrunk(columns, shared * logits, truth, np.array([0])).coefficients[:, 0]
        slopes = np.maximum(shared + added, 0)
        return Calibration(kind, np.column_stack([np.zeros(truth.shape[1]), slopes, slopes]))
    if kind == "beta":
        clipped = np.clip(scores, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        return Calibration(kind, _fit_curves(np.stack([np.log(clipped), -np.log1p(-clipped)], axis=-1), truth))
    curves = _fit_curves(logits[..., None], truth)
    if kind == "platt":
        return Calibration(kind, curves)
    steps = []
    for i, positives in enumerate(truth.sum(axis=0).tolist()):
        if positives in (0, len(truth)):
            steps.append((np.zeros(1), np.zeros(1), 0.0))
            continue
        curve = IsotonicRegression(y_min=0, y_max=1).fit(scores[:, i], truth[:, i])
        places, heights = np.asarray(curve.X_thresholds_, np.float64), np.asarray(curve.y_thresholds_, np.float64)
        steps.append((places, heights, positives / (positives + PRIOR_POSITIVES)))
    return Calibration(kind, curves, tuple(steps))


def _fit_curves(features: Floats, truth: Bools) -> Floats:
    """Return ``c, a, b`` of each class, for one feature (then a = b) or two. Slopes are not negative."""
    center = features.mean(axis=(0, 1))
    std = np.maximum(features.std(axis=(0, 1)), 1e-9)
    scaled = np.ascontiguousarray(((features - center) / std).transpose(1, 0, 2))
    shared = fit_shared(scaled, truth, least=0.0)
    offsets = (scaled @ shared.weights).T + shared.intercepts
    designs = np.concatenate([np.ones_like(scaled[..., :1]), scaled], axis=2)
    kinds = np.repeat([0, 1], [1, features.shape[2]])
    added = fit_shrunk(designs, offsets, truth, kinds).coefficients
    slopes = np.maximum(shared.weights + added[:, 1:], 0) / std
    intercepts = shared.intercepts + added[:, 0] - slopes @ center
    return np.column_stack([intercepts, slopes[:, 0], slopes[:, -1]])


def shifted_frequencies(probabilities: Floats, frequencies: Floats, *, prior_fields: float = PRIOR_FIELDS) -> Floats:
    """Estimate the class frequencies in new fields by expectation maximization.

    Each class is estimated separately. The fields of a class are assumed to look the same in both sets, so that only
    frequencies differ (Saerens, Latinne & Decaestecker 2002).

    Args:
        probabilities: Calibrated probabilities of the new fields, shape ``(n, classes)``.
        frequencies: The frequency of each class in the fields used for fitting, shape ``(classes,)``.
        prior_fields: Weight of ``frequencies``, in number of fields. 0 gives the maximum likelihood estimate.

    Returns:
        The estimated frequencies, shape ``(classes,)``.
    """
    estimated = frequencies.copy()
    for _ in range(MAX_EM_STEPS):
        total = reweighted(probabilities, frequencies, estimated).sum(axis=0)
        better = (total + prior_fields * frequencies) / (len(probabilities) + prior_fields)
        change = float(np.abs(better - estimated).max())
        estimated = better
        if change < EM_TOLERANCE:
            break
    return estimated


def reweighted(probabilities: Floats, frequencies: Floats, new_frequencies: Floats) -> Floats:
    """Adapt probabilities to new class frequencies by Bayes' rule.

    Probabilities of a class with a frequency of 0 or 1 are not changed.

    Args:
        probabilities: Shape ``(n, classes)``.
        frequencies: The frequencies that the probabilities are calibrated for, shape ``(classes,)``.
        new_frequencies: The new frequencies, shape ``(classes,)``.

    Returns:
        The adapted probabilities, shape ``(n, classes)``.
    """
    known = (frequencies > 0) & (frequencies < 1) & (new_frequencies > 0) & (new_frequencies < 1)
    before, after = np.where(known, frequencies, 0.5), np.where(known, new_frequencies, 0.5)
    present = probabilities * (after / before)
    absent = (1 - probabilities) * ((1 - after) / (1 - before))
    return np.asarray(present / (present + absent), np.float64)
