"""Making folds: each group becomes one row, the rows are stratified, then evened out.

Fields of one well are near-duplicates, and many antibodies are imaged in several wells; a split that separates them
lets a
network be judged on what it has seen. So each group becomes one row with the union of its labels, the rows are
stratified (iterative stratification, Sechidis, Tsoumakas & Vlahavas 2011), groups are moved and exchanged while that
evens out the folds, and the folds are handed back to the fields. The stratification alone counts groups; what follows
counts fields too, which is what a network learns from: ``docs/folds.md`` has both on the competition's training set.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from numpy.typing import NDArray

from cytoloc.choices import GroupBy
from cytoloc.curation.balancing import evened
from cytoloc.curation.groups import groups_of_fields
from cytoloc.errors import TableError
from cytoloc.images.quality import FLAGS


def make_folds(
    fields: pl.DataFrame,
    *,
    k: int = 5,
    group_by: GroupBy = "well",
    pairs: Sequence[tuple[str, str]] = (),
    seed: int = 0,
    without: Sequence[str] = (),
    where: str = "The table",
) -> pl.DataFrame:
    """Return the folds of the labeled fields: columns ``id``, ``group``, ``fold``.

    A field that is left out has a group and no fold, so that its absence is seen in the file.

    Args:
        fields: The table of a dataset, or :func:`~cytoloc.curation.groups.listed_fields`.
        k: The number of folds.
        group_by: What must not be separated; a field for which it is not known is a group of its own.
        pairs: Near-duplicate fields, by id: each pair ends in one group, also by way of fields that are not here.
        seed: Random seed of the stratification.
        without: Flags, such as ``blurred`` or ``nucleus blurred``: fields that have one are left out.
        where: The name of the table, for the message of an error.

    Raises:
        TableError: If there are fewer groups than folds, no such flag, or no pair names a field.
    """
    fields = fields.filter(pl.col("labels").is_not_null())
    groups = groups_of_fields(fields, group_by=group_by, pairs=pairs)
    used = ~flagged(fields, without) if without else np.ones(fields.height, bool)
    truth = present_locations(fields["labels"].to_list())
    seen, group_used = np.unique(groups[used], return_inverse=True)
    if not 2 <= k <= len(seen):
        raise TableError(
            f"{where} has {len(seen)} groups of labeled fields; {k} folds cannot be made of them.",
            hint=f"Choose -k from 2 to {len(seen)}." if len(seen) >= 2 else "Label fields of at least two groups.",
        )
    present, counts = class_counts(truth[used], group_used)
    splitter = MultilabelStratifiedKFold(n_splits=k, shuffle=True, random_state=seed)
    fold_of_group = np.empty(len(seen), np.int64)
    for fold, (_, held_out) in enumerate(splitter.split(present, present)):
        fold_of_group[held_out] = fold
    what = np.concatenate([present, counts, np.bincount(group_used)[:, None]], axis=1).astype(float)
    even = np.tile(what.sum(axis=0) / k, (k, 1))
    fold_of_group = evened(fold_of_group, what, targets=even)
    return table_of(fields, groups, used, fold_of_group[group_used])


def present_locations(labels: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
    """Return which locations each field has, bool ``(n, locations)``.

    There are columns up to the last location that any field has: folds do not depend on locations without fields.
    """
    matrix = np.zeros((len(labels), 1 + max((index for indices in labels for index in indices), default=0)), bool)
    for row, indices in enumerate(labels):
        matrix[row, list(indices)] = True
    return matrix


def class_counts(truth: NDArray[np.bool_], groups: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return for each group which classes it has, bool ``(groups, classes)``, and how many fields of each.

    Args:
        truth: bool ``(n, classes)``.
        groups: ``(n,)``, numbered 0 … without gaps.
    """
    counts = np.zeros((int(groups.max()) + 1, truth.shape[1]), np.int64)
    np.add.at(counts, groups, truth)
    return counts > 0, counts


def table_of(
    fields: pl.DataFrame, groups: NDArray[np.int64], used: NDArray[np.bool_], fold_of_used: NDArray[np.int64]
) -> pl.DataFrame:
    """Return the table of folds; fields that are not used have none."""
    folds = np.full(len(groups), -1)
    folds[used] = fold_of_used
    table = pl.DataFrame({"id": fields["id"], "group": groups, "fold": folds})
    return table.with_columns(pl.col("fold").replace(-1, None))


def flagged(fields: pl.DataFrame, flags: Sequence[str]) -> NDArray[np.bool_]:
    """Return which rows of a dataset's table have one of the flags; one without a channel stands for any channel's.

    Raises:
        TableError: If there is no such flag, or the table is a label list, which has none.
    """
    if "flags" not in fields.columns:
        raise TableError("A label list says nothing of flags.", hint="Give the dataset of its fields.")
    channels = [name.removeprefix("phash_") for name in fields.columns if name.startswith("phash_")]
    every = {f"{channel} {flag}" for channel in channels for flag in FLAGS}
    unknown = [flag for flag in flags if flag not in every and flag not in FLAGS]
    if unknown:
        raise TableError(
            f"There is no flag {unknown[0]!r}.",
            hint=f"There are {', '.join(FLAGS)}, alone or after one of the channels {', '.join(channels)}.",
        )
    meant = [name for name in every if name in flags or name.partition(" ")[2] in flags]
    has = fields.select(pl.col("flags").list.eval(pl.element().is_in(meant)).list.any()).to_series()
    return np.asarray(has.fill_null(value=False).to_numpy(), np.bool_)
