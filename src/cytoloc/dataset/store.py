"""A dataset on disk: ``dataset.json``, ``images.zarr/`` (Zarr v3, sharded) and ``fields.parquet``.

Row *i* of the table is image *i* of the array. Every inner chunk is one field, so a batch in any order costs only the
fields that it asks for; tensorstore decodes them in parallel, outside Python.
"""

from __future__ import annotations

import errno
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import tensorstore
from numpy.typing import NDArray

from cytoloc.dataset.fields import pixels_sha256
from cytoloc.errors import FormatError, StorageError, first_line
from cytoloc.files import error_number, existing, parse_json, read_json, sha256_of
from cytoloc.labels import CHANNELS, LabelSet, to_matrix

KIND: Final = "cytoloc-dataset"
VERSION: Final = 5

SCHEMA: Final = pl.Schema(
    {
        "id": pl.String(),
        "source": pl.String(),
        "labels": pl.List(pl.Int16()),
        "antibody": pl.String(),
        "plate": pl.String(),
        "well": pl.String(),
        "field": pl.String(),
        "gene": pl.String(),
        "cell_line": pl.String(),
        "original_px": pl.Int32(),
        "original_width_px": pl.Int32(),
        "pixel_um": pl.Float32(),
        "packed_um": pl.Float32(),
        "absent": pl.List(pl.String()),
        "black": pl.List(pl.Float64()),
        "white": pl.List(pl.Float64()),
        "flags": pl.List(pl.String()),
        "sha256": pl.String(),
        **{f"phash_{role}": pl.UInt64() for role in CHANNELS},
    }
)
"""Columns of ``fields.parquet``.

Besides what :class:`~cytoloc.dataset.fields.FieldRow` says, ``flags`` is what
:func:`cytoloc.pictures.quality.flags_of` finds wrong with a field, ``sha256`` is that of the packed pixels, channel by
channel, row by row, and ``phash_…`` is the perceptual hash of each channel
(:func:`cytoloc.pictures.hashes.field_hashes`).
"""


