"""Lists as CSV: the ids, labels and groups of fields, by id, and the locations that a submission gives them."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from cytoloc._typing import BoolArray, IntArray
from cytoloc.errors import TableError, first_line
from cytoloc.files import existing, new_file
from cytoloc.labels.label_set import LabelSet, from_matrix

ID_COLUMNS: Final = ("Id", "id", "ID")
"""Names of the column of ids; tables that are read have it as ``Id``."""

LABEL_COLUMNS: Final = ("target", "labels", "label", "locations", "location")
"""Names of the column of labels; the case does not count. The first one that a table has is read."""

_OTHER_SEPARATORS: Final = {";": "semicolons", "\t": "tabs", "|": "bars"}
_ABSENT: Final = ("0", "0.0")
_PRESENT: Final = ("1", "1.0")


def read_csv(path: Path) -> pl.DataFrame:
    """Return a CSV, every value as text; the column of ids, if it has one, is named ``Id``.

    Raises:
        TableError: If it cannot be read, two columns have one name, or an id is empty.
    """
    try:
        with path.open("rb") as file:
            first = file.read(4)
    except OSError as error:
        raise TableError(f"{path} cannot be read: {error.strerror}.", hint="Check the path and its rights.") from error
    # Spreadsheets write these unless CSV in UTF-8 is chosen.
    if first == b"PK\x03\x04":
        raise TableError(
            f"{path} is a zip archive, perhaps an Excel workbook, not CSV.",
            hint="Unpack it, or save it as CSV in UTF-8.",
        )
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise TableError(f"{path} is text in UTF-16, not CSV.", hint="Save it as CSV in UTF-8.")
    try:
        table = pl.read_csv(path, infer_schema=False, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise TableError(
            f"{path} cannot be read as CSV: {first_line(error)}.", hint="Save it as CSV in UTF-8."
        ) from error
    # Polars gives the second column of a name this ending.
    twice = (name.rpartition("_duplicated_") for name in table.columns)
    doubled = next((name for name, _, count in twice if count.isdecimal() and name in table.columns), None)
    if doubled is not None:
        raise TableError(f"{path}: two columns are named {doubled!r}.", hint="Keep one of them.")
    ids = next((name for name in ID_COLUMNS if name in table.columns), None)
    if ids is not None:
        table = table.rename({ids: "Id"})
        if table["Id"].null_count():
            raise TableError(
                f"{path}: row {int(table['Id'].is_null().arg_max() or 0) + 1} after the header has no id.",
                hint="Give every row the id of its field, or remove it.",
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
                f"{path} is not a text file in UTF-8.", hint="Give a CSV with the column Id, or one id a line."
            ) from error
        ids = tuple(line.strip() for line in lines if line.strip())
    if not ids:
        raise TableError(f"{path} lists no ids.", hint="Give a CSV with the column Id, or one id a line.")
    refuse_repeated(ids, where=str(path))
    return ids


def read_labels(
    path: str | Path, label_set: LabelSet, *, column: str | None = None, blank: bool = False, may_be_empty: bool = False
) -> dict[str, tuple[int, ...]]:
    """Return the indices of the locations of each field in a CSV, in file order.

    The column of ids is called ``Id``, ``id`` or ``ID``. Labels are in one column, as keys or names separated by
    blanks, ``;``, ``|`` or ``,``; it is called ``Target``, ``Labels``, ``Label``, ``Locations`` or ``Location``.
    Or there is one column for each location, by key or name, with 0 and 1; locations without a column are absent.

    Args:
        path: The file.
        label_set: The locations that its labels name.
        column: The column of labels, if it has another name; ``Predicted`` for a submission.
        blank: Whether a field may have no label.
        may_be_empty: Whether there may be no fields.

    Raises:
        TableError: If a column is missing or unknown, an id repeats, or a label is empty or unknown.
    """
    path = existing(Path(path), what="predictions file" if column == "Predicted" else "labels file")
    table = read_csv(path)
    found = label_column(table) if column is None else column if column in table.columns else None
    by_column = found is None and any(is_location(name, label_set) for name in table.columns)
    require_columns(table, ["Id"] if by_column or found else ["Id", column or "Target"], path)
    columns = [found] if found else [name for name in table.columns if name != "Id"]
    indices = [] if found else location_columns(columns, label_set, path)
    if table.height == 0 and not may_be_empty:
        raise TableError(f"{path} has no rows.", hint="Give a row for each field, or leave out the labels.")
    refuse_repeated(table["Id"].to_list(), where=str(path))
    labels: dict[str, tuple[int, ...]] = {}
    for name, *cells in table.select("Id", *columns).iter_rows():
        if found:
            text = cells[0] or ""
            labels[name] = () if blank and not text.strip() else label_set.parse(text, where=f"{path}, id {name}")
            continue
        for place, cell in zip(columns, cells, strict=True):
            if cell not in (*_ABSENT, *_PRESENT):
                raise TableError(
                    f"{path}, id {name}: the column {place} has {cell!r}.",
                    hint="Write 1 if the field has the location, else 0.",
                )
        labels[name] = tuple(sorted(index for index, cell in zip(indices, cells, strict=True) if cell in _PRESENT))
        if not labels[name] and not blank:
            raise TableError(
                f"{path}, id {name}: the label is empty.",
                hint="Give each field at least one location, or remove its row.",
            )
    return labels


def label_column(table: pl.DataFrame) -> str | None:
    """Return the name of the column of labels; None if a table has none of that name."""
    lower = {name.lower(): name for name in reversed(table.columns)}
    return next((lower[name] for name in LABEL_COLUMNS if name in lower), None)


def is_location(word: str, label_set: LabelSet) -> bool:
    """Return whether a word is the key or the name of a location."""
    try:
        label_set.index(word)
    except TableError:
        return False
    return True


def location_columns(columns: Sequence[str], label_set: LabelSet, path: Path) -> list[int]:
    """Return the index of the location that each column of a file is named after, by key or name.

    Raises:
        TableError: If a column is not a location of the set, or two are the same one.
    """
    indices: list[int] = []
    for name in columns:
        index = label_set.index(name, where=f"{path}, header")
        if index in indices:
            raise TableError(
                f"{path}: the columns {columns[indices.index(index)]} and {name} are the same location.",
                hint="Keep one of them.",
            )
        indices.append(index)
    return indices


def read_known(path: str | Path, ids: Sequence[str], label_set: LabelSet) -> dict[str, tuple[int, ...]]:
    """Return the labels that a CSV ``Id,Target`` has of ``ids``, those of other fields left out.

    Raises:
        TableError: As :func:`read_labels`, and if it has labels, but none of them. A list without fields, such as
            that of a leak that is none, is no error.
    """
    labels, wanted = read_labels(path, label_set, may_be_empty=True), set(ids)
    known = {name: labels[name] for name in labels if name in wanted}
    if labels and not known:
        raise TableError(
            f"{path} has labels of none of these {len(ids)} fields; its ids are such as {next(iter(labels))},"
            f" theirs such as {ids[0]}.",
            hint="Give labels under the ids of these fields, or leave them out.",
        )
    return known


def truth_of(
    ids: Sequence[str], labels: Mapping[str, tuple[int, ...]], label_set: LabelSet, *, where: str
) -> BoolArray:
    """Return the truth of ``ids``, bool ``(n, locations)``.

    Raises:
        TableError: If an id has no label.
    """
    missing = [name for name in ids if name not in labels]
    if missing:
        raise TableError(
            f"{where}: {len(missing)} of {len(ids)} fields have no label, e.g. {', '.join(missing[:3])}.",
            hint="Give a label for each of these fields, or the predictions of labeled fields alone.",
        )
    return label_set.to_matrix(labels[name] for name in ids)


def read_groups(path: str | Path, ids: Sequence[str]) -> IntArray:
    """Return a group number for each of ``ids``, from a CSV with the columns ``Id`` and ``group``.

    A folds file is such a CSV.

    Raises:
        TableError: As :func:`group_numbers`.
    """
    path = existing(Path(path), what="groups file")
    return group_numbers(read_csv(path), ids, where=path)


def group_numbers(table: pl.DataFrame, ids: Sequence[str], *, where: str | Path) -> IntArray:
    """Return a group number for each of ``ids`` from a table with the columns ``Id`` (or ``id``, ``ID``) and ``group``.

    Groups have any names: wells, antibodies, numbers.

    Raises:
        TableError: If a column or an id is missing, an id repeats, or a group is empty.
    """
    table = table.rename({name: "Id" for name in ID_COLUMNS if name in table.columns and "Id" not in table.columns})
    require_columns(table, ["Id", "group"], where, hint="Name the group of each field, as `cytoloc folds` does.")
    refuse_repeated(table["Id"].to_list(), where=str(where))
    known = dict(table.select("Id", pl.col("group").cast(pl.String)).iter_rows())
    missing = [name for name in ids if not known.get(name)]
    if missing:
        raise TableError(
            f"{where} lacks the group of {len(missing)} of the predicted fields, e.g. {missing[0]}.",
            hint="Give the group of each of these fields.",
        )
    named = [known[name] for name in ids]
    # Numbers keep their order, as a folds file has them.
    ordered = [int(group) for group in named] if all(group.isdecimal() for group in named) else named
    return np.unique(ordered, return_inverse=True)[1].astype(np.int64)


def write_locations(ids: Sequence[str], predicted: BoolArray, path: Path, label_set: LabelSet) -> None:
    """Write the locations of fields as CSV ``Id,Predicted``, by their keys, to a path that must be free."""
    table = pl.DataFrame({"Id": list(ids), "Predicted": [label_set.format(row) for row in from_matrix(predicted)]})
    with new_file(path) as temporary:
        table.write_csv(temporary)


def refuse_repeated(ids: Sequence[str], *, where: str) -> None:
    """Raise :class:`~cytoloc.errors.TableError` if an id occurs twice."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise TableError(f"{where}: the id {name} occurs twice.", hint="Keep one row per id.")
        seen.add(name)


def require_columns(table: pl.DataFrame, columns: Sequence[str], path: str | Path, *, hint: str = "") -> None:
    """Raise :class:`~cytoloc.errors.TableError` unless the table of a file has all these columns."""
    missing = [name for name in columns if name not in table.columns]
    if missing:
        # The header may look like that of another form.
        header = ",".join(table.columns)
        separator = next((name for mark, name in _OTHER_SEPARATORS.items() if mark in header), None)
        if "\r" in header:
            hint = "Its lines do not end as in a text file (LF, or CR LF): save it again."
        elif separator:
            hint = f"Its columns are separated by {separator}: save it with commas."
        elif any(name != name.strip() for name in table.columns):
            hint = "There are blanks beside its commas: save it without."
        raise TableError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)};"
            f" it has {', '.join(table.columns)[:200].replace(chr(13), ' ').strip()}.",
            hint=hint or "Columns are separated by commas and named in the first line.",
        )
