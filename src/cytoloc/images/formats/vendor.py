"""LIF and ND2 files, read with bioio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoloc.images.decoding import refuse_edges
from cytoloc.images.formats.scene import Scene, names_of, plausible_um, refuse_axes, whole_plane


class BioioFile:
    """A file that is read with bioio. Each scene is a field of view.

    Args:
        path: The file, for error messages.
        reader: The open bioio reader.

    Raises:
        ImageError: If a scene is too large, or has unsupported axes.
    """

    def __init__(self, path: Path, reader: Any) -> None:
        self.path = path
        self._reader = reader
        self.scenes = tuple(self._scene(number) for number in range(len(reader.scenes)))

    def plane(self, scene: int, *, channel: int, depth: int = 0, time: int = 0, page: int = 0) -> NDArray[Any]:  # noqa: ARG002
        """Return one plane, shape ``(height, width)``."""
        self._reader.set_scene(scene)
        lazy = self._reader.get_image_dask_data("YX", T=time, C=channel, Z=depth)
        # Fields are read in parallel already, so dask uses this thread only.
        return whole_plane(np.asarray(lazy.compute(scheduler="synchronous")), self.scenes[scene], self.path)

    def close(self) -> None:
        """Release the reader. bioio opens the file for each plane."""
        del self._reader

    def _scene(self, number: int) -> Scene:
        self._reader.set_scene(number)
        length = dict(zip(self._reader.dims.order, self._reader.dims.shape, strict=True))
        refuse_axes(length, "TCZYX", self.path)
        refuse_edges(length["Y"], length["X"], self.path)
        names = tuple(str(name) for name in self._reader.channel_names or ())
        edge = self._reader.physical_pixel_sizes.X
        return Scene(
            name=str(self._reader.current_scene),
            channels=names_of(names, length.get("C", 1)),
            height=length["Y"],
            width=length["X"],
            depths=length.get("Z", 1),
            times=length.get("T", 1),
            dtype=np.dtype(self._reader.dtype),
            pixel_um=plausible_um(float(edge)) if edge else None,
        )