class Dataset:
    """A packed set of fields of view, open for reading.

    Attributes:
        path: The folder it lies in, or its URL.
        size: Edge of its pictures, in pixels.
        fields: One row per field, columns as in :data:`SCHEMA`.
        header: The content of ``dataset.json``.
    """

    def __init__(self, path: Path | str, header: dict[str, Any], fields: pl.DataFrame, array: Any) -> None:
        self.path = path
        self.header = header
        self.size: int = header["size"]
        self.fields = fields
        self._array = array

    def __len__(self) -> int:
        return self.fields.height

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """Return one field, uint8 ``(4, size, size)``, channels in the order of ``cytoloc.CHANNELS``."""
        return np.asarray(self.read([row])[0])

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        return f"Dataset({str(self.path)!r}, {len(self)} fields of {self.size} px)"

    def read(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Return the fields in ``rows``, uint8 ``(len(rows), 4, size, size)``, in any order, repeats allowed.

        Raises:
            IndexError: If a row is not in the dataset; negative rows count from the end.
            TypeError: If ``rows`` are not whole numbers; of a mask, give ``mask.nonzero()[0]``.
            FormatError: If the pixels cannot be decoded.
        """
        wanted = np.asarray(rows)
        if wanted.size == 0:
            return np.empty((0, len(CHANNELS), self.size, self.size), np.uint8)
        if wanted.ndim != 1 or not np.issubdtype(wanted.dtype, np.integer):
            raise TypeError(f"rows are a list of whole numbers, not {wanted.dtype} of shape {wanted.shape}")
        if wanted.min() < -len(self) or wanted.max() >= len(self):
            raise IndexError(f"{self.path} has rows 0 to {len(self) - 1}; asked for {wanted.tolist()}")
        with damage(self.path):
            pixels: NDArray[np.uint8] = self._array[wanted % len(self)].read().result()
        return pixels

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of its channels, in the order of the second axis of its pixels."""
        return tuple(self.header["channels"])

    @property
    def label_set(self) -> LabelSet:
        """The locations that its labels speak of."""
        return LabelSet.hpa28()

    @property
    def folder(self) -> Path:
        """The folder it lies in.

        Raises:
            FormatError: If it is at a URL.
        """
        if isinstance(self.path, str):
            raise FormatError(f"{self.path} is not on this machine.", way_out="Copy the dataset here first.")
        return self.path

    @property
    def ids(self) -> tuple[str, ...]:
        """The id of each field, in row order."""
        return tuple(self.fields["id"].to_list())

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """For each field, whether its locations are known."""
        return np.asarray(self.fields["labels"].is_not_null().to_numpy(), np.bool_)

    @property
    def truth(self) -> NDArray[np.bool_]:
        """The locations of each field, bool ``(n, 28)``; all false where they are not known."""
        return to_matrix(labels or () for labels in self.fields["labels"].to_list())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of ids, labels and pixels: two datasets with the same one teach a network the same."""
        table = self.fields.select("id", pl.col("labels").cast(pl.List(pl.String)).list.join(" "), "sha256")
        return hashlib.sha256(repr(table.rows()).encode()).hexdigest()

    def damaged(self) -> Iterator[str]:
        """Yield the id of each field whose pixels are not those that were written."""
        for row, (name, digest) in enumerate(self.fields.select("id", "sha256").iter_rows()):
            try:
                intact = pixels_sha256(self[row]) == digest
            except FormatError:
                intact = False
            if not intact:
                yield name


def open_dataset(path: str | Path) -> Dataset:
    """Open a dataset for reading.

    Args:
        path: A folder, or a URL that tensorstore reads: ``https://…``, ``s3://BUCKET/…``, ``gs://BUCKET/…``. Of an
            dataset at a URL the table is fetched at once, pixels as they are asked for, by ranges of bytes.

    Raises:
        FormatError: If there is no dataset at ``path``, or it is damaged or of another version.
        StorageError: If a URL cannot be read.
    """
    if "://" in str(path):
        return _open_url(str(path).rstrip("/"))
    path = Path(path)
    header, array = open_folder(path)
    with damage(path):
        refuse_other_table(path, header, sha256_of(path / "fields.parquet"))
        fields = pl.read_parquet(path / "fields.parquet", glob=False)
    refuse_disagreement(path, header, array, schema=fields.schema, height=fields.height)
    return Dataset(path, header, fields, array)


def open_folder(path: Path) -> tuple[dict[str, Any], Any]:
    """Return the header of the dataset in a folder, and its pixels as tensorstore has them.

    Raises:
        FormatError: If there is no dataset at ``path``, or it is damaged or of another version.
        StorageError: If it cannot be read.
    """
    existing(path, error=FormatError, what="dataset")
    if not path.is_dir():
        raise FormatError(f"{path} is not a dataset but a file.", way_out="A dataset is a folder that an import wrote.")
    if not (path / "dataset.json").exists():
        raise FormatError(
            f"{path} is not a dataset: it has no dataset.json.", way_out="`cytoloc import` makes one of picture files."
        )
    header = read_json(path / "dataset.json", kind=KIND, version=VERSION)
    with damage(path):
        return header, tensorstore.open(array_spec(path / "images.zarr"), open=True, read=True).result()


def _open_url(url: str) -> Dataset:
    content = {}
    try:
        store = tensorstore.KvStore.open(f"{url}/", context=_patience()).result()
    except ValueError as error:
        raise StorageError(f"{url} cannot be read: {first_line(error)}", way_out="Check the URL.") from error
    with damage(url):
        for name in ("dataset.json", "fields.parquet"):
            found = store.read(name).result()
            if found.state != "value":
                raise FormatError(f"{url}: there is no dataset ({name} is missing).", way_out="Check the URL.")
            content[name] = found.value
    header = parse_json(content["dataset.json"], where=f"{url}/dataset.json", kind=KIND, version=VERSION)
    refuse_other_table(url, header, hashlib.sha256(content["fields.parquet"]).hexdigest())
    with damage(url):
        fields = pl.read_parquet(io.BytesIO(content["fields.parquet"]))
        spec = {"driver": "zarr3", "kvstore": f"{url}/images.zarr/", "fill_missing_data_reads": False}
        array = tensorstore.open(spec, open=True, read=True).result()
    refuse_disagreement(url, header, array, schema=fields.schema, height=fields.height)
    return Dataset(url, header, fields, array)


def _patience() -> tensorstore.Context:
    """Return how often a request is tried again when a dataset is opened: for some ten seconds.

    Reading pixels keeps to tensorstore's own way, minutes: a training should outlive a server's restart.
    """
    retries = {"max_retries": 5, "initial_delay": "500ms", "max_delay": "4s"}
    return tensorstore.Context({f"{kind}_request_retries": retries for kind in ("http", "gcs", "s3")})


_DAMAGE: Final = ("NOT_FOUND", "DATA_LOSS", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE")
"""The kinds of errors of tensorstore that speak of the content; all others speak of the way to it."""

_ANEW: Final = "Import it again."

_WHOLE_FILES: Final = "was ignored by server"
"""What tensorstore says, though its documents do not promise it, of a range of bytes that it asked for in vain."""


@contextmanager
def damage(path: Path | str) -> Iterator[None]:
    """Turn what readers raise into a :class:`FormatError`, or if the way to it failed a :class:`StorageError`."""
    try:
        yield
    except (ValueError, OSError, pl.exceptions.PolarsError) as error:
        said = first_line(error)
        if _WHOLE_FILES in said:
            raise StorageError(
                f"{path} cannot be read: its server hands out whole files, and pixels are read by ranges of bytes.",
                way_out="Use a server that answers range requests, as nginx, Apache and object stores do (Python's"
                " http.server does not), or copy the dataset here.",
            ) from error
        way = re.match(r"[A-Z_]+(?=: )", said) if isinstance(error, ValueError) else None
        # Of a file whose content is not what it should be, readers raise errors that the system has no number for.
        refused = isinstance(error, OSError) and error_number(error) not in (None, errno.ENOENT)
        if (way and way[0] not in _DAMAGE) or refused:
            raise StorageError(
                f"{path} cannot be read: {said}", way_out="Check rights and, of a URL, the network; then try again."
            ) from error
        raise FormatError(f"{path} is damaged: {said}", way_out=_ANEW) from error


def refuse_other_table(path: Path | str, header: dict[str, Any], digest: str) -> None:
    """Raise :class:`~cytoloc.errors.FormatError` unless a table is the one that was written, by its SHA-256.

    To be asked before it is read: there are changes of single bytes by which polars ends the process.
    """
    if digest != header.get("table_sha256"):
        raise FormatError(f"{path} is damaged: fields.parquet is not the table that was written.", way_out=_ANEW)


def refuse_disagreement(
    path: Path | str, header: dict[str, Any], array: Any, *, schema: pl.Schema, height: int
) -> None:
    """Raise :class:`~cytoloc.errors.FormatError` unless header, pixels and table are of one dataset."""
    expected = (header.get("fields"), len(CHANNELS), header.get("size"), header.get("size"))
    if schema != SCHEMA or height != header.get("fields") or tuple(array.shape) != expected:
        raise FormatError(f"{path} is damaged: its table and its pixels do not agree with dataset.json.", way_out=_ANEW)
    if not isinstance(header.get("made_by"), dict):
        raise FormatError(f"{path} is damaged: dataset.json does not say what the dataset was made by.", way_out=_ANEW)


def shard_path(dataset: Path, shard: int) -> Path:
    """Return the file of a shard of the dataset in a folder."""
    return dataset / "images.zarr" / "c" / str(shard) / "0" / "0" / "0"


def array_spec(path: Path) -> dict[str, Any]:
    """Return how tensorstore is to open the pixels at ``path``."""
    # A missing shard is damage, not a black picture; so black pictures are written out too.
    return {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(path.resolve())},
        "fill_missing_data_reads": False,
        "store_data_equal_to_fill_value": True,
    }
