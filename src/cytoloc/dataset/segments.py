"""Reading of the files of a dataset, in a folder or at a URL, with tensorstore."""

from __future__ import annotations

import errno
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import polars as pl
import tensorstore

from cytoloc.dataset.fields import schema_of
from cytoloc.dataset.manifest import MANIFEST, SEGMENTS, Manifest, Segment, read_manifest
from cytoloc.dataset.quarantine import QUARANTINE, Rejected, from_csv, still_rejected
from cytoloc.errors import FormatError, StorageError, first_line
from cytoloc.files import error_number

TABLE: Final = "fields.parquet"
IMAGES: Final = "images.zarr"

_AT_A_TIME: Final = 64
"""Number of files that are read at the same time."""

_DAMAGE: Final = ("NOT_FOUND", "DATA_LOSS", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE")
"""Error codes of tensorstore that mean damaged content; all others mean failed access."""

_ANEW: Final = "Import the dataset again from the image files."

_WHOLE_FILES: Final = "was ignored by server"
"""Part of tensorstore's error message (undocumented) if a server ignores byte ranges."""


class StoredFiles:
    """The files of a dataset.

    Args:
        path: A folder, or a URL that tensorstore reads.

    Raises:
        StorageError: If the URL cannot be read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = path
        spec: Any = (
            {"driver": "file", "path": f"{path.resolve()}/"} if isinstance(path, Path) else path.rstrip("/") + "/"
        )
        # When a dataset is opened, requests are retried for about ten seconds. Reading pixels keeps the default of
        # tensorstore, several minutes, so that training survives a restart of the server.
        retries = {"max_retries": 5, "initial_delay": "500ms", "max_delay": "4s"}
        patience = tensorstore.Context({f"{kind}_request_retries": retries for kind in ("http", "gcs", "s3")})
        try:
            self._store = tensorstore.KvStore.open(spec, context=patience).result()
        except ValueError as error:
            raise StorageError(f"{path} cannot be read: {first_line(error)}.", hint="Check the URL.") from error

    def manifest(self) -> Manifest:
        """Read ``dataset.json``.

        Returns:
            The manifest.

        Raises:
            FormatError: If there is no dataset, or its ``dataset.json`` is damaged or has another format or version.
        """
        if isinstance(self.path, Path):
            return read_manifest(self.path)
        with damage(self.path):
            found = self._store.read(MANIFEST).result()
        if found.state != "value":
            raise FormatError(f"{self.path} is not a dataset, because it has no {MANIFEST}.", hint="Check the URL.")
        return Manifest.from_bytes(found.value, where=f"{self.path}/{MANIFEST}")

    def table(self, manifest: Manifest, segments: Iterable[Segment], *, columns: Sequence[str] = ()) -> pl.DataFrame:
        """Read the tables of some segments.

        Args:
            manifest: The manifest of the dataset.
            segments: The segments.
            columns: The columns to read. Default: all.

        Returns:
            One table with the rows of all segments.

        Raises:
            FormatError: If a table is missing, or differs from its checksum.
        """
        schema = schema_of(manifest.channels, of_cells=manifest.of_cells)
        wanted = {name: schema[name] for name in columns or schema}
        tables = [pl.DataFrame(schema=wanted)]
        listed = {f"{SEGMENTS}/{each.name}/{TABLE}": each for each in segments}
        for name, content in self._read({name: each.table_sha256 for name, each in listed.items()}):
            with damage(self.path):
                table = pl.read_parquet(io.BytesIO(content), columns=list(columns) or None)
            if table.schema != wanted or table.height != listed[name].fields:
                raise FormatError(f"{self.path} is damaged: {name} does not agree with {MANIFEST}.", hint=_ANEW)
            tables.append(table)
        return pl.concat(tables)

    def array(self, manifest: Manifest) -> Any:
        """Open the pixels of all segments as one tensorstore array.

        Args:
            manifest: The manifest of the dataset.

        Returns:
            uint8 of shape ``(n, channels, size, size)``; None if there are no fields.

        Raises:
            FormatError: If pixels are missing, or do not match ``dataset.json``.
        """
        segments = [segment for segment in manifest.segments if segment.fields]
        stores = [self._store / f"{SEGMENTS}/{segment.name}/{IMAGES}/" for segment in segments]
        with damage(self.path):
            # A missing shard is damage and must not be read as black images.
            form = {"driver": "zarr3", "fill_missing_data_reads": False}
            specs = [{**form, "kvstore": store.spec().to_json()} for store in stores]
            opening = [tensorstore.open(spec, open=True, read=True) for spec in specs]
            arrays = [each.result() for each in opening]
        for segment, array in zip(segments, arrays, strict=True):
            if array.shape != (segment.fields, len(manifest.channels), manifest.size, manifest.size):
                raise FormatError(
                    f"{self.path} is damaged: the pixels of segment {segment.name} do not match {MANIFEST}.",
                    hint=_ANEW,
                )
        if len(arrays) < 2:
            return arrays[0] if arrays else None
        return tensorstore.concat(arrays, axis=0)

    def rejections(self, segments: Iterable[Segment]) -> list[Rejected]:
        """Read the rejected fields that some segments list.

        Args:
            segments: The segments.

        Returns:
            The rejected fields.

        Raises:
            FormatError: If a list is missing, or differs from its checksum.
        """
        wanted = {
            f"{SEGMENTS}/{each.name}/{QUARANTINE}": each.quarantine_sha256
            for each in segments
            if each.quarantine_sha256
        }
        return [row for _, content in self._read(wanted) for row in from_csv(content)]

    def quarantine(self, manifest: Manifest) -> list[Rejected]:
        """Return the fields that an import rejected and no later import added."""
        if not any(segment.rejected for segment in manifest.segments):
            return []
        return still_rejected(
            (
                self.table(manifest, manifest.segments_of(number), columns=["id"])["id"],
                self.rejections(manifest.segments_of(number)),
            )
            for number in range(len(manifest.imports))
        )

    def _read(self, digests: dict[str, str]) -> Iterator[tuple[str, bytes]]:
        """Yield the name and content of each file whose SHA-256 is given.

        The content is checked before it is parsed, because polars ends the process for some damaged files.
        """
        names = list(digests)
        for start in range(0, len(names), _AT_A_TIME):
            some = names[start : start + _AT_A_TIME]
            with damage(self.path):
                results = [each.result() for each in [self._store.read(name) for name in some]]
            for name, found in zip(some, results, strict=True):
                if found.state != "value":
                    raise FormatError(f"{self.path} is damaged: {name} is missing.", hint=_ANEW)
                if hashlib.sha256(found.value).hexdigest() != digests[name]:
                    raise FormatError(f"{self.path} is damaged: {name} is not the file that was written.", hint=_ANEW)
                yield name, found.value


@contextmanager
def damage(path: Path | str) -> Iterator[None]:
    """Turn errors of readers into :class:`FormatError`, or into :class:`StorageError` if the access failed."""
    try:
        yield
    except (ValueError, OSError, pl.exceptions.PolarsError) as error:
        message = first_line(error)
        if _WHOLE_FILES in message:
            raise StorageError(
                f"{path} cannot be read: its server sends whole files, but pixels are read by byte ranges.",
                hint="Use a server that supports range requests, such as nginx, Apache or object stores (Python's"
                " http.server does not), or copy the dataset to this machine.",
            ) from error
        way = re.match(r"[A-Z_]+(?=: )", message) if isinstance(error, ValueError) else None
        # Errors about the content of a file have no error number of the operating system.
        refused = isinstance(error, OSError) and error_number(error) not in (None, errno.ENOENT)
        if (way and way[0] not in _DAMAGE) or refused:
            raise StorageError(
                f"{path} cannot be read: {message}",
                hint="Check the file permissions and, for a URL, the network; then try again.",
            ) from error
        raise FormatError(f"{path} is damaged: {message}", hint=_ANEW) from error
