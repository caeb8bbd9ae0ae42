"""OME-XML, and OME-TIFF sets, whose images are spread over several files."""

from __future__ import annotations

import unicodedata
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from numpy.typing import NDArray

from cytoloc.errors import ImageError
from cytoloc.images.decoding import refuse_edges
from cytoloc.images.formats.scene import Scene, names_of, plausible_um, whole_plane
from cytoloc.images.formats.tiff_pages import (
    color_problem,
    forget_complaints,
    is_common,
    open_tiff,
    page_dtype,
    page_pixels,
    refuse_complaints,
    refuse_cut,
    refuse_endless,
)

_UM: Final[dict[str, float]] = {
    "m": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "µm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "\\u00b5m": 1.0,
    "nm": 1e-3,
    "å": 1e-4,
    "pm": 1e-6,
    "inch": 25_400.0,
    "in": 25_400.0,
}
"""Micrometers per unit, for the units in OME-XML and ImageJ metadata."""


class OmePlane(NamedTuple):
    """Where a plane of an image is: its channel, z plane and time point; its file and the number of its page."""

    channel: int
    depth: int
    time: int
    file: str
    page: int


@dataclass(frozen=True)
class OmeImage:
    """An image that OME-XML describes.

    Attributes:
        name: The name.
        channels: The names of the channels.
        lengths: The number of channels, z planes and time points, by ``C``, ``Z`` and ``T``.
        pixel_um: Pixel size in micrometers.
        planes: The planes whose place the XML states. The file is empty for the file with the XML.
    """

    name: str
    channels: tuple[str, ...]
    lengths: Mapping[str, int]
    pixel_um: float | None
    planes: tuple[OmePlane, ...]


@dataclass(frozen=True)
class Ome:
    """The content of OME-XML.

    Attributes:
        images: The images.
        uuid: The identifier of the file with the XML; empty if there is none.
        metadata_file: The file that describes the images, if this file does not; otherwise empty.
    """

    images: tuple[OmeImage, ...]
    uuid: str = ""
    metadata_file: str = ""


def length_um(unit: str) -> float | None:
    """Return the micrometers in a unit of length; None if it is unknown.

    >>> length_um("nm"), length_um("μm"), length_um("pixel")
    (0.001, 1.0, None)
    """
    # NFKC maps the micro sign and the Greek letter to the same character.
    folded = {unicodedata.normalize("NFKC", name): um for name, um in _UM.items()}
    return folded.get(unicodedata.normalize("NFKC", unit.strip().lower()))


def parse_ome(xml: str) -> Ome:
    """Return the images that OME-XML describes.

    Args:
        xml: The OME-XML.

    Returns:
        Its content.

    Raises:
        xml.etree.ElementTree.ParseError: If it is not XML.
    """
    root = ElementTree.fromstring(xml)  # noqa: S314  expat in Python 3.11 limits entity expansion itself
    only = next((node for node in root if _is(node, "BinaryOnly")), None)
    images = tuple(
        _image(node, pixels, root.get("UUID", ""))
        for node in root
        if _is(node, "Image")
        for pixels in [next((part for part in node if _is(part, "Pixels")), None)]
        if pixels is not None
    )
    return Ome(images, root.get("UUID", ""), "" if only is None else only.get("MetadataFile", ""))


def _is(node: ElementTree.Element, name: str) -> bool:
    return node.tag.rpartition("}")[2] == name


def _image(node: ElementTree.Element, pixels: ElementTree.Element, uuid: str) -> OmeImage:
    names = tuple(part.get("Name", "") for part in pixels if _is(part, "Channel"))
    lengths = {axis: max(1, int(pixels.get(f"Size{axis}", 1))) for axis in "CZT"}
    edge, unit_um = pixels.get("PhysicalSizeX"), length_um(pixels.get("PhysicalSizeXUnit", "µm"))
    order = [axis for axis in pixels.get("DimensionOrder", "XYCZT") if axis in "CZT"]
    planes: list[OmePlane] = []
    for part in pixels:
        if _is(part, "TiffData"):
            planes += _planes(part, order, lengths, uuid)
    return OmeImage(
        name=node.get("Name", ""),
        channels=names,
        lengths=lengths,
        pixel_um=plausible_um(float(edge) * unit_um) if edge and unit_um else None,
        planes=tuple(planes),
    )


def _planes(part: ElementTree.Element, order: list[str], lengths: Mapping[str, int], uuid: str) -> Iterable[OmePlane]:
    """Yield the planes of an element TiffData; the first axis in ``order`` changes fastest."""
    given = next((each for each in part if _is(each, "UUID")), None)
    own = given is None or (given.text or "").strip() == uuid
    file = "" if own or given is None else given.get("FileName", "")
    page = int(part.get("IFD", 0))
    every = lengths["C"] * lengths["Z"] * lengths["T"]
    count = int(part.get("PlaneCount", 1 if "IFD" in part.attrib else every))
    at = {axis: int(part.get(f"First{axis}", 0)) for axis in "CZT"}
    for number in range(min(count, every)):
        yield OmePlane(at["C"], at["Z"], at["T"], file, page + number)
        for axis in order:
            at[axis] += 1
            if at[axis] < lengths[axis]:
                break
            at[axis] = 0


def own_images(ome: Ome, path: Path) -> tuple[OmeImage, ...]:
    """Return the images with planes in the file that has the XML; all images if the XML names no planes."""
    own = tuple(image for image in ome.images if any(_in_file(plane, path) for plane in image.planes))
    return own or ome.images


def _in_file(plane: OmePlane, path: Path) -> bool:
    """Return whether a plane is in a file, which may have another name on this disk."""
    names = (unicodedata.normalize("NFC", name) for name in (plane.file, path.name))
    return not plane.file or len({*names}) == 1


