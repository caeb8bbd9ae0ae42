"""The fields whose features are most alike, by exact search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from cytoloc._typing import Float32Array, IntArray
from cytoloc.choices import check_type
from cytoloc.embed.embeddings import Embeddings
from cytoloc.errors import MissingExtraError, SettingsError, installing


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
        MissingExtraError: If faiss is not installed.
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
    faiss = exact_search()
    index: Any = faiss.IndexFlatIP(reference.features.shape[1])
    index.add(unit_length(reference.features))
    likeness, rows = index.search(unit_length(embeddings.features), k + own)
    if own:
        itself = np.array(reference.ids)[rows] == np.array(embeddings.ids)[:, None]
        itself[~itself.any(axis=1), -1] = True  # a field that is not among the reference fields loses the last one
        kept = ~itself
        likeness, rows = likeness[kept].reshape(-1, k), rows[kept].reshape(-1, k)
    distances = np.asarray(np.clip(1 - likeness, 0, 2), np.float32)
    return Neighbors(embeddings.ids, reference.ids, np.asarray(rows, np.int64), distances)


def exact_search() -> Any:
    """Return the library faiss.

    Raises:
        MissingExtraError: If faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("The library faiss is not installed.", hint=installing("duplicates")) from error
    return faiss


def unit_length(features: Float32Array) -> Float32Array:
    """Return features of length 1."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.ascontiguousarray(features / np.maximum(lengths, 1e-12), np.float32)
