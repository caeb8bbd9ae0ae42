"""Quality of folds: fields per location and fold, and the pairs that a random split would separate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from cytoloc._typing import IntArray
from cytoloc.choices import check_type
from cytoloc.curation.folds import class_counts
from cytoloc.labels.label_set import LabelSet


@dataclass(frozen=True)
class FoldQuality:
    """How well folds are balanced.

    Attributes:
        label_set: The locations.
        fields: Number of fields per fold, shape ``(folds,)``.
        groups: Number of groups per fold, shape ``(folds,)``.
        class_fields: Number of fields per location and fold, shape ``(locations, folds)``.
        class_groups: Number of groups per location and fold, shape ``(locations, folds)``.
        together: Number of pairs of fields in the same group.
        cut_at_random: Number of these pairs that a random split into folds of the same sizes would separate.
    """

    label_set: LabelSet
    fields: IntArray
    groups: IntArray
    class_fields: IntArray
    class_groups: IntArray
    together: int
    cut_at_random: int

    @property
    def scarce(self) -> tuple[int, ...]:
        """Indices of locations with fewer groups than folds, which are therefore missing in some fold."""
        total = self.class_groups.sum(axis=1)
        return tuple(int(i) for i in np.flatnonzero((total > 0) & (total < len(self.groups))))

    @property
    def worst(self) -> tuple[int, float] | None:
        """The least even location, and its range of fields over folds divided by their mean: (max - min) / mean.

        Only locations with at least as many groups as folds are compared; None if there are none. A range of one field
        counts as 0.
        """
        most, fewest = self.class_fields.max(axis=1), self.class_fields.min(axis=1)
        mean = self.class_fields.mean(axis=1)
        could = self.class_groups.sum(axis=1) >= len(self.groups)
        if not could.any():
            return None
        ratio = np.where(could & (most - fewest > 1), (most - fewest) / np.maximum(mean, 1e-9), 0.0)
        return int(np.argmax(ratio)), float(ratio.max())

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return {
            "fields": self.fields.tolist(),
            "groups": self.groups.tolist(),
            "together": self.together,
            "cut_at_random": self.cut_at_random,
            "scarce": list(self.label_set.keys_of(self.scarce)),
            "worst": self.worst and {"key": self.label_set[self.worst[0]].key, "apart": self.worst[1]},
            "classes": self.table().to_dicts(),
        }

    def table(self) -> pl.DataFrame:
        """Return a table with one row per location: numbers of fields and groups, in total and per fold."""
        columns: dict[str, list[int] | list[str]] = {
            "key": list(self.label_set.keys),
            "location": list(self.label_set.names),
            "fields": self.class_fields.sum(axis=1).tolist(),
            "groups": self.class_groups.sum(axis=1).tolist(),
        }
        for fold in range(len(self.fields)):
            columns[f"fields_{fold}"] = self.class_fields[:, fold].tolist()
            columns[f"groups_{fold}"] = self.class_groups[:, fold].tolist()
        return pl.DataFrame(columns)


def fold_quality(folds: pl.DataFrame, fields: pl.DataFrame, label_set: LabelSet, *, seed: int = 0) -> FoldQuality:
    """Measure how well folds are balanced.

    Args:
        folds: A table with the columns ``id``, ``group`` and ``fold``. Fields without a fold are ignored.
        fields: A table with the columns ``id`` and ``labels``.
        label_set: The label set of the labels.
        seed: Random seed of the random split that folds are compared with.

    Returns:
        The numbers of fields and groups per fold and location.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
    """
    check_type(folds, pl.DataFrame, argument="folds")
    check_type(fields, pl.DataFrame, argument="fields")
    check_type(label_set, LabelSet, argument="label_set")
    used = folds.drop_nulls().join(fields.select("id", "labels"), on="id", how="left", maintain_order="left")
    fold = used["fold"].to_numpy()
    k = int(fold.max()) + 1
    _, group = np.unique(used["group"].to_numpy(), return_inverse=True)
    fold_of_group = np.zeros(int(group.max()) + 1, np.int64)
    fold_of_group[group] = fold
    present, counts = class_counts(label_set.to_matrix(used["labels"].to_list()), group)
    in_fold = fold_of_group[:, None] == np.arange(k)
    sizes = np.bincount(group)
    random = np.random.default_rng(seed).permutation(fold)
    inside = np.unique(np.stack([group, random]), axis=1, return_counts=True)[1]
    together = _pairs(sizes)
    return FoldQuality(
        label_set,
        fields=np.bincount(fold, minlength=k),
        groups=in_fold.sum(axis=0),
        class_fields=counts.T @ in_fold,
        class_groups=present.T.astype(np.int64) @ in_fold,
        together=together,
        cut_at_random=together - _pairs(inside),
    )


def _pairs(sizes: IntArray) -> int:
    return int((sizes * (sizes - 1) // 2).sum())
