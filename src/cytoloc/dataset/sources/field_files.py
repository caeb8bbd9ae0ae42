"""The fields in the files of one item of a folder: planes of stains, converted to 8 bits and one size."""

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
from cytoloc.dataset.sources.channels import ChannelMap
from cytoloc.dataset.sources.planes import Chosen, PlaneChoice, channel_names, choose, read_chosen
from cytoloc.errors import ImageError
from cytoloc.images.decoding import decoding, located
from cytoloc.images.depth import DepthRule, JointBounds, all_to_8_bit, refuse_not_gray
from cytoloc.images.formats import ImageFile, Scene, open_image
from cytoloc.images.scale import Scaling, scale_field

SAME_UM: Final = 1.01
"""Pixel sizes that the files of a field state may differ by this factor: formats round them differently."""

_APART: Final = "Export each scene to files of its own."

Opened = dict[str, tuple[str, ImageFile]]
"""For each channel its file, and that file opened."""


@dataclass(frozen=True)
class FolderItem:
    """What is known about one field, or the fields of one file, before a file is opened.

    Attributes:
        name: The id; several scenes add their own names to it.
        files: The file of each channel that was found, below the folder.
        parts: The values in the file names; see :class:`~cytoloc.dataset.sources.channels.FilePattern`.
        metadata: The values in a table, by the id of the item or of a scene.
        labels: Indices of locations, by the id of the item or of a scene.
    """

    name: str
    files: Mapping[str, str]
    parts: Mapping[str, str]
    metadata: Mapping[str, Mapping[str, str]]
    labels: Mapping[str, tuple[int, ...]]

    def described(self, name: str) -> dict[str, str]:
        """Return the values for the scene ``name``; a table overrides file names."""
        return {**self.parts, **self.metadata.get(self.name, {}), **self.metadata.get(name, {})}


class FoundScene(NamedTuple):
    """A scene: its id, its properties, and its planes or the error that they raise."""

    name: str
    scene: Scene
    planes: list[NDArray[Any]] | ImageError


