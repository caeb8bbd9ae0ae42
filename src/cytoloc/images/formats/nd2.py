"""ND2 files of Nikon, read with the library nd2."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cytoloc.images.decoding import refuse_edges, truncated
from cytoloc.images.formats.scene import Scene, names_of, plausible_um, refuse_axes, whole_plane

_MODERN: Final = b"\xda\xce\xbe\n"
_LIST: Final = b"ND2 CHUNK MAP SIGNATURE 0000001"
"""The first bytes of a file since 2006, and the name of the list of frames, 40 bytes before the end."""


class Nd2File:
    """An open ND2 file. Each position is a scene.

    Args:
        path: The file.

    Raises:
        ImageError: If the file is too large, or has unsupported axes.
    """

    def __init__(self, path: Path) -> None:
        import nd2

        self.path = path
        with path.open("rb") as stream:
            modern = stream.read(4) == _MODERN
            stream.seek(max(0, path.stat().st_size - 40))
            if modern and not stream.read(32).startswith(_LIST):
                raise truncated(path, "its list of frames at the end is missing")
        self._file = nd2.ND2File(path)
        try:
            self._sizes = {str(axis): int(length) for axis, length in self._file.sizes.items()}
            refuse_axes(self._sizes, "PTZCSYX", path)
            # Frames are stored in the order of these axes.
            self._loops = [axis for axis in self._sizes if axis in "PTZ"]
            self.scenes = tuple(self._scene(number) for number in range(self._sizes.get("P", 1)))
        except BaseException:
            self._file.close()
            raise

    def plane(self, scene: int, *, channel: int, depth: int = 0, time: int = 0, page: int = 0) -> NDArray[Any]:  # noqa: ARG002
        """Return one plane, shape ``(height, width)``."""
        wanted = {"P": scene, "T": time, "Z": depth}
        lengths = [self._sizes[axis] for axis in self._loops]
        number = int(np.ravel_multi_index([wanted[axis] for axis in self._loops], lengths)) if lengths else 0
        frame: NDArray[Any] = np.asarray(self._file.read_frame(number))
        if frame.size != len(self.scenes[0].channels) * self._sizes["Y"] * self._sizes["X"]:
            raise truncated(self.path, f"frame {number + 1} has the shape {frame.shape}")
        # Frames have the shape (channels, height, width), (height, width, colors), or (height, width).
        if frame.ndim == 3:
            frame = frame[..., channel] if "S" in self._sizes else frame[channel]
        return whole_plane(frame, self.scenes[scene], self.path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _scene(self, number: int) -> Scene:
        sizes = self._sizes
        refuse_edges(sizes["Y"], sizes["X"], self.path)
        described = self._file.metadata
        names = tuple(each.channel.name or "" for each in (getattr(described, "channels", None) or ()))
        edge = self._file.voxel_size().x
        count, colors = sizes.get("C", 1), sizes.get("S", 1)
        strange = "it has color images in several channels" if count > 1 and colors > 1 else ""
        return Scene(
            name=f"XYPos:{number}",
            channels=("red", "green", "blue") if colors == 3 else names_of(names, count * colors),
            height=sizes["Y"],
            width=sizes["X"],
            depths=sizes.get("Z", 1),
            times=sizes.get("T", 1),
            dtype=np.dtype(self._file.dtype),
            pixel_um=plausible_um(float(edge)) if edge else None,
            problem=strange,
        )
