"""Import of microscope files from a folder, with channels that the user names."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from cytoloc.dataset.importing import Loaded
from cytoloc.dataset.manifest import holds_dataset
from cytoloc.dataset.sources.channels import ChannelMap, FilePattern
from cytoloc.dataset.sources.field_files import FieldReader, FolderItem
from cytoloc.dataset.sources.joint import Planes, find_joint_bounds, joint_note
from cytoloc.dataset.sources.labeling import labels_by_id, read_metadata
from cytoloc.dataset.sources.listing import Listing
from cytoloc.errors import ImageError, SettingsError
from cytoloc.files import sha256_of, walk_files
from cytoloc.images.formats import IMAGE_SUFFIXES
from cytoloc.labels.label_set import LabelSet

Value = TypeVar("Value")

FoundFiles = tuple[str, ...]
"""The files of an item, in compact form.

The first string lists the channels that have a file, separated by blanks. If the item's name is the path of its file,
the rest of the path follows. Then follows the value of each field of the pattern except ``id``.
"""


class FolderSource:
    """The items in a folder of microscope files, including its subfolders.

    Args:
        reader: Reader of the files, with the folder, the channels, and the options of conversion.
        files: Pattern of the file names, when all channels are in one file. None: all files of a known format.
        labels: CSV with the columns ``Id,Target``; fields that it does not list are unlabeled.
        label_set: Label set of the labels.
        metadata: CSV with the column ``id`` and any of ``antibody``, ``plate``, ``well``, ``field``, ``gene`` and
            ``cell_line``. It has precedence over file names.
        limit: Maximum number of items, the first in order of their names; None for all.
        listing: A list of the files of each field, instead of patterns.

    Raises:
        ImageError: If the folder has no such files, or two files match the same channel of a field.
        SettingsError: If ``files`` is given and each channel has its own pattern.
        TableError: If the labels or the metadata are invalid.
    """

    quick = False

    def __init__(
        self,
        reader: FieldReader,
        *,
        label_set: LabelSet,
        files: str | None = None,
        labels: Path | None = None,
        metadata: Path | None = None,
        limit: int | None = None,
        listing: Listing | None = None,
    ) -> None:
        if files and not reader.channels.one_file:
            raise SettingsError("`files` is given, but each channel has its own pattern.", hint="Leave out `files`.")
        self.reader = reader
        self.folder = reader.folder
        self.label_set = label_set
        self.unmatched = 0
        self.listing = listing
        self._files = FilePattern(files) if files else None
        # Ids of files with all channels are their paths, unless the pattern says what the id is.
        self._by_path = reader.channels.one_file and (files is None or "*" in files)
        # Paths on the disk that differ from their composed (NFC) form. macOS decomposes characters such as é.
        self._stored: dict[str, str] = {}
        self._paths: dict[tuple[str, str], str] = {}
        self._found = ById(dict.fromkeys(listing.fields, ()) if listing else self._find(reader.channels))
        if listing:
            self.unmatched = listing.unmatched
        self.items = self._found.ids if limit is None else self._found.ids[:limit]
        self.labels = ById(_composed(labels_by_id(labels, label_set, self._found.ids)) if labels else {})
        self._columns, rows = read_metadata(metadata, self._found.ids) if metadata else ((), {})
        self.metadata = ById(_composed(rows))
        planes, scaling, depth = reader.planes, reader.scaling, reader.depth
        self.made_by: dict[str, Any] = {
            "command": listing.command if listing else "import folder",
            "channels": reader.channels.note,
            "files": files,
            "labels_sha256": sha256_of(labels) if labels else None,
            "metadata_sha256": sha256_of(metadata) if metadata else None,
            "planes": {"z": planes.depth if planes.depth is not None else "max"}
            | {"time": planes.time, "pages": planes.pages, "axes": planes.axes},
            "pixel_um": reader.pixel_um,
            "scaling": {"square": scaling.square, "enlarge": scaling.enlarge, "resample": scaling.resample}
            | {"target_um": scaling.target_um},
            "depth": {"low": depth.low, "high": depth.high, "floor": depth.floor},
            **(listing.note if listing else {}),
        }

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, in order."""
        return self.reader.channels.channels

    def loader(self, item: str) -> Callable[[], Iterable[Loaded]]:
        """Return a picklable function that loads the fields of an item."""
        return partial(self.reader.load, self._item(item))

    def describe(self, item: str) -> list[tuple[str, str]]:
        """Return the name of each channel and a description of its image; see :class:`FieldReader`."""
        return self.reader.describe(self._item(item))

    def check(self, item: str) -> list[tuple[str, ImageError]]:
        """Return the errors of an item that can be found without reading pixels; see :class:`FieldReader`."""
        return self.reader.check(self._item(item))

    def measure_jointly(self, advance: Callable[[int, int], None] = lambda _done, _total: None) -> None:
        """Compute the intensity bounds of each channel from all fields, and use them for every field."""
        joint = find_joint_bounds(
            self.items, self._readable, self.reader.depth, channels=len(self.channels), advance=advance
        )
        self.reader = replace(self.reader, joint=joint)
        self.made_by["depth"]["jointly"] = joint_note(joint)

    def _readable(self, item: str) -> Iterator[Planes]:
        for found in self.reader.scenes(self._item(item)):
            if not isinstance(found.planes, ImageError):
                yield found.planes

    def _item(self, name: str) -> FolderItem:
        """Return an item; ids of its scenes begin with its name."""
        metadata = {
            each: {column: value for column, value in zip(self._columns, values, strict=True) if value}
            for each, values in self.metadata.of(name).items()
        }
        labels = self.labels.of(name)
        if self.listing:
            return FolderItem(name=name, metadata=metadata, labels=labels, **vars(self.listing.fields[name]))
        found = self._found[name]
        return FolderItem(
            name=name,
            files={channel: (self._path(channel, name, found),) for channel in found[0].split()},
            parts=self._parts(name, found),
            metadata=metadata,
            labels=labels,
        )

    def _pattern(self, channel: str) -> FilePattern | None:
        return self.reader.channels.picks[channel].pattern or self._files

    def _names(self) -> list[str]:
        """Return the sorted fields of the patterns except ``id``; all patterns have the same fields."""
        pattern = self._pattern(self.channels[0])
        return sorted(set(pattern.names) - {"id"}) if pattern else []

    def _parts(self, name: str, found: FoundFiles) -> dict[str, str]:
        """Return the value of each field of the pattern in the file names of an item."""
        values = found[2:] if self._by_path else found[1:]
        return {"id": name, **dict(zip(self._names(), values, strict=True))}

    def _path(self, channel: str, name: str, found: FoundFiles) -> str:
        """Return the path of the file with a channel of an item, relative to the folder."""
        pattern = self._pattern(channel)
        if pattern and pattern.wild:
            path = self._paths[name, channel]
        elif self._by_path or pattern is None:
            path = name + found[1]
        else:
            path = pattern.path_of(self._parts(name, found))
        return self._stored.get(path, path)

    def _claims(self, path: str) -> Iterator[tuple[str, str, FoundFiles]]:
        """Yield the items that a file belongs to: name, channel, and the item's files."""
        for channel in self.channels:
            pattern = self._pattern(channel)
            parts = pattern.match(path) if pattern else {}
            if parts is None:
                continue
            values = tuple(parts[part] for part in self._names())
            if self._by_path:
                suffix = next(end for end in IMAGE_SUFFIXES if path.lower().endswith(end))
                name = path[: -len(suffix)].removesuffix(".ome")
                yield name, channel, (channel, path[len(name) :], *values)
            else:
                yield parts["id"], channel, (channel, *values)

    def _find(self, channels: ChannelMap) -> dict[str, FoundFiles]:
        """Return the files of each item, by its name."""
        found: dict[str, FoundFiles] = {}
        # Equal values are stored once, to save memory.
        shared: dict[Any, Any] = {}
        for stored in walk_files(self.folder, suffixes=IMAGE_SUFFIXES, passing_over=holds_dataset):
            path = unicodedata.normalize("NFC", stored)
            if path != stored:
                self._stored[path] = stored
            claims = list(self._claims(path))
            self.unmatched += not claims
            for name, channel, claim in claims:
                before = found.get(name)
                if before is not None:
                    self._refuse_conflict(name, channel, before, claim, path=path)
                    claim = (f"{before[0]} {channel}", *before[1:])
                elif name.rpartition("/")[2].startswith("."):
                    raise ImageError(
                        f"The pattern in {self.folder} matches {path} with the field id {name!r}, which has no name.",
                        hint="Include more of the file name, as in *_dna.tif, where * is the id of the field.",
                    )
                if (pattern := self._pattern(channel)) and pattern.wild:
                    self._paths[name, channel] = path
                claim = tuple(shared.setdefault(part, part) for part in claim)
                found[name] = shared.setdefault(claim, claim)
        matched = {channel for roles in {each[0] for each in found.values()} for channel in roles.split()}
        for name, pick in channels.picks.items():
            if found and name not in matched:
                raise ImageError(
                    f"{self.folder} has no file for the channel {name}: no name matches {pick}.",
                    hint=f"Correct the pattern of {name}; patterns match paths relative to the folder.",
                )
        if not found:
            raise ImageError(
                f"{self.folder} contains no fields: none of its {self.unmatched} image files matches.",
                hint=f"Files end in {', '.join(IMAGE_SUFFIXES)}; patterns match paths relative to the folder.",
            )
        return found

    def _refuse_conflict(self, name: str, channel: str, before: FoundFiles, claim: FoundFiles, *, path: str) -> None:
        """Raise if a channel has two files, or the names of an item's files differ in metadata."""
        first = self._path(before[0].split()[0], name, before)
        if channel in before[0].split():
            one, other = sorted((self._path(channel, name, before), path))
            raise ImageError(
                f"{self.folder} has two files for the channel {channel} of field {name}: {one} and {other}.",
                hint="Make the patterns more specific, or remove one of the files.",
            )
        if before[1:] != claim[1:]:
            one, other = sorted((first, path))
            raise ImageError(
                f"{self.folder} has files of field {name} that differ in metadata: {one} and {other}.",
                hint="Replace * by {...} fields, so that the id contains all parts of the name.",
            )


