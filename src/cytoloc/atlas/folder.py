"""Anyone's microscope files: a folder, and what the user says of the stains in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cytoloc.atlas.channels import NAMES, ChannelMap, FilePattern
from cytoloc.atlas.importing import Loaded
from cytoloc.atlas.joint import find_joint_bounds, note
from cytoloc.atlas.planes import Chosen, PlaneChoice, channel_names, choose, read_chosen
from cytoloc.atlas.quarantine import rejected
from cytoloc.atlas.store import FieldRow
from cytoloc.errors import ImageError, SettingsError, TableError
from cytoloc.files import sha256_of, walk
from cytoloc.labels import CHANNELS, ChannelRole
from cytoloc.lists import read_csv, read_labels, refuse_repeated
from cytoloc.pictures.decoding import decoding, located
from cytoloc.pictures.depth import DepthRule, JointBounds, all_to_8_bit
from cytoloc.pictures.formats import SUFFIXES, Picture, Scene, open_picture
from cytoloc.pictures.scale import Scaling, scale_field

SAME_UM: Final = 1.01
"""Pixel sizes that the files of a field state may differ by this factor: formats round them differently."""

_APART: Final = "Export each scene to files of its own."

Opened = dict[ChannelRole, tuple[str, Picture]]
"""For each stain that was imaged its file, and that file opened."""


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
        self.planes = planes or PlaneChoice()
        self.scaling = scaling
        self.depth = depth or DepthRule()
        self.pixel_um = pixel_um
        self.labels = read_labels(labels) if labels else {}
        self.metadata = _read_metadata(metadata) if metadata else {}
        self._joint: tuple[JointBounds | None, ...] | None = None
        self.unmatched = 0
        self._files: dict[str, dict[ChannelRole, str]] = {}
        self._said: dict[str, dict[str, str]] = {}
        self._find(FilePattern(files) if files else None)
        self.items = sorted(self._files)[:limit]
        self.made_by: dict[str, Any] = {
            "command": "import folder",
            "channels": channels.note,
            "files": files,
            "labels_sha256": sha256_of(labels) if labels else None,
            "metadata_sha256": sha256_of(metadata) if metadata else None,
            "planes": {"z": self.planes.depth if self.planes.depth is not None else "max"}
            | {"time": self.planes.time, "pages": self.planes.pages},
            "pixel_um": pixel_um,
            "scaling": {"square": scaling.square, "enlarge": scaling.enlarge, "target_um": scaling.target_um},
            "depth": {"low": self.depth.low, "high": self.depth.high, "floor": self.depth.floor},
        }

    def load(self, item: str) -> list[Loaded]:
        """Return the fields of an item, uint8 ``(4, size, size)`` each, one per scene of its files."""
        return [
            rejected(name, planes) if isinstance(planes, ImageError) else self._loaded(item, name, scene, planes)
            for name, scene, planes in self._scenes(item)
        ]

    def describe(self, item: str) -> list[tuple[str, str]]:
        """Return for each role what its picture is in the files of ``item``, in words.

        Raises:
            ImageError: If a file cannot be opened, or has no such channel.
        """
        lines: list[tuple[str, str]] = []
        with ExitStack() as stack:
            opened = self._open(item, stack)
            for role in CHANNELS:
                if role not in opened:
                    stand_in = self.channels.absent[role]
                    lines.append((role, "not imaged: " + ("black" if stand_in == "zero" else f"{stand_in} again")))
                    continue
                file, picture = opened[role]
                with located(str(self.folder / file)):
                    names = channel_names(picture.scenes[0], self.planes)
                    index = self.channels.picks[role].index(names)
                called = f" {names[index]!r}" if names[index] else ""
                lines.append((role, f"channel {index}{called} of {len(names)} in {file}"))
        return lines

    def check(self, item: str) -> None:
        """Raise whatever the import would find wrong with ``item`` before it reads pixels.

        Raises:
            ImageError: If one of its scenes lacks what is asked for, or has a form that the settings do not allow.
        """
        with ExitStack() as stack:
            opened = self._open(item, stack)
            for number, name in enumerate(self._scene_ids(item, opened)):
                self._chosen(opened, number)
                scene = self._agreed(opened, number, name)
                blank = np.broadcast_to(np.uint8(0), (1, scene.height, scene.width))
                with located(name):
                    scale_field(blank, self.scaling, pixel_um=scene.pixel_um)

    def measure_jointly(self, advance: Callable[[int, int], None] = lambda _done, _total: None) -> None:
        """Find one pair of bounds per channel from all fields, to be used instead of each field's own."""
        self._joint = find_joint_bounds(
            self.items,
            lambda item: (planes for _, _, planes in self._scenes(item) if not isinstance(planes, ImageError)),
            self.depth,
            advance,
        )
        self.made_by["depth"]["jointly"] = note(self._joint)

    def _loaded(self, item: str, name: str, scene: Scene, planes: list[NDArray[Any] | None]) -> Loaded:
        """Return a field from its planes, None for those that were not imaged."""
        try:
            present = {role: plane for role, plane in zip(CHANNELS, planes, strict=True) if plane is not None}
            black = np.zeros((scene.height, scene.width), np.uint8)
            sources = [role if role in present else self.channels.absent[role] for role in CHANNELS]
            stack = [black if source == "zero" else present[source] for source in sources]
            joint = None
            if self._joint:
                joint = [None if source == "zero" else self._joint[CHANNELS.index(source)] for source in sources]
            eight = all_to_8_bit(stack, self.depth, joint)
            scaled = scale_field(eight.image, self.scaling, pixel_um=scene.pixel_um)
        except ImageError as error:
            return rejected(name, error)
        described = {**self._said[item], **self.metadata.get(item, {}), **self.metadata.get(name, {})}
        row = FieldRow(
            id=name,
            source="folder",
            labels=self.labels.get(name),
            antibody=described.get("antibody"),
            plate=described.get("plate"),
            well=described.get("well"),
            field=described.get("field"),
            gene=described.get("gene"),
            cell_line=described.get("cell_line"),
            original_px=scene.height,
            original_width_px=scene.width,
            pixel_um=scene.pixel_um,
            packed_um=scaled.pixel_um,
            absent=tuple(self.channels.absent),
            black=eight.black,
            white=eight.white,
        )
        return row, scaled.image

    def _scenes(self, item: str) -> Iterator[tuple[str, Scene, list[NDArray[Any] | None] | ImageError]]:
        """Yield id, description and planes of every field of an item; instead of planes what is wrong with them."""
        with ExitStack() as stack:
            opened = self._open(item, stack)
            first = next(picture for _, picture in opened.values())
            for number, name in enumerate(self._scene_ids(item, opened)):
                scene = first.scenes[number]
                planes: list[NDArray[Any] | None] | ImageError
                try:
                    scene = self._agreed(opened, number, name)
                    planes = self._planes(opened, number)
                except ImageError as error:
                    planes = error
                yield name, scene, planes

    def _chosen(self, opened: Opened, number: int) -> dict[ChannelRole, Chosen]:
        """Return which planes of a scene make the picture of each stain."""
        chosen = {}
        for role, (file, picture) in opened.items():
            with located(str(self.folder / file)):
                chosen[role] = choose(picture.scenes[number], self.channels.picks[role], self.planes)
        return chosen

    def _planes(self, opened: Opened, number: int) -> list[NDArray[Any] | None]:
        """Return a scene's plane of each channel, None for those that were not imaged."""
        planes: dict[ChannelRole, NDArray[Any]] = {}
        for role, chosen in self._chosen(opened, number).items():
            file, picture = opened[role]
            path = self.folder / file
            with located(str(path)), decoding(path):
                planes[role] = read_chosen(picture, number, chosen)
        return [planes.get(role) for role in CHANNELS]

    def _agreed(self, opened: Opened, number: int, name: str) -> Scene:
        """Return what all files of a field say of it.

        Raises:
            ImageError: If they contradict each other.
        """
        scenes = {role: picture.scenes[number] for role, (_, picture) in opened.items()}
        if len({(scene.height, scene.width) for scene in scenes.values()}) > 1:
            each = ", ".join(f"{role} {scene.width} x {scene.height}" for role, scene in scenes.items())
            raise ImageError(f"{name} has more than one size: {each} px.", way_out="All must show the same pixels.")
        stated = {role: scene.pixel_um for role, scene in scenes.items() if scene.pixel_um is not None}
        if self.pixel_um is None and stated and max(stated.values()) > SAME_UM * min(stated.values()):
            each = ", ".join(f"{role} {um:g}" for role, um in stated.items())
            raise ImageError(f"{name} has more than one pixel size: {each} µm.", way_out="Give it with --pixel-um.")
        return replace(next(iter(scenes.values())), pixel_um=self.pixel_um or next(iter(stated.values()), None))

    def _scene_ids(self, item: str, opened: Opened) -> list[str]:
        """Return the id of each scene: the item's if it is alone, else with the scene's name, or number, behind it.

        Raises:
            ImageError: If the files of a field do not have the same scenes in the same order.
        """
        files = {file: [scene.name for scene in picture.scenes] for file, picture in opened.values()}
        names = next(iter(files.values()))
        if len({len(each) for each in files.values()}) > 1:
            counts = ", ".join(f"{len(each)} in {file}" for file, each in files.items())
            raise ImageError(f"{item}: its files differ in their number of scenes: {counts}.", way_out=_APART)
        if len(names) == 1:
            return [item]
        if any(each != names for each in files.values()):
            said = "; ".join(f"{', '.join(each)} in {file}" for file, each in files.items())
            raise ImageError(f"{item}: its files call their scenes differently: {said}.", way_out=_APART)
        if all(names) and len(set(names)) == len(names):
            return [f"{item}_{name}" for name in names]
        return [f"{item}_s{number}" for number in range(len(names))]

    def _open(self, item: str, stack: ExitStack) -> Opened:
        """Open the files of an item, each once, until ``stack`` closes."""
        files = self._files[item]
        lacking = [role for role in self.channels.picks if role not in files]
        if lacking:
            raise ImageError(
                f"{self.folder}: field {item} lacks its file {self.channels.picks[lacking[0]]}.",
                way_out="Every field needs a file for every stain that --channels names.",
            )
        pictures: dict[str, Picture] = {}
        for role in self.channels.picks:
            if files[role] not in pictures:
                pictures[files[role]] = stack.enter_context(open_picture(self.folder / files[role]))
        return {role: (files[role], pictures[files[role]]) for role in CHANNELS if role in self.channels.picks}

    def _find(self, pattern: FilePattern | None) -> None:
        """Find the files of every item and what their names say."""
        picks = self.channels.picks
        for path in walk(self.folder, suffixes=SUFFIXES):
            claims: list[tuple[dict[str, str], Sequence[ChannelRole]]] = []
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
                item = said["id"]
                if item.rpartition("/")[2].startswith("."):
                    raise ImageError(
                        f"{self.folder}: by the patterns {path} is of a field called {item!r}.",
                        way_out="* stands for the field's id: write what comes after it too, as in '5channel*.tif'"
                        " or '*.tif'.",
                    )
                files = self._files.setdefault(item, {})
                if any(role in files for role in roles):
                    raise ImageError(
                        f"{self.folder}: {files[roles[0]]} and {path} are both {roles[0]} of field {item}.",
                        way_out="Make the patterns narrower, or remove one of the files.",
                    )
                files.update(dict.fromkeys(roles, path))
                if self._said.setdefault(item, said) != said:
                    raise ImageError(
                        f"{self.folder}: {path} and {next(iter(files.values()))} are both of field {item}, but"
                        " their names say different things of it.",
                        way_out="Leave out *, so that the id is made of all parts of the name.",
                    )
        matched = {role for files in self._files.values() for role in files}
        for role, pick in picks.items():
            if self._files and role not in matched:
                raise ImageError(
                    f"{self.folder} holds no {role}: no file is named like {pick}.",
                    way_out=f"Mend the pattern of {role}; patterns are matched against paths below the folder.",
                )
        if not self._files:
            raise ImageError(
                f"{self.folder} holds no fields: {self.unmatched} picture files, none named as asked for.",
                way_out=f"Files end in {', '.join(SUFFIXES)}; patterns are matched against paths below the folder.",
            )


def _read_metadata(path: Path) -> dict[str, dict[str, str]]:
    """Return what a CSV says of fields: ``id`` and any of the columns of the atlas that describe a field.

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
    return {
        row["id"]: {name: value for name, value in row.items() if name != "id" and value is not None}
        for row in table.iter_rows(named=True)
    }
