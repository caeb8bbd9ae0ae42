"""Writing of datasets, one segment at a time. Replacing ``dataset.json`` commits a segment."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from cytoloc._typing import UInt8Array
from cytoloc.channels import check_channels
from cytoloc.dataset.fields import FieldRow, encode, row_of, schema_of
from cytoloc.dataset.manifest import MANIFEST, SEGMENTS, ImportRecord, Manifest, Segment, read_manifest
from cytoloc.dataset.quarantine import QUARANTINE, Rejected, to_csv
from cytoloc.dataset.segments import IMAGES, TABLE, StoredFiles
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.errors import TableError
from cytoloc.files import new_folder, replace_file, write_synced
from cytoloc.labels.label_set import LabelSet
from cytoloc.memory import hand_back_freed_memory

SHARD_BYTES: Final = 32 * 2**20
"""Uncompressed size of a shard: large enough to keep the number of files low, small enough to hold in memory."""

SEGMENT_BYTES: Final = 2**30
"""Uncompressed size of a segment."""

Field = tuple[FieldRow, UInt8Array]


class DatasetWriter:
    """Add the segments of one import to a dataset.

    Args:
        folder: The folder of the dataset, existing or new. Segments that ``manifest`` does not list are removed.
        manifest: The manifest of the dataset. An unfinished import in it is resumed.

    Attributes:
        manifest: The manifest after the last commit.
        number: The position of this import in the list of imports.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.number = len(manifest.imports) - (manifest.unfinished is not None)
        self._field_bytes = len(manifest.channels) * manifest.size**2
        self._shard_length = max(1, SHARD_BYTES // self._field_bytes)
        self._schema = schema_of(manifest.channels, of_cells=manifest.of_cells)
        self.discard()

    @property
    def raw_bytes(self) -> int:
        """Uncompressed size of the pixels that were added since the last commit, in bytes."""
        return (sum(table.height for table in self._tables) + len(self._rows)) * self._field_bytes

    def add(self, row: dict[str, Any], chunk: bytes) -> None:
        """Add a field, given its table row and its chunk from :func:`~cytoloc.dataset.fields.encode`."""
        self._rows.append(row)
        self._chunks.append(chunk)
        if len(self._chunks) == self._shard_length:
            self._write_shard()

    def reject(self, bad: Rejected) -> None:
        """Add a field to the quarantine."""
        self._rejected.append(bad)

    def commit(self, record: ImportRecord) -> None:
        """Commit the added fields, which makes them part of the dataset.

        Args:
            record: The progress of the import. If it is finished, ``quarantine.csv`` of the dataset is written too.
        """
        segment = self._write_segment()
        self.manifest = replace(
            self.manifest,
            imports=(*self.manifest.imports[: self.number], record),
            segments=(*self.manifest.segments, *([segment] if segment else ())),
        )
        if record.finished:
            left = StoredFiles(self.folder).quarantine(self.manifest)
            if left:
                replace_file(self.folder / QUARANTINE, to_csv(left))
            else:
                (self.folder / QUARANTINE).unlink(missing_ok=True)
        self.manifest.write(self.folder)
        self._begin_segment()

    def rejections(self) -> list[Rejected]:
        """Return the fields that this import has rejected so far."""
        return StoredFiles(self.folder).rejections(self.manifest.segments_of(self.number)) + self._rejected

    def roll_back(self) -> None:
        """Restore the dataset as it was before this import; if this is its first import, the dataset is removed."""
        self.manifest = self.manifest.before(self.number)
        if self.manifest.imports:
            self.manifest.write(self.folder)
        else:
            (self.folder / MANIFEST).unlink(missing_ok=True)
        self.discard()

    def discard(self) -> None:
        """Remove everything that is not committed.

        If nothing was ever committed, only the lock file stays. Files of other programs, such as file managers, stay.
        """
        # The file on disk is decisive, because a commit can be interrupted at any point.
        listed: set[str] = set()
        if (self.folder / MANIFEST).exists():
            listed = {segment.name for segment in read_manifest(self.folder).segments}
        for folder in (self.folder / SEGMENTS).glob("*"):
            if folder.name.isdecimal() and folder.name not in listed:
                shutil.rmtree(folder)
        for half in self.folder.glob(".*.new"):
            half.unlink()
        if not listed:
            for derived in self.folder.glob(QUARANTINE):
                derived.unlink()
            with suppress(OSError):
                (self.folder / SEGMENTS).rmdir()
        self._begin_segment()

    def _begin_segment(self) -> None:
        self._segment = self.folder / SEGMENTS / f"{len(self.manifest.segments) + 1:04d}"
        self._rows: list[dict[str, Any]] = []
        self._chunks: list[bytes] = []
        self._tables: list[pl.DataFrame] = []
        self._rejected: list[Rejected] = []

    def _write_shard(self) -> None:
        """Write the buffered fields in the ``sharding_indexed`` format of Zarr: chunks, then offsets and lengths."""
        # An entry of all ones marks a missing chunk.
        index = np.full((self._shard_length, 2), 2**64 - 1, "<u8")
        lengths = np.array([len(chunk) for chunk in self._chunks], "<u8")
        index[: len(lengths), 0] = np.cumsum(lengths) - lengths
        index[: len(lengths), 1] = lengths
        path = self._segment / IMAGES / "c" / str(len(self._tables)) / "0" / "0" / "0"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(path, *self._chunks, index.tobytes())
        self._tables.append(pl.DataFrame(self._rows, schema=self._schema))
        self._rows, self._chunks = [], []
        hand_back_freed_memory()

    def _write_segment(self) -> Segment | None:
        """Write the rest of the segment, and return it; None if the segment is empty."""
        if not (self._chunks or self._tables or self._rejected):
            return None
        if self._chunks:
            self._write_shard()
        self._segment.mkdir(parents=True, exist_ok=True)
        fields = sum(table.height for table in self._tables)
        if fields:
            write_synced(self._segment / IMAGES / "zarr.json", json.dumps(self._array_metadata(fields)).encode())
        content = io.BytesIO()
        pl.concat([pl.DataFrame(schema=self._schema), *self._tables]).write_parquet(content)
        table, quarantine = content.getvalue(), to_csv(self._rejected) if self._rejected else None
        write_synced(self._segment / TABLE, table)
        if quarantine:
            write_synced(self._segment / QUARANTINE, quarantine)
        return Segment(
            name=self._segment.name,
            of_import=self.number,
            fields=fields,
            rejected=len(self._rejected),
            table_sha256=hashlib.sha256(table).hexdigest(),
            quarantine_sha256=hashlib.sha256(quarantine).hexdigest() if quarantine else None,
        )

    def _array_metadata(self, fields: int) -> dict[str, Any]:
        """Return the content of ``zarr.json`` for the array of a segment, as specified by Zarr v3."""
        field = [len(self.manifest.channels), self.manifest.size, self.manifest.size]
        blosc = {"typesize": 1, "cname": "lz4", "clevel": 5, "shuffle": "noshuffle", "blocksize": 0}
        sharding = {
            "chunk_shape": [1, *field],
            "codecs": [{"name": "bytes"}, {"name": "blosc", "configuration": blosc}],
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            "index_location": "end",
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [fields, *field],
            "data_type": "uint8",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self._shard_length, *field]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": ["field", "channel", "y", "x"],
            "attributes": {},
        }