def _composed(rows: Mapping[str, Value]) -> dict[str, Value]:
    """Return rows by ids in composed form, as file names are compared."""
    return {unicodedata.normalize("NFC", name): value for name, value in rows.items()}


class ById(Generic[Value]):
    """Values by id of an item or one of its scenes, whose ids begin with the id of the item and ``_``.

    Two sorted lists need a third of the memory of a dictionary.

    Attributes:
        ids: All ids, sorted.
    """

    def __init__(self, rows: Mapping[str, Value]) -> None:
        self.ids = sorted(rows)
        self._values = [rows[name] for name in self.ids]

    def __getitem__(self, name: str) -> Value:
        """Return the value of an id, which must be in :attr:`ids`."""
        return self._values[bisect_left(self.ids, name)]

    def of(self, item: str) -> dict[str, Value]:
        """Return the values of an item and its scenes, by id.

        Examples:
            >>> ById(dict.fromkeys(("scan", "scan_s1", "other", "scanned"), 0)).of("scan")
            {'scan': 0, 'scan_s1': 0}
        """
        own = bisect_left(self.ids, item)
        first = bisect_left(self.ids, f"{item}_")
        last = bisect_left(self.ids, f"{item}{chr(ord('_') + 1)}")
        places = [*([own] if self.ids[own : own + 1] == [item] else []), *range(first, last)]
        return {self.ids[place]: self._values[place] for place in places}
