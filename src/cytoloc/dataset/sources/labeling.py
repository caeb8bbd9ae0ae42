"""Labels and metadata of an import, and label sets made from the names in a labels file."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from cytoloc.dataset.sources.channels import NAMES
from cytoloc.errors import TableError
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import label_column, read_csv, read_labels, refuse_repeated


def labels_by_id(path: Path, label_set: LabelSet, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Read the labels in a file. Equal ids and equal labels share one object, to save memory.

    Args:
        path: The file.
        label_set: The label set.
        names: Ids of fields, whose string objects are shared.

    Returns:
        Indices of locations by id, in file order.

    Raises:
        TableError: For the reasons of :func:`cytoloc.labels.lists.read_labels`.
    """
    same = {name: name for name in names}
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}
    labels = read_labels(path, label_set)
    return {same.get(name, name): shared.setdefault(each, each) for name, each in labels.items()}


def listed_fields(path: Path, label_set: LabelSet, names: Iterable[str], *, folder: Path) -> dict[str, tuple[int, ...]]:
    """Read the labels in a file, if at least one of its fields has images in a folder.

    Args:
        path: The file.
        label_set: The label set.
        names: Ids of the fields in the folder.
        folder: The folder, for error messages.

    Returns:
        Indices of locations by id, in file order.

    Raises:
        TableError: For the reasons of :func:`labels_by_id`, or if the folder has none of the fields.
    """
    found = set(names)
    labels = labels_by_id(path, label_set, found)
    if found.isdisjoint(labels):
        raise TableError(
            f"{folder} has no files of the {len(labels)} fields in {path}, such as {next(iter(labels))}.",
            hint="Give the labels of these images, or do not give labels.",
        )
    return labels


def read_metadata(path: Path, names: Iterable[str]) -> tuple[tuple[str, ...], dict[str, tuple[str | None, ...]]]:
    """Read metadata of fields from a CSV file. Equal values share one object, to save memory.

    Args:
        path: The file.
        names: Ids of fields, whose string objects are shared.

    Returns:
        The columns, and the values by id.

    Raises:
        TableError: If there is no column ``id``, an id is empty or repeats, or a column is not one of
            :data:`~cytoloc.dataset.sources.channels.NAMES`.
    """
    table = read_csv(path)
    unknown = [name for name in table.columns if name not in ("Id", *NAMES)]
    if "Id" not in table.columns or unknown:
        raise TableError(
            f"{path} has the columns {', '.join(table.columns)}, which are not all columns of metadata.",
            hint=f"Give id and any of {', '.join(NAMES)}.",
        )
    ids = table["Id"].to_list()
    refuse_repeated(ids, where=str(path))
    same, shared = {name: name for name in names}, dict[Any, Any]()
    columns = table.drop("Id")
    rows = (tuple(shared.setdefault(value, value) for value in row) for row in columns.iter_rows())
    return tuple(columns.columns), {same.get(name, name): row for name, row in zip(ids, rows, strict=True)}


def label_set_from(path: Path) -> LabelSet:
    """Return a label set of the names in a labels file, in alphabetical order, named after the file.

    The names are in one column (``Target``, ``Labels``, ``Label``, ``Locations`` or ``Location``), separated by ``;``,
    ``|`` or ``,``. Alternatively they are the names of all columns that contain only 0 and 1.

    Args:
        path: The file.

    Returns:
        The label set.

    Raises:
        TableError: If the file cannot be read, has no such columns, or contains numbers instead of names, or names that
            are separated by spaces.
        LabelSetError: If the names are not valid for a label set.
    """
    table = read_csv(path)
    column = label_column(table)
    if column is not None:
        words = (word.strip() for text in table[column].drop_nulls() for word in re.split(r"[;|,]", text))
    else:
        cells = {name: {text.removesuffix(".0") for text in table[name].drop_nulls()} for name in table.columns}
        words = (name.strip() for name, values in cells.items() if name != "Id" and values and values <= {"0", "1"})
    names: dict[str, str] = {}
    for word in words:
        names.setdefault(word.casefold(), word)
    if not any(names):
        raise TableError(
            f"{path} has no labels: its columns are {', '.join(table.columns)}.",
            hint="Add a column Target with names of locations, or a column of 0 and 1 for each location.",
        )
    numbers = next((word for word in names if word and re.fullmatch(r"[\d\s.]+", word)), None)
    if numbers is not None:
        raise TableError(
            f"{path} has the label {numbers!r}, which is not a name.",
            hint="Give the label set of the numbers, for example hpa28.",
        )
    joined = next((word for word in names if _is_made_of(word, names.keys() - {word})), None)
    if joined is not None:
        raise TableError(
            f"{path} has the label {names[joined]!r}, which consists of other labels.",
            hint="Separate labels by semicolons.",
        )
    called = re.sub(r"[^A-Za-z0-9._-]+", "_", path.name.partition(".")[0]).lstrip("._-") or "labels"
    return LabelSet.from_names((names[key] for key in sorted(names) if key), name=called)


def _is_made_of(label: str, others: Collection[str]) -> bool:
    """Return whether a label consists of other labels separated by spaces."""
    words = label.split(" ")
    parts = ((" ".join(words[:count]), " ".join(words[count:])) for count in range(1, len(words)))
    return any(first in others and (rest in others or _is_made_of(rest, others)) for first, rest in parts)
