"""Anyone's microscope files: a folder, and what the user says of the stains in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cytoloc.atlas.channels import NAMES, ChannelMap, FilePattern
from cytoloc.atlas.importing import Loaded
from cytoloc.atlas.joint import find_joint_bounds, note
from cytoloc.atlas.quarantine import rejected
from cytoloc.atlas.store import FieldRow
from cytoloc.errors import ImageError, SettingsError, TableError
from cytoloc.files import sha256_of
from cytoloc.labels import CHANNELS, ChannelRole
from cytoloc.pictures.decoding import decoding, located
from cytoloc.pictures.depth import DepthRule, JointBounds, all_to_8_bit
from cytoloc.pictures.formats import SUFFIXES, Picture, Scene, open_picture
from cytoloc.pictures.scale import Scaling, scale_field
from cytoloc.scores import read_csv, read_labels, refuse_repeated


@dataclass(frozen=True, kw_only=True)
class PlaneChoice:
    """Which planes of a channel make its picture.

    Attributes:
        depth: The z plane, counted from 0; None for the maximum over all.
        time: The time point, counted from 0; None if files must have only one.
        pages: What pages are whose meaning a TIFF does not state; None if files must not have such.
    """

    depth: int | None = None
    time: int | None = None
    pages: Literal["channel", "z"] | None = None


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
            ImageError: If a file cannot be read, or has no such channel.
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
                names = self._names(picture.scenes[0])
                with located(f"{self.folder / file}"):
                    index = self.channels.picks[role].index(names)
                called = f" {names[index]!r}" if names[index] else ""
                lines.append((role, f"channel {index}{called} of {len(names)} in {file}"))
        return lines

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
            pixel_um = self.pixel_um or scene.pixel_um
            present = {role: plane for role, plane in zip(CHANNELS, planes, strict=True) if plane is not None}
            black = np.zeros((scene.height, scene.width), np.uint8)
            sources = [role if role in present else self.channels.absent[role] for role in CHANNELS]
            stack = [black if source == "zero" else present[source] for source in sources]
            joint = None
            if self._joint:
                joint = [None if source == "zero" else self._joint[CHANNELS.index(source)] for source in sources]
            eight = all_to_8_bit(stack, self.depth, joint)
            scaled = scale_field(eight.image, self.scaling, pixel_um=pixel_um)
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
            pixel_um=pixel_um,
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
            counts = {len(picture.scenes) for _, picture in opened.values()}
            if len(counts) > 1:
                raise ImageError(f"{item}: its files have {' and '.join(map(str, sorted(counts)))} scenes.")
            for number, name in enumerate(_scene_ids(item, first.scenes)):
                planes: list[NDArray[Any] | None] | ImageError
                try:
                    planes = self._planes(opened, number, name)
                except ImageError as error:
                    planes = error
                yield name, first.scenes[number], planes

    def _planes(
        self, opened: dict[ChannelRole, tuple[str, Picture]], number: int, name: str
    ) -> list[NDArray[Any] | None]:
        """Return a scene's plane of each channel, None for those that were not imaged."""
        planes: dict[ChannelRole, NDArray[Any]] = {}
        for role, (file, picture) in opened.items():
            path = self.folder / file
            with located(str(path)), decoding(path):
                planes[role] = self._plane(picture, number, role)
        if len({plane.shape for plane in planes.values()}) > 1:
            each = ", ".join(f"{role} {plane.shape[1]} x {plane.shape[0]}" for role, plane in planes.items())
            raise ImageError(f"{name} has more than one size: {each} px.")
        return [planes.get(role) for role in CHANNELS]

    def _open(self, item: str, stack: ExitStack) -> dict[ChannelRole, tuple[str, Picture]]:
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

    def _names(self, scene: Scene) -> tuple[str, ...]:
        """Return the names of a scene's channels, as the choice about pages makes them."""
        if scene.pages == 1 or self.planes.pages == "z":
            return scene.channels
        if self.planes.pages is None:
            raise ImageError(
                f"it has {scene.pages} pages and does not say what they are.",
                way_out="Say --pages channel or --pages z.",
            )
        if len(scene.channels) > 1:
            raise ImageError(f"it has {len(scene.channels)} channels, so its {scene.pages} pages cannot be channels.")
        return ("",) * scene.pages

    def _plane(self, picture: Picture, number: int, role: ChannelRole) -> NDArray[Any]:
        """Return the picture of a stain: one plane, or the maximum of several."""
        scene, choice = picture.scenes[number], self.planes
        index = self.channels.picks[role].index(self._names(scene))
        if scene.times > 1 and choice.time is None:
            raise ImageError(f"it has {scene.times} time points.", way_out="Choose one with --time, counted from 0.")
        place = {"channel": index, "time": choice.time or 0}
        along, length = "depth", scene.depths
        if scene.pages > 1 and choice.pages == "z":
            along, length = "page", scene.pages
        elif scene.pages > 1:
            place |= {"channel": 0, "page": index}
        for what, at, count in (("time point", place["time"], scene.times), ("z plane", choice.depth or 0, length)):
            if at >= count:
                raise ImageError(f"it has no {what} {at}: it has {count}, counted from 0.")
        depths = range(length) if choice.depth is None else [choice.depth]
        result: NDArray[Any] | None = None
        for depth in depths:
            plane = picture.plane(number, **place, **{along: depth})
            result = plane if result is None else np.maximum(result, plane)
        if result is None:
            raise ImageError("it has no planes.")
        return result

    def _find(self, pattern: FilePattern | None) -> None:
        """Find the files of every item and what their names say."""
        picks = self.channels.picks
        for path in _walk(self.folder):
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


def _walk(folder: Path) -> Iterator[str]:
    """Yield the path below ``folder`` of every file of a known kind, in order; links are followed, loops are not.

    Raises:
        ImageError: If there is no such folder, or one in it cannot be read.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder}: there is no such folder.", way_out="Give the folder that holds the files.")

    def refuse(error: OSError) -> None:
        raise ImageError(f"{error.filename} cannot be read: {error.strerror}.", way_out="Make it readable.") from error

    above: dict[str, frozenset[str]] = {os.fspath(folder): frozenset()}
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        trail = above.pop(place) | {os.path.realpath(place)}
        inside = Path(place).relative_to(folder)
        zarrs = [name for name in folders if name.lower().endswith(".zarr")]
        folders[:] = sorted(
            name
            for name in folders
            if name not in zarrs
            and not name.startswith(".")
            and os.path.realpath(os.path.join(place, name)) not in trail  # noqa: PTH118
        )
        above.update({os.path.join(place, name): trail for name in folders})  # noqa: PTH118
        for name in sorted([*names, *zarrs]):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield (inside / name).as_posix()


def _scene_ids(item: str, scenes: Sequence[Scene]) -> list[str]:
    """Return the id of each scene: the item's if it is alone, else with the scene's name, or number, behind it."""
    if len(scenes) == 1:
        return [item]
    names = [scene.name for scene in scenes]
    if all(names) and len(set(names)) == len(names):
        return [f"{item}_{name}" for name in names]
    return [f"{item}_s{number}" for number in range(len(scenes))]


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
    refuse_repeated(table["id"].to_list(), where=str(path))
    return {
        row["id"]: {name: value for name, value in row.items() if name != "id" and value is not None}
        for row in table.iter_rows(named=True)
    }