def _is_there(plane: OmePlane, path: Path) -> bool:
    """Return whether the file with a plane exists beside a file of the set."""
    return _in_file(plane, path) or path.with_name(Path(plane.file).name).is_file()


def find_set(file: Any, path: Path) -> tuple[OmeImage, ...] | None:
    """Return the images of the set that a file belongs to; None if it is not one of a set.

    Args:
        file: The open TIFF file.
        path: Its path.

    Returns:
        The images of the set. In their planes, the file is empty for this file.

    Raises:
        ImageError: If another file describes the set, and cannot be read.
    """
    if not file.is_ome or not file.ome_metadata:
        return None
    ome = parse_ome(file.ome_metadata)
    images = ome.images
    if ome.metadata_file:
        master = path.with_name(Path(ome.metadata_file.replace("\\", "/")).name)
        if not master.is_file():
            return None
        with master.open("rb") as stream:
            is_xml = stream.read(200).lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<")
        if is_xml:
            described = parse_ome(master.read_text(encoding="utf-8-sig"))
        else:
            with open_tiff(master) as other:
                described = parse_ome(other.ome_metadata or "")
        # Planes without a file name are in the other file.
        images = tuple(
            replace(image, planes=tuple(plane._replace(file=plane.file or master.name) for plane in image.planes))
            for image in described.images
        )
    here = [_in_file(plane, path) for image in images for plane in image.planes]
    return images if any(here) and (ome.metadata_file or not all(here)) else None


class OmeSetFile:
    """A file of an OME-TIFF set, with its scenes.

    Args:
        path: The file.
        images: The images of the set, from :func:`find_set`.
        alone: Whether only planes in this file are read. Otherwise an image whose first plane is in this file is read
            from all files of the set, and images that begin in other files are left to these.

    Raises:
        ImageError: If a file of the set is missing or damaged.
    """

    def __init__(self, path: Path, images: tuple[OmeImage, ...], *, alone: bool) -> None:
        self.path = path
        self._files: dict[str, Any] = {}
        self._planes: list[dict[tuple[int, int, int], OmePlane]] = []
        try:
            scenes = []
            for image in images:
                kept = [plane for plane in image.planes if not alone or _in_file(plane, path)]
                there = [plane for plane in kept if _is_there(plane, path)]
                if there and _in_file(min(there, key=lambda plane: (plane.time, plane.depth, plane.channel)), path):
                    scenes.append(self._scene(image, kept, there[0]))
            self.scenes = tuple(scenes)
            # Whether the files have common compressions, whose decoders do not crash on damaged data.
            self.common: bool = all(is_common(file.pages.first) for file in self._files.values())
        except BaseException:
            self.close()
            raise

    def plane(self, scene: int, *, channel: int, depth: int = 0, time: int = 0, page: int = 0) -> NDArray[Any]:  # noqa: ARG002
        """Return one plane, shape ``(height, width)``."""
        plane = self._planes[scene].get((channel, depth, time))
        if plane is None:
            raise ImageError(
                f"{self.path} does not say where channel {channel}, z plane {depth} and time point {time} is.",
                hint="Export the set again.",
            )
        path, found = self._page(plane)
        refuse_cut(self._files[path.name], found, plane.page, path)
        pixels = page_pixels(found, found, path)
        refuse_complaints(path)
        return whole_plane(pixels, self.scenes[scene], path, dtype=page_dtype(found))

    def close(self) -> None:
        """Close the files of the set."""
        for file in self._files.values():
            file.close()

    def _page(self, plane: OmePlane) -> tuple[Path, Any]:
        """Return the file and the page of a plane."""
        path = self.path if _in_file(plane, self.path) else self.path.with_name(Path(plane.file).name)
        if path.name not in self._files:
            forget_complaints()
            self._files[path.name] = open_tiff(path)
            refuse_endless(self._files[path.name], path)
        file = self._files[path.name]
        if plane.page >= len(file.pages):
            raise ImageError(
                f"{path} has {len(file.pages)} pages, but its OME-XML names page {plane.page + 1}.",
                hint="Export the set again.",
            )
        return path, file.pages[plane.page]

    def _scene(self, image: OmeImage, kept: list[OmePlane], first: OmePlane) -> Scene:
        channels = sorted({plane.channel for plane in kept})
        depths = sorted({plane.depth for plane in kept})
        times = sorted({plane.time for plane in kept})
        self._planes.append(
            {
                (channels.index(plane.channel), depths.index(plane.depth), times.index(plane.time)): plane
                for plane in kept
            }
        )
        _, page = self._page(first)
        height, width = int(page.imagelength), int(page.imagewidth)
        refuse_edges(height, width, self.path)
        names = names_of(image.channels, image.lengths["C"])
        problem = color_problem(page)
        if page.samplesperpixel > 1:
            problem = problem or "its planes are color images, not gray images"
        lacking = {plane.file for plane in kept if not _is_there(plane, self.path)}
        if lacking:
            problem = f"the file {min(lacking)} of its set is missing" + f" ({len(lacking)} are)" * (len(lacking) > 1)
        elif len(kept) < len(channels) * len(depths) * len(times):
            problem = problem or f"its set has {len(kept)} of {len(channels) * len(depths) * len(times)} planes"
        return Scene(
            name=image.name,
            channels=tuple(names[channel] if channel < len(names) else "" for channel in channels),
            height=height,
            width=width,
            depths=len(depths),
            times=len(times),
            dtype=page_dtype(page),
            pixel_um=image.pixel_um,
            problem=problem,
        )
