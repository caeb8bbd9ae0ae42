"""The content of image files: scenes with channels, z planes and time points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cytoloc.errors import ImageError


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One field of view in a file, as the file describes it.

    Attributes:
        name: The name in the file; empty if there is none.
        channels: The names of the channels in the file; empty if a channel has no name.
        height: Height in pixels.
        width: Width in pixels.
        depths: Number of z planes.
        times: Number of time points.
        pages: Number of planes along axes whose meaning the file does not state; 1 if there is no such axis.
        dtype: Pixel type. If channels differ in type, the type that can hold all of them.
        pixel_um: Pixel size in micrometers; None if the file does not state it.
        stored: The axes as the file stores them, with their lengths; empty for time, pages, z, channels, height and
            width in this order. All letters but T, Z, C, Y and X are axes of pages.
        problem: Why the scene cannot be imported although the file can be read, such as an x-z section; empty if it
            can.
        plate: The plate; empty if the file does not state it, as are ``well`` and ``field``.
        well: The well of the plate, such as ``B03``.
        field: The field of the well.
    """

    name: str
    channels: tuple[str, ...]
    height: int
    width: int
    depths: int = 1
    times: int = 1
    pages: int = 1
    dtype: np.dtype[Any]
    pixel_um: float | None = None
    stored: tuple[tuple[str, int], ...] = ()
    problem: str = ""

    @property
    def axes(self) -> tuple[tuple[str, int], ...]:
        """The axes that are longer than 1 with their lengths, in the order of the file."""
        lengths = (self.times, self.pages, self.depths, len(self.channels), self.height, self.width)
        every = self.stored or tuple(zip("TPZCYX", lengths, strict=True))
        return tuple((axis, length) for axis, length in every if length > 1)

    @property
    def axes_text(self) -> str:
        """The axes in words, such as "T of 4, Y of 512, X of 512"."""
        return ", ".join(f"{axis} of {length}" for axis, length in self.axes) or "none"

    plate: str = ""
    well: str = ""
    field: str = ""


class ImageFile(Protocol):
    """An open image file, to be closed after use."""

    @property
    def scenes(self) -> tuple[Scene, ...]:
        """The scenes in the file."""

    def plane(self, scene: int, *, channel: int, depth: int = 0, time: int = 0, page: int = 0) -> NDArray[Any]:
        """Return one plane as stored, shape ``(height, width)``."""

    def close(self) -> None:
        """Close the file."""


def refuse_axes(length: Mapping[str, int], known: str, path: Path) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` if a file has axes that a field of view does not have."""
    strange = [f"{axis} of {count}" for axis, count in length.items() if axis not in known and count > 1]
    if strange:
        raise ImageError(
            f"{path} has axes that a field of view does not have: {', '.join(strange)}.", hint="Export it as OME-TIFF."
        )


def names_of(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Return the names of ``count`` channels: ``names`` if their number is right, otherwise empty names."""
    return names if len(names) == count else ("",) * count


def plausible_um(edge: float | None) -> float | None:
    """Return a pixel size if it is plausible for a light microscope, otherwise None.

    Files without calibration state 1 pixel per inch, 0, or the resolution of a printer.

    Args:
        edge: Pixel size in micrometers.

    Returns:
        The pixel size, or None.
    """
    return edge if edge is not None and 0.005 <= edge <= 20 else None


def whole_plane(pixels: NDArray[Any], scene: Scene, path: Path, *, dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
    """Return a plane from a reader, contiguous and in native byte order.

    Args:
        pixels: The pixels that the reader returned.
        scene: The scene, as the file describes it.
        path: The file, for error messages.
        dtype: The pixel type of this plane, if channels differ. Default: the pixel type of the scene.

    Returns:
        Shape ``(height, width)``.

    Raises:
        ImageError: If shape or type are not as the file describes the scene.
    """
    dtype = (dtype or scene.dtype).newbyteorder("=")
    native = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))
    if native.shape != (scene.height, scene.width) or native.dtype != dtype:
        raise ImageError(
            f"{path} contains a plane of shape {native.shape} and type {native.dtype}, but states"
            f" {scene.height} x {scene.width} px and {dtype.name}.",
            hint="Export it as OME-TIFF.",
        )
    return native
