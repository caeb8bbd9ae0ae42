"""Lists as CSV: the ids, labels and groups of fields, by id, and the locations that a submission gives them."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cytoloc.errors import TableError, first_line
from cytoloc.files import existing, new_file
from cytoloc.labels import LabelSet, format_labels, from_matrix, to_matrix


def read_csv(path: Path) -> pl.DataFrame:
    """Return a CSV, every value as text.

    Raises:
        TableError: If it cannot be read, or has an empty ``Id``.
    """
    _refuse_other_kinds(path)
    try:
        table = pl.read_csv(path, infer_schema=False, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise TableError(
            f"{path} cannot be read as CSV: {first_line(error)}.", way_out="Save it as CSV in UTF-8."
        ) from error
    if "Id" in table.columns and table["Id"].null_count():
        raise TableError(
            f"{path}: row {int(table['Id'].is_null().arg_max() or 0) + 1} after the header has no id.",
            way_out="Give every row the id of its field, or remove it.",
        )
    return table


def read_ids(path: str | Path) -> tuple[str, ...]:
    """Return the ids in the column ``Id`` of a CSV, or in a text file with one a line."""
    path = existing(Path(path))
    if path.name.lower().endswith((".csv", ".csv.gz")):
        table = read_csv(path)
        require_columns(table, ["Id"], path)
        ids = tuple(table["Id"].to_list())
    else:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (UnicodeDecodeError, OSError) as error:
            raise TableError(
                f"{path} is not a text file in UTF-8.", way_out="Give a CSV with the column Id, or one id a line."
            ) from error
        ids = tuple(line.strip() for line in lines if line.strip())
    if not ids:
        raise TableError(f"{path} lists no ids.", way_out="Give a CSV with the column Id, or one id a line.")
    refuse_repeated(ids, where=str(path))
    return ids


def read_labels(
    path: str | Path,
    label_set: LabelSet | None = None,
    *,
    column: str = "Target",
    blank: bool = False,
    may_be_empty: bool = False,
) -> dict[str, tuple[int, ...]]:
    """Return the location ids of each field in a CSV such as ``Id,Target``, in file order.

    Args:
        path: The file.
        label_set: What its labels mean.
        column: The column of labels; ``Predicted`` for a submission.
        blank: Whether a field may have no label.
        may_be_empty: Whether there may be no fields.

    Raises:
        TableError: If a column is missing, an id repeats, or a label is empty or unknown; names the row.
    """
    return dict(labels_in(path, label_set, column=column, blank=blank, may_be_empty=may_be_empty))


def labels_in(
    path: str | Path,
    label_set: LabelSet | None = None,
    *,
    column: str = "Target",
    blank: bool = False,
    may_be_empty: bool = False,
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield id and location ids of each field in a CSV, which is in memory meanwhile; see :func:`read_labels`."""
    locations = label_set or LabelSet.hpa28()
    path = existing(Path(path), what="labels file" if column == "Target" else "predictions file")
    table = read_csv(path)
    require_columns(table, ["Id", column], path)
    if table.height == 0 and not may_be_empty:
        raise TableError(f"{path} has no rows.", way_out="Give a row for each field, or leave out the labels.")
    refuse_repeated(table["Id"].to_list(), where=str(path))
    for name, text in zip(table["Id"], table[column], strict=True):
        yield (
            name,
            () if blank and not (text or "").strip() else locations.parse(text or "", where=f"{path}, id {name}"),
        )


