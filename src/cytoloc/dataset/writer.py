"""Writing a dataset: shards of pixels one after the other, then the table, then the header that makes it one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import tensorstore
from numpy.typing import NDArray

from cytoloc.dataset.fields import FieldRow, encode, row_of
from cytoloc.dataset.store import (
    KIND,
    SCHEMA,
    VERSION,
    Dataset,
    array_spec,
    open_dataset,
    shard_path,
)
from cytoloc.errors import StorageError, first_line
from cytoloc.files import FREE_SPACE, new_folder, sha256_of, write_json
from cytoloc.labels import CHANNELS
from cytoloc.lists import refuse_repeated

SHARD_BYTES: Final = 32 * 2**20
"""Raw pixels per shard: few enough files for millions of fields, small enough to hold in memory while writing."""

ROWS_PER_GROUP: Final = 512
"""Rows of the table that are held in memory at once while it is written."""

LONGEST: Final = 2**40
"""Length of the array while it grows; it is set to the number of fields at the end."""

Field = tuple[FieldRow, NDArray[np.uint8]]


def fields_per_shard(size: int) -> int:
    """Return how many fields of ``size`` pixels lie in one file."""
    return max(1, SHARD_BYTES // (len(CHANNELS) * size * size))


class DatasetWriter:
    """A dataset in the making, in a folder that is not its final one; as a context, it is no longer written after it.

    Args:
        folder: Holds what was written already, or nothing.
        size: Edge of the pictures, in pixels.
        path: The final name, for the message of an error.
    """

    def __init__(self, folder: Path, *, size: int, path: Path) -> None:
        self.folder = folder
        self.path = path
        self.size = size
        self.shard_length = fields_per_shard(size)
        pixels = folder / "images.zarr"
        spec = array_spec(pixels) if (pixels / "zarr.json").exists() else _new_spec(pixels, size)
        with self._storage_errors():
            self._array = tensorstore.open(spec, open=True, create="metadata" in spec).result()
        # One shard is written while the fields of the next are read.
        self._disk = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._disk.shutdown(wait=True)

    def put(self, shard: int, chunks: Sequence[bytes]) -> Future[None]:
        """Start to write a whole shard of fields, as :func:`~cytoloc.dataset.fields.encode` returns them.

        What lies there is written anew. A disk that is full or read-only raises OSError from the future.
        """
        return self._disk.submit(_write_shard, self.shard_path(shard), list(chunks), self.shard_length)

    def shard_path(self, shard: int) -> Path:
        """Return the file of a shard."""
        return shard_path(self.folder, shard)

    def drop_shards(self, first: int) -> None:
        """Remove the shards from ``first`` on."""
        for folder in (self.folder / "images.zarr").glob("c/*"):
            if int(folder.name) >= first:
                shutil.rmtree(folder)

    def finish(self, rows: Iterable[dict[str, Any]], *, count: int, header: dict[str, Any]) -> None:
        """Write the table and the header, which make the folder a dataset.

        Args:
            rows: A value for every column of ``SCHEMA``, in order of the fields.
            count: How many there are.
            header: What ``dataset.json`` says besides number, size, channels and checksum of the table.
        """
        with self._storage_errors():
            self._array.resize(exclusive_max=[count, None, None, None], resize_metadata_only=True).result()
        self._sweep()
        table = self.folder / "fields.parquet"
        written = _write_table(rows, table)
        if written != count:
            raise RuntimeError(f"{self.path} has {count} fields and {written} rows")
        (self.folder / "dataset.json").unlink(missing_ok=True)
        content = {"fields": count, "size": self.size, "channels": list(CHANNELS), "table_sha256": sha256_of(table)}
        write_json(self.folder / "dataset.json", content | header, kind=KIND, version=VERSION)

    def _sweep(self) -> None:
        """Remove what killed processes left: half-written shards of tensorstore, half-written files of ours."""
        for lock in self.folder.rglob("*.__lock"):
            lock.unlink()
        for stray in [*self.folder.glob(".dataset.json.*"), *self.folder.glob(".quarantine.csv.*")]:
            shutil.rmtree(stray)

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            if "os_error_code" not in str(error):
                raise
            raise StorageError(
                f"{self.path} cannot be written: {first_line(error)}",
                way_out=FREE_SPACE,
            ) from error


def _write_shard(path: Path, chunks: list[bytes], length: int) -> None:
    """Write a shard as Zarr's ``sharding_indexed`` has it: chunks, then their offsets and lengths."""
    # All ones stand for a chunk that is not there.
    index = np.full((length, 2), 2**64 - 1, "<u8")
    lengths = np.array([len(chunk) for chunk in chunks], "<u8")
    index[: len(chunks), 0] = np.cumsum(lengths) - lengths
    index[: len(chunks), 1] = lengths
    path.parent.mkdir(parents=True, exist_ok=True)
    # Never in place: after --append a shard may be a link to one of another dataset.
    path.unlink(missing_ok=True)
    with path.open("wb") as stream:
        stream.writelines(chunks)
        stream.write(index.tobytes())
        stream.flush()
        os.fsync(stream.fileno())


