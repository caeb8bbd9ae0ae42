"""Reading of the fields in the files of an item: planes of channels, converted to 8 bits and scaled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoloc.dataset.fields import FieldRow
from cytoloc.dataset.importing import Loaded
from cytoloc.dataset.quarantine import rejected
from cytoloc.dataset.sources.channels import ChannelMap, Pick
from cytoloc.dataset.sources.planes import Chosen, PlaneChoice, channel_names, choose, other_axes, read_chosen
from cytoloc.errors import ImageError
from cytoloc.images.decoding import decoding, located
from cytoloc.images.depth import DepthRule, JointBounds, all_to_8_bit, refuse_not_gray
from cytoloc.images.formats import ImageFile, Scene, missing_chunks, open_image, open_stack
from cytoloc.images.quality import MISSING_CHUNKS
from cytoloc.images.scale import Scaling, scale_field

SAME_UM: Final = 1.01
"""Factor by which stated pixel sizes of the files of a field may differ, because formats round them."""

_APART: Final = "Export each scene to separate files."

Opened = dict[str, tuple[str, ImageFile]]
"""For each channel its file, and the open file."""


@dataclass(frozen=True)
class FolderItem:
    """An item of an import before its files are opened: one field, or all fields of one file.

    Attributes:
        name: The id. If there are several scenes, their names are appended.
        files: The files of each channel that was found, below the folder. Several files are z planes of a stack.
        parts: The values in the file names; see :class:`~cytoloc.dataset.sources.channels.FilePattern`.
        metadata: The values in the metadata table, by the id of the item or of a scene.
        labels: Indices of locations, by the id of the item or of a scene.
        picks: Where the image of each channel is in its file, instead of the reader's choice.
        time: The time point in the files, instead of the reader's choice.
        pixel_um: Pixel size in micrometers that an index of the files states.
        problem: Why the item cannot be imported, if its files are not needed to know that.
        called: What the image of each channel is called in the list of files.
    """

    name: str
    files: Mapping[str, tuple[str, ...]]
    parts: Mapping[str, str]
    metadata: Mapping[str, Mapping[str, str]]
    labels: Mapping[str, tuple[int, ...]]
    picks: Mapping[str, Pick] | None = None
    time: int | None = None
    pixel_um: float | None = None
    problem: str | None = None
    called: Mapping[str, str] | None = None

    def described(self, name: str) -> dict[str, str]:
        """Return the metadata of the scene ``name``. Values in the table override values in file names."""
        return {**self.parts, **self.metadata.get(self.name, {}), **self.metadata.get(name, {})}


class FoundScene(NamedTuple):
    """A scene: its id, its properties, its images or the error that reading them raised, and what its files lack.

    Missing chunks of a file are counted by channel; they are black.
    """

    name: str
    scene: Scene
    planes: list[NDArray[Any]] | ImageError
    missing: Mapping[str, int] = {}


@dataclass(frozen=True, kw_only=True)
class FieldReader:
    """How the fields of an item are read. It can be pickled.

    Attributes:
        folder: The folder of the files.
        channels: Where the image of each channel is.
        scaling: How images are scaled to squares.
        planes: Which planes of a channel form its image.
        depth: How images are converted to 8 bits.
        pixel_um: Pixel size in micrometers, instead of the one that files state.
        joint: Joint bounds of each channel for all fields, instead of the bounds of each field.
        source: The source of the fields in the table of the dataset.
        strict: Whether missing chunks of a file are errors.
    """

    folder: Path
    channels: ChannelMap
    scaling: Scaling
    planes: PlaneChoice = field(default_factory=PlaneChoice)
    depth: DepthRule = field(default_factory=DepthRule)
    pixel_um: float | None = None
    joint: tuple[JointBounds | None, ...] | None = None
    source: str = "folder"
    strict: bool = False

    def load(self, item: FolderItem) -> Iterator[Loaded]:
        """Load the fields of an item, one per scene, uint8 of shape ``(channels, size, size)`` each."""
        for found in self.scenes(item):
            if isinstance(found.planes, ImageError):
                yield rejected(found.name, found.planes)
            else:
                yield self._loaded(item, found, found.planes)

    def describe(self, item: FolderItem) -> list[tuple[str, str]]:
        """Return for each channel a text about the origin of its image in the files of an item.

        Args:
            item: The item.

        Returns:
            Pairs of a channel and a text; empty if the images of the files belong to another file of an OME-TIFF set.

        Raises:
            ImageError: If a file cannot be opened, or a channel does not exist.
        """
        lines: list[tuple[str, str]] = []
        with ExitStack() as stack:
            for name, (file, image) in self._open(item, stack).items():
                if not image.scenes:
                    return []
                with located(str(self.folder / file)):
                    names = channel_names(image.scenes[0], self.planes)
                    index = self._pick(item, name).index(names, axes=other_axes(image.scenes[0]))
                called = f" {names[index]!r}" if names[index] else ""
                what = item.called[name] if item.called else f"{index}{called} of {len(names)}"
                lines.append((name, f"channel {what} in {self.folder.name if file == '.' else file}"))
        return lines

    def check(self, item: FolderItem) -> list[tuple[str, ImageError]]:
        """Check an item without reading pixels.

        Args:
            item: The item.

        Returns:
            The ids of the scenes that the import would reject, with the errors.

        Raises:
            ImageError: If the import would reject the whole item.
        """
        found: list[tuple[str, ImageError]] = []
        with ExitStack() as stack:
            opened = self._open(item, stack)
            names = self._scene_ids(item, opened)
            for number, name in enumerate(names):
                try:
                    self._chosen(item, opened, number)
                    scene = self._agreed(item, opened, number, name)
                    for role, (file, image) in opened.items():
                        with located(f"{role} in {file}"):
                            refuse_not_gray(image.scenes[number].dtype)
                    blank = np.broadcast_to(np.uint8(0), (1, scene.height, scene.width))
                    with located(name):
                        scale_field(blank, self.scaling, pixel_um=scene.pixel_um)
                except ImageError as error:
                    found.append((name, error))
            if found and len(found) == len(names):
                raise found[0][1]
        return found

    def _pick(self, item: FolderItem, channel: str) -> Pick:
        """Return where the image of a channel is in its file."""
        return (item.picks or self.channels.picks)[channel]

    def _loaded(self, item: FolderItem, found: FoundScene, planes: list[NDArray[Any]]) -> Loaded:
        """Return a field from its images."""
        name, scene = found.name, found.scene
        try:
            called = [f"{channel} in {item.files[channel][0]}" for channel in self.channels.channels]
            eight = all_to_8_bit(planes, self.depth, self.joint, called=called)
            scaled = scale_field(eight.image, self.scaling, pixel_um=scene.pixel_um)
        except ImageError as error:
            return rejected(name, error)
        described = item.described(name)
        row = FieldRow(
            id=name,
            source=self.source,
            labels=item.labels.get(name),
            antibody=described.get("antibody"),
            plate=described.get("plate") or scene.plate or None,
            well=described.get("well") or scene.well or None,
            field=described.get("field") or scene.field or None,
            gene=described.get("gene"),
            cell_line=described.get("cell_line"),
            original_px=scene.height,
            original_width_px=scene.width,
            pixel_um=scene.pixel_um,
            packed_um=scaled.pixel_um,
            black=eight.black,
            white=eight.white,
            flags=(
                *eight.flags(self.channels.channels),
                *(f"{channel} {MISSING_CHUNKS}" for channel in found.missing),
            ),
            missing_chunks=sum(found.missing.values()),
        )
        return row, scaled.image

    def scenes(self, item: FolderItem) -> Iterator[FoundScene]:
        """Yield all fields of an item.

        Args:
            item: The item.

        Yields:
            The scenes.

        Raises:
            ImageError: If a file cannot be opened, or the files have different scenes.
        """
        with ExitStack() as stack:
            opened = self._open(item, stack)
            first = next(image for _, image in opened.values())
            for number, name in enumerate(self._scene_ids(item, opened)):
                scene = first.scenes[number]
                planes: list[NDArray[Any]] | ImageError
                missing: dict[str, int] = {}
                try:
                    scene = self._agreed(item, opened, number, name)
                    planes, missing = self._planes(item, opened, number)
                except ImageError as error:
                    planes = error
                yield FoundScene(name, scene, planes, missing)

    def _chosen(self, item: FolderItem, opened: Opened, number: int) -> dict[str, Chosen]:
        """Return the planes that form the image of each channel in a scene."""
        chosen = {}
        planes = self.planes if item.time is None else replace(self.planes, time=item.time)
        for role, (file, image) in opened.items():
            with located(str(self.folder / file)):
                if problem := image.scenes[number].problem:
                    name = image.scenes[number].name
                    raise ImageError(
                        f"scene {name}: {problem}." if name else f"{problem}.",
                        hint="Leave it out, or export the images as OME-TIFF.",
                    )
                chosen[role] = choose(image.scenes[number], self._pick(item, role), planes)
        return chosen

    def _planes(self, item: FolderItem, opened: Opened, number: int) -> tuple[list[NDArray[Any]], dict[str, int]]:
        """Return the image of each channel in a scene, in order, and the number of chunks that channels lack."""
        planes: list[NDArray[Any]] = []
        missing: dict[str, int] = {}
        for channel, chosen in self._chosen(item, opened, number).items():
            file, image = opened[channel]
            path = self.folder / file
            with located(str(path)), decoding(path):
                before = missing_chunks(image)
                planes.append(read_chosen(image, number, chosen))
                lost, total = (now - then for now, then in zip(missing_chunks(image), before, strict=True))
                if lost and self.strict:
                    raise ImageError(
                        f"{lost} of {total} chunks of the channel {channel} are missing.",
                        hint="Copy the file again, or remove `strict` to import missing chunks as black.",
                    )
            if lost:
                missing[channel] = lost
        return planes, missing

    def _agreed(self, item: FolderItem, opened: Opened, number: int, name: str) -> Scene:
        """Return the common properties of a scene in all files of a field.

        Raises:
            ImageError: If the files contradict each other.
        """
        scenes = {role: image.scenes[number] for role, (_, image) in opened.items()}
        if len({(scene.height, scene.width) for scene in scenes.values()}) > 1:
            each = ", ".join(f"{role} {scene.width} x {scene.height}" for role, scene in scenes.items())
            raise ImageError(
                f"The files of {name} have different sizes: {each} px.",
                hint="Give images of the same size for all channels of a field.",
            )
        known = self.pixel_um or item.pixel_um
        stated = {role: scene.pixel_um for role, scene in scenes.items() if scene.pixel_um is not None}
        if known is None and stated and max(stated.values()) > SAME_UM * min(stated.values()):
            each = ", ".join(f"{role} {um:g}" for role, um in stated.items())
            raise ImageError(f"The files of {name} have different pixel sizes: {each} µm.", hint="Give `pixel_um`.")
        return replace(next(iter(scenes.values())), pixel_um=known or next(iter(stated.values()), None))

    def _scene_ids(self, item: FolderItem, opened: Opened) -> list[str]:
        """Return the id of each scene: the id of the item, followed by the scene's name or number if there are several.

        Raises:
            ImageError: If the files of a field do not have the same scenes in the same order.
        """
        files = {file: [scene.name for scene in image.scenes] for file, image in opened.values()}
        names = next(iter(files.values()))
        if len({len(each) for each in files.values()}) > 1:
            counts = ", ".join(f"{len(each)} in {file}" for file, each in files.items())
            raise ImageError(f"The files of {item.name} have different numbers of scenes: {counts}.", hint=_APART)
        if len(names) == 1:
            return [item.name]
        if any(each != names for each in files.values()):
            named = "; ".join(f"{', '.join(each)} in {file}" for file, each in files.items())
            raise ImageError(f"The files of {item.name} have different names of scenes: {named}.", hint=_APART)
        if all(names) and len(set(names)) == len(names):
            return [f"{item.name}_{name}" for name in names]
        return [f"{item.name}_s{number}" for number in range(len(names))]

    def _open(self, item: FolderItem, stack: ExitStack) -> Opened:
        """Open the files of an item, each once, until ``stack`` is closed."""
        if item.problem is not None:
            raise ImageError(f"{item.problem[0].upper()}{item.problem[1:]}.", hint="Copy the files again.")
        files = item.files
        lacking = [role for role in self.channels.picks if role not in files]
        if lacking:
            pattern = self.channels.picks[lacking[0]].pattern
            named = pattern.path_of(item.parts) if pattern else lacking[0]
            raise ImageError(
                f"{self.folder}: the file {named} of field {item.name} is missing.",
                hint="Give a file for every channel in `channels`.",
            )
        images: dict[tuple[str, ...], ImageFile] = {}
        for role in self.channels.picks:
            if files[role] not in images:
                paths, axes = [self.folder / file for file in files[role]], self.planes.axes
                images[files[role]] = stack.enter_context(
                    open_image(paths[0], axes=axes, alone=not self.channels.one_file)
                    if len(paths) == 1
                    else open_stack(paths)
                )
        return {role: (files[role][0], images[files[role]]) for role in self.channels.picks}
