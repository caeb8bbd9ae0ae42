"""Label lists: the labels of fields as a CSV lists them."""

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
    """Fields and their locations.

    Attributes:
        labels: Indices of the locations of each field, by id.
        label_set: The locations that the indices refer to.
        path: The file, for messages; empty if there is none.

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
        """The id of each field."""
        return tuple(self.labels)

    @property
    def labeled(self) -> BoolArray:
        """For each field, whether its locations are known: all are."""
        return np.ones(len(self), np.bool_)

    @property
    def truth(self) -> BoolArray:
        """The locations of each field, bool ``(n, locations)``."""
        return self.label_set.to_matrix(self.labels.values())

    @cached_property
    def fields(self) -> pl.DataFrame:
        """A row per field: ``id``, ``labels``, ``antibody``, ``plate``, ``well``.

        The last three are read from ids of the Human Protein Atlas's form; for other ids they are null.
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
    """Return the label list in a CSV.

    Args:
        path: A CSV with a column of ids (``Id``) and a column of labels (``Target``, ``Labels`` …), or a column of 0
            and 1 for each location.
        label_set: The label set that the labels are of: its name, a ``.csv`` or ``.toml`` file, or a label set.

    Raises:
        ArgumentTypeError: If ``path`` is not a path.
        TableError: If the file is missing, or is not a label list of this label set.
        LabelSetError: If there is no such label set.
    """
    if not isinstance(path, str | Path):
        raise ArgumentTypeError(f"path must be a string or a Path, not {type(path).__name__}.")
    locations = as_label_set(label_set)
    return LabelList(read_labels(path, locations), locations, str(path))
