"""A stack: members, and locations that inform each other, weighed by one regression that all classes share.

First all classes share weights of the members' logits, of their probabilities and of how far the members disagree; then
each class may deviate from these, and may listen to the other classes, as far as the fields show that it should.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cytoloc.decide.inputs import logits_of
from cytoloc.decide.logistic import Shared, Shrunk, fit_shared, fit_shrunk

Floats = NDArray[np.float64]

INTERCEPT, OWN, MEMBER, OTHER = range(4)
"""Kinds of coefficients by which a class deviates: its rate, its slope, its members' weights, the other classes."""

FLAT: Final = 1e-9
"""A feature that spreads less is constant, and left as it is."""


@dataclass(frozen=True)
class Stack:
    """A fitted stack; call it with ``(members, n, classes)`` probabilities to get calibrated ones, ``(n, classes)``.

    Attributes:
        center: Mean of each feature over fields and classes, ``(features,)``.
        spread: Its standard deviation.
        shared: Weights that all classes share.
        own_center: Mean of the shared fit's logit of each class, ``(classes,)``.
        own_spread: Its standard deviation.
        shrunk: How each class deviates; columns: 1, its own logit, its features, the other classes' logits.
    """

    center: Floats
    spread: Floats
    shared: Shared
    own_center: Floats
    own_spread: Floats
    shrunk: Shrunk

    def __call__(self, stack: Floats) -> Floats:
        """Return calibrated probabilities, float64 ``(n, classes)``."""
        features = _standardized(_features(stack), self.center, self.spread)
        logits = _shared_logits(features, self.shared)
        scaled = ((logits - self.own_center) / self.own_spread).astype(np.float32)
        added = np.empty_like(logits)
        for i in range(logits.shape[1]):
            design = _design(features, scaled, i)
            added[:, i] = design @ self.shrunk.coefficients[i].astype(np.float32)
        return np.asarray(expit(logits + added), np.float64)

    def to_json(self) -> dict[str, Any]:
        """Return the stack as JSON values."""
        return {
            "center": self.center.tolist(),
            "spread": self.spread.tolist(),
            "weights": self.shared.weights.tolist(),
            "intercepts": self.shared.intercepts.tolist(),
            "own_center": self.own_center.tolist(),
            "own_spread": self.own_spread.tolist(),
            "deviations": self.shrunk.coefficients.tolist(),
            "precisions": self.shrunk.precisions.tolist(),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Stack:
        """Return what :meth:`to_json` gave."""
        numbers = {name: np.array(values, np.float64) for name, values in content.items()}
        return cls(
            numbers["center"],
            numbers["spread"],
            Shared(numbers["weights"], numbers["intercepts"]),
            numbers["own_center"],
            numbers["own_spread"],
            Shrunk(numbers["deviations"], numbers["precisions"]),
        )


def fit_stack(
    stack: Floats, truth: NDArray[np.bool_], *, precision: float | None = None, start: Stack | None = None
) -> Stack:
    """Return the stack that fits members' probabilities to the truth.

    Args:
        stack: ``(members, n, classes)``, without NaN.
        truth: bool ``(n, classes)``.
        precision: How strongly classes are held to what they share; by default estimated.
        start: A stack of the same members fitted to similar fields, to begin from; it saves time.
    """
    raw = _features(stack)
    center = raw.mean(axis=(0, 1), dtype=np.float64)
    spread = raw.std(axis=(0, 1), dtype=np.float64)
    spread[spread < FLAT] = 1.0
    features = _standardized(raw, center, spread)
    shared = fit_shared(lambda i: features[i], truth, start=None if start is None else start.shared)
    logits = _shared_logits(features, shared)
    own_center, own_spread = logits.mean(axis=0), logits.std(axis=0)
    own_spread[own_spread < FLAT] = 1.0
    scaled = ((logits - own_center) / own_spread).astype(np.float32)
    designs = [_design(features, scaled, i) for i in range(truth.shape[1])]
    kinds = np.repeat([INTERCEPT, OWN, MEMBER, OTHER], [1, 1, len(center), truth.shape[1] - 1])
    shrunk = fit_shrunk(
        designs.__getitem__,
        logits,
        truth,
        kinds,
        precision=precision,
        start=None if start is None else start.shrunk.coefficients,
    )
    return Stack(center, spread, shared, own_center, own_spread, shrunk)


def _features(stack: Floats) -> NDArray[np.float32]:
    """Return ``(classes, n, features)``: each member's logit and probability, and the spread of the logits."""
    logits = logits_of(stack)
    parts = [*logits, *stack]
    if len(stack) > 1:
        parts.append(logits.std(axis=0))
    return np.stack(parts, axis=-1).transpose(1, 0, 2).astype(np.float32)


def _standardized(features: NDArray[np.float32], center: Floats, spread: Floats) -> NDArray[np.float32]:
    return np.ascontiguousarray((features - center.astype(np.float32)) / spread.astype(np.float32))


def _shared_logits(features: NDArray[np.float32], shared: Shared) -> Floats:
    logits = features @ shared.weights.astype(np.float32)
    return np.asarray(logits.T + shared.intercepts, np.float64)


def _design(features: NDArray[np.float32], scaled: NDArray[np.float32], number: int) -> NDArray[np.float32]:
    """Return 1, the class's own logit, its features, and the other classes' logits, ``(n, d)``."""
    others = np.delete(scaled, number, axis=1)
    return np.hstack([np.ones((len(scaled), 1), np.float32), scaled[:, [number]], features[number], others])
