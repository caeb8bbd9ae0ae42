"""TIFF, OME-TIFF and ImageJ's TIFF files, read page by page."""

from __future__ import annotations

import gzip
import io
import math
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cytoloc.errors import ImageError
from cytoloc.images.decoding import decoding, refuse_edges, refuse_other_kind, truncated
from cytoloc.images.formats.contained import ContainedFile
from cytoloc.images.formats.ome import OmeImage, length_um, own_images, parse_ome
from cytoloc.images.formats.scene import Scene, plausible_um, whole_plane
from cytoloc.images.formats.tiff_pages import (
    as_intensity,
    color_problem,
    forget_complaints,
    is_common,
    open_tiff,
    page_dtype,
    page_pixels,
    refuse_complaints,
    refuse_cut,
    refuse_endless,
    refuse_part_of_stack,
    sample_names,
)

_UNZIPPED_BYTES: Final = 2**31
"""Maximum size of an unzipped TIFF file. A field with four 16-bit channels and twenty z planes is smaller."""

_RESOLUTION_UNITS: Final = {2: 25_400.0, 3: 10_000.0}
"""Micrometers in an inch and a centimeter, by the value of tag 296."""

_METASERIES_UM: Final = re.compile(
    r'"spatial-calibration-state"[^>]*value="on".*?"spatial-calibration-x"[^>]*value="([\d.]+)".*?'
    r'"spatial-calibration-units"[^>]*value="(?:um|µm|microns?)"',
    re.DOTALL,
)
"""The pixel size in the description of a file of MetaXpress."""


