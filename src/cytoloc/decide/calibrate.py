"""Calibration of predictions, class by class, as far as a class has fields to tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression

from cytoloc.choices import CalibrationKind
from cytoloc.decide.inputs import LEAST_PROBABILITY, logits_of
from cytoloc.decide.logistic import fit_shared, fit_shrunk

Floats = NDArray[np.float64]

PRIOR_POSITIVES: Final = 20.0
"""An isotonic curve and the Platt curve that it is shrunk to count the same at so many positives."""


@dataclass(frozen=True)
class Calibration:
    """A fitted calibration; call it with scores ``(n, classes)`` to get probabilities.

    Attributes:
        kind: Platt's two numbers a class; a ``temperature`` a class; ``beta``, three numbers (Kull, Silva Filho and
            Flach, 2017); ``isotonic``, a rising curve averaged with the class's Platt curve.
        curves: ``c, a, b`` of each class in ``logit q = c + a log p - b log(1 - p)``, ``(classes, 3)``.
        steps: For ``isotonic``, the curve of each class: scores, their probabilities, and the weight it has.
    """

    kind: CalibrationKind
    curves: Floats
    steps: tuple[tuple[Floats, Floats, float], ...] = ()

    def __call__(self, scores: Floats) -> Floats:
        """Return calibrated probabilities, float64 ``(n, classes)``; in each class they never fall as scores rise."""
        if self.kind == "none":
            return np.asarray(scores, np.float64)
        clipped = np.clip(scores, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        logits = self.curves[:, 0] + self.curves[:, 1] * np.log(clipped) - self.curves[:, 2] * np.log1p(-clipped)
        smooth = np.asarray(expit(logits), np.float64)
        for i, (places, heights, weight) in enumerate(self.steps):
            if weight > 0:
                smooth[:, i] = weight * np.interp(scores[:, i], places, heights) + (1 - weight) * smooth[:, i]
        return smooth

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as JSON values."""
        steps = [[places.tolist(), heights.tolist(), weight] for places, heights, weight in self.steps]
        return {"kind": self.kind, "curves": self.curves.tolist(), "steps": steps}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Calibration:
        """Return what :meth:`to_json` gave."""
        steps = tuple(
            (np.array(places, np.float64), np.array(heights, np.float64), float(weight))
            for places, heights, weight in content["steps"]
        )
        return cls(content["kind"], np.array(content["curves"], np.float64).reshape(-1, 3), steps)


def fit_calibration(kind: CalibrationKind, scores: Floats, truth: NDArray[np.bool_]) -> Calibration:
    """Return the calibration of a kind that fits scores to the truth.

    Each class's numbers are shrunk towards those that all classes share, as far as the classes are alike.

    Args:
        kind: See :class:`Calibration`.
        scores: From 0 to 1, ``(n, classes)``.
        truth: bool ``(n, classes)``.
    """
    logits = logits_of(scores)
    if kind == "none":
        return Calibration(kind, np.tile([0.0, 1.0, 1.0], (truth.shape[1], 1)))
    if kind == "temperature":
        return Calibration(kind, _temperatures(logits, truth))
    if kind == "beta":
        clipped = np.clip(scores, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        return Calibration(kind, _curves(np.stack([np.log(clipped), -np.log1p(-clipped)], axis=-1), truth))
    curves = _curves(logits[..., None], truth)
    if kind == "platt":
        return Calibration(kind, curves)
    steps = tuple(_steps(scores[:, i], truth[:, i]) for i in range(truth.shape[1]))
    return Calibration(kind, curves, steps)


def _curves(features: Floats, truth: NDArray[np.bool_]) -> Floats:
    """Return ``c, a, b`` of each class for one feature (then a = b) or two; slopes are not negative."""
    center = features.mean(axis=(0, 1))
    spread = np.maximum(features.std(axis=(0, 1)), 1e-9)
    scaled = np.ascontiguousarray(((features - center) / spread).transpose(1, 0, 2))
    shared = fit_shared(scaled.__getitem__, truth, least=0.0)
    offsets = (scaled @ shared.weights).T + shared.intercepts
    designs = [np.hstack([np.ones((len(truth), 1)), scaled[i]]) for i in range(truth.shape[1])]
    kinds = np.repeat([0, 1], [1, features.shape[2]])
    added = fit_shrunk(designs.__getitem__, offsets, truth, kinds).coefficients
    slopes = np.maximum(shared.weights + added[:, 1:], 0) / spread
    intercepts = shared.intercepts + added[:, 0] - slopes @ center
    return np.column_stack([intercepts, slopes[:, 0], slopes[:, -1]])


def _temperatures(logits: Floats, truth: NDArray[np.bool_]) -> Floats:
    classes = truth.shape[1]
    pooled = logits.T.reshape(1, -1, 1)
    nothing = np.zeros((pooled.shape[1], 1))
    both = truth.T.reshape(-1, 1)
    everything = fit_shrunk(pooled.__getitem__, nothing, both, np.array([0]), precision=1e-6).coefficients[0, 0]
    columns = np.ascontiguousarray(logits.T[..., None])
    added = fit_shrunk(columns.__getitem__, everything * logits, truth, np.array([0])).coefficients[:, 0]
    slopes = np.maximum(everything + added, 0)
    return np.column_stack([np.zeros(classes), slopes, slopes])


def _steps(scores: Floats, truth: NDArray[np.bool_]) -> tuple[Floats, Floats, float]:
    positives = int(truth.sum())
    if positives in (0, len(truth)):
        return np.zeros(1), np.zeros(1), 0.0
    curve = IsotonicRegression(y_min=0, y_max=1).fit(scores, truth)
    places, heights = np.asarray(curve.X_thresholds_, np.float64), np.asarray(curve.y_thresholds_, np.float64)
    return places, heights, positives / (positives + PRIOR_POSITIVES)
