"""Label lists: fields and their labels, as listed in a CSV file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from cytoloc._typing import BoolArray
from cytoloc.errors import ArgumentTypeError
from cytoloc.labels.hpa_names import parse_hpa_id
from cytoloc.labels.label_set import LabelSet, as_label_set
from cytoloc.labels.lists import read_labels


@dataclass(frozen=True, repr=False)
class LabelList:
    """A list of labeled fields.

    Attributes:
        labels: Indices of the locations of each field, by id.
        label_set: The locations.
        path: The file that the labels were read from, for messages; empty if there is none.

    Examples:
        >>> LabelList({"a": (0,), "b": (0, 2)}, LabelSet.hpa28())
        LabelList(2 fields, hpa28)
    """

    labels: Mapping[str, tuple[int, ...]]
    label_set: LabelSet
    path: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"LabelList({len(self)} fields, {self.label_set.name})"

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the fields."""
        return tuple(self.labels)

    @property
    def labeled(self) -> BoolArray:
        """Whether each field is labeled, bool of shape ``(n,)``; always true."""
        return np.ones(len(self), np.bool_)

    @property
    def truth(self) -> BoolArray:
        """The labels of each field, bool of shape ``(n, locations)``."""
        return self.label_set.to_matrix(self.labels.values())

    @cached_property
    def fields(self) -> pl.DataFrame:
        """A table with one row per field: ``id``, ``labels``, ``antibody``, ``plate``, ``well``.

        The last three columns are parsed from ids in the format of the Human Protein Atlas, and null for other ids.
        """
        rows = []
        for name, indices in self.labels.items():
            parts = parse_hpa_id(name)
            place = (parts.antibody, parts.plate, parts.well) if parts else (None, None, None)
            rows.append((name, indices, *place))
        text = dict.fromkeys(("antibody", "plate", "well"), pl.String())
        schema = pl.Schema({"id": pl.String(), "labels": pl.List(pl.Int16()), **text})
        return pl.DataFrame(rows, schema=schema, orient="row")


def read_label_list(path: str | Path, label_set: LabelSet | str = "hpa28") -> LabelList:
    """Read a label list from a CSV file.

    Args:
        path: A CSV file with a column of ids (``Id``), and a column of labels (``Target``, ``Labels`` …) or a column
            of 0 and 1 for each location.
        label_set: The label set of the file: a label set, its name, or a ``.csv`` or ``.toml`` file.

    Returns:
        The labels.

    Raises:
        ArgumentTypeError: If ``path`` is not a path.
        TableError: If the file is missing, or contains no labels of this label set.
        LabelSetError: If the label set is unknown.
    """
    if not isinstance(path, str | Path):
        raise ArgumentTypeError(f"`path` must be a string or a Path, not {type(path).__name__}.")
    locations = as_label_set(label_set)
    return LabelList(read_labels(path, locations), locations, str(path))
