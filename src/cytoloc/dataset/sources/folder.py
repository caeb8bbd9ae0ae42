"""Any microscope files in a folder, with the channels that the user names."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
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
from cytoloc.errors import ImageError, SettingsError
from cytoloc.files import sha256_of, walk_files
from cytoloc.images.formats import IMAGE_SUFFIXES
from cytoloc.labels.label_set import LabelSet

Value = TypeVar("Value")

FoundFiles = tuple[str, ...]
"""What is known about the files of an item, compactly.

First the channels that have a file, separated by blanks. Then, with a pattern, the value of each part of the pattern;
without a pattern, the rest of the file name after the item's name.
"""


class FolderSource:
    """The fields in a folder of microscope files and the folders in it.

    Args:
        reader: Says where the files are, which channel is where, and how fields are read.
        files: With all channels in one file: which files, and what their names say; by default all of a known kind.
        labels: CSV ``Id,Target``; fields that it does not list stay unlabeled.
        label_set: The locations that the labels name.
        metadata: CSV ``id`` and any of ``antibody``, ``plate``, ``well``, ``field``, ``gene``, ``cell_line``; it
            overrides what file names say.
        limit: Import only the first so many items.

    Raises:
        ImageError: If the folder holds no such files, or two files claim the same channel of a field.
        SettingsError: If a pattern for ``files`` is given though the channels have patterns of their own.
        TableError: If the labels or the metadata are not valid.
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
    ) -> None:
        if files and not reader.channels.one_file:
            raise SettingsError(
                "`files` is for files that hold all channels; here every channel has a pattern.", hint="Leave it out."
            )
        self.reader = reader
        self.folder = reader.folder
        self.label_set = label_set
        self.unmatched = 0
        self._files = FilePattern(files) if files else None
        self._found = ById(self._find(reader.channels))
        self.items = self._found.ids if limit is None else self._found.ids[:limit]
        self.labels = ById(labels_by_id(labels, label_set, self._found.ids) if labels else {})
        self._columns, rows = read_metadata(metadata, self._found.ids) if metadata else ((), {})
        self.metadata = ById(rows)
        planes, scaling, depth = reader.planes, reader.scaling, reader.depth
        self.made_by: dict[str, Any] = {
            "command": "import folder",
            "channels": reader.channels.note,
            "files": files,
            "labels_sha256": sha256_of(labels) if labels else None,
            "metadata_sha256": sha256_of(metadata) if metadata else None,
            "planes": {"z": planes.depth if planes.depth is not None else "max"}
            | {"time": planes.time, "pages": planes.pages},
            "pixel_um": reader.pixel_um,
            "scaling": {"square": scaling.square, "enlarge": scaling.enlarge, "target_um": scaling.target_um},
            "depth": {"low": depth.low, "high": depth.high, "floor": depth.floor},
        }

    @property
    def channels(self) -> tuple[str, ...]:
        """The name of each channel, in order."""
        return self.reader.channels.channels

    def loader(self, item: str) -> Callable[[], list[Loaded]]:
        """Return what loads the fields of an item; it can be sent to another process."""
        return partial(self.reader.load, self._item(item))

    def describe(self, item: str) -> list[tuple[str, str]]:
        """Return for each channel what its image is in the files of ``item``, in words; see :class:`FieldReader`."""
        return self.reader.describe(self._item(item))

    def check(self, item: str) -> None:
        """Raise whatever the import would find wrong with ``item`` before it reads pixels."""
        self.reader.check(self._item(item))

    def measure_jointly(self, advance: Callable[[int, int], None] = lambda _done, _total: None) -> None:
        """Find one pair of bounds per channel from all fields, to be used instead of each field's own."""
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
        """Return what is known of an item; scenes have ids that begin with its own."""
        found = self._found[name]
        return FolderItem(
            name=name,
            files={channel: self._path(channel, name, found) for channel in found[0].split()},
            parts=self._parts(name, found),
            metadata={
                each: {column: value for column, value in zip(self._columns, values, strict=True) if value}
                for each, values in self.metadata.of(name).items()
            },
            labels=self.labels.of(name),
        )

    def _pattern(self, channel: str) -> FilePattern | None:
        return self.reader.channels.picks[channel].pattern or self._files

    def _names(self) -> list[str]:
        """Return which parts of a name are kept of each item: all patterns have the same, and the id is its key."""
        pattern = self._pattern(self.channels[0])
        return sorted(set(pattern.names) - {"id"}) if pattern else []

    def _parts(self, name: str, found: FoundFiles) -> dict[str, str]:
        """Return the values in the file names of an item."""
        named = zip(self._names(), found[1:], strict=True) if self._pattern(self.channels[0]) else ()
        return {"id": name, **dict(named)}

    def _path(self, channel: str, name: str, found: FoundFiles) -> str:
        """Return the path of the file of a channel of an item, below the folder."""
        pattern = self._pattern(channel)
        return pattern.path_of(self._parts(name, found)) if pattern else name + found[1]

    def _claims(self, path: str) -> Iterator[tuple[str, str, FoundFiles]]:
        """Yield each item that a file belongs to, which channel it is for, and what the item's files are by it."""
        for channel in self.channels:
            pattern = self._pattern(channel)
            if pattern is None:
                suffix = next(end for end in IMAGE_SUFFIXES if path.lower().endswith(end))
                name = path[: -len(suffix)].removesuffix(".ome")
                yield name, channel, (channel, path[len(name) :])
            elif parts := pattern.match(path):
                yield parts["id"], channel, (channel, *(parts[part] for part in self._names()))

    def _find(self, channels: ChannelMap) -> dict[str, FoundFiles]:
        """Return what is known of the files of each item, by the item's name."""
        found: dict[str, FoundFiles] = {}
        # Items share what is equal.
        shared: dict[Any, Any] = {}
        for path in walk_files(self.folder, suffixes=IMAGE_SUFFIXES, passing_over=holds_dataset):
            claims = list(self._claims(path))
            self.unmatched += not claims
            for name, channel, claim in claims:
                before = found.get(name)
                if before is not None:
                    self._refuse_conflict(name, channel, before, claim, path=path)
                    claim = (f"{before[0]} {channel}", *before[1:])
                elif name.rpartition("/")[2].startswith("."):
                    raise ImageError(
                        f"{self.folder}: by the patterns {path} is of a field called {name!r}.",
                        hint="* stands for the field's id: write the rest too, as in '5channel*.tif' or '*.tif'.",
                    )
                claim = tuple(shared.setdefault(part, part) for part in claim)
                found[name] = shared.setdefault(claim, claim)
        matched = {channel for roles in {each[0] for each in found.values()} for channel in roles.split()}
        for name, pick in channels.picks.items():
            if found and name not in matched:
                raise ImageError(
                    f"{self.folder} holds no {name}: no file is named like {pick}.",
                    hint=f"Fix the pattern of {name}; patterns are matched against paths below the folder.",
                )
        if not found:
            raise ImageError(
                f"{self.folder} holds no fields: {self.unmatched} image files, none named as asked for.",
                hint=f"Files end in {', '.join(IMAGE_SUFFIXES)}; patterns are matched against paths below the folder.",
            )
        return found

    def _refuse_conflict(self, name: str, channel: str, before: FoundFiles, claim: FoundFiles, *, path: str) -> None:
        """Raise if a file claims a channel that has a file, or its name contradicts that of another file."""
        first = self._path(before[0].split()[0], name, before)
        if channel in before[0].split():
            one, other = sorted((self._path(channel, name, before), path))
            raise ImageError(
                f"{self.folder}: {one} and {other} are both {channel} of field {name}.",
                hint="Make the patterns narrower, or remove one of the files.",
            )
        if before[1:] != claim[1:]:
            one, other = sorted((first, path))
            raise ImageError(
                f"{self.folder}: {one} and {other} are both of field {name}, but their names say different things.",
                hint="Leave out *, so that the id is made of all parts of the name.",
            )


class ById(Generic[Value]):
    """Values by the id of an item, or of one of its scenes, which begins with the item's id and ``_``.

    Two sorted lists take a third of the memory of a dictionary.

    Attributes:
        ids: All ids, sorted.
    """

    def __init__(self, rows: Mapping[str, Value]) -> None:
        self.ids = sorted(rows)
        self._values = [rows[name] for name in self.ids]

    def __getitem__(self, name: str) -> Value:
        """Return the value of an id, which must be one of :attr:`ids`."""
        return self._values[bisect_left(self.ids, name)]

    def of(self, item: str) -> dict[str, Value]:
        """Return the values of an item and its scenes, by id.

        >>> ById(dict.fromkeys(("scan", "scan_s1", "other", "scanned"), 0)).of("scan")
        {'scan': 0, 'scan_s1': 0}
        """
        own = bisect_left(self.ids, item)
        first = bisect_left(self.ids, f"{item}_")
        last = bisect_left(self.ids, f"{item}{chr(ord('_') + 1)}")
        places = [*([own] if self.ids[own : own + 1] == [item] else []), *range(first, last)]
        return {self.ids[place]: self._values[place] for place in places}
