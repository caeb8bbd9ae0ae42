"""LIF files of Leica, read with liffile, which is written in Python."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cytoloc.images.decoding import refuse_edges, truncated
from cytoloc.images.formats.scene import Scene, names_of, plausible_um, whole_plane

_FIELDS: Final = {"M": "m", "L": "l"}
"""Axes along which each position is a field of view: tiles of a mosaic, and loops of an experiment."""

_STRANGE: Final = {
    "H": "fluorescence lifetimes (a histogram of photons)",
    "λ": "emission wavelengths (a lambda scan)",
    "Λ": "excitation wavelengths (a lambda scan)",
    "A": "rotations",
    "N": "x-t slices",
    "Q": "t slices",
}
"""Axes of LIF that a field of view does not have, in words."""


class LifFile:
    """An open LIF file. Each image is a scene; of a mosaic, each tile.

    Args:
        path: The file.

    Raises:
        ImageError: If a scene is too large.
    """

    def __init__(self, path: Path) -> None:
        import liffile

        self.path = path
        self._file = liffile.LifFile(path)
        try:
            images: list[Any] = list(self._file.images)
            self._fields = [
                (image, dict(zip(axes, at, strict=True)))
                for image in images
                for axes in [[axis for axis in image.dims if axis in _FIELDS]]
                for at in product(*(range(image.sizes[axis]) for axis in axes))
            ]
            self.scenes = tuple(self._scene(image, at) for image, at in self._fields)
        except BaseException:
            self._file.close()
            raise

    def plane(self, scene: int, *, channel: int, depth: int = 0, time: int = 0, page: int = 0) -> NDArray[Any]:  # noqa: ARG002
        """Return one plane, shape ``(height, width)``."""
        image, at = self._fields[scene]
        wanted = {**at, **{axis: n for axis, n in (("C", channel), ("Z", depth), ("T", time)) if axis in image.dims}}
        try:
            frame = np.asarray(image.frame(**wanted))
        except OSError as error:
            if error.errno is not None:
                raise
            raise truncated(self.path, str(error)) from error
        if frame.ndim == 3:
            frame = frame[..., channel]
        return whole_plane(frame, self.scenes[scene], self.path, dtype=frame.dtype)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _scene(self, image: Any, at: dict[str, int]) -> Scene:
        sizes = {str(axis): int(length) for axis, length in image.sizes.items()}
        height, width = sizes.get("Y", 1), sizes.get("X", 1)
        if "Y" in sizes and "X" in sizes:
            refuse_edges(height, width, self.path)
        luts = tuple(node.get("LUTName", "") for node in image.xml_element.iter("ChannelDescription"))
        colors = ("red", "green", "blue") if sizes.get("S") == 3 else ("",) * sizes.get("S", 1)
        channels = names_of(luts, sizes["C"]) if "C" in sizes else colors if "S" in sizes else names_of(luts, 1)
        tile = "".join(f"_{_FIELDS[axis]}{number}" for axis, number in at.items() if sizes[axis] > 1)
        return Scene(
            name=f"{image.path}{tile}",
            channels=channels,
            height=height,
            width=width,
            depths=sizes.get("Z", 1),
            times=sizes.get("T", 1),
            dtype=np.dtype(image.dtype),
            pixel_um=_pixel_um(image),
            problem=_problem(image, sizes),
        )


def _problem(image: Any, sizes: dict[str, int]) -> str:
    """Return why an image cannot be imported; empty if it can."""
    planes = [axis for axis in ("X", "Y", "Z", "T") if sizes.get(axis, 1) > 1]
    if "X" not in sizes or "Y" not in sizes or tuple(image.dims[-2:]) not in {("Y", "X"), ("X", "S")}:
        section = "-".join(axis.lower() for axis in planes)
        return f"it is a section or line scan ({section}), not an image along x and y"
    for axis, what in _STRANGE.items():
        if sizes.get(axis, 1) > 1:
            return f"it has {sizes[axis]} {what}"
    return ""


def _pixel_um(image: Any) -> float | None:
    """Return the pixel size: the length of the x axis divided by the number of pixels less one, as Leica states it."""
    for node in image.xml_element.iter("DimensionDescription"):
        if node.get("DimID") == "1" and node.get("Unit", "").strip().lower() in ("m", ""):
            count, length = int(node.get("NumberOfElements", 0)), abs(float(node.get("Length", 0.0)))
            if count > 1 and math.isfinite(length):
                return plausible_um(length * 1e6 / (count - 1))
    return None