def write_dataset(path: str | Path, fields: Iterable[Field], *, size: int, made_by: dict[str, Any]) -> Dataset:
    """Pack ``fields`` into a new dataset and open it.

    Fields are taken one shard at a time, so memory does not grow with their pixels. If anything fails, nothing is left;
    :func:`cytoloc.dataset.importing.import_fields` is the way that can be resumed.

    Args:
        path: A folder that is not there yet.
        fields: The row and the pixels of each field, uint8 ``(4, size, size)``.
        size: Edge of the pictures, in pixels.
        made_by: The command and its settings, kept in ``dataset.json``.

    Raises:
        OutputExistsError: If something lies at ``path``.
        StorageError: If the disk is full or read-only.
        TableError: If an id repeats.
    """
    path = Path(path)
    rows: list[dict[str, Any]] = []
    with new_folder(path) as folder, DatasetWriter(folder, size=size, path=path) as writer:
        for shard, batch in enumerate(_batches(fields, writer.shard_length)):
            writer.put(shard, [encode(image) for _, image in batch]).result()
            rows += [row_of(row, image) for row, image in batch]
        refuse_repeated([row["id"] for row in rows], where=str(path))
        writer.finish(rows, count=len(rows), header={"made_by": made_by})
    return open_dataset(path)


def _batches(fields: Iterable[Field], length: int) -> Iterator[Sequence[Field]]:
    batch: list[Field] = []
    for item in fields:
        batch.append(item)
        if len(batch) == length:
            yield batch
            batch = []
    if batch:
        yield batch


def _write_table(rows: Iterable[dict[str, Any]], path: Path) -> int:
    """Write the table, a group of rows after the other, and return how many they are."""
    written = 0
    schema = pl.DataFrame(schema=SCHEMA).to_arrow().schema
    rows = iter(rows)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while (group := pl.DataFrame(list(islice(rows, ROWS_PER_GROUP)), schema=SCHEMA)).height:
            writer.write_table(group.to_arrow())
            written += group.height
            # Else Arrow keeps what it had for each group until the end.
            pa.default_memory_pool().release_unused()
    return written


def _new_spec(path: Path, size: int) -> dict[str, Any]:
    inner = [
        {"name": "bytes"},
        {"name": "blosc", "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "noshuffle"}},
    ]
    index = [{"name": "bytes", "configuration": {"endian": "little"}}]
    one_field = [1, len(CHANNELS), size, size]
    sharding = {"chunk_shape": one_field, "codecs": inner, "index_codecs": index, "index_location": "end"}
    return {
        **array_spec(path),
        "metadata": {
            "shape": [LONGEST, *one_field[1:]],
            "data_type": "uint8",
            "fill_value": 0,
            "dimension_names": ["field", "channel", "y", "x"],
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [fields_per_shard(size), *one_field[1:]]},
            },
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        },
    }
