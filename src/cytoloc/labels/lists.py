"""CSV files of ids, labels, groups and predicted locations of fields."""

from __future__ import annotations

import codecs
import gzip
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from cytoloc._typing import BoolArray, IntArray
from cytoloc.errors import TableError, first_line
from cytoloc.files import existing, new_file
from cytoloc.labels.ids import alike, alike_note, warn_ids
from cytoloc.labels.label_set import LabelSet, from_matrix

ID_COLUMNS: Final = ("Id", "id", "ID")
"""Accepted names of the column of ids. Tables that are read have it as ``Id``."""

LABEL_COLUMNS: Final = ("target", "labels", "label", "locations", "location")
"""Accepted names of the column of labels, in any case. The first one in a table is used."""

_OTHER_SEPARATORS: Final = (";", "\t", "|")
"""Separators of columns that are recognized in a header without commas."""

_INDEX: Final = re.compile(r"|Unnamed: 0|index|column_1", re.IGNORECASE)
"""Names of the column of row numbers that pandas and R write."""
_ABSENT: Final = ("0", "0.0")
_PRESENT: Final = ("1", "1.0")


def read_csv(path: Path) -> pl.DataFrame:
    """Read a CSV file with all values as text. The column of ids, if there is one, is renamed to ``Id``.

    Columns can also be separated by semicolons, tabs or bars. A first column of row numbers is removed.

    Args:
        path: The file.

    Returns:
        The table.

    Raises:
        TableError: If the file cannot be read, two columns have the same name, or an id is empty.
    """
    try:
        with path.open("rb") as file:
            first = file.read(4)
    except OSError as error:
        raise TableError(
            f"{path} cannot be read: {error.strerror}.", hint="Check the path and the file permissions."
        ) from error
    # Spreadsheet programs write these formats unless CSV in UTF-8 is chosen.
    if first == b"PK\x03\x04":
        raise TableError(
            f"{path} is a zip archive, perhaps an Excel workbook, and not a CSV file.",
            hint="Unpack the archive, or save the workbook as CSV in UTF-8.",
        )
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise TableError(
            f"{path} is text in UTF-16, which cannot be read as CSV.", hint="Save the file as CSV in UTF-8."
        )
    try:
        opened = gzip.open if path.name.lower().endswith(".gz") else open
        with opened(path, "rb") as file:
            header = file.readline(2**20)
        # The separator in the header, or a comma.
        counts = {mark: header.count(mark.encode()) for mark in _OTHER_SEPARATORS}
        best = max(counts, key=lambda mark: counts[mark])
        separator = best if counts[best] and b"," not in header else ","
        table = pl.read_csv(path, infer_schema=False, glob=False, separator=separator)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise TableError(
            f"{path} cannot be read as CSV: {first_line(error)}.", hint="Save the file as CSV in UTF-8."
        ) from error
    # Polars appends this suffix to a repeated column name.
    twice = (name.rpartition("_duplicated_") for name in table.columns)
    doubled = next((name for name, mark, count in twice if mark and count.isdecimal() and name in table.columns), None)
    if doubled is not None:
        raise TableError(f"{path}: two columns are named {doubled!r}.", hint="Remove or rename one of them.")
    first_name = table.columns[0] if table.width else "Id"
    if _INDEX.fullmatch(first_name.strip()):
        # Row numbers are removed. A first column without a name can be the column of ids.
        cells = table[first_name].to_list()
        if any(cells == [str(number + start) for number in range(table.height)] for start in (0, 1)):
            table = table.drop(first_name)
        elif first_name.strip().lower() != "index" and not any(name in table.columns for name in ID_COLUMNS):
            table = table.rename({first_name: "Id"})
    ids = next((name for name in ID_COLUMNS if name in table.columns), None)
    if ids is not None:
        table = table.rename({ids: "Id"})
        if table["Id"].null_count():
            raise TableError(
                f"{path}: row {int(table['Id'].is_null().arg_max() or 0) + 1} after the header has no id.",
                hint="Give each row the id of its field, or remove the row.",
            )
    return table


def read_ids(path: str | Path) -> tuple[str, ...]:
    """Read ids from the column ``Id`` of a CSV file, or from a text file with one id per line.

    Args:
        path: The file.

    Returns:
        The ids, in file order.

    Raises:
        TableError: If the file cannot be read, contains no ids, or repeats one.
    """
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
                f"{path} is not a text file in UTF-8.",
                hint="Give a CSV file with the column Id, or a text file with one id per line.",
            ) from error
        ids = tuple(line.strip() for line in lines if line.strip())
    if not ids:
        raise TableError(
            f"{path} contains no ids.", hint="Give a CSV file with the column Id, or a text file with one id per line."
        )
    refuse_repeated(ids, where=str(path))
    return ids


