"""CZI files of Zeiss, read with czifile, which lists every plane with its own size and type.

czifile is written in Python. Only the decoding of compressed planes uses libraries in C.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path
from typing import Any, Final, NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from cytoloc.errors import ImageError
from cytoloc.images.decoding import refuse_edges, truncated
from cytoloc.images.formats.scene import Scene, names_of, plausible_um, whole_plane

_AXES: Final = {
    "B": "acquisition blocks",
    "H": "raw detector images or phases (Airyscan, structured illumination)",
    "I": "directions of illumination",
    "R": "rotations",
    "V": "views",
}
"""Axes of CZI that a field of view does not have, in words."""

_COLORS: Final = ("red", "green", "blue")


class _Place(NamedTuple):
    """The position of a plane in a file."""

    scene: int
    tile: int
    channel: int
    depth: int
    time: int


class CziFile:
    """An open CZI file. Each scene is a field of view; of a mosaic, each tile.

    Args:
        path: A CZI file.

    Raises:
        ImageError: If the file is damaged, or one part of several.
    """

    def __init__(self, path: Path) -> None:
        import czifile

        self.path = path
        size = path.stat().st_size
        self._file = czifile.CziFile(str(path), multifile=False)
        try:
            self._refuse_part(size)
            self._entries: dict[_Place, Any] = {}
            self._doubled: dict[tuple[int, int], str] = {}
            self._strange: defaultdict[str, set[int]] = defaultdict(set)
            for entry in self._file.subblock_directory:
                self._add(entry, size)
            self._fields = sorted({(place.scene, place.tile) for place in self._entries})
            self.scenes = self._described()
        except BaseException:
            self._file.close()
            raise

    def plane(self, scene: int, *, channel: int, depth: int = 0, time: int = 0, page: int = 0) -> NDArray[Any]:  # noqa: ARG002
        """Return one plane, shape ``(height, width)``."""
        place = self._places[scene]
        colors = self.scenes[scene].channels == _COLORS and len(place["C"]) == 1
        wanted = _Place(*self._fields[scene], place["C"][0 if colors else channel], place["Z"][depth], place["T"][time])
        entry = self._entries.get(wanted)
        if entry is None:
            raise ImageError(
                f"{self.path} has no plane of channel {channel}, z plane {depth} and time point {time}.",
                hint="The acquisition may have been stopped. Export the complete part.",
            )
        pixels = _decoded(entry, self.path)
        plane = pixels[..., 2 - channel] if colors else pixels[..., 0]
        return whole_plane(plane, self.scenes[scene], self.path, dtype=pixels.dtype)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _refuse_part(self, size: int) -> None:
        """Raise if the file is one of several, or ends before its list of planes."""
        header = self._file.header
        if header.file_part:
            raise ImageError(
                f"{self.path} is part {header.file_part} of a file in several parts.",
                hint="Save it as one file in ZEN.",
            )
        if not 0 < header.directory_position < size:
            raise truncated(self.path, f"its list of planes is at byte {header.directory_position} of {size}")

    def _add(self, entry: Any, size: int) -> None:
        """Add a plane of the directory, unless it is a smaller copy."""
        if entry.pyramid_type or entry.stored_shape != entry.shape:
            return
        if not 0 <= entry.file_position < size:
            raise truncated(self.path, f"a plane is at byte {entry.file_position}, but the file has {size}")
        at = {each.dimension: each.start for each in entry.dimension_entries}
        for axis, number in at.items():
            if axis in _AXES:
                self._strange[axis].add(number)
        place = _Place(at.get("S", 0), at.get("M", 0), at.get("C", 0), at.get("Z", 0), at.get("T", 0))
        if place in self._entries:
            self._doubled[place[:2]] = "it has several planes at the same place, which are tiles without numbers"
        self._entries[place] = entry

    def _described(self) -> tuple[Scene, ...]:
        """Return the scenes: one for each combination of scene and tile."""
        text = self._file.metadata() if self._file.header.metadata_position else ""
        meta = ElementTree.fromstring(text) if text else ElementTree.Element("none")  # noqa: S314  expat limits entity expansion itself
        names: tuple[str, ...] = ()
        # Files without names in their dimensions still have the names under which channels were displayed.
        for element in ("Information/Image/Dimensions/Channels", "DisplaySetting/Channels"):
            if not any(names):
                names = tuple(node.get("Name", "") for node in meta.findall(f"./Metadata/{element}/Channel"))
        distance = meta.find("./Metadata/Scaling/Items/Distance[@Id='X']/Value")
        pixel_um = plausible_um(float(distance.text) * 1e6) if distance is not None and distance.text else None
        several = len({scene for scene, _ in self._fields}) > 1
        tiled = len({tile for _, tile in self._fields}) > 1
        self._places: list[dict[str, list[int]]] = []
        scenes = []
        for scene, tile in self._fields:
            parts = ([f"s{scene}"] if several else []) + ([f"m{tile}"] if tiled else [])
            scenes.append(self._scene(scene, tile, "_".join(parts), names, pixel_um))
        return tuple(scenes)

    def _scene(self, scene: int, tile: int, name: str, names: tuple[str, ...], pixel_um: float | None) -> Scene:
        entries = {place: entry for place, entry in self._entries.items() if place[:2] == (scene, tile)}
        first = entries[min(entries)]
        *_, height, width, samples = first.shape
        refuse_edges(height, width, self.path)
        axes = {
            "T": sorted({place.time for place in entries}),
            "C": sorted({place.channel for place in entries}),
            "Z": sorted({place.depth for place in entries}),
        }
        self._places.append(axes)
        dtypes = {np.dtype(entry.dtype).base for entry in entries.values()}
        channels = names_of(names, len(axes["C"]))
        if samples > 1 and len(axes["C"]) == 1:
            channels = _COLORS
        return Scene(
            name=name,
            channels=channels,
            height=height,
            width=width,
            depths=len(axes["Z"]),
            times=len(axes["T"]),
            dtype=np.result_type(*dtypes),
            pixel_um=pixel_um,
            problem=self._problem(scene, tile, entries, axes),
        )

    def _problem(self, scene: int, tile: int, entries: dict[_Place, Any], axes: dict[str, list[int]]) -> str:
        """Return why a scene cannot be imported; empty if it can."""
        for axis, numbers in self._strange.items():
            if len(numbers) > 1:
                return f"it has {len(numbers)} {_AXES[axis]} (axis {axis})"
        if (scene, tile) in self._doubled:
            return self._doubled[scene, tile]
        sizes = {place: entry.shape[-3:-1] for place, entry in entries.items()}
        usual = sizes[min(entries)]
        for place, (height, width) in sizes.items():
            if (height, width) != usual:
                at = f"channel {place.channel}, z plane {place.depth}, time point {place.time}"
                return (
                    f"its planes differ in size: {at} has {width} x {height} px, others have {usual[1]} x {usual[0]} px"
                )
        samples = {entry.shape[-1] for entry in entries.values()}
        if samples not in ({1}, {3}) or (samples == {3} and len(axes["C"]) > 1):
            return f"its {len(axes['C'])} channels are color images ({_first_type(entries)}), not gray images"
        kinds = {np.dtype(entry.dtype).base.kind for entry in entries.values()}
        if not kinds <= {"u", "i", "f"}:
            return f"its pixels are {_first_type(entries)}, which are not gray values"
        lacking = len(axes["T"]) * len(axes["C"]) * len(axes["Z"]) - len(entries)
        if lacking and len(axes["T"]) == 1:
            return (
                f"it lacks {lacking} of its planes, because the acquisition was stopped, or z-stacks differ in length"
            )
        return ""


def _first_type(entries: dict[_Place, Any]) -> str:
    """Return the name of the pixel type of the first plane, such as Bgr24."""
    return str(entries[min(entries)].pixel_type)


def _decoded(entry: Any, path: Path) -> NDArray[Any]:
    """Return the pixels of a plane, shape ``(height, width, samples)``; samples of colors are blue, green, red."""
    shape, dtype = entry.shape[-3:], np.dtype(entry.dtype).base
    count = int(np.prod(shape)) * dtype.itemsize
    segment = entry.data_segment()
    content = segment.data(raw=True)
    if len(content) < segment.data_size:
        raise truncated(path, "a plane is incomplete")
    compression = entry.compression
    pixels: Any
    if compression == 0:
        pixels = content
    elif compression == 1:
        pixels = imagecodecs.jpeg8_decode(content)
    elif compression == 2:
        pixels = imagecodecs.lzw_decode(content)
    elif compression == 4:
        pixels = imagecodecs.jpegxr_decode(content)
    elif compression == 5:
        pixels = imagecodecs.zstd_decode(content)
    elif compression == 6:
        # A header states whether low and high bytes are apart. Zstandard follows.
        header = content[0]
        pixels = imagecodecs.zstd_decode(content[header:])
        if header >= 3 and content[1] == 1 and content[2] & 1 and dtype.itemsize == 2:
            # First the low bytes of all pixels, then the high bytes.
            pixels = np.frombuffer(pixels, np.uint8).reshape(2, -1).T.tobytes()
    else:
        raise ImageError(f"{path} has an unknown compression ({compression}).", hint="Export it as OME-TIFF.")
    if isinstance(pixels, np.ndarray):
        if pixels.size != np.prod(shape) or pixels.dtype != dtype:
            raise ImageError(
                f"{path} has a plane of shape {pixels.shape} and type {pixels.dtype}, but states {shape} and {dtype}.",
                hint="Export it as OME-TIFF.",
            )
        # JPEG and JPEG XR decode colors to red, green, blue.
        return pixels.reshape(shape)[..., ::-1]
    if len(pixels) < count:
        raise truncated(path, f"a plane has {len(pixels)} of {count} bytes")
    return np.frombuffer(pixels, dtype.newbyteorder("<"), count=int(np.prod(shape))).reshape(shape)
