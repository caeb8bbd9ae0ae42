"""PNG and JPEG files as images with one scene. Gray images have one channel, colored ones red, green and blue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoloc.images.codecs import read_jpeg, read_png
from cytoloc.images.formats.scene import Scene

_CHANNEL_NAMES = {1: ("",), 2: ("gray", "alpha"), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "alpha")}


class PlainFile:
    """A PNG or JPEG file, which is decoded when it is opened.

    Args:
        path: The file.

    Raises:
        ImageError: If the file is missing, truncated, damaged or too large.
    """

    def __init__(self, path: Path) -> None:
        image: NDArray[Any] = read_png(path) if path.suffix.lower() == ".png" else read_jpeg(path)
        self._image = image if image.ndim == 3 else image[..., np.newaxis]
        height, width, colors = self._image.shape
        self.scenes = (
            Scene(name="", channels=_CHANNEL_NAMES[colors], height=height, width=width, dtype=self._image.dtype),
        )

    def plane(self, scene: int, *, channel: int, depth: int = 0, time: int = 0, page: int = 0) -> NDArray[Any]:  # noqa: ARG002
        """Return one plane, shape ``(height, width)``."""
        return np.ascontiguousarray(self._image[..., channel])

    def close(self) -> None:
        """Do nothing, because the file is closed already."""