@dataclass(frozen=True, kw_only=True)
class FieldReader:
    """How the fields of an item are read; it can be sent to another process.

    Attributes:
        folder: Where the files are.
        channels: Where each channel is.
        scaling: How images become squares.
        planes: Which planes of a channel make its image.
        depth: How more than 8 bits become 8.
        pixel_um: Edge of a pixel in micrometers, whatever the files say.
        joint: One pair of bounds per channel for all fields, instead of each field's own.
    """

    folder: Path
    channels: ChannelMap
    scaling: Scaling
    planes: PlaneChoice = field(default_factory=PlaneChoice)
    depth: DepthRule = field(default_factory=DepthRule)
    pixel_um: float | None = None
    joint: tuple[JointBounds | None, ...] | None = None

    def load(self, item: FolderItem) -> list[Loaded]:
        """Return the fields of an item, uint8 ``(channels, size, size)`` each, one per scene of its files."""
        return [
            rejected(found.name, found.planes)
            if isinstance(found.planes, ImageError)
            else self._loaded(item, found.name, found.scene, found.planes)
            for found in self.scenes(item)
        ]

    def describe(self, item: FolderItem) -> list[tuple[str, str]]:
        """Return for each channel what its image is in the files of an item, in words.

        Raises:
            ImageError: If a file cannot be opened, or has no such channel.
        """
        lines: list[tuple[str, str]] = []
        with ExitStack() as stack:
            for name, (file, image) in self._open(item, stack).items():
                with located(str(self.folder / file)):
                    names = channel_names(image.scenes[0], self.planes)
                    index = self.channels.picks[name].index(names)
                called = f" {names[index]!r}" if names[index] else ""
                lines.append((name, f"channel {index}{called} of {len(names)} in {file}"))
        return lines

    def check(self, item: FolderItem) -> None:
        """Raise whatever the import would find wrong with an item before it reads pixels.

        Raises:
            ImageError: If one of its scenes lacks what is asked for, or has a form that the settings do not allow.
        """
        with ExitStack() as stack:
            opened = self._open(item, stack)
            for number, name in enumerate(self._scene_ids(item, opened)):
                self._chosen(opened, number)
                scene = self._agreed(opened, number, name)
                for role, (file, image) in opened.items():
                    with located(f"{role} in {file}"):
                        refuse_not_gray(image.scenes[number].dtype)
                blank = np.broadcast_to(np.uint8(0), (1, scene.height, scene.width))
                with located(name):
                    scale_field(blank, self.scaling, pixel_um=scene.pixel_um)

    def _loaded(self, item: FolderItem, name: str, scene: Scene, planes: list[NDArray[Any]]) -> Loaded:
        """Return a field from its planes."""
        try:
            called = [f"{channel} in {item.files[channel]}" for channel in self.channels.channels]
            eight = all_to_8_bit(planes, self.depth, self.joint, called=called)
            scaled = scale_field(eight.image, self.scaling, pixel_um=scene.pixel_um)
        except ImageError as error:
            return rejected(name, error)
        described = item.described(name)
        row = FieldRow(
            id=name,
            source="folder",
            labels=item.labels.get(name),
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
            black=eight.black,
            white=eight.white,
        )
        return row, scaled.image

    def scenes(self, item: FolderItem) -> Iterator[FoundScene]:
        """Yield every field of an item.

        Raises:
            ImageError: If a file cannot be opened, or the files do not have the same scenes.
        """
        with ExitStack() as stack:
            opened = self._open(item, stack)
            first = next(image for _, image in opened.values())
            for number, name in enumerate(self._scene_ids(item, opened)):
                scene = first.scenes[number]
                planes: list[NDArray[Any]] | ImageError
                try:
                    scene = self._agreed(opened, number, name)
                    planes = self._planes(opened, number)
                except ImageError as error:
                    planes = error
                yield FoundScene(name, scene, planes)

    def _chosen(self, opened: Opened, number: int) -> dict[str, Chosen]:
        """Return which planes of a scene make the image of each stain."""
        chosen = {}
        for role, (file, image) in opened.items():
            with located(str(self.folder / file)):
                chosen[role] = choose(image.scenes[number], self.channels.picks[role], self.planes)
        return chosen

    def _planes(self, opened: Opened, number: int) -> list[NDArray[Any]]:
        """Return a scene's plane of each channel, in order."""
        planes: list[NDArray[Any]] = []
        for channel, chosen in self._chosen(opened, number).items():
            file, image = opened[channel]
            path = self.folder / file
            with located(str(path)), decoding(path):
                planes.append(read_chosen(image, number, chosen))
        return planes

    def _agreed(self, opened: Opened, number: int, name: str) -> Scene:
        """Return the scene by all files of a field.

        Raises:
            ImageError: If they contradict each other.
        """
        scenes = {role: image.scenes[number] for role, (_, image) in opened.items()}
        if len({(scene.height, scene.width) for scene in scenes.values()}) > 1:
            each = ", ".join(f"{role} {scene.width} x {scene.height}" for role, scene in scenes.items())
            raise ImageError(f"{name} has more than one size: {each} px.", hint="All must show the same pixels.")
        stated = {role: scene.pixel_um for role, scene in scenes.items() if scene.pixel_um is not None}
        if self.pixel_um is None and stated and max(stated.values()) > SAME_UM * min(stated.values()):
            each = ", ".join(f"{role} {um:g}" for role, um in stated.items())
            raise ImageError(f"{name} has more than one pixel size: {each} µm.", hint="Give it with `pixel_um`.")
        return replace(next(iter(scenes.values())), pixel_um=self.pixel_um or next(iter(stated.values()), None))

    def _scene_ids(self, item: FolderItem, opened: Opened) -> list[str]:
        """Return the id of each scene: the item's if it is alone, else with the scene's name, or number, behind it.

        Raises:
            ImageError: If the files of a field do not have the same scenes in the same order.
        """
        files = {file: [scene.name for scene in image.scenes] for file, image in opened.values()}
        names = next(iter(files.values()))
        if len({len(each) for each in files.values()}) > 1:
            counts = ", ".join(f"{len(each)} in {file}" for file, each in files.items())
            raise ImageError(f"{item.name}: its files differ in their number of scenes: {counts}.", hint=_APART)
        if len(names) == 1:
            return [item.name]
        if any(each != names for each in files.values()):
            named = "; ".join(f"{', '.join(each)} in {file}" for file, each in files.items())
            raise ImageError(f"{item.name}: its files call their scenes differently: {named}.", hint=_APART)
        if all(names) and len(set(names)) == len(names):
            return [f"{item.name}_{name}" for name in names]
        return [f"{item.name}_s{number}" for number in range(len(names))]

    def _open(self, item: FolderItem, stack: ExitStack) -> Opened:
        """Open the files of an item, each once, until ``stack`` closes."""
        files = item.files
        lacking = [role for role in self.channels.picks if role not in files]
        if lacking:
            pattern = self.channels.picks[lacking[0]].pattern
            named = pattern.path_of(item.parts) if pattern else lacking[0]
            raise ImageError(
                f"{self.folder}: field {item.name} lacks its file {named}.",
                hint="Every field needs a file for every channel that `channels` names.",
            )
        images: dict[str, ImageFile] = {}
        for role in self.channels.picks:
            if files[role] not in images:
                images[files[role]] = stack.enter_context(open_image(self.folder / files[role]))
        return {role: (files[role], images[files[role]]) for role in self.channels.picks}
