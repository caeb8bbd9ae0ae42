"""The dataset that an import adds to: millions of fields, of which a few are looked at, at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cytoloc.dataset.quarantine import QUARANTINE, Rejected, read_quarantine
from cytoloc.dataset.store import damage, open_folder, refuse_disagreement, refuse_other_table, shard_path
from cytoloc.dataset.writer import fields_per_shard
from cytoloc.errors import FormatError
from cytoloc.files import sha256_of

_ROWS_AT_A_TIME: Final = 512


class Base:
    """A dataset in a folder, open for reading in order; unlike an :class:`~.store.Dataset` it does not hold its table.

    Args:
        path: The folder.

    Attributes:
        path: The same.
        header: The content of ``dataset.json``.
        size: Edge of its pictures, in pixels.
        quarantine: What was rejected when it was made.

    Raises:
        FormatError: If there is no dataset at ``path``, or it is damaged or of another version.
        StorageError: If it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header, self._array = open_folder(path)
        with damage(path):
            refuse_other_table(path, self.header, sha256_of(self._table))
        with damage(path), pq.ParquetFile(self._table) as file:
            schema, height = pl.DataFrame(file.schema_arrow.empty_table()).schema, file.metadata.num_rows
        refuse_disagreement(path, self.header, self._array, schema=schema, height=height)
        self.size: int = self.header["size"]
        self.quarantine = self._rejected()

    def __len__(self) -> int:
        return int(self.header["fields"])

    @property
    def fingerprint(self) -> str:
        """What tells it from any other dataset: the SHA-256 of its header, which has that of its table."""
        return hashlib.sha256(json.dumps(self.header).encode()).hexdigest()

    @property
    def whole_shards(self) -> int:
        """How many of its shards have all their fields."""
        return len(self) // fields_per_shard(self.size)

    def shard_path(self, shard: int) -> Path:
        """Return the file of a shard."""
        return shard_path(self.path, shard)

    def ids(self) -> Iterator[str]:
        """Yield the id of each field, in order."""
        for table in self._pieces(["id"]):
            yield from table["id"]

    def rows(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yield the rows of the table from ``start`` to before ``stop``."""
        before = 0
        for table in self._pieces():
            if before >= stop:
                break
            yield from table[max(0, start - before) : stop - before].iter_rows(named=True)
            before += table.height

    def images(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the pictures from ``start`` to before ``stop``, uint8 ``(n, 4, size, size)``."""
        with damage(self.path):
            pixels: NDArray[np.uint8] = self._array[start:stop].read().result()
        return pixels

    def _rejected(self) -> list[Rejected]:
        """Return what was rejected, as many as the header says."""
        file, count = self.path / QUARANTINE, self.header.get("quarantined", 0)
        with damage(file):
            found = read_quarantine(self.path)
        whole = sum(None not in each for each in found)
        if whole != count or len(found) != count:
            raise FormatError(
                f"{file} has {len(found)} rows, {whole} of them whole, for {count} fields that could not be imported.",
                way_out="Bring the file back, or import the dataset again.",
            )
        return found

    @property
    def _table(self) -> Path:
        return self.path / "fields.parquet"

    def _pieces(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        with damage(self.path), pq.ParquetFile(self._table) as file:
            for batch in file.iter_batches(_ROWS_AT_A_TIME, columns=columns):
                yield pl.DataFrame(batch)
