"""An atlas on disk: ``atlas.json``, ``images.zarr/`` (Zarr v3, sharded) and ``fields.parquet``.

Row *i* of the table is image *i* of the array. Every inner chunk is one field, so a batch in any order costs only the
fields that it asks for; tensorstore decodes them in parallel, outside Python.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import tensorstore
from numpy.typing import NDArray

from cytoloc.errors import FormatError, StorageError
from cytoloc.files import existing, new_folder, read_json, write_json
from cytoloc.labels import CHANNELS, to_matrix
from cytoloc.scores import refuse_repeated

KIND: Final = "cytoloc-atlas"
VERSION: Final = 1
SHARD_BYTES: Final = 32 * 2**20
"""Raw pixels per shard: few enough files for millions of fields, small enough to hold in memory while writing."""


@dataclass(frozen=True, kw_only=True)
class FieldRow:
    """What is known of one field of view besides its pixels; None where it is not known.

    Attributes:
        id: The field's name; unique in its atlas.
        source: Where it comes from, e.g. ``kaggle`` or ``simulated``.
        labels: Location ids; None for a field without annotation.
        antibody: The antibody that stained the protein.
        plate: The plate it was imaged on.
        well: The well of that plate; all fields of a well show the same protein in the same cells.
        field: The number of the field in its well.
        gene: The gene that codes for the protein.
        cell_line: The cell line.
        original_px: Edge of the picture before it was resized, in pixels.
        pixel_um: Edge of a pixel of the original, in micrometres.
    """

    id: str
    source: str
    original_px: int
    labels: tuple[int, ...] | None = None
    antibody: str | None = None
    plate: str | None = None
    well: str | None = None
    field: str | None = None
    gene: str | None = None
    cell_line: str | None = None
    pixel_um: float | None = None


SCHEMA: Final = pl.Schema(
    {
        "id": pl.String(),
        "source": pl.String(),
        "labels": pl.List(pl.Int8()),
        "antibody": pl.String(),
        "plate": pl.String(),
        "well": pl.String(),
        "field": pl.String(),
        "gene": pl.String(),
        "cell_line": pl.String(),
        "original_px": pl.Int32(),
        "pixel_um": pl.Float32(),
        "sha256": pl.String(),
    }
)
"""Columns of ``fields.parquet``; ``sha256`` is that of the packed pixels, channel by channel, row by row."""


class Atlas:
    """A packed set of fields of view, open for reading.

    Attributes:
        path: The folder it lies in.
        size: Edge of its pictures, in pixels.
        fields: One row per field, columns as in :data:`SCHEMA`.
        header: The content of ``atlas.json``.
    """

    def __init__(self, path: Path, header: dict[str, Any], fields: pl.DataFrame, array: Any) -> None:
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
        return f"Atlas({str(self.path)!r}, {len(self)} fields of {self.size} px)"

    def read(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Return the fields in ``rows``, uint8 ``(len(rows), 4, size, size)``, in any order, repeats allowed.

        Raises:
            IndexError: If a row is not in the atlas; negative rows count from the end.
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
        try:
            pixels: NDArray[np.uint8] = self._array[wanted % len(self)].read().result()
        except ValueError as error:
            raise FormatError(
                f"{self.path}: pixels cannot be read: {_first_line(error)}", way_out="Import the atlas again."
            ) from error
        return pixels

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
        """SHA-256 of ids, labels and pixels: two atlases with the same one teach a network the same."""
        table = self.fields.select("id", pl.col("labels").cast(pl.List(pl.String)).list.join(" "), "sha256")
        return hashlib.sha256(repr(table.rows()).encode()).hexdigest()

    def damaged(self) -> Iterator[str]:
        """Yield the id of each field whose pixels are not those that were written."""
        for row, (name, digest) in enumerate(self.fields.select("id", "sha256").iter_rows()):
            try:
                intact = _sha256(self[row]) == digest
            except FormatError:
                intact = False
            if not intact:
                yield name


def open_atlas(path: str | Path) -> Atlas:
    """Open an atlas for reading.

    Raises:
        FormatError: If there is no atlas at ``path``, or it is damaged or of another version.
    """
    path = Path(path)
    existing(path, error=FormatError, what="atlas")
    if not path.is_dir():
        raise FormatError(f"{path} is not an atlas but a file.", way_out="An atlas is a folder that an import wrote.")
    header = read_json(path / "atlas.json", kind=KIND, version=VERSION)
    try:
        fields = pl.read_parquet(path / "fields.parquet", glob=False)
        array = tensorstore.open(_open_spec(path / "images.zarr"), open=True, read=True).result()
    except (ValueError, OSError, pl.exceptions.PolarsError) as error:
        raise FormatError(f"{path} is damaged: {_first_line(error)}", way_out="Import it again.") from error
    expected = (header.get("fields"), len(CHANNELS), header.get("size"), header.get("size"))
    if fields.schema != SCHEMA or fields.height != header.get("fields") or tuple(array.shape) != expected:
        raise FormatError(f"{path} is damaged: its table and its pixels do not agree with atlas.json.")
    return Atlas(path, header, fields, array)


def write_atlas(
    path: str | Path,
    fields: Iterable[tuple[FieldRow, NDArray[np.uint8]]],
    *,
    count: int,
    size: int,
    made_by: dict[str, Any],
) -> Atlas:
    """Pack ``fields`` into a new atlas and open it.

    Fields are taken one shard at a time, so memory does not grow with their number. If anything fails, nothing is left.

    Args:
        path: A folder that is not there yet.
        fields: The row and the pixels of each field, uint8 ``(4, size, size)``.
        count: How many fields there will be.
        size: Edge of the pictures, in pixels.
        made_by: The command and its settings, kept in ``atlas.json``.

    Raises:
        OutputExistsError: If something lies at ``path``.
        StorageError: If the disk is full or read-only.
        TableError: If an id repeats.
    """
    path = Path(path)
    rows: list[dict[str, Any]] = []
    with new_folder(path) as folder:
        shard = max(1, SHARD_BYTES // (len(CHANNELS) * size * size))
        try:
            array = tensorstore.open(_new_spec(folder / "images.zarr", count, size, shard), create=True).result()
            for batch in _batches(fields, shard):
                pixels = np.stack([image for _, image in batch])
                array[len(rows) : len(rows) + len(batch)].write(pixels).result()
                rows += [{**asdict(row), "sha256": _sha256(image)} for row, image in batch]
        except ValueError as error:
            if "os_error_code" not in str(error):
                raise
            raise StorageError(
                f"{path} cannot be written: {_first_line(error)}",
                way_out="Free space, or choose an --out on a disk that can be written. No half-written output is left.",
            ) from error
        if len(rows) != count:
            raise ValueError(f"{count} fields were announced, {len(rows)} came")
        refuse_repeated([row["id"] for row in rows], where=str(path))
        pl.DataFrame(rows, schema=SCHEMA).write_parquet(folder / "fields.parquet")
        header = {"fields": count, "size": size, "channels": list(CHANNELS), "made_by": made_by}
        write_json(folder / "atlas.json", header, kind=KIND, version=VERSION)
    return open_atlas(path)


def _batches(
    fields: Iterable[tuple[FieldRow, NDArray[np.uint8]]], length: int
) -> Iterator[list[tuple[FieldRow, NDArray[np.uint8]]]]:
    batch = []
    for item in fields:
        batch.append(item)
        if len(batch) == length:
            yield batch
            batch = []
    if batch:
        yield batch


def _sha256(image: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def _open_spec(path: Path) -> dict[str, Any]:
    # A missing shard is damage, not a black picture; so black pictures are written out too.
    return {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(path.resolve())},
        "fill_missing_data_reads": False,
        "store_data_equal_to_fill_value": True,
    }


def _new_spec(path: Path, count: int, size: int, shard: int) -> dict[str, Any]:
    # blosc-lz4 reads 1.2-1.3 times as fast as zstd here, for a few per cent more bytes.
    inner = [
        {"name": "bytes"},
        {"name": "blosc", "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "noshuffle"}},
    ]
    index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    one_field = [1, len(CHANNELS), size, size]
    sharding = {"chunk_shape": one_field, "codecs": inner, "index_codecs": index, "index_location": "end"}
    return {
        **_open_spec(path),
        "metadata": {
            "shape": [count, len(CHANNELS), size, size],
            "data_type": "uint8",
            "fill_value": 0,
            "dimension_names": ["field", "channel", "y", "x"],
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard, *one_field[1:]]}},
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        },
    }


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
