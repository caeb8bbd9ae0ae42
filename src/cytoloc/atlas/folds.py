"""Folds that can be believed: no group crosses them, and each has its share of every location.

Fields of one well are near-copies, and many antibodies are imaged in several wells; a split that separates them
lets a network be judged on what it has seen. So each group becomes one row with the union of its labels, the rows are
stratified (iterative stratification, Sechidis, Tsoumakas & Vlahavas 2011), and the folds are handed back to the fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import polars as pl
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cytoloc.atlas.store import Atlas
from cytoloc.errors import TableError
from cytoloc.files import existing, new_file
from cytoloc.labels import CHANNELS
from cytoloc.pictures.quality import FLAGS

GroupBy = Literal["well", "antibody", "field"]

_KEYS: Final[dict[GroupBy, tuple[str, ...]]] = {
    "well": ("antibody", "plate", "well"),
    "antibody": ("antibody",),
    "field": ("id",),
}


def make_folds(
    atlas: Atlas,
    *,
    k: int = 5,
    group_by: GroupBy = "well",
    pairs: Sequence[tuple[str, str]] = (),
    seed: int = 0,
    without: Sequence[str] = (),
) -> pl.DataFrame:
    """Return the folds of an atlas's labelled fields: columns ``id``, ``group``, ``fold``.

    A field that is left out has a group and no fold, so that its absence is seen in the file.

    Args:
        atlas: The fields.
        k: The number of folds.
        group_by: What must not be separated; a field for which it is not known is a group of its own.
        pairs: Near-duplicate fields, by id: each pair ends in one group. Ids that are not in the atlas are passed over,
            since lists of pairs span several atlases.
        seed: Of the stratification.
        without: Flags, such as ``blurred`` or ``nucleus blurred``: fields that have one are left out.

    Raises:
        TableError: If there are fewer groups than folds, or no such flag.
    """
    fields = atlas.fields.filter(pl.col("labels").is_not_null())
    groups = _groups(fields, group_by, pairs)
    truth = atlas.truth[atlas.labelled]
    used = ~flagged(fields, without)
    seen, groups_used = np.unique(groups[used], return_inverse=True)
    n_groups = len(seen)
    if not 2 <= k <= n_groups:
        raise TableError(
            f"{atlas.path} has {n_groups} groups of labelled fields; {k} folds cannot be made of them.",
            way_out=f"Choose -k from 2 to {n_groups}." if n_groups >= 2 else "Label fields of at least two groups.",
        )
    union = np.zeros((n_groups, truth.shape[1]), dtype=bool)
    np.logical_or.at(union, groups_used, truth[used])
    splitter = MultilabelStratifiedKFold(n_splits=k, shuffle=True, random_state=seed)
    fold_of_group = np.empty(n_groups, dtype=np.int64)
    for fold, (_, held_out) in enumerate(splitter.split(union, union)):
        fold_of_group[held_out] = fold
    folds = np.full(len(groups), -1)
    folds[used] = fold_of_group[groups_used]
    table = pl.DataFrame({"id": fields["id"], "group": groups, "fold": folds})
    return table.with_columns(pl.col("fold").replace(-1, None))


def group_known(fields: pl.DataFrame, group_by: GroupBy) -> NDArray[np.bool_]:
    """Return for which rows of an atlas's table it is known what must not be separated.

    Of a well, plate and well are enough: people's own files seldom name an antibody, and a well holds one.
    """
    needed = [name for name in _KEYS[group_by] if not (group_by == "well" and name == "antibody")]
    known = fields.select(pl.all_horizontal(pl.col(needed).is_not_null())).to_series()
    return np.asarray(known.to_numpy(), np.bool_)


def flagged(fields: pl.DataFrame, flags: Sequence[str]) -> NDArray[np.bool_]:
    """Return which rows of an atlas's table have one of the flags; one without a role stands for any channel's.

    Raises:
        TableError: If there is no such flag.
    """
    every = {f"{role} {flag}" for role in CHANNELS for flag in FLAGS}
    unknown = [flag for flag in flags if flag not in every and flag not in FLAGS]
    if unknown:
        raise TableError(
            f"There is no flag {unknown[0]!r}.",
            way_out=f"There are {', '.join(FLAGS)}, alone or after a channel's name.",
        )
    meant = [name for name in every if name in flags or name.partition(" ")[2] in flags]
    has = fields.select(pl.col("flags").list.eval(pl.element().is_in(meant)).list.any()).to_series()
    return np.asarray(has.fill_null(value=False).to_numpy(), np.bool_)


def write_folds(folds: pl.DataFrame, path: Path) -> None:
    """Write folds as CSV ``id,group,fold`` to a path that must be free."""
    with new_file(path) as temporary:
        folds.write_csv(temporary)


def read_folds(path: Path) -> pl.DataFrame:
    """Return the folds in a CSV ``id,group,fold``; a field without a fold is left out on purpose.

    Raises:
        TableError: If a column is missing, an id repeats, or a group crosses folds.
    """
    schema = {"id": pl.String, "group": pl.Int64, "fold": pl.Int64}
    try:
        table = pl.read_csv(existing(path, what="folds file"), schema_overrides=schema, glob=False)
        folds = table.select(*schema)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise TableError(
            f"{path} is not a folds file: {str(error).splitlines()[0]}",
            way_out="Make one with `cytoloc folds`.",
        ) from error
    if folds["fold"].drop_nulls().is_empty() or folds.select("id", "group").null_count().sum_horizontal().item():
        raise TableError(f"{path} is not a folds file: it is empty or has empty cells.")
    if folds["id"].is_duplicated().any():
        twice = folds.filter(folds["id"].is_duplicated())["id"][0]
        raise TableError(f"{path}: the id {twice} occurs twice.", way_out="Keep one row per id.")
    crossing = folds.group_by("group").agg(pl.col("fold").drop_nulls().n_unique()).filter(pl.col("fold") > 1)
    if crossing.height:
        raise TableError(
            f"{path}: {crossing.height} groups cross folds, e.g. group {crossing['group'][0]}.",
            way_out="A network would be judged on near-copies of what it saw. Make the folds with `cytoloc folds`.",
        )
    return folds


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of ids in the columns ``a`` and ``b`` of a CSV."""
    try:
        table = pl.read_csv(existing(path, what="pairs file"), infer_schema=False, glob=False).select("a", "b")
    except pl.exceptions.PolarsError as error:
        raise TableError(
            f"{path} is not a pairs file: {str(error).splitlines()[0]}",
            way_out="It needs the columns a and b.",
        ) from error
    return [(a, b) for a, b in table.iter_rows()]


def _groups(fields: pl.DataFrame, group_by: GroupBy, pairs: Sequence[tuple[str, str]]) -> NDArray[np.int64]:
    """Return a group number per field, 0 … in order of first appearance."""
    keys = [
        tuple(row) if known else ("a field of its own", name)
        for name, row, known in zip(
            fields["id"], fields.select(_KEYS[group_by]).iter_rows(), group_known(fields, group_by), strict=True
        )
    ]
    position = {name: row for row, name in enumerate(fields["id"])}
    first: dict[tuple[str | None, ...], int] = {}
    links = [(row, first.setdefault(key, row)) for row, key in enumerate(keys)]
    links += [(position[a], position[b]) for a, b in pairs if a in position and b in position]
    if not links:
        return np.empty(0, np.int64)
    one, other = np.array(links).T
    graph = coo_array((np.ones(len(links)), (one, other)), shape=(len(keys), len(keys)))
    component = connected_components(graph, directed=False)[1]
    _, first_row, inverse = np.unique(component, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first_row))
    return np.asarray(rank[inverse], np.int64)
