"""TIFF, OME-TIFF and ImageJ's TIFF files, read page by page."""

from __future__ import annotations

import gzip
import io
import logging
import math
import re
import struct
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, Final

import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray

from cytoloc.errors import ImageError
from cytoloc.images.decoding import decoding, refuse_edges, refuse_other_kind
from cytoloc.images.formats.scene import Scene, plausible_um, whole_plane

_UNZIPPED_BYTES: Final = 2**31
"""Maximum size of an unzipped TIFF file. A field with four 16-bit channels and twenty z planes is smaller."""

_UM: Final[dict[str, float]] = {
    "m": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "\\u00b5m": 1.0,
    "nm": 1e-3,
    "pm": 1e-6,
    "inch": 25_400.0,
}
"""Micrometers per unit, for the units in OME-XML and ImageJ metadata."""

_METASERIES_UM: Final = re.compile(
    r'"spatial-calibration-state"[^>]*value="on".*?"spatial-calibration-x"[^>]*value="([\d.]+)".*?'
    r'"spatial-calibration-units"[^>]*value="(?:um|µm|microns?)"',
    re.DOTALL,
)
"""The pixel size in the description of a file of MetaXpress."""

_ANY: Final = frozenset("IQR")
"""Axes whose meaning TIFF does not state."""


_WHITE_IS_ZERO: Final = 0
_PALETTE: Final = 3
"""Photometric interpretations (tag 262). Microscopes write palettes from black to the color of a stain."""

_JPEG: Final = frozenset({6, 7})
_JPEG_2000: Final = frozenset({33003, 33004, 33005, 34712})
_ENDED: Final = _JPEG | _JPEG_2000
"""Compressions (tag 259) whose decoders ignore missing data, and whose data end with the marker FF D9."""


_COMPLAINTS: Final = threading.local()
"""Errors that tifffile has logged in this thread since it last opened a file, after which it continues."""


class _Listener(logging.Handler):
    """Collects the errors that tifffile logs when tags or pages of a truncated file are missing."""

    def emit(self, record: logging.LogRecord) -> None:
        """Record an error."""
        if record.levelno >= logging.ERROR:
            vars(_COMPLAINTS).setdefault("messages", []).append(record.getMessage())


logging.getLogger("tifffile").addHandler(_Listener())


