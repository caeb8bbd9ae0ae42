"""Folds files: CSV ``id,group,fold``. Reading one checks that no group is in several folds."""

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
from cytoloc.labels.ids import alike_note, warn_ids
from cytoloc.labels.lists import read_csv, require_columns

_MAKE_ONE = "Make a folds file with `cytoloc folds`."
_CROSSING_HINT = (
    "Make new folds with `cytoloc folds`; otherwise a network is evaluated on near-duplicates of its training fields."
)


def write_folds(folds: pl.DataFrame, path: str | Path) -> None:
    """Write folds to a new CSV file ``id,group,fold``.

    Args:
        folds: The table of :func:`~cytoloc.curation.folds.make_folds`.
        path: The new file.

    Raises:
        ArgumentTypeError: If ``folds`` is not a table.
        OutputExistsError: If the file exists.
    """
    check_type(folds, pl.DataFrame, argument="folds")
    with new_file(Path(path)) as temporary:
        folds.write_csv(temporary)


def read_folds(path: str | Path, *, grouped: bool = True) -> pl.DataFrame:
    """Read folds from a CSV file ``id,group,fold``.

    Args:
        path: The file.
        grouped: Whether the file has groups. If not, each field is a group of its own, and the column of folds may be
            named ``Fold``.

    Returns:
        A table with the columns ``id``, ``group`` and ``fold``. A field without a fold was left out deliberately.

    Raises:
        ArgumentTypeError: If ``path`` is not a path.
        TableError: If a column is missing, an id repeats, or a group is in several folds.
    """
    check_type(path, (str, Path), argument="path")
    path = Path(path)
    table = read_csv(existing(path, what="folds file")).rename({"Id": "id"}, strict=False)
    if not grouped:
        if "fold" not in table.columns:
            table = table.rename({"Fold": "fold"}, strict=False)
        require_columns(table, ["id", "fold"], path, hint="Give the id and fold of each field.")
        # Groups are recomputed from the fields, so groups in the file are ignored.
        table = table.drop("group", strict=False).with_row_index("group")
    require_columns(table, ["id", "group", "fold"], path, hint=_MAKE_ONE)
    try:
        # If a cell is empty, pandas writes the integers of the column as 0.0 and 1.0.
        whole = pl.col("fold").str.replace(r"\.0$", "").cast(pl.Int64)
        folds = table.select(pl.col("id"), pl.col("group").cast(pl.Int64), whole)
    except pl.exceptions.PolarsError as error:
        raise TableError(
            f"{path} is not a folds file: {'groups and folds' if grouped else 'folds'} must be integers.",
            hint=_MAKE_ONE,
        ) from error
    return check_table(folds, where=path)


def check_table(folds: pl.DataFrame, *, where: Path | str) -> pl.DataFrame:
    """Return a table of folds if it is valid.

    Args:
        folds: A table with the columns ``id``, ``group`` and ``fold``.
        where: The origin of the table, for error messages.

    Returns:
        The table.

    Raises:
        TableError: If the table is empty or has empty cells, an id repeats, folds are not numbered from 0, there is
            only one fold, or a group is in several folds.
    """
    if folds["fold"].drop_nulls().is_empty() or folds.select("id", "group").null_count().sum_horizontal().item():
        raise TableError(f"{where} is not a folds file: it is empty or has empty cells.", hint=_MAKE_ONE)
    if folds["id"].is_duplicated().any():
        twice = folds.filter(folds["id"].is_duplicated())["id"][0]
        raise TableError(f"{where}: the id {twice} occurs twice.", hint="Keep one row per id.")
    numbers = sorted(folds["fold"].drop_nulls().unique())
    if numbers != list(range(len(numbers))):
        raise TableError(
            f"{where}: folds are numbered {', '.join(map(str, numbers[:8]))}{', …' if len(numbers) > 8 else ''}, which"
            " does not start at 0 or has gaps.",
            hint="Number the folds 0, 1, 2 … without gaps.",
        )
    if len(numbers) < 2:
        raise TableError(f"{where} has only one fold, so no fields are left to train on.", hint=_MAKE_ONE)
    crossing = _crossing(folds)
    if crossing.height:
        raise TableError(
            f"{where}: {crossing.height} groups are in several folds, such as group {crossing['group'][0]}.",
            hint=_CROSSING_HINT,
        )
    return folds


def refuse_crossing(folds: pl.DataFrame, ids: list[str], groups: IntArray, *, where: Path | str) -> None:
    """Raise if fields of one group are in different folds.

    Args:
        folds: The table of folds; its groups are ignored.
        ids: The ids of the fields.
        groups: The group of each field.
        where: The origin of the folds, for error messages.

    Raises:
        TableError: If a group is in several folds, or a field has no row.
    """
    known = pl.DataFrame({"id": ids, "group": groups}).join(folds.select("id", "fold"), on="id", how="left")
    missing = sorted(set(ids) - set(folds["id"]))
    if missing:
        raise TableError(
            f"{where} has no row for {len(missing)} of {len(ids)} fields, such as {missing[0]}."
            f"{alike_note(missing, folds['id'].to_list())}",
            hint="Make folds of these fields with `cytoloc folds`.",
        )
    crossing = _crossing(known)
    if crossing.height:
        names = known.filter(pl.col("group") == crossing["group"][0]).drop_nulls()["id"].to_list()
        raise TableError(
            f"{where}: fields of the same group are in different folds, in {crossing.height} groups, such as"
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
    """Check that folds keep related fields together.

    Args:
        folds: A table with the columns ``id`` and ``fold``, or its file. Groups in it are ignored and recomputed.
        fields: The labeled fields; see :func:`~cytoloc.curation.folds.make_folds`.
        group_by: What folds keep together; see :func:`~cytoloc.curation.folds.make_folds`.
        pairs: Near-duplicates; see :func:`~cytoloc.curation.folds.make_folds`.

    Returns:
        The folds of these fields with recomputed groups, and the number of other fields in ``folds``.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        TableError: If a group is in several folds, a labeled field has no row, or there are no labeled fields.
    """
    check_type(folds, (pl.DataFrame, str, Path), argument="folds")
    where, labeled = labeled_fields(fields)
    named = folds if isinstance(folds, str | Path) else "the folds"
    made = read_folds(Path(folds), grouped=False) if isinstance(folds, str | Path) else folds
    if labeled.is_empty():
        raise TableError(f"{where} has no labeled fields, so folds cannot be checked.", hint="Give labeled fields.")
    together = groups_of_fields(labeled, group_by=group_by, pairs=tied_ids(pairs))
    refuse_crossing(made, labeled["id"].to_list(), together, where=named)
    grouped = labeled.select("id").with_columns(group=together)
    strange = made.join(grouped, on="id", how="anti")["id"]
    if looks := alike_note(strange, labeled["id"].to_list()):
        warn_ids(f"{named}: {len(strange)} ids are not labeled fields of {where}.{looks}")
    unknown = len(strange)
    made = made.drop("group", strict=False).join(grouped, on="id", how="inner", maintain_order="left")
    made = made.select("id", "group", "fold")
    if made["fold"].drop_nulls().is_empty():
        raise TableError(
            f"{named} contains no fold for any of the labeled fields.", hint="Give the folds file of these fields."
        )
    return made, unknown
