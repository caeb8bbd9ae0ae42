"""What an image file holds, whoever wrote it: scenes of channels, depths and time points."""

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
        name: What the file calls it; empty where it has no name.
        channels: What the file calls each channel; empty where a channel has no name.
        height: In pixels.
        width: In pixels.
        depths: Number of z planes.
        times: Number of time points.
        pages: Number of planes along an axis whose meaning the file does not state; 1 if it has none.
        dtype: Type of the pixels.
        pixel_um: Edge of a pixel, in micrometers; None where the file does not state it.
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


class ImageFile(Protocol):
    """An open image file; to be closed after use."""

    @property
    def scenes(self) -> tuple[Scene, ...]:
        """What it holds."""

    def plane(self, scene: int, *, channel: int, depth: int = 0, time: int = 0, page: int = 0) -> NDArray[Any]:
        """Return one plane, ``(height, width)``, as it is in the file."""

    def close(self) -> None:
        """Close the file."""


def refuse_axes(length: Mapping[str, int], known: str, path: Path) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` if a file has an axis that a field of view has not."""
    strange = [f"{axis} of {count}" for axis, count in length.items() if axis not in known and count > 1]
    if strange:
        raise ImageError(
            f"{path} has axes that a field of view has not: {', '.join(strange)}.", hint="Export it as OME-TIFF."
        )


def names_of(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Return the names of ``count`` channels: ``names`` if there is one for each, else empty ones."""
    return names if len(names) == count else ("",) * count


def plausible_um(edge: float | None) -> float | None:
    """Return the edge of a pixel in micrometers if a light microscope can have it, else None.

    Files that were never calibrated state 1 pixel per inch, 0, or the resolution of a printer.
    """
    return edge if edge is not None and 0.005 <= edge <= 20 else None


def whole_plane(pixels: NDArray[Any], scene: Scene, path: Path) -> NDArray[Any]:
    """Return a plane that a reader gave, contiguous and in the byte order of this machine.

    Raises:
        ImageError: If it is not of the shape and type that the file states for the scene.
    """
    native = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))
    if native.shape != (scene.height, scene.width) or native.dtype != scene.dtype.newbyteorder("="):
        raise ImageError(
            f"{path} gives {native.dtype} pixels of shape {native.shape} for a plane of {scene.dtype.name},"
            f" {scene.width} x {scene.height} px.",
            hint="Copy or download the file again, or export it as OME-TIFF.",
        )
    return native