class TiffFile:
    """An open TIFF file. Each series is a scene.

    Args:
        path: A TIFF file, or a gzipped TIFF file as on the Human Protein Atlas site.

    Raises:
        ImageError: If the file is damaged, too large, or has unsupported axes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        forget_complaints()
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
        self.file = open_tiff(source)
        try:
            refuse_endless(self.file, path)
            refuse_part_of_stack(self.file, path)
            self._series = self._whole_series()
            self._axes = [self._named_axes(series) for series in self._series]
            described: tuple[OmeImage, ...] = ()
            if self.file.is_ome and self.file.ome_metadata:
                described = own_images(parse_ome(self.file.ome_metadata), path)
            self.scenes = tuple(self._scene(number, described) for number in range(len(self._series)))
            # Whether all planes have a common compression, whose decoder does not crash on damaged data.
            self.common: bool = all(is_common(series.keyframe) for series in self._series)
            refuse_complaints(path)
        except BaseException:
            self.file.close()
            raise

    def plane(self, scene: int, *, channel: int, depth: int = 0, time: int = 0, page: int = 0) -> NDArray[Any]:
        """Return one plane, shape ``(height, width)``."""
        series, outer = self._series[scene], self._axes[scene]
        keyframe = series.keyframe
        lengths = series.shape[: len(outer)]
        pages = [n for axis, n in zip(outer, lengths, strict=True) if axis not in "CZT"]
        at_page = iter(np.unravel_index(page, pages) if pages else ())
        wanted = {"C": channel, "Z": depth, "T": time}
        place = [wanted[axis] if axis in wanted else int(next(at_page)) for axis in outer]
        number = int(np.ravel_multi_index(place, lengths)) if place else 0
        if series.dataoffset is not None:
            pixels = as_intensity(self._sliced(scene, number, int(series.dataoffset)), keyframe, self.path)
        else:
            found = series.pages[number]
            if found is None:
                raise ImageError(
                    f"{self.path} has no plane {number + 1} of {len(series.pages)}.",
                    hint="Export or download the file again.",
                )
            refuse_cut(self.file, found, number, self.path)
            pixels = page_pixels(found, keyframe, self.path)
            refuse_complaints(self.path)
        if pixels.ndim == 3:
            pixels = pixels[channel] if keyframe.axes == "SYX" and keyframe.compression != 6 else pixels[..., channel]
        return whole_plane(pixels, self.scenes[scene], self.path)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _whole_series(self) -> list[Any]:
        """Return the series without thumbnails; raise if there are none."""
        series = list(self.file.series)
        if not series:
            raise truncated(self.path, "it contains no image")
        # Reduced copies of other images are thumbnails.
        return [each for each in series if not each.keyframe.is_reduced] or series

    def _named_axes(self, series: Any) -> str:
        """Return the axes of a series in order, without those of a page.

        Raises:
            ImageError: If pages are not whole planes.
        """
        keyframe, axes = series.keyframe, series.axes
        outer = axes.removesuffix(keyframe.axes)
        named = [axis for axis in outer if axis in "CZT"]
        if outer == axes or keyframe.axes not in {"YX", "YXS", "SYX"} or len(set(named)) < len(named):
            raise ImageError(
                f"{self.path} has the axes {axes} of lengths {'x'.join(map(str, series.shape))}, but a field of"
                " view has channels, z planes, time points, height and width.",
                hint="Export it as OME-TIFF.",
            )
        planes = math.prod(series.shape[: len(outer)])
        if series.dataoffset is None and len(series.pages) != planes:
            raise ImageError(
                f"{self.path} states {planes} planes, but contains {len(series.pages)}.",
                hint="Export or download the file again.",
            )
        return str(outer)

    def _sliced(self, scene: int, number: int, start: int) -> NDArray[Any]:
        """Return a plane of an uncompressed, contiguous series, for which TIFF may list only the first page."""
        series = self._series[scene]
        page_shape = tuple(series.keyframe.shape)
        dtype = np.dtype(series.dtype).newbyteorder(self.file.byteorder)
        count = math.prod(page_shape)
        handle = self.file.filehandle
        handle.seek(start + number * count * dtype.itemsize)
        content = handle.read(count * dtype.itemsize)
        if len(content) < count * dtype.itemsize:
            raise truncated(self.path, f"plane {number + 1} is incomplete")
        return np.frombuffer(content, dtype).reshape(page_shape)

    def _scene(self, number: int, described: tuple[OmeImage, ...]) -> Scene:
        series, outer = self._series[number], self._axes[number]
        keyframe = series.keyframe
        length = dict(zip((*outer, *keyframe.axes), series.shape, strict=True))
        refuse_edges(length["Y"], length["X"], self.path)
        samples = length.get("S", 1)
        problem = color_problem(keyframe)
        if samples > 1 and length.get("C", 1) > 1:
            problem = problem or f"its {length['C']} channels are color images, not gray images"
        channels = length.get("C", 1) if samples == 1 else samples
        name, names, pixel_um = self._described(number, described)
        if len(names) != channels:
            names = sample_names(keyframe) if samples > 1 else ("",) * channels
        stored = [(axis, n) for axis, n in zip(outer, series.shape, strict=False)]
        stored += [("C" if axis == "S" else axis, length[axis]) for axis in keyframe.axes]
        return Scene(
            name=name,
            channels=tuple(names),
            height=length["Y"],
            width=length["X"],
            depths=length.get("Z", 1),
            times=length.get("T", 1),
            pages=math.prod(n for axis, n in stored if axis not in "CZTYX"),
            dtype=page_dtype(keyframe),
            pixel_um=pixel_um,
            stored=tuple(stored),
            problem=problem,
        )

    def _described(self, number: int, described: tuple[OmeImage, ...]) -> tuple[str, tuple[str, ...], float | None]:
        """Return the name of a series, the names of its channels, and its pixel size in micrometers."""
        series = self._series[number]
        if described:
            image = described[number] if len(described) == len(self._series) else None
            if image is None:
                named = [each for each in described if each.name == series.name]
                image = named[0] if len(named) == 1 else None
            return (image.name, image.channels, image.pixel_um) if image else ("", (), None)
        names: tuple[str, ...] = ()
        tags = series.keyframe.tags
        if self.file.is_imagej:
            metadata, tags = self.file.imagej_metadata or {}, self.file.pages.first.tags
            # ImageJ labels slices, which are channels if there is no other axis.
            if self._axes[number] in ("C", ""):
                names = tuple(map(str, metadata.get("Labels", ())))
            unit_um = length_um(str(metadata.get("unit", "")))
        elif self.file.is_metaseries:
            # MetaXpress states the pixel size in its XML. The resolution tag is absent, or states the camera pixel.
            found = _METASERIES_UM.search(self.file.pages.first.description)
            return "", names, plausible_um(float(found[1])) if found else None
        else:
            unit = tags.get("ResolutionUnit")
            unit_um = _RESOLUTION_UNITS.get(int(unit.value)) if unit is not None else None
        resolution = tags.get("XResolution")
        if unit_um is None or resolution is None or not resolution.value[0]:
            return "", names, None
        return "", names, plausible_um(unit_um * resolution.value[1] / resolution.value[0])


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
        opened = TiffFile(path)
        image: TiffFile | ContainedFile = opened
        if not opened.common:
            opened.close()
            image = ContainedFile(path, TiffFile)
        try:
            first = image.scenes[0]
            if first.problem:
                raise ImageError(f"{path}: {first.problem}.", hint="Give gray images.")
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