def write_dataset(
    path: str | Path,
    fields: Iterable[Field],
    *,
    size: int,
    channels: Sequence[str],
    label_set: LabelSet,
    made_by: dict[str, Any],
) -> Dataset:
    """Write fields to a new dataset, and open it.

    Fields are taken one at a time, so memory does not grow with their number. If anything fails, nothing is left.
    :func:`cytoloc.dataset.importing.import_fields` is the resumable alternative.

    Args:
        path: The new folder.
        fields: The metadata and pixels of each field; pixels are uint8 of shape ``(channels, size, size)``.
        size: Edge length of the images, in pixels.
        channels: The names of the channels.
        label_set: The label set of the labels.
        made_by: The command and its settings, to record in ``dataset.json``.

    Returns:
        The dataset.

    Raises:
        OutputExistsError: If ``path`` exists.
        StorageError: If the disk is full or read-only.
        TableError: If an id repeats.
    """
    path, ids = Path(path), set[str]()
    manifest = Manifest(size=size, channels=check_channels(channels), label_set=label_set)
    with new_folder(path) as folder:
        writer = DatasetWriter(folder, manifest)
        for row, image in fields:
            if row.id in ids:
                raise TableError(f"{path}: the id {row.id} occurs twice.", hint="Keep one field per id.")
            ids.add(row.id)
            writer.add(row_of(row, image, manifest.channels), encode(image))
            if writer.raw_bytes >= SEGMENT_BYTES:
                writer.commit(ImportRecord(settings=made_by, added=len(ids)))
        writer.commit(ImportRecord(settings=made_by, added=len(ids), finished=True))
    return open_dataset(path)
