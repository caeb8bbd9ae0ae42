"""Anyone's microscope files: a folder, and what the user says of the stains in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from cytoloc.dataset.channels import NAMES, ChannelMap, FilePattern
from cytoloc.dataset.field_files import FieldReader, Item
from cytoloc.dataset.importing import Loaded
from cytoloc.dataset.joint import Planes, find_joint_bounds, note
from cytoloc.dataset.planes import PlaneChoice
from cytoloc.dataset.workshop import holds_dataset
from cytoloc.errors import ImageError, SettingsError, TableError
from cytoloc.files import sha256_of, walk
from cytoloc.labels import ChannelRole, LabelSet
from cytoloc.lists import labels_in, read_csv, refuse_repeated
from cytoloc.on_disk import DiskList, DiskMap, gathered
from cytoloc.pictures.depth import DepthRule
from cytoloc.pictures.formats import SUFFIXES
from cytoloc.pictures.scale import Scaling

Claim = tuple[str, list[ChannelRole], dict[str, str]]
"""A file below the folder, the stains of an item that it is for, and what its name says."""

Found = tuple[dict[ChannelRole, str], dict[str, str]]
"""The file of each stain of an item, and what the names of its files say."""


class FolderSource:
    """The fields in a folder of microscope files and the folders in it.

    Args:
        folder: Where the files are.
        channels: Where each stain is.
        files: With all stains in one file: which files, and what their names say; by default all of a known kind.
        labels: CSV ``Id,Target``; fields that it does not list stay unlabelled.
        metadata: CSV ``id`` and any of ``antibody``, ``plate``, ``well``, ``field``, ``gene``, ``cell_line``; it has
            the last word over what file names say.
        planes: Which planes of a channel make its picture.
        scaling: How pictures become squares.
        depth: How more than 8 bits become 8.
        pixel_um: Edge of a pixel in micrometres, whatever the files say.
        limit: Import only the first so many items.

    Raises:
        ImageError: If the folder holds no such files, or two files claim the same stain of a field.
        SettingsError: If a pattern for ``files`` is given though the stains have patterns of their own.
        TableError: If the labels or the metadata are not what they must be.
    """

    def __init__(
        self,
        folder: Path,
        channels: ChannelMap,
        *,
        files: str | None = None,
        labels: Path | None = None,
        metadata: Path | None = None,
        planes: PlaneChoice | None = None,
        scaling: Scaling,
        depth: DepthRule | None = None,
        pixel_um: float | None = None,
        limit: int | None = None,
    ) -> None:
        if files and not channels.one_file:
            raise SettingsError(
                "--files is for files that hold all stains; here every stain has a pattern.", way_out="Leave it out."
            )
        self.folder = folder
        self.channels = channels
        planes, depth = planes or PlaneChoice(), depth or DepthRule()
        self.reader = FieldReader(
            folder=folder, channels=channels, planes=planes, scaling=scaling, depth=depth, pixel_um=pixel_um
        )
        self.labels = DiskMap[Sequence[int]](labels_in(labels, LabelSet.hpa28()) if labels else ())
        self.metadata = DiskMap[dict[str, str]](_metadata_in(metadata) if metadata else ())
        self.unmatched = 0
        self._found = self._find(FilePattern(files) if files else None)
        self.items = DiskList(islice(self._found, limit))
        self.quick = False
        self.made_by: dict[str, Any] = {
            "command": "import folder",
            "channels": channels.note,
            "files": files,
            "labels_sha256": sha256_of(labels) if labels else None,
            "metadata_sha256": sha256_of(metadata) if metadata else None,
            "planes": {"z": planes.depth if planes.depth is not None else "max"}
            | {"time": planes.time, "pages": planes.pages},
            "pixel_um": pixel_um,
            "scaling": {"square": scaling.square, "enlarge": scaling.enlarge, "target_um": scaling.target_um},
            "depth": {"low": depth.low, "high": depth.high, "floor": depth.floor},
        }

    def loader(self, item: str) -> Callable[[], list[Loaded]]:
        """Return what loads the fields of an item; it can be sent to another process."""
        return partial(self.reader.load, self._item(item))

    def describe(self, item: str) -> list[tuple[str, str]]:
        """Return for each role what its picture is in the files of ``item``, in words; see :class:`FieldReader`."""
        return self.reader.describe(self._item(item))

    def check(self, item: str) -> None:
        """Raise whatever the import would find wrong with ``item`` before it reads pixels."""
        self.reader.check(self._item(item))

    def measure_jointly(self, advance: Callable[[int, int], None] = lambda _done, _total: None) -> None:
        """Find one pair of bounds per channel from all fields, to be used instead of each field's own."""
        joint = find_joint_bounds(self.items, self._readable, self.reader.depth, advance)
        self.reader = replace(self.reader, joint=joint)
        self.made_by["depth"]["jointly"] = note(joint)

    def _readable(self, item: str) -> Iterator[Planes]:
        for found in self.reader.scenes(self._item(item)):
            if not isinstance(found.planes, ImageError):
                yield found.planes

    def _item(self, name: str) -> Item:
        """Return what is known of an item; scenes have ids that begin with its own."""
        files, said = self._found[name]
        return Item(
            name=name,
            files=files,
            said=said,
            metadata=self.metadata.beginning(name),
            labels={each: tuple(labels) for each, labels in self.labels.beginning(name).items()},
        )

    def _find(self, pattern: FilePattern | None) -> DiskMap[Found]:
        """Return the files of every item and what their names say."""
        found = DiskMap((item, self._agreed(item, claims)) for item, claims in gathered(self._claims(pattern)))
        matched = {role for files, _ in found.values() for role in files}
        for role, pick in self.channels.picks.items():
            if found and role not in matched:
                raise ImageError(
                    f"{self.folder} holds no {role}: no file is named like {pick}.",
                    way_out=f"Mend the pattern of {role}; patterns are matched against paths below the folder.",
                )
        if not found:
            raise ImageError(
                f"{self.folder} holds no fields: {self.unmatched} picture files, none named as asked for.",
                way_out=f"Files end in {', '.join(SUFFIXES)}; patterns are matched against paths below the folder.",
            )
        return found

    def _claims(self, pattern: FilePattern | None) -> Iterator[tuple[str, Claim]]:
        """Yield the item of each file that was asked for, with what makes it one; count the rest."""
        picks = self.channels.picks
        for path in walk(self.folder, suffixes=SUFFIXES, passing_over=holds_dataset):
            claims: list[tuple[dict[str, str], list[ChannelRole]]] = []
            if not self.channels.one_file:
                for role, pick in picks.items():
                    said = pick.pattern.match(path) if pick.pattern else None
                    claims += [(said, [role])] if said else []
            elif pattern is not None:
                said = pattern.match(path)
                claims += [(said, list(picks))] if said else []
            else:
                suffix = next(end for end in SUFFIXES if path.lower().endswith(end))
                claims.append(({"id": path[: -len(suffix)].removesuffix(".ome")}, list(picks)))
            self.unmatched += not claims
            for said, roles in claims:
                yield said["id"], (path, roles, said)

    def _agreed(self, item: str, claims: list[Claim]) -> Found:
        """Return the file of each stain of an item and what the names of its files say."""
        files: dict[ChannelRole, str] = {}
        first, _, agreed = min(claims)
        if item.rpartition("/")[2].startswith("."):
            raise ImageError(
                f"{self.folder}: by the patterns {first} is of a field called {item!r}.",
                way_out="* stands for the field's id: write what comes after it too, as in '5channel*.tif' or '*.tif'.",
            )
        for path, roles, said in sorted(claims):
            if any(role in files for role in roles):
                raise ImageError(
                    f"{self.folder}: {files[roles[0]]} and {path} are both {roles[0]} of field {item}.",
                    way_out="Make the patterns narrower, or remove one of the files.",
                )
            files.update(dict.fromkeys(roles, path))
            if said != agreed:
                raise ImageError(
                    f"{self.folder}: {path} and {first} are both of field {item}, but their names say different"
                    " things of it.",
                    way_out="Leave out *, so that the id is made of all parts of the name.",
                )
        return files, agreed


def _metadata_in(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield what a CSV says of each field: ``id`` and any of the columns of the dataset that describe a field.

    Raises:
        TableError: If it has no ``id``, a column that is not one of these, or an id twice.
    """
    table = read_csv(path)
    unknown = [name for name in table.columns if name not in ("id", *NAMES)]
    if "id" not in table.columns or unknown:
        raise TableError(
            f"{path} has the columns {', '.join(table.columns)}.",
            way_out=f"It needs id and may have {', '.join(NAMES)}.",
        )
    if table["id"].null_count():
        raise TableError(f"{path} has {table['id'].null_count()} rows without an id.", way_out="Give each row its id.")
    refuse_repeated(table["id"].to_list(), where=str(path))
    for row in table.iter_rows(named=True):
        yield row["id"], {name: value for name, value in row.items() if name != "id" and value is not None}