def read_known(path: str | Path, ids: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the labels that a CSV ``Id,Target`` has of ``ids``, those of other fields left out.

    Raises:
        TableError: As :func:`read_labels`, and if it has labels, but none of them. A list without fields, such as
            that of a leak that is none, is no error.
    """
    labels, wanted = read_labels(path, may_be_empty=True), set(ids)
    known = {name: labels[name] for name in labels if name in wanted}
    if labels and not known:
        raise TableError(
            f"{path} has labels of none of these {len(ids)} fields; its ids are such as {next(iter(labels))},"
            f" theirs such as {ids[0]}.",
            way_out="Give labels under the ids of these fields, or leave them out.",
        )
    return known


def truth_of(ids: Sequence[str], labels: Mapping[str, tuple[int, ...]], *, where: str) -> NDArray[np.bool_]:
    """Return the boolean ``(n, 28)`` truth of ``ids``.

    Raises:
        TableError: If an id has no label.
    """
    missing = [name for name in ids if name not in labels]
    if missing:
        raise TableError(
            f"{where}: {len(missing)} of {len(ids)} fields have no label, e.g. {', '.join(missing[:3])}.",
            way_out="Give a label for each of these fields, or the scores of labelled fields alone.",
        )
    return to_matrix(labels[name] for name in ids)


def read_groups(path: str | Path, ids: Sequence[str]) -> NDArray[np.int64]:
    """Return a group number for each of ``ids``, of a CSV with the columns ``Id`` (or ``id``) and ``group``.

    Groups may be named as one likes: wells, antibodies, numbers. A folds file is such a CSV.

    Raises:
        TableError: If a column or an id is missing, an id repeats, or a group is empty.
    """
    path = existing(Path(path), what="groups file")
    table = read_csv(path)
    if "id" in table.columns and "Id" not in table.columns:
        table = table.rename({"id": "Id"})
    require_columns(table, ["Id", "group"], path, way_out="Name the group of each field, as `cytoloc folds` does.")
    refuse_repeated(table["Id"].to_list(), where=str(path))
    known = dict(table.select("Id", "group").iter_rows())
    missing = [name for name in ids if not known.get(name)]
    if missing:
        raise TableError(
            f"{path} lacks the group of {len(missing)} of the scored fields, e.g. {missing[0]}.",
            way_out="Give the group of each of these fields.",
        )
    named = [known[name] for name in ids]
    # Numbers keep their order, as a folds file has them.
    ordered = [int(group) for group in named] if all(group.isdecimal() for group in named) else named
    return np.unique(ordered, return_inverse=True)[1].astype(np.int64)


def write_locations(ids: Sequence[str], predicted: NDArray[np.bool_], path: Path) -> None:
    """Write ``Id,Predicted`` as the competition wants it, in the order of ``ids``, to a path that must be free."""
    table = pl.DataFrame({"Id": list(ids), "Predicted": [format_labels(row) for row in from_matrix(predicted)]})
    with new_file(path) as temporary:
        table.write_csv(temporary)


def refuse_repeated(ids: Sequence[str], *, where: str) -> None:
    """Raise :class:`~cytoloc.errors.TableError` if an id occurs twice."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise TableError(f"{where}: the id {name} occurs twice.", way_out="Keep one row per id.")
        seen.add(name)


def require_columns(table: pl.DataFrame, columns: Sequence[str], path: Path, *, way_out: str = "") -> None:
    """Raise :class:`~cytoloc.errors.TableError` unless the table of a file has all these columns.

    Args:
        table: Its content.
        columns: That it must have.
        path: The file.
        way_out: What to do about it, if its header is that of a well-formed CSV.
    """
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise TableError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)};"
            f" it has {', '.join(table.columns)[:200].replace(chr(13), ' ').strip()}.",
            way_out=_other_form(table.columns)
            or way_out
            or "Columns are separated by commas and named in the first line.",
        )


def _other_form(columns: Sequence[str]) -> str:
    """Return what to do about a table that lacks columns, if its header looks like that of another form."""
    header = ",".join(columns)
    if "\r" in header:
        return "Its lines do not end as in a text file (LF, or CR LF): save it again."
    for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if separator in header:
            return f"Its columns are separated by {name}: save it with commas."
    if {"ID", "Label"} <= set(columns):
        return "It looks like the labels of 2021, which `cytoloc audit --classes 2021` reads as the truth."
    if any(name != name.strip() for name in columns):
        return "There are blanks beside its commas: save it without."
    return ""


def _refuse_other_kinds(path: Path) -> None:
    """Raise if a file is what spreadsheets write unless they are told to write CSV in UTF-8."""
    try:
        with path.open("rb") as file:
            first = file.read(4)
    except OSError as error:
        raise TableError(
            f"{path} cannot be read: {error.strerror}.", way_out="Check the path and its rights."
        ) from error
    if first == b"PK\x03\x04":
        raise TableError(
            f"{path} is a zip archive, perhaps an Excel workbook, not CSV.",
            way_out="Unpack it, or save it as CSV in UTF-8.",
        )
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise TableError(f"{path} is text in UTF-16, not CSV.", way_out="Save it as CSV in UTF-8.")