class TiffFile:
    """An open TIFF file. Each series is a scene.

    Args:
        path: A TIFF file, or a gzipped TIFF file as on the Human Protein Atlas site.

    Raises:
        ImageError: If the file is damaged, too large, or has unsupported axes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _COMPLAINTS.messages = []
        source: Path | io.BytesIO = path
        if path.suffix.lower() == ".gz":
            with gzip.open(path) as stream:
                content = stream.read(_UNZIPPED_BYTES + 1)
            if len(content) > _UNZIPPED_BYTES:
                raise ImageError(
                    f"{path} has more than 2 GiB when it is unzipped.", hint="Unzip the file and check its content."
                )
            refuse_other_kind(content[:16], path, kind="TIFF")
            source = io.BytesIO(content)
        self._file = tifffile.TiffFile(source, _multifile=False)
        try:
            self._refuse_endless()
            self._series = list(self._file.series)
            self._axes = [self._named_axes(series) for series in self._series]
            self.scenes = tuple(self._scene(number) for number in range(len(self._series)))
            self._refuse_complaints()
        except BaseException:
            self._file.close()
            raise

    def plane(self, scene: int, *, channel: int, depth: int = 0, time: int = 0, page: int = 0) -> NDArray[Any]:
        """Return one plane, shape ``(height, width)``."""
        series, axes = self._series[scene], self._axes[scene]
        wanted = {"C": channel, "S": channel, "Z": depth, "T": time, "P": page}
        place = [wanted[axis] for axis in axes if axis not in "SYX"]
        lengths = [length for axis, length in zip(axes, self._shape(scene), strict=True) if axis not in "SYX"]
        number = int(np.ravel_multi_index(place, lengths)) if place else 0
        if series.dataoffset is not None:
            sliced = self._sliced(scene, number, int(series.dataoffset))
            pixels = _as_intensity(sliced, series.keyframe, self.path)
        else:
            found = series.pages[number]
            if found is None:
                raise ImageError(
                    f"{self.path} has no plane {number + 1} of {len(series.pages)}.",
                    hint="Export or download the file again.",
                )
            self._refuse_cut(found, number)
            pixels = _as_intensity(found.asarray(), series.keyframe, self.path)
            self._refuse_complaints()
        if "S" in axes:
            pixels = (
                pixels[..., channel] if pixels.shape[-1] == self._shape(scene)[axes.index("S")] else pixels[channel]
            )
        return whole_plane(pixels, self.scenes[scene], self.path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _refuse_endless(self) -> None:
        """Raise if the list of pages is a loop, which tifffile would follow until the memory is full."""
        tiff, handle = self._file.tiff, self._file.filehandle

        def number(place: int, layout: str) -> int:
            """Return the number at a position of the file; 0 after its end."""
            handle.seek(place)
            content = handle.read(struct.calcsize(layout))
            return int(struct.unpack(layout, content)[0]) if len(content) == struct.calcsize(layout) else 0

        # The offset of the first page is in the header, after 4 bytes, or after 8 bytes in BigTIFF.
        offset, seen = number(8 if tiff.version == 43 else 4, tiff.offsetformat), set[int]()
        while offset:
            if offset in seen:
                raise ImageError(f"{self.path} is damaged: its list of pages is a loop.", hint="Copy the file again.")
            seen.add(offset)
            tags = number(offset, tiff.tagnoformat)
            offset = number(offset + tiff.tagnosize + tags * tiff.tagsize, tiff.offsetformat)

    def _refuse_complaints(self) -> None:
        if _COMPLAINTS.messages:
            raise ImageError(
                f"{self.path} is truncated or damaged: {_COMPLAINTS.messages[0]}.", hint="Copy the file again."
            )

    def _refuse_cut(self, page: Any, number: int) -> None:
        """Raise if data of a plane are missing or damaged in a way that its decoder would ignore."""
        handle, keyframe = self._file.filehandle, page.keyframe
        whole = f"{self.path} is truncated or damaged: plane {number + 1} is incomplete."
        for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
            if length == 0 or start + length > handle.size:
                raise ImageError(whole, hint="Copy or download the file again.")
            if keyframe.compression in _ENDED:
                # Every strip or tile must have an end marker, and pass a strict JPEG decoder.
                handle.seek(start)
                segment = handle.read(length)
                if b"\xff\xd9" not in segment[-4:]:
                    raise ImageError(whole, hint="Copy or download the file again.")
                if keyframe.compression in _JPEG and keyframe.bitspersample == 8:
                    # Tables that all strips share precede the data of the strip.
                    tables = (keyframe.jpegtables or b"")[:-2]
                    try:
                        simplejpeg.decode_jpeg(tables + segment[2:] if tables else segment, "GRAY", strict=True)
                    except ValueError as error:
                        raise ImageError(f"{whole[:-1]}: {error}.", hint="Copy or download the file again.") from error

    def _named_axes(self, series: Any) -> str:
        """Return the axes of a series in order: any of C, Z, T and P (pages of unknown meaning), then Y, X and S.

        Raises:
            ImageError: If there are other axes, or pages are not whole planes.
        """
        keyframe = series.keyframe
        axes = "".join("P" if axis in _ANY else axis for axis in series.axes)
        outer = axes.removesuffix(keyframe.axes)
        strange = [axis for axis in outer if axis not in "CZTP"] or (outer == axes and ["?"])
        if (
            strange
            or keyframe.axes not in {"YX", "YXS", "SYX"}
            or len(set(axes)) < len(axes)
            or {"C", "S"} <= set(axes)
        ):
            raise ImageError(
                f"{self.path} has the axes {series.axes} of lengths {'x'.join(map(str, series.shape))}, but a field of"
                " view has channels, z planes, time points, height and width.",
                hint="Export it as OME-TIFF.",
            )
        planes = math.prod(series.shape[: len(outer)])
        if series.dataoffset is None and len(series.pages) != planes:
            raise ImageError(
                f"{self.path} states {planes} planes, but contains {len(series.pages)}.",
                hint="Export or download the file again.",
            )
        return f"{outer}{keyframe.axes}"

    def _shape(self, scene: int) -> tuple[int, ...]:
        return tuple(self._series[scene].shape)

    def _sliced(self, scene: int, number: int, start: int) -> NDArray[Any]:
        """Return a plane of an uncompressed, contiguous series, for which TIFF may list only the first page."""
        series = self._series[scene]
        page_shape = tuple(series.keyframe.shape)
        dtype = np.dtype(series.dtype).newbyteorder(self._file.byteorder)
        count = math.prod(page_shape)
        handle = self._file.filehandle
        handle.seek(start + number * count * dtype.itemsize)
        content = handle.read(count * dtype.itemsize)
        if len(content) < count * dtype.itemsize:
            raise ImageError(
                f"{self.path} is truncated: plane {number + 1} is incomplete.",
                hint="Copy or download the file again.",
            )
        return np.frombuffer(content, dtype).reshape(page_shape)

    def _scene(self, number: int) -> Scene:
        series, axes = self._series[number], self._axes[number]
        length = dict(zip(axes, self._shape(number), strict=True))
        refuse_edges(length["Y"], length["X"], self.path)
        channels = length.get("C", length.get("S", 1))
        name, names, pixel_um = _described(self._file, number, len(self._series))
        if len(names) != channels:
            names = (
                ("red", "green", "blue", "alpha")[:channels] if "S" in length and channels <= 4 else ("",) * channels
            )
        return Scene(
            name=name,
            channels=tuple(names),
            height=length["Y"],
            width=length["X"],
            depths=length.get("Z", 1),
            times=length.get("T", 1),
            pages=length.get("P", 1),
            dtype=np.dtype(series.dtype),
            pixel_um=pixel_um,
        )


def _as_intensity(pixels: NDArray[Any], page: Any, path: Path) -> NDArray[Any]:
    """Return pixels that increase with brightness.

    Raises:
        ImageError: If pixels are indices of colors that do not increase with brightness.
    """
    if page.photometric == _WHITE_IS_ZERO:
        if pixels.dtype.kind != "u":
            raise ImageError(
                f"{path} has inverted {pixels.dtype} pixels, which are not supported.", hint="Export it as gray."
            )
        return np.asarray((1 << page.bitspersample) - 1 - pixels, pixels.dtype)
    if page.photometric == _PALETTE and (page.colormap is None or (np.diff(page.colormap.astype(int)) < 0).any()):
        raise ImageError(
            f"{path} has a color palette that does not increase in brightness.",
            hint="Export it as gray with 8 or 16 bits.",
        )
    return pixels


def read_gray_tiff(path: Path) -> NDArray[Any]:
    """Read a TIFF file with one gray image of 8 or 16 bits.

    Args:
        path: The file.

    Returns:
        Shape ``(height, width)``.

    Raises:
        ImageError: If the file is missing, truncated, damaged, too large, or contains anything else.
    """
    with decoding(path):
        with path.open("rb") as stream:
            refuse_other_kind(stream.read(16), path, kind="TIFF")
        image = TiffFile(path)
        try:
            if not image.scenes:
                raise ImageError(
                    f"{path} contains no image, because it is truncated or empty.", hint="Copy the file again."
                )
            first = image.scenes[0]
            planes = [len(scene.channels) * scene.depths * scene.times * scene.pages for scene in image.scenes]
            if planes != [1] or first.dtype not in (np.uint8, np.uint16):
                raise ImageError(
                    f"{path} is not a single gray image of 8 or 16 bits: it has {sum(planes)} planes, the first of"
                    f" {first.width} x {first.height} px and type {first.dtype}.",
                    hint="Give one file per channel, as in the 2018 Kaggle competition.",
                )
            return image.plane(0, channel=0)
        finally:
            image.close()


def _described(file: Any, number: int, count: int) -> tuple[str, tuple[str, ...], float | None]:
    """Return the name of one of ``count`` series, the names of its channels, and its pixel size in micrometers."""
    series = file.series[number]
    if file.is_ome and file.ome_metadata:
        return read_ome(file.ome_metadata, number, count, series.name)
    names: tuple[str, ...] = ()
    tags = series.keyframe.tags
    if file.is_imagej:
        metadata, tags = file.imagej_metadata or {}, file.pages.first.tags
        # ImageJ labels slices, which are channels if there is no other axis.
        if series.axes.removesuffix(series.keyframe.axes) == "C":
            names = tuple(map(str, metadata.get("Labels", ())))
        unit_um = _UM.get(str(metadata.get("unit", "")).lower())
    elif file.is_metaseries:
        # MetaXpress states the pixel size in its XML; the tag of the resolution is that of the camera, or absent.
        found = _METASERIES_UM.search(file.pages.first.description)
        return "", names, plausible_um(float(found[1])) if found else None
    else:
        unit = tags.get("ResolutionUnit")
        unit_um = {2: _UM["inch"], 3: _UM["cm"]}.get(int(unit.value)) if unit is not None else None
    resolution = tags.get("XResolution")
    if unit_um is None or resolution is None or not resolution.value[0]:
        return "", names, None
    return "", names, plausible_um(unit_um * resolution.value[1] / resolution.value[0])


def read_ome(xml: str, number: int, count: int, called: str) -> tuple[str, tuple[str, ...], float | None]:
    """Return the name of a series, the names of its channels, and its pixel size in micrometers, from OME-XML.

    They are empty if the image for the series is ambiguous, because each file of a set describes the images of all
    files.

    Args:
        xml: The OME-XML.
        number: The position of the series in the file.
        count: The number of series in the file.
        called: The name of the series.

    Returns:
        The name, the names of the channels, and the pixel size.
    """
    root = ElementTree.fromstring(xml)  # noqa: S314  expat in Python 3.11 limits entity expansion itself
    images = [node for node in root if node.tag.endswith("}Image")]
    if len(images) != count:
        images = [node for node in images if node.get("Name") == called]
        number = 0
        if len(images) != 1:
            return "", (), None
    image = images[number]
    pixels = next((node for node in image if node.tag.endswith("}Pixels")), None)
    if pixels is None:
        return image.get("Name", ""), (), None
    names = tuple(node.get("Name", "") for node in pixels if node.tag.endswith("}Channel"))
    edge, unit = pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit", "µm")
    um = float(edge) * _UM[unit.lower()] if edge and unit.lower() in _UM else None
    return image.get("Name", ""), names, plausible_um(um)
