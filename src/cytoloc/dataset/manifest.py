"""``dataset.json``: what a dataset consists of. A segment that it does not list does not exist."""

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

DATASET_FORMAT: Final = FileFormat("cytoloc-dataset", 1)

MANIFEST: Final = "dataset.json"
SEGMENTS: Final = "segments"
LOCK: Final = ".lock"

OWN_NAMES: Final = (LOCK, SEGMENTS, QUARANTINE, f".{MANIFEST}.new", f".{QUARANTINE}.new")
"""The content of a folder in which an import has not committed anything yet."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a dataset that was written at once and never changes.

    Attributes:
        name: Its folder in ``segments``.
        of_import: The import that wrote it, by its position in the list of imports.
        fields: How many fields it has.
        rejected: How many rows its ``quarantine.csv`` has.
        table_sha256: SHA-256 of its ``fields.parquet``.
        quarantine_sha256: SHA-256 of its ``quarantine.csv``; None if it has none.
    """

    name: str
    of_import: int
    fields: int
    rejected: int
    table_sha256: str
    quarantine_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class ImportRecord:
    """An import of a dataset, and how far it came.

    Attributes:
        settings: The command and its settings, as JSON.
        digest: SHA-256 of the settings, the folder and the names of the items; it tells one import from another.
        items: How many items there are.
        done: How many of them are committed; an import that is resumed starts with the next.
        added: How many fields it added.
        known: How many fields it passed over because the dataset had them already.
        rejected: How many fields it rejected.
        finished: Whether it is done.
    """

    settings: dict[str, Any]
    digest: str = ""
    items: int = 0
    done: int = 0
    added: int = 0
    known: int = 0
    rejected: int = 0
    finished: bool = False


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of ``dataset.json``.

    Attributes:
        size: Edge of the images, in pixels.
        channels: Names of the channels, in the order in which they are stored.
        label_set: The locations that labels refer to.
        imports: All imports, in order; only the last one may be unfinished.
        segments: All segments, in order.
    """

    size: int
    channels: tuple[str, ...]
    label_set: LabelSet
    imports: tuple[ImportRecord, ...] = ()
    segments: tuple[Segment, ...] = ()

    @property
    def fields(self) -> int:
        """How many fields all segments have."""
        return sum(segment.fields for segment in self.segments)

    @property
    def unfinished(self) -> ImportRecord | None:
        """The import that is not finished, if there is one."""
        return self.imports[-1] if self.imports and not self.imports[-1].finished else None

    def segments_of(self, number: int) -> Iterator[Segment]:
        """Yield the segments of an import, given its position in the list of imports."""
        return (segment for segment in self.segments if segment.of_import == number)

    def before(self, number: int) -> Manifest:
        """Return what the manifest was before an import, given its position in the list of imports."""
        kept = tuple(segment for segment in self.segments if segment.of_import < number)
        return replace(self, imports=self.imports[:number], segments=kept)

    @classmethod
    def from_bytes(cls, content: bytes, *, where: Path | str) -> Self:
        """Return the manifest in the bytes of a ``dataset.json``.

        Raises:
            FormatError: If it is damaged, of another format or of another version.
        """
        header = parse_json(content, DATASET_FORMAT, where=where)
        try:
            return cls(
                size=int(header["size"]),
                channels=check_channels(header["channels"]),
                label_set=LabelSet.from_json(header["label_set"]),
                imports=tuple(ImportRecord(**each) for each in header["imports"]),
                segments=tuple(Segment(**each) for each in header["segments"]),
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
        }

    def write(self, folder: Path) -> None:
        """Write ``dataset.json`` in a folder, or replace it in one step: this commits what it lists."""
        replace_file(folder / MANIFEST, json_bytes(self.to_json(), DATASET_FORMAT))


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of the dataset in a folder.

    Raises:
        FormatError: If there is no dataset, or its ``dataset.json`` is damaged, of another format or another version.
    """
    existing(folder, error=FormatError, what="dataset")
    if not folder.is_dir():
        raise FormatError(f"{folder} is not a dataset but a file.", hint="A dataset is a folder that an import wrote.")
    if (folder / "atlas.json").exists():
        raise FormatError(f"{folder} was written by a development version of cytoloc.", hint="Import the images again.")
    file = folder / MANIFEST
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        if holds_dataset(folder):
            raise FormatError(
                f"{folder} is not a dataset yet: an import to it was stopped before its first segment was complete.",
                hint="Rerun the import.",
            ) from None
        raise FormatError(
            f"{folder} is not a dataset: it has no {MANIFEST}.", hint="Make one with `cytoloc import`."
        ) from None
    except OSError as error:
        raise FormatError(f"{file} cannot be read: {error}.") from error
    return Manifest.from_bytes(content, where=file)


def is_complete(folder: Path) -> bool:
    """Return whether a folder holds a dataset whose imports are all finished."""
    return (folder / MANIFEST).exists() and read_manifest(folder).unfinished is None


def holds_dataset(folder: Path) -> bool:
    """Return whether a folder is a dataset, or one is being imported there: its pixels are no source of an import."""
    return (folder / SEGMENTS).is_dir() and any((folder / name).exists() for name in (MANIFEST, LOCK))
