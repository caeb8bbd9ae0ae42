"""The file of folds: CSV ``id,group,fold``, read back only if no group crosses folds."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from cytoloc._typing import IntArray
from cytoloc.choices import GroupBy, check_type
from cytoloc.curation.folds import labeled_fields
from cytoloc.curation.groups import groups_of_fields
from cytoloc.curation.pairs import PairSource, tied_ids
from cytoloc.dataset.labeled import LabelSource
from cytoloc.errors import TableError
from cytoloc.files import existing, new_file
from cytoloc.labels.lists import read_csv, require_columns

_MAKE_ONE = "Make one with `cytoloc folds`."
_CROSSING_HINT = (
    "A network would be evaluated on near-duplicates of what it was trained on. Make the folds with `cytoloc folds`."
)


def write_folds(folds: pl.DataFrame, path: str | Path) -> None:
    """Write folds as CSV ``id,group,fold`` to a path that must be free."""
    check_type(folds, pl.DataFrame, argument="folds")
    with new_file(Path(path)) as temporary:
        folds.write_csv(temporary)


def read_folds(path: str | Path, *, grouped: bool = True) -> pl.DataFrame:
    """Return the folds in a CSV ``id,group,fold``; a field without a fold is left out on purpose.

    Args:
        path: The file.
        grouped: Whether its groups count; if not, each field is a group of its own, and ``Fold`` is read too.

    Raises:
        TableError: If a column is missing, an id repeats, or a group crosses folds.
    """
    check_type(path, (str, Path), argument="path")
    path = Path(path)
    table = read_csv(existing(path, what="folds file")).rename({"Id": "id"}, strict=False)
    if not grouped:
        if "fold" not in table.columns:
            table = table.rename({"Fold": "fold"}, strict=False)
        require_columns(table, ["id", "fold"], path, hint="Name each field and its fold.")
        # Groups are computed from the fields, so the file may have any groups, or none.
        table = table.drop("group", strict=False).with_row_index("group")
    require_columns(table, ["id", "group", "fold"], path, hint=_MAKE_ONE)
    try:
        # A table with an empty cell has its integers as 0.0 and 1.0 when pandas writes it.
        whole = pl.col("fold").str.replace(r"\.0$", "").cast(pl.Int64)
        folds = table.select(pl.col("id"), pl.col("group").cast(pl.Int64), whole)
    except pl.exceptions.PolarsError as error:
        raise TableError(
            f"{path} is not a folds file: {'groups and folds' if grouped else 'folds'} must be whole numbers.",
            hint=_MAKE_ONE,
        ) from error
    return check_table(folds, where=path)


def check_table(folds: pl.DataFrame, *, where: Path | str) -> pl.DataFrame:
    """Return a table ``id``, ``group``, ``fold`` if it is valid.

    Raises:
        TableError: If it is empty or has empty cells, an id repeats, folds are not numbered from 0, there is only one
            fold, or a group crosses folds.
    """
    if folds["fold"].drop_nulls().is_empty() or folds.select("id", "group").null_count().sum_horizontal().item():
        raise TableError(f"{where} is not a folds file: it is empty or has empty cells.", hint=_MAKE_ONE)
    if folds["id"].is_duplicated().any():
        twice = folds.filter(folds["id"].is_duplicated())["id"][0]
        raise TableError(f"{where}: the id {twice} occurs twice.", hint="Keep one row per id.")
    numbers = sorted(folds["fold"].drop_nulls().unique())
    if numbers != list(range(len(numbers))):
        raise TableError(
            f"{where}: folds are numbered {', '.join(map(str, numbers[:8]))}{', …' if len(numbers) > 8 else ''}.",
            hint="Number them 0, 1, 2 … without gaps.",
        )
    if len(numbers) < 2:
        raise TableError(f"{where} has one fold alone, so nothing would be left to train on.", hint=_MAKE_ONE)
    crossing = _crossing(folds)
    if crossing.height:
        raise TableError(
            f"{where}: groups that cross folds: {crossing.height}, e.g. group {crossing['group'][0]}.",
            hint=_CROSSING_HINT,
        )
    return folds


def refuse_crossing(folds: pl.DataFrame, ids: list[str], groups: IntArray, *, where: Path | str) -> None:
    """Raise if fields that belong together are in different folds, whatever groups the file itself names.

    Raises:
        TableError: If a group crosses folds, or a field is not in the file.
    """
    known = pl.DataFrame({"id": ids, "group": groups}).join(folds.select("id", "fold"), on="id", how="left")
    missing = sorted(set(ids) - set(folds["id"]))
    if missing:
        raise TableError(
            f"{where} lacks {len(missing)} of {len(ids)} fields, e.g. {missing[0]}.",
            hint="Make the folds of these fields with `cytoloc folds`.",
        )
    crossing = _crossing(known)
    if crossing.height:
        names = known.filter(pl.col("group") == crossing["group"][0]).drop_nulls()["id"].to_list()
        raise TableError(
            f"{where}: fields that belong together cross folds, in groups: {crossing.height}, e.g."
            f" {' and '.join(names[:2])}.",
            hint=_CROSSING_HINT,
        )


def _crossing(folds: pl.DataFrame) -> pl.DataFrame:
    folds_of = folds.group_by("group", maintain_order=True).agg(pl.col("fold").drop_nulls().n_unique())
    return folds_of.filter(pl.col("fold") > 1)


def check_folds(
    folds: pl.DataFrame | str | Path,
    fields: LabelSource | pl.DataFrame,
    *,
    group_by: GroupBy = "well",
    pairs: PairSource = (),
) -> tuple[pl.DataFrame, int]:
    """Return folds with recomputed groups, if no group crosses them.

    Args:
        folds: A table ``id``, ``fold``, or its file; groups in it do not count.
        fields: The labeled fields; see :func:`~cytoloc.curation.folds.make_folds`.
        group_by: What must not be separated.
        pairs: Near-duplicates.

    Returns:
        The folds of these fields, and how many fields of the folds are not among them.

    Raises:
        TableError: If a group crosses folds, a labeled field is missing, or there are none.
    """
    check_type(folds, (pl.DataFrame, str, Path), argument="folds")
    where, labeled = labeled_fields(fields)
    named = folds if isinstance(folds, str | Path) else "the folds"
    made = read_folds(Path(folds), grouped=False) if isinstance(folds, str | Path) else folds
    if labeled.is_empty():
        raise TableError(f"{where} has no labeled fields, so there is nothing to check.")
    together = groups_of_fields(labeled, group_by=group_by, pairs=tied_ids(pairs))
    refuse_crossing(made, labeled["id"].to_list(), together, where=named)
    grouped = labeled.select("id").with_columns(group=together)
    unknown = made.join(grouped, on="id", how="anti").height
    made = made.drop("group", strict=False).join(grouped, on="id", how="inner", maintain_order="left")
    made = made.select("id", "group", "fold")
    if made["fold"].drop_nulls().is_empty():
        raise TableError(f"{named} has a fold for none of the labeled fields.", hint="Check the file of these fields.")
    return made, unknown
