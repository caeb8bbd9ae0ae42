"""Distances and a classifier that separate usual images from unusual ones."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from cytoloc._typing import Float32Array

COMPONENTS: Final = 48
"""Number of principal components in which a distance is measured."""

UNITS: Final = 48
"""Number of hidden units of the classifier of kinds of nonsense."""


@dataclass(frozen=True)
class Distance:
    """The Mahalanobis distance to a set of vectors, in their principal components and in what remains.

    Attributes:
        center: Mean of each value, shape ``(values,)``.
        scale: Standard deviation of each value, shape ``(values,)``.
        components: Principal components divided by their standard deviations, shape ``(k, values)``.
        directions: The principal components, shape ``(k, values)``.
        rest: Mean squared length of what the components do not explain.
        limit: Distance above which a vector is unusual.
    """

    center: Float32Array
    scale: Float32Array
    components: Float32Array
    directions: Float32Array
    rest: float
    limit: float = np.inf

    @classmethod
    def fit(cls, vectors: Float32Array) -> Distance:
        """Return the distance to vectors of shape ``(n, values)``."""
        center, scale = vectors.mean(axis=0), vectors.std(axis=0) + 1e-6
        scaled = (vectors - center) / scale
        _, lengths, directions = np.linalg.svd(scaled, full_matrices=False)
        count = min(COMPONENTS, len(lengths) - 1, max(1, len(vectors) // 4))
        std = np.maximum(lengths[:count] / np.sqrt(len(vectors)), 1e-3)
        rest = float((lengths[count:] ** 2).sum() / len(vectors))
        kept = directions[:count]
        return cls(center, scale, (kept / std[:, None]).astype(np.float32), kept, max(rest, 1e-3))

    def __call__(self, vectors: Float32Array) -> Float32Array:
        """Return the squared distance of each vector."""
        scaled = (vectors - self.center) / self.scale
        inside = ((scaled @ self.components.T) ** 2).sum(axis=1)
        outside = (scaled**2).sum(axis=1) - ((scaled @ self.directions.T) ** 2).sum(axis=1)
        return np.asarray(inside + len(self.directions) * np.maximum(outside, 0) / self.rest, np.float32)


@dataclass(frozen=True)
class KindClassifier:
    """A small classifier of statistics into good fields (class 0) and kinds of nonsense.

    Attributes:
        center: Mean of each statistic of good fields.
        scale: Standard deviation of each statistic of good fields.
        hidden: Weights of the hidden layer, shape ``(statistics + 1, units)``; the last row is the bias.
        last: Weights of the last layer, shape ``(units + 1, classes)``.
        limit: Probability of nonsense above which a field is marked.
    """

    center: Float32Array
    scale: Float32Array
    hidden: Float32Array
    last: Float32Array
    limit: float = 1.0

    @classmethod
    def fit(cls, good: Float32Array, kinds: Sequence[Float32Array]) -> KindClassifier:
        """Return a classifier for the statistics of good fields, and of each kind of nonsense."""
        # Imported late, because it takes long and few need it.
        from sklearn.neural_network import MLPClassifier

        center, scale = good.mean(axis=0), good.std(axis=0) + 1e-3
        values = _scaled(np.concatenate([good, *kinds]), center, scale)
        classes = np.repeat(np.arange(len(kinds) + 1), [len(good), *map(len, kinds)])
        fitted = MLPClassifier((UNITS,), alpha=1.0, max_iter=40, tol=0, random_state=0, n_iter_no_change=40)
        # 40 passes are enough. The library warns that they do not reach the minimum.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted.fit(values, classes)
        hidden, last = (
            np.vstack([weights, bias]).astype(np.float32)
            for weights, bias in zip(fitted.coefs_, fitted.intercepts_, strict=True)
        )
        return cls(center, scale, hidden, last)

    def __call__(self, statistics: Float32Array) -> Float32Array:
        """Return the probability of each class, shape ``(n, classes)``."""
        values = _scaled(statistics, self.center, self.scale)
        hidden = np.maximum(values @ self.hidden[:-1] + self.hidden[-1], 0)
        logits = hidden @ self.last[:-1] + self.last[-1]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def _scaled(values: Float32Array, center: Float32Array, scale: Float32Array) -> Float32Array:
    return np.asarray(np.clip((values - center) / scale, -5, 5), np.float32)
