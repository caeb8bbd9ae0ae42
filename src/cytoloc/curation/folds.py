"""Folds that keep groups of related fields together and are stratified by location.

Fields of one well are near-duplicates, and many antibodies are imaged in several wells. If a split separates them, a
network is evaluated on fields that resemble its training fields. Therefore each group becomes one row with the union of
its labels. The rows are split by iterative stratification (Sechidis, Tsoumakas & Vlahavas 2011), which counts groups.
Then groups are moved and exchanged between folds to balance the numbers of fields too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
import polars as pl

from cytoloc._typing import BoolArray, IntArray
from cytoloc.choices import GroupBy, check_type, refuse_unknown
from cytoloc.curation.balancing import balanced
from cytoloc.curation.groups import groups_of_fields
from cytoloc.curation.pairs import PairSource, tied_ids
from cytoloc.dataset.labeled import LabelSource, open_labels
from cytoloc.errors import TableError
from cytoloc.images.quality import FLAGS


def make_folds(
    fields: LabelSource | pl.DataFrame,
    *,
    k: int = 5,
    group_by: GroupBy = "well",
    pairs: PairSource = (),
    seed: int = 0,
    without: Sequence[str] = (),
) -> pl.DataFrame:
    """Split the labeled fields into folds.

    Args:
        fields: A dataset, a label list, the path of either, or a table of fields.
        k: The number of folds.
        group_by: What folds keep together: fields of one ``"well"``, of one ``"antibody"``, or single fields
            (``"field"``). A field with an unknown well or antibody is a group of its own.
        pairs: Near-duplicates: the table of :func:`~cytoloc.curation.duplicates.find_duplicates`, files, or pairs of
            ids. Both fields of a pair are in one group. Pairs also connect fields through ids that are not in
            ``fields``.
        seed: Random seed.
        without: Quality flags, such as ``blurred`` or ``nucleus blurred``. Fields with one of them get no fold.

    Returns:
        A table with the columns ``id``, ``group`` and ``fold``. The fold of a field that is left out is null.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If ``group_by`` is unknown.
        TableError: If there are fewer groups than folds, a flag is unknown, or no pair contains a field.
    """
    # It imports scikit-learn and pandas, which training does not need.
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    refuse_unknown(group_by, get_args(GroupBy), argument="group_by")
    check_type(k, int, argument="k")
    check_type(seed, int, argument="seed")
    check_type(without, (list, tuple), argument="without")
    where, fields = labeled_fields(fields)
    groups = groups_of_fields(fields, group_by=group_by, pairs=tied_ids(pairs))
    used = ~flagged(fields, without) if without else np.ones(fields.height, bool)
    truth = present_locations(fields["labels"].to_list())
    seen, group_used = np.unique(groups[used], return_inverse=True)
    if not 2 <= k <= len(seen):
        raise TableError(
            f"{where} has {len(seen)} groups of labeled fields, which cannot be split into {k} folds.",
            hint=f"Choose `k` from 2 to {len(seen)}." if len(seen) >= 2 else "Label fields of at least two groups.",
        )
    present, counts = class_counts(truth[used], group_used)
    splitter = MultilabelStratifiedKFold(n_splits=k, shuffle=True, random_state=seed)
    fold_of_group = np.empty(len(seen), np.int64)
    for fold, (_, held_out) in enumerate(splitter.split(present, present)):
        fold_of_group[held_out] = fold
    what = np.concatenate([present, counts, np.bincount(group_used)[:, None]], axis=1).astype(float)
    even = np.tile(what.sum(axis=0) / k, (k, 1))
    fold_of_group = balanced(fold_of_group, what, targets=even)
    return table_of(fields, groups, used, fold_of_group[group_used])


def labeled_fields(fields: LabelSource | pl.DataFrame) -> tuple[str, pl.DataFrame]:
    """Return a table of labeled fields.

    Args:
        fields: A dataset, a label list, the path of either, or a table of fields.

    Returns:
        The origin of the fields, for messages, and the table.

    Raises:
        ArgumentTypeError: If ``fields`` has another type.
        TableError: If a table lacks columns.
    """
    if isinstance(fields, pl.DataFrame):
        missing = [name for name in ("id", "labels", "antibody", "plate", "well") if name not in fields.columns]
        if missing:
            raise TableError(f"`fields` lacks the column {missing[0]}.", hint="Give a dataset, or its fields.")
        return "The table", fields.filter(pl.col("labels").is_not_null())
    source = open_labels(fields, argument="fields")
    return str(source.path), source.fields.filter(source.fields["labels"].is_not_null())


def present_locations(labels: Sequence[Sequence[int]]) -> BoolArray:
    """Return labels as a matrix that ends with the last location that occurs.

    Folds then do not depend on locations without fields.

    Args:
        labels: Indices of the locations of each field.

    Returns:
        bool of shape ``(n, locations)``.
    """
    matrix = np.zeros((len(labels), 1 + max((index for indices in labels for index in indices), default=0)), bool)
    for row, indices in enumerate(labels):
        matrix[row, list(indices)] = True
    return matrix


def class_counts(truth: BoolArray, groups: IntArray) -> tuple[BoolArray, IntArray]:
    """Return the classes of each group.

    Args:
        truth: The labels of each field, bool of shape ``(n, classes)``.
        groups: The group of each field, numbered from 0 without gaps, shape ``(n,)``.

    Returns:
        The presence of each class, bool of shape ``(groups, classes)``, and its number of fields, int64 of the same
        shape.
    """
    counts = np.zeros((int(groups.max()) + 1, truth.shape[1]), np.int64)
    np.add.at(counts, groups, truth)
    return counts > 0, counts


def table_of(fields: pl.DataFrame, groups: IntArray, used: BoolArray, fold_of_used: IntArray) -> pl.DataFrame:
    """Return the table of folds; fields that are not used have the fold null."""
    folds = np.full(len(groups), -1)
    folds[used] = fold_of_used
    table = pl.DataFrame({"id": fields["id"], "group": groups, "fold": folds})
    return table.with_columns(pl.col("fold").replace(-1, None))


def flagged(fields: pl.DataFrame, flags: Sequence[str]) -> BoolArray:
    """Return which fields have one of some quality flags.

    Args:
        fields: The table of a dataset.
        flags: Quality flags. A flag without a channel means any channel.

    Returns:
        bool of shape ``(n,)``.

    Raises:
        TableError: If a flag is unknown, or the table has no flags because it is a label list.
    """
    if "flags" not in fields.columns:
        raise TableError("A label list contains no quality flags.", hint="Give the dataset of these fields.")
    channels = [name.removeprefix("phash_") for name in fields.columns if name.startswith("phash_")]
    every = {f"{channel} {flag}" for channel in channels for flag in FLAGS}
    unknown = [flag for flag in flags if flag not in every and flag not in FLAGS]
    if unknown:
        raise TableError(
            f"{unknown[0]!r} is not a quality flag.",
            hint=f"Choose {', '.join(FLAGS)}, alone or after one of the channels {', '.join(channels)}.",
        )
    meant = [name for name in every if name in flags or name.partition(" ")[2] in flags]
    has = fields.select(pl.col("flags").list.eval(pl.element().is_in(meant)).list.any()).to_series()
    return np.asarray(has.fill_null(value=False).to_numpy(), np.bool_)
