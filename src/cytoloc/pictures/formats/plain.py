"""PNG and JPEG files as pictures of one scene: grey ones have one channel, coloured ones red, green and blue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoloc.pictures.codecs import read_jpeg, read_png
from cytoloc.pictures.formats.scene import Scene

_COLOURS = {1: ("",), 2: ("grey", "alpha"), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "alpha")}


class PlainPicture:
    """A PNG or JPEG, decoded when it is opened.

    Args:
        path: A file of either kind.

    Raises:
        ImageError: If it is missing, truncated, damaged or too large.
    """

    def __init__(self, path: Path) -> None:
        image: NDArray[Any] = read_png(path) if path.suffix.lower() == ".png" else read_jpeg(path)
        self._image = image if image.ndim == 3 else image[..., np.newaxis]
        height, width, colours = self._image.shape
        self.scenes = (Scene(name="", channels=_COLOURS[colours], height=height, width=width, dtype=self._image.dtype),)

    def plane(self, scene: int, *, channel: int, depth: int = 0, time: int = 0, page: int = 0) -> NDArray[Any]:  # noqa: ARG002
        """Return one plane, ``(height, width)``."""
        return np.ascontiguousarray(self._image[..., channel])

    def close(self) -> None:
        """Nothing is open."""
