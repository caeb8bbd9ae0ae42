"""Datasets: folders with ``dataset.json`` and segments, each with its images and its table.

Row *i* of the table describes image *i*. Each inner chunk of the Zarr arrays is one field, so reading a batch of fields
in any order reads only these fields. tensorstore decodes them in parallel, outside Python.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cytoloc._typing import BoolArray, Float32Array, UInt8Array
from cytoloc.choices import Resample, near
from cytoloc.dataset.fields import pixels_sha256
from cytoloc.dataset.manifest import Manifest
from cytoloc.dataset.quarantine import Rejected
from cytoloc.dataset.segments import StoredFiles, damage
from cytoloc.errors import ArgumentTypeError, FormatError, UnknownIdError
from cytoloc.labels.label_set import LabelSet, Location
from cytoloc.predictions import to_pandas

if TYPE_CHECKING:
    import pandas as pd

KAGGLE_PX: Final = 512
"""Edge length of the PNG files of the 2018 Kaggle competition, in pixels."""


class Dataset:
    """A dataset of fields of view, open for reading.

    Open a dataset with :func:`open_dataset`.

    Attributes:
        path: The folder or URL of the dataset.
        manifest: The content of ``dataset.json``.
        size: Edge length of the images, in pixels.
        channels: The names of the channels, in the order of the second axis of the images.
        label_set: The label set of the labels.
        of_cells: Whether the rows are cells of fields, as `cytoloc segment` writes them, instead of fields.
        fields: A table with one row per field; see :func:`cytoloc.dataset.fields.schema_of` for its columns.
    """

    def __init__(self, path: Path | str, manifest: Manifest, fields: pl.DataFrame, array: Any) -> None:
        self.path = path
        self.manifest = manifest
        self.fields = fields
        self.size = manifest.size
        self.channels: tuple[str, ...] = manifest.channels
        self.label_set: LabelSet = manifest.label_set
        self.of_cells = manifest.of_cells
        self._array = array

    def __len__(self) -> int:
        return self.fields.height

    def __getitem__(self, key: int | str | slice | Sequence[int] | Sequence[str] | NDArray[Any]) -> UInt8Array:
        """Return the images of one or several fields.

        Args:
            key: The row or id of one field; or a slice, list of rows, list of ids, or boolean mask.

        Returns:
            uint8 of shape ``(channels, size, size)`` for one field, or ``(n, channels, size, size)`` for several.

        Raises:
            IndexError: If a row is out of range.
            UnknownIdError: If an id is unknown.
            ArgumentTypeError: If ``key`` has another type.
        """
        if isinstance(key, int | np.integer):
            return np.asarray(self.read([int(key)])[0])
        if isinstance(key, str):
            return np.asarray(self.read([self.row(key)])[0])
        if isinstance(key, slice):
            return self.read(range(len(self))[key])
        if isinstance(key, list | tuple) and key and isinstance(key[0], str):
            return self.read([self.row(str(name)) for name in key])
        numbers = np.asarray(key)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iub":
            raise ArgumentTypeError(
                f"`key` must be rows, ids, a slice or a mask of fields, not {type(key).__name__}.",
                hint="For example dataset[0], dataset['id'], dataset[10:20] or dataset[[3, 1, 2]].",
            )
        return self.read(np.flatnonzero(numbers) if numbers.dtype == bool else numbers)

    def __contains__(self, name: object) -> bool:
        """Return whether the dataset has a field with this id."""
        return name in self._rows

    def row(self, name: str) -> int:
        """Return the row of a field.

        Args:
            name: The id of the field.

        Returns:
            The row, from 0.

        Raises:
            UnknownIdError: If the dataset has no field with this id.
        """
        found = self._rows.get(name)
        if found is None:
            raise UnknownIdError(f"{self.path} has no field {name!r}.", hint=near(name, self.ids[:1000]))
        return found

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}

    def __iter__(self) -> Iterator[UInt8Array]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        known = int(self.labeled.sum())
        channels = ", ".join(self.channels)
        rows = "cells" if self.of_cells else "fields"
        return (
            f"Dataset({str(self.path)!r}, {len(self)} {rows} of {self.size} px, {channels}; {known} labeled by"
            f" {self.label_set.name})"
        )

    def read(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> UInt8Array:
        """Return the images of some fields.

        Args:
            rows: The rows of the fields, in any order. Negative rows count from the end. A repeated row is decoded
                once.

        Returns:
            uint8 of shape ``(len(rows), channels, size, size)``.

        Raises:
            IndexError: If a row is out of range.
            TypeError: If ``rows`` are not integers. For a mask, give ``mask.nonzero()[0]``.
            FormatError: If images cannot be decoded.
        """
        wanted = np.asarray(rows)
        if wanted.size == 0:
            return np.empty((0, len(self.channels), self.size, self.size), np.uint8)
        if wanted.ndim != 1 or not np.issubdtype(wanted.dtype, np.integer):
            raise TypeError(f"`rows` must be integers in one dimension, not {wanted.dtype} of shape {wanted.shape}.")
        if wanted.min() < -len(self) or wanted.max() >= len(self):
            bad = wanted[(wanted < -len(self)) | (wanted >= len(self))][0]
            raise IndexError(f"The row {bad} is out of range: {self.path} has rows 0 to {len(self) - 1}.")
        wanted = wanted % len(self)
        distinct, places = np.unique(wanted, return_inverse=True)
        with damage(self.path):
            if len(distinct) == len(wanted):
                pixels: UInt8Array = self._array[wanted].read().result()
                return pixels
            pixels = self._array[distinct].read().result()
        return pixels[places]

    @property
    def header(self) -> dict[str, Any]:
        """The content of ``dataset.json`` as JSON values."""
        return self.manifest.to_json()

    @property
    def folder(self) -> Path:
        """The folder of the dataset.

        Raises:
            FormatError: If the dataset is at a URL.
        """
        if isinstance(self.path, str):
            raise FormatError(f"{self.path} is not on this machine.", hint="Copy the dataset to this machine first.")
        return self.path

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the fields, in row order."""
        return tuple(self.fields["id"].to_list())

    @property
    def labeled(self) -> BoolArray:
        """Whether each field is labeled, bool of shape ``(n,)``."""
        return np.asarray(self.fields["labels"].is_not_null().to_numpy(), np.bool_)

    @property
    def truth(self) -> BoolArray:
        """The labels of each field, bool of shape ``(n, locations)``; all false for unlabeled fields."""
        return self.label_set.to_matrix(labels or () for labels in self.fields["labels"].to_list())

    @property
    def labels(self) -> list[tuple[Location, ...] | None]:
        """The locations of each field; None for unlabeled fields."""
        return [
            None if indices is None else tuple(self.label_set[index] for index in indices)
            for indices in self.fields["labels"].to_list()
        ]

    def to_polars(self) -> pl.DataFrame:
        """Return the table of fields, which is the attribute ``fields``."""
        return self.fields

    def to_pandas(self) -> pd.DataFrame:
        """Return the table of fields for pandas, with the ids as index.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        return to_pandas(self.fields).set_index("id")

    @cached_property
    def quarantine(self) -> tuple[Rejected, ...]:
        """Fields that could not be imported, with the reasons; without fields that a later import added."""
        return tuple(StoredFiles(self.path).quarantine(self.manifest))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that training reads: channels, locations, ids, labels and pixels."""
        locations = [(each.key, each.name) for each in self.label_set]
        digest = hashlib.sha256(repr((self.channels, locations)).encode())
        for name, labels, pixels in self.fields.select("id", "labels", "sha256").iter_rows():
            keys = None if labels is None else self.label_set.keys_of(labels)
            digest.update(repr((name, keys, pixels)).encode())
        return digest.hexdigest()

    @cached_property
    def resample(self) -> Resample | None:
        """How the raw images were scaled down to the images of the dataset; None if it is unknown or differs.

        Images that an import did not scale were scaled by someone else, which is unknown. The exception are the 512 px
        files of the 2018 Kaggle competition, which were made with the nearest pixel.
        """
        edges = self.fields["original_px"].to_list()
        found: set[Resample | None] = set()
        start = 0
        for number, record in enumerate(self.manifest.imports):
            stop = start + sum(segment.fields for segment in self.manifest.segments_of(number))
            command, scaling = record.settings.get("command"), record.settings.get("scaling", {})
            for edge in set(edges[start:stop]):
                if command == "simulate":
                    found.add("area")
                elif edge != self.size or scaling.get("target_um"):
                    found.add(scaling.get("resample", "area"))
                else:
                    found.add("nearest" if command == "import kaggle" and edge == KAGGLE_PX else None)
            start = stop
        return found.pop() if len(found) == 1 else None

    def pixel_sizes(self, size: int) -> Float32Array:
        """Return the size of a pixel of each field, if images are scaled to ``size``, in micrometers.

        Args:
            size: Edge length of the scaled images, in pixels.

        Returns:
            float32 of shape ``(n,)``; NaN where it is unknown.
        """
        table = self.fields
        if not {"pixel_um", "original_px", "packed_um"} <= set(table.columns):
            return np.full(len(self), np.nan, np.float32)
        # The dataset states the size of its pixels, except for images that were scaled as a whole.
        packed, whole = pl.col("packed_um") * self.size, pl.col("pixel_um") * pl.col("original_px")
        column = table.select((pl.coalesce(packed, whole) / size).cast(pl.Float32).fill_null(np.nan)).to_series()
        return np.asarray(column.to_numpy(), np.float32)

    def damaged(self) -> Iterator[str]:
        """Yield the ids of fields whose pixels differ from their checksums. This reads every pixel."""
        for row, (name, digest) in enumerate(self.fields.select("id", "sha256").iter_rows()):
            try:
                intact = pixels_sha256(self[row]) == digest
            except FormatError:
                intact = False
            if not intact:
                yield name


def open_dataset(path: str | Path) -> Dataset:
    """Open a dataset for reading.

    A dataset with an unfinished import can be opened too. It contains the fields of the complete segments.

    Args:
        path: A folder, or a URL that tensorstore can read: ``https://…``, ``s3://BUCKET/…``, ``gs://BUCKET/…``. For a
            URL, the table is downloaded at once, and images when they are read.

    Returns:
        The dataset.

    Raises:
        ArgumentTypeError: If ``path`` is not a path.
        FormatError: If there is no dataset at ``path``, or it is damaged or of another version.
        StorageError: If the dataset cannot be accessed.
    """
    if not isinstance(path, str | Path):
        raise ArgumentTypeError(f"`path` must be a string or a Path, not {type(path).__name__}.")
    files = StoredFiles(str(path).rstrip("/") if "://" in str(path) else Path(path))
    manifest = files.manifest()
    fields = files.table(manifest, manifest.segments).rechunk()
    return Dataset(files.path, manifest, fields, files.array(manifest))