def read_labels(
    path: str | Path, label_set: LabelSet, *, column: str | None = None, blank: bool = False, may_be_empty: bool = False
) -> dict[str, tuple[int, ...]]:
    """Read the labels of fields from a CSV file.

    The column of ids is called ``Id``, ``id`` or ``ID``. Labels are in one column called ``Target``, ``Labels``,
    ``Label``, ``Locations`` or ``Location``, as keys or names separated by spaces, ``;``, ``|`` or ``,``. Alternatively
    there is one column of 0 and 1 per location, named by key or name. Locations without a column are absent.

    Args:
        path: The file.
        label_set: The label set of the labels.
        column: The name of the column of labels, if it is another one, such as ``Predicted`` in a submission.
        blank: Whether a field may have no label.
        may_be_empty: Whether the file may contain no fields.

    Returns:
        The indices of the locations of each field by id, in file order.

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
        raise TableError(f"{path} has no rows.", hint="Give one row per field, or do not give labels.")
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
                    f"{path}, id {name}: the column {place} contains {cell!r}, which is neither 0 nor 1.",
                    hint="Write 1 if the field has the location, and 0 otherwise. `cytoloc decide` turns probabilities"
                    " into locations.",
                )
        labels[name] = tuple(sorted(index for index, cell in zip(indices, cells, strict=True) if cell in _PRESENT))
        if not labels[name] and not blank:
            raise TableError(
                f"{path}, id {name}: the label is empty.",
                hint="Give each field at least one location, or remove its row.",
            )
    return labels


def label_column(table: pl.DataFrame) -> str | None:
    """Return the name of the column of labels.

    Args:
        table: The table.

    Returns:
        The name; None if the table has no column of labels.
    """
    lower = {name.lower(): name for name in reversed(table.columns)}
    return next((lower[name] for name in LABEL_COLUMNS if name in lower), None)


def is_location(word: str, label_set: LabelSet) -> bool:
    """Return whether a word is the key or name of a location."""
    try:
        label_set.index(word)
    except TableError:
        return False
    return True


def location_columns(columns: Sequence[str], label_set: LabelSet, path: Path) -> list[int]:
    """Return the index of the location that each column is named after.

    Args:
        columns: Names of columns: keys or names of locations.
        label_set: The label set.
        path: The file, for error messages.

    Returns:
        One index per column.

    Raises:
        TableError: If a column is not a location of the label set, or two columns are the same location.
    """
    indices: list[int] = []
    for name in columns:
        index = label_set.index(name, where=f"{path}, header")
        if index in indices:
            raise TableError(
                f"{path}: the columns {columns[indices.index(index)]} and {name} are the same location.",
                hint="Remove one of them.",
            )
        indices.append(index)
    return indices


def read_known(path: str | Path, ids: Sequence[str], label_set: LabelSet) -> dict[str, tuple[int, ...]]:
    """Read the labels of some fields from a CSV file with columns ``Id,Target``.

    Args:
        path: The file. Labels of other fields are ignored. It may contain no fields at all.
        ids: The ids of the fields.
        label_set: The label set of the labels.

    Returns:
        The indices of the locations of each labeled field, by id.

    Raises:
        TableError: For the reasons of :func:`read_labels`, or if the file contains labels of other fields only.
    """
    labels, wanted = read_labels(path, label_set, may_be_empty=True), set(ids)
    known = {name: labels[name] for name in labels if name in wanted}
    if found := alike(labels, ids):
        one, other = next(iter(found.items()))
        warn_ids(f"{path}: {len(found)} ids are ignored, but look like ids of the fields: {one} like {other}.")
    if labels and not known:
        raise TableError(
            f"{path} contains no labels of these {len(ids)} fields. Its ids look like {next(iter(labels))}; the"
            f" ids of the fields look like {ids[0]}.{alike_note(labels, ids)}",
            hint="Give labels of these fields, under the same ids.",
        )
    return known


def replace_known(
    decided: BoolArray, ids: Sequence[str], known: Mapping[str, Sequence[int]], label_set: LabelSet
) -> BoolArray:
    """Return decided locations with those of some fields replaced by known labels.

    Args:
        decided: Bool of shape ``(n, locations)``.
        ids: The id of each field.
        known: The indices of the locations of some fields, by id.
        label_set: The locations.

    Returns:
        Bool of the same shape.
    """
    replaced = decided.copy()
    rows = [row for row, name in enumerate(ids) if name in known]
    if rows:
        replaced[rows] = label_set.to_matrix(known[ids[row]] for row in rows)
    return replaced


def truth_of(
    ids: Sequence[str], labels: Mapping[str, tuple[int, ...]], label_set: LabelSet, *, where: str
) -> BoolArray:
    """Return the labels of some fields as a matrix.

    Args:
        ids: The ids of the fields.
        labels: The indices of the locations of each labeled field, by id.
        label_set: The label set of the labels.
        where: The origin of the labels, for error messages.

    Returns:
        bool of shape ``(n, locations)``, in the order of ``ids``.

    Raises:
        TableError: If a field has no label.
    """
    missing = [name for name in ids if name not in labels]
    if missing and len(missing) == len(ids):
        raise TableError(
            f"{where} has none of the {len(ids)} ids of the predictions, such as {missing[0]}."
            f"{f' Its ids look like {next(iter(labels))}.' if labels else ''}{alike_note(missing, labels)}",
            hint="Give labels and predictions of the same fields, with the same ids.",
        )
    if missing:
        raise TableError(
            f"{where}: {len(missing)} of {len(ids)} fields have no label, e.g. {', '.join(missing[:3])}."
            f"{alike_note(missing, labels)}",
            hint="Give a label for each of these fields, or predictions of labeled fields only.",
        )
    return label_set.to_matrix(labels[name] for name in ids)


def read_groups(path: str | Path, ids: Sequence[str]) -> IntArray:
    """Read a group for each field from a CSV file with columns ``Id,group``, such as a folds file.

    Args:
        path: The file.
        ids: The ids of the fields.

    Returns:
        The number of each field's group, int64 of shape ``(n,)``.

    Raises:
        TableError: For the reasons of :func:`group_numbers`.
    """
    path = existing(Path(path), what="groups file")
    return group_numbers(read_csv(path), ids, where=path)


def group_numbers(table: pl.DataFrame, ids: Sequence[str], *, where: str | Path) -> IntArray:
    """Return the number of each field's group. Groups can have any names, such as wells or antibodies.

    Args:
        table: A table with the columns ``Id`` (or ``id``, ``ID``) and ``group``.
        ids: The ids of the fields.
        where: The origin of the table, for error messages.

    Returns:
        Group numbers, int64 of shape ``(n,)``, in the order of ``ids``.

    Raises:
        TableError: If a column or an id is missing, an id repeats, or a group is empty.
    """
    table = table.rename({name: "Id" for name in ID_COLUMNS if name in table.columns and "Id" not in table.columns})
    require_columns(table, ["Id", "group"], where, hint="Give the group of each field, as `cytoloc folds` does.")
    refuse_repeated(table["Id"].to_list(), where=str(where))
    known = dict(table.select("Id", pl.col("group").cast(pl.String)).iter_rows())
    missing = [name for name in ids if not known.get(name)]
    if missing:
        raise TableError(
            f"{where} contains no group for {len(missing)} of the predicted fields, such as {missing[0]}."
            f"{alike_note(missing, known)}",
            hint="Give the group of each of these fields.",
        )
    named = [known[name] for name in ids]
    # Groups with numeric names keep their order.
    ordered = [int(group) for group in named] if all(group.isdecimal() for group in named) else named
    return np.unique(ordered, return_inverse=True)[1].astype(np.int64)


def write_locations(ids: Sequence[str], predicted: BoolArray, path: Path, label_set: LabelSet) -> None:
    """Write predicted locations to a new CSV file with columns ``Id,Predicted``.

    Args:
        ids: The ids of the fields.
        predicted: The locations of each field, bool of shape ``(n, locations)``.
        path: The new file.
        label_set: The label set, whose keys are written.
    """
    with new_file(path) as temporary:
        temporary.write_bytes(locations_csv(ids, predicted, label_set))


def locations_csv(ids: Sequence[str], predicted: BoolArray, label_set: LabelSet) -> bytes:
    """Return predicted locations as the content of a CSV file with columns ``Id,Predicted``."""
    table = pl.DataFrame({"Id": list(ids), "Predicted": [label_set.format(row) for row in from_matrix(predicted)]})
    return table.write_csv().encode()


def refuse_repeated(ids: Sequence[str], *, where: str, hint: str = "Keep one row per id.") -> None:
    """Raise :class:`~cytoloc.errors.TableError` if an id occurs twice."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise TableError(f"{where}: the id {name} occurs twice.", hint=hint)
        seen.add(name)


def require_columns(table: pl.DataFrame, columns: Sequence[str], path: str | Path, *, hint: str = "") -> None:
    """Raise :class:`~cytoloc.errors.TableError` unless a table has the given columns."""
    missing = [name for name in columns if name not in table.columns]
    if missing:
        # The header may look like the header of a file in another format.
        header = ",".join(table.columns)
        other = next((name for name in table.columns if re.fullmatch(r"(?i).*(id|image|field|file ?name)", name)), None)
        if "\r" in header:
            hint = "Save the file again with line ends LF or CR LF."
        elif "Id" in missing and other is not None:
            hint = f"Rename the column {other} to Id, if it contains the ids."
        elif any(name != name.strip() for name in table.columns):
            hint = "Remove the spaces next to the commas in the header."
        raise TableError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)};"
            f" it has {', '.join(table.columns)[:200].replace(chr(13), ' ').strip()}.",
            hint=hint or "Separate columns by commas, and name them in the first line.",
        )
