"""The manifest of a dataset, ``dataset.json``. Only segments that it lists are part of the dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from cytoloc.channels import check_channels
from cytoloc.dataset.quarantine import QUARANTINE
from cytoloc.errors import CytolocError, FormatError
from cytoloc.files import FileFormat, existing, json_bytes, parse_json, replace_file
from cytoloc.labels.label_set import LabelSet

DATASET_FORMAT: Final = FileFormat("cytoloc-dataset", 1, "dataset of `cytoloc import`")

MANIFEST: Final = "dataset.json"
SEGMENTS: Final = "segments"
LOCK: Final = ".lock"

CELL_LABELS: Final = "labels"
"""The folder of the label images in a dataset of cells: one TIFF file per field, cells and then nuclei."""

OWN_NAMES: Final = (LOCK, SEGMENTS, CELL_LABELS, QUARANTINE, f".{MANIFEST}.new", f".{QUARANTINE}.new")
"""The files in a folder whose import has not committed a segment yet."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a dataset that is written once and never changes.

    Attributes:
        name: The name of its folder in ``segments``.
        of_import: The position of the import that wrote it, in the list of imports.
        fields: The number of fields.
        rejected: The number of rows of its ``quarantine.csv``.
        table_sha256: SHA-256 of its ``fields.parquet``.
        quarantine_sha256: SHA-256 of its ``quarantine.csv``; None if there is no such file.
    """

    name: str
    of_import: int
    fields: int
    rejected: int
    table_sha256: str
    quarantine_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class ImportRecord:
    """An import to a dataset, and its progress.

    Attributes:
        settings: The command and its settings, as JSON.
        digest: SHA-256 of the settings, the folder and the names of the items. It identifies the import.
        items: The number of items.
        done: The number of committed items. A resumed import continues with the next item.
        added: The number of fields that were added.
        known: The number of fields that were skipped because the dataset had them already.
        rejected: The number of fields that were rejected.
        missing_chunks: The number of chunks that the files of the added fields lack.
        finished: Whether the import is finished.
    """

    settings: dict[str, Any]
    digest: str = ""
    items: int = 0
    done: int = 0
    added: int = 0
    known: int = 0
    rejected: int = 0
    missing_chunks: int = 0
    finished: bool = False


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of ``dataset.json``.

    Attributes:
        size: Edge length of the images, in pixels.
        channels: The names of the channels, in stored order.
        label_set: The label set of the labels.
        imports: All imports, in order. Only the last one can be unfinished.
        segments: All segments, in order.
        of_cells: Whether the rows are cells of fields instead of fields.
    """

    size: int
    channels: tuple[str, ...]
    label_set: LabelSet
    imports: tuple[ImportRecord, ...] = ()
    segments: tuple[Segment, ...] = ()
    of_cells: bool = False

    @property
    def fields(self) -> int:
        """The number of fields in all segments."""
        return sum(segment.fields for segment in self.segments)

    @property
    def unfinished(self) -> ImportRecord | None:
        """The unfinished import; None if there is none."""
        return self.imports[-1] if self.imports and not self.imports[-1].finished else None

    def segments_of(self, number: int) -> Iterator[Segment]:
        """Return the segments of an import, given its position in the list of imports."""
        return (segment for segment in self.segments if segment.of_import == number)

    def before(self, number: int) -> Manifest:
        """Return the manifest before an import, given its position in the list of imports."""
        kept = tuple(segment for segment in self.segments if segment.of_import < number)
        return replace(self, imports=self.imports[:number], segments=kept)

    @classmethod
    def from_bytes(cls, content: bytes, *, where: Path | str) -> Self:
        """Return the manifest in the content of a ``dataset.json``.

        Args:
            content: The content of the file.
            where: The file, for error messages.

        Returns:
            The manifest.

        Raises:
            FormatError: If the content is damaged, or has another format or version.
        """
        header = parse_json(content, DATASET_FORMAT, where=where)
        try:
            return cls(
                size=int(header["size"]),
                channels=check_channels(header["channels"]),
                label_set=LabelSet.from_json(header["label_set"]),
                imports=tuple(ImportRecord(**each) for each in header["imports"]),
                segments=tuple(Segment(**each) for each in header["segments"]),
                of_cells=bool(header.get("of_cells", False)),
            )
        except (CytolocError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{where} is damaged: {error!r}.", hint="Import the dataset again.") from error

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON values."""
        return {
            "size": self.size,
            "channels": list(self.channels),
            "label_set": self.label_set.to_json(),
            "imports": [asdict(each) for each in self.imports],
            "segments": [asdict(each) for each in self.segments],
            **({"of_cells": True} if self.of_cells else {}),
        }

    def write(self, folder: Path) -> None:
        """Write ``dataset.json`` to a folder, or replace it atomically, which commits the listed segments."""
        replace_file(folder / MANIFEST, json_bytes(self.to_json(), DATASET_FORMAT))


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a dataset.

    Args:
        folder: The folder of the dataset.

    Returns:
        The manifest.

    Raises:
        FormatError: If there is no dataset, or its ``dataset.json`` is damaged or has another format or version.
    """
    existing(folder, error=FormatError, what="dataset")
    if not folder.is_dir():
        raise FormatError(
            f"{folder} is a file, not a dataset.", hint="Give a folder that `cytoloc import` has written."
        )
    if (folder / "atlas.json").exists():
        raise FormatError(f"{folder} was written by a development version of cytoloc.", hint="Import the images again.")
    file = folder / MANIFEST
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        if holds_dataset(folder):
            raise FormatError(
                f"{folder} is not a dataset yet, because its import was stopped before the first segment was complete.",
                hint="Rerun the import.",
            ) from None
        raise FormatError(
            f"{folder} is not a dataset, because it has no {MANIFEST}.", hint="Make a dataset with `cytoloc import`."
        ) from None
    except OSError as error:
        raise FormatError(f"{file} cannot be read: {error}.") from error
    return Manifest.from_bytes(content, where=file)


def is_complete(folder: Path) -> bool:
    """Return whether a folder is a dataset without an unfinished import."""
    return (folder / MANIFEST).exists() and read_manifest(folder).unfinished is None


def holds_dataset(folder: Path) -> bool:
    """Return whether a folder is a dataset, or is being imported to, so that its files are not images to import."""
    return (folder / SEGMENTS).is_dir() and any((folder / name).exists() for name in (MANIFEST, LOCK))
