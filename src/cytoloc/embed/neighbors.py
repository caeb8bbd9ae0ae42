"""The fields whose features are most alike, by exact search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from cytoloc._typing import Float32Array, IntArray
from cytoloc.choices import check_type
from cytoloc.embed.embeddings import Embeddings
from cytoloc.errors import SettingsError

_QUERIES: Final = 256
_REFERENCE: Final = 65_536
"""Numbers of fields and of reference fields that are compared at once, to limit memory."""


@dataclass(frozen=True)
class Neighbors:
    """The nearest reference fields of some fields.

    Attributes:
        ids: The ids of the fields.
        reference_ids: The ids of the reference fields.
        rows: The rows of the nearest reference fields, the nearest first, shape ``(n, k)``.
        distances: Their cosine distances, from 0 (the same direction) to 2, float32 of shape ``(n, k)``.
    """

    ids: tuple[str, ...]
    reference_ids: tuple[str, ...]
    rows: IntArray
    distances: Float32Array

    def to_polars(self) -> pl.DataFrame:
        """Return a table with the columns ``id``, ``rank``, ``neighbor`` and ``distance``."""
        k = self.rows.shape[1]
        return pl.DataFrame(
            {
                "id": np.repeat(self.ids, k),
                "rank": np.tile(np.arange(1, k + 1), len(self.ids)),
                "neighbor": [self.reference_ids[row] for row in self.rows.ravel()],
                "distance": self.distances.ravel(),
            }
        )


def find_neighbors(embeddings: Embeddings, reference: Embeddings, *, k: int = 5) -> Neighbors:
    """Find the reference fields whose features are most alike, by cosine distance and exact search.

    A field is not its own neighbor: a reference field with the same id is left out.

    Args:
        embeddings: The features of the fields.
        reference: The features of the reference fields, such as a labeled dataset.
        k: Number of neighbors.

    Returns:
        The neighbors.

    Raises:
        SettingsError: If the features are of different models, or ``k`` is not from 1 to the number of reference
            fields.
    """
    check_type(embeddings, Embeddings, argument="embeddings")
    check_type(reference, Embeddings, argument="reference")
    if embeddings.model != reference.model:
        raise SettingsError(
            "The features are of different models, so they cannot be compared.",
            hint="Compute the features of both with one model.",
        )
    own = len(set(embeddings.ids) & set(reference.ids)) > 0
    if type(k) is not int or not 1 <= k <= len(reference) - own:
        raise SettingsError(f"`k` is {k!r}, but must be from 1 to {len(reference) - own}, the number of other fields.")
    groups = None
    if own:
        ids = np.unique(np.array((*reference.ids, *embeddings.ids)), return_inverse=True)[1]
        groups = (ids[: len(reference)], ids[len(reference) :])
    rows, likeness = nearest_rows(embeddings.features, reference.features, k, groups=groups)
    return Neighbors(embeddings.ids, reference.ids, rows, np.asarray(np.clip(1 - likeness, 0, 2), np.float32))


def nearest_rows(
    features: Float32Array, reference: Float32Array, k: int, *, groups: tuple[IntArray, IntArray] | None = None
) -> tuple[IntArray, Float32Array]:
    """Return the reference fields with the highest cosine similarity, by comparing all pairs.

    Matrix products of NumPy are faster than the exact index of faiss, which copies all features (``python -m
    benchmarks.neighbors``).

    Args:
        features: The features of the fields, shape ``(n, width)``.
        reference: The features of the reference fields, shape ``(m, width)``.
        k: Number of neighbors, at most ``m``.
        groups: The groups of the reference fields, and those of the fields. Fields of one group are not neighbors.

    Returns:
        The rows of the neighbors, the nearest first, and their cosine similarities, shape ``(n, k)`` each. A field with
        too few reference fields in other groups has neighbors with the similarity minus infinity.
    """
    lengths = np.maximum(np.sqrt(np.einsum("ij,ij->i", reference, reference)), 1e-12)
    own = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    rows = np.empty((len(features), k), np.int64)
    likeness = np.empty((len(features), k), np.float32)
    for start in range(0, len(features), _QUERIES):
        some = slice(start, start + _QUERIES)
        found = np.full((len(own[some]), k), -np.inf, np.float32)
        places = np.zeros((len(found), k), np.int64)
        for first in range(0, len(reference), _REFERENCE):
            block = slice(first, first + _REFERENCE)
            close = own[some] @ reference[block].T
            close /= lengths[block]
            if groups is not None:
                close[groups[0][block] == groups[1][some, None]] = -np.inf
            if close.shape[1] > k:
                best = np.argpartition(close, -k, axis=1)[:, -k:]
            else:
                best = np.broadcast_to(np.arange(close.shape[1]), close.shape)
            found = np.concatenate([found, np.take_along_axis(close, best, axis=1)], axis=1)
            places = np.concatenate([places, best + first], axis=1)
            order = np.argsort(-found, axis=1, kind="stable")[:, :k]
            found, places = np.take_along_axis(found, order, axis=1), np.take_along_axis(places, order, axis=1)
        rows[some], likeness[some] = places, found
    return rows, likeness
