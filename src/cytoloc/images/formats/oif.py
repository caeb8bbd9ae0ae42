"""OIB and OIF files of Olympus, read with oiffile, which is written in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cytoloc.errors import ImageError
from cytoloc.images.decoding import refuse_edges
from cytoloc.images.formats.scene import Scene, names_of, plausible_um, whole_plane

_STRANGE: Final = {"L": "emission wavelengths (a lambda scan)", "P": "positions"}


class OifFile:
    """An open OIB file, or OIF file with its folder ``NAME.oif.files``.

    Args:
        path: The file.

    Raises:
        ImageError: If the file is too large, or lacks planes.
    """

    def __init__(self, path: Path) -> None:
        import oiffile

        if path.suffix.lower() == ".oif" and not path.with_name(f"{path.name}.files").is_dir():
            raise ImageError(
                f"{path} has no images, because the folder {path.name}.files is missing.",
                hint="Copy this folder to the same place as the file.",
            )
        self.path = path
        self._file = oiffile.OifFile(str(path))
        try:
            self._series = self._first_series()
            # Files of planes have the axes of the series; those of one plane have no axes.
            self._axes = str(self._series.axes) if len(self._series) > 1 else ""
            self.scenes = (self._scene(),)
        except BaseException:
            self._file.close()
            raise

    def plane(self, scene: int, *, channel: int, depth: int = 0, time: int = 0, page: int = 0) -> NDArray[Any]:  # noqa: ARG002
        """Return one plane, shape ``(height, width)``."""
        wanted = {"C": channel, "Z": depth, "T": time}
        number = 0
        if self._axes:
            place = [wanted[axis] for axis in self._axes]
            number = int(np.ravel_multi_index(place, self._series.shape))
        return whole_plane(np.asarray(self._file.asarray(self._series[number])), self.scenes[0], self.path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _first_series(self) -> Any:
        """Return the longest series of images; raise if there is none."""
        if not self._file.series:
            raise ImageError(f"{self.path} contains no images.", hint="Copy the file again with all of its images.")
        return self._file.series[0]

    def _scene(self) -> Scene:
        settings = self._file.mainfile
        axes = str(self._file.axes)
        sizes = dict(zip(axes, (int(length) for length in self._file.shape), strict=True))
        section = not {"X", "Y"} <= {axis for axis, length in sizes.items() if length > 1}
        image = np.asarray(self._file.asarray(self._series[0]))
        height, width = image.shape[-2:]
        refuse_edges(height, width, self.path)
        if len(self._series) != int(np.prod(self._series.shape)):
            raise ImageError(
                f"{self.path} has {len(self._series)} images, but its axes {axes} state {np.prod(self._series.shape)}.",
                hint="Copy the file again with all of its images.",
            )
        lengths = dict(zip(self._axes, self._series.shape, strict=True)) if self._axes else {}
        count = lengths.get("C", 1)
        names = []
        for number in range(1, count + 1):
            channel: Any = settings.get(f"Channel {number} Parameters", {})
            names.append(str(channel.get("DyeName") or channel.get("CH Name") or ""))
        reference: Any = settings.get("Reference Image Parameter", {})
        edge = reference.get("WidthConvertValue") if reference.get("WidthUnit") == "um" else None
        problem = ""
        if section:
            shown = "-".join(axis.lower() for axis in "XYZT" if sizes.get(axis, 1) > 1)
            problem = f"it is a section or line scan ({shown}), not an image along x and y"
        for axis in self._axes:
            if axis not in "CZT" and lengths[axis] > 1:
                problem = f"it has {lengths[axis]} {_STRANGE.get(axis, f'planes along the axis {axis}')}"
        return Scene(
            name="",
            channels=names_of(tuple(names), count),
            height=height,
            width=width,
            depths=lengths.get("Z", 1),
            times=lengths.get("T", 1),
            dtype=image.dtype,
            pixel_um=plausible_um(float(edge)) if edge else None,
            problem=problem,
        )
