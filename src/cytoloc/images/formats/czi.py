"""CZI files of Zeiss, read with aicspylibczi, which also reads files without a pixel size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoloc.errors import ImageError
from cytoloc.images.decoding import refuse_edges
from cytoloc.images.formats.scene import Scene, names_of, plausible_um, refuse_axes, whole_plane

_DTYPES = {"gray8": np.uint8, "gray16": np.uint16, "gray32": np.uint32, "gray32float": np.float32}


class CziFile:
    """An open CZI file. Each scene is a field of view.

    Args:
        path: A CZI file with gray channels and without tiles.

    Raises:
        ImageError: If the file is damaged, a mosaic of tiles, or has unsupported axes.
    """

    def __init__(self, path: Path) -> None:
        import aicspylibczi

        self.path = path
        self._stream = path.open("rb")
        try:
            self._file = aicspylibczi.CziFile(self._stream)
            self.scenes = self._described()
        except BaseException:
            self._stream.close()
            raise

    def plane(self, scene: int, *, channel: int, depth: int = 0, time: int = 0, page: int = 0) -> NDArray[Any]:  # noqa: ARG002
        """Return one plane, shape ``(height, width)``."""
        wanted = {"C": channel, "Z": depth, "T": time, "S": self._places[scene]}
        asked = {axis: at for axis, at in wanted.items() if axis in self._file.dims and at >= 0}
        pixels, _ = self._file.read_image(**asked)
        # All other axes of the result have length 1.
        plane = np.asarray(pixels)
        return whole_plane(plane.reshape(plane.shape[-2:]), self.scenes[scene], self.path)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _described(self) -> tuple[Scene, ...]:
        if self._file.is_mosaic():
            raise ImageError(
                f"{self.path} is a mosaic of tiles, which is not supported.", hint="Export its fields one by one."
            )
        if self._file.pixel_type not in _DTYPES:
            raise ImageError(
                f"{self.path} has {self._file.pixel_type} pixels, but gray pixels of 8, 16 or 32 bits are needed.",
                hint="Export it as OME-TIFF.",
            )
        self._places: list[int] = []
        scenes = []
        meta = self._file.meta
        names: tuple[str, ...] = ()
        # Files without names in their dimensions still have the names under which channels were displayed.
        for element in ("Information/Image/Dimensions/Channels", "DisplaySetting/Channels"):
            if not any(names):
                names = tuple(node.get("Name", "") for node in meta.findall(f"./Metadata/{element}/Channel"))
        distance = meta.find("./Metadata/Scaling/Items/Distance[@Id='X']/Value")
        pixel_um = plausible_um(float(distance.text) * 1e6) if distance is not None and distance.text else None
        for shape in self._file.get_dims_shape():
            first, behind = shape.get("S", (0, 1))
            for place in range(first, behind):
                scenes.append(
                    self._scene(shape, names, pixel_um, place if "S" in shape and behind - first > 1 else None)
                )
                self._places.append(place if "S" in shape else -1)
        return tuple(scenes)

    def _scene(self, shape: dict[str, Any], names: tuple[str, ...], pixel_um: float | None, place: int | None) -> Scene:
        length = {axis: behind - first for axis, (first, behind) in shape.items()}
        refuse_axes(length, "SCZTYX", self.path)
        refuse_edges(length["Y"], length["X"], self.path)
        return Scene(
            name="" if place is None else f"s{place}",
            channels=names_of(names, length.get("C", 1)),
            height=length["Y"],
            width=length["X"],
            depths=length.get("Z", 1),
            times=length.get("T", 1),
            dtype=np.dtype(_DTYPES[self._file.pixel_type]),
            pixel_um=pixel_um,
        )
