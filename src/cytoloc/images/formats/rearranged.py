"""Files whose axes are not what they say, such as channels that are stored as time points, or last."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoloc.errors import ImageError
from cytoloc.images.formats.scene import ImageFile, Scene


class Rearranged:
    """An open file with other axes than it says.

    Args:
        image: The open file.
        axes: A letter for each axis that is longer than 1, in the order in which the file stores them: any of T (time),
            Z and C (channel), and Y and X.
        path: The file, for error messages.

    Raises:
        ImageError: If a scene has another number of axes.
    """

    def __init__(self, image: ImageFile, axes: str, path: Path) -> None:
        self._image = image
        self._axes = axes
        self._whole: dict[int, NDArray[Any]] = {}
        scenes: list[Scene] = []
        for scene in image.scenes:
            if len(axes) != len(scene.axes):
                raise ImageError(
                    f"{path} has {len(scene.axes)} axes longer than 1: {scene.axes_text}. `axes` names {len(axes)}:"
                    f" {axes}.",
                    hint="Give one letter of T, Z, C, Y and X for each of these axes, in this order.",
                )
            stored = tuple(zip(axes, (length for _, length in scene.axes), strict=True))
            lengths = dict(stored)
            count = lengths.get("C", 1)
            changed = replace(
                scene,
                channels=scene.channels if count == len(scene.channels) else ("",) * count,
                height=lengths["Y"],
                width=lengths["X"],
                depths=lengths.get("Z", 1),
                times=lengths.get("T", 1),
                pages=1,
                stored=stored,
            )
            scenes.append(changed)
        self.scenes = tuple(scenes)

    def plane(self, scene: int, *, channel: int, depth: int = 0, time: int = 0, page: int = 0) -> NDArray[Any]:  # noqa: ARG002
        """Return one plane, shape ``(height, width)``."""
        wanted = {"C": channel, "Z": depth, "T": time}
        stored = self._image.scenes[scene].axes
        outer = [(axis, length) for axis, length in stored if axis not in "YX"]
        if self._axes.endswith("YX") and [axis for axis, _ in stored[-2:]] == ["Y", "X"]:
            return self._stored(scene, outer, tuple(wanted[axis] for axis in self._axes[:-2]))
        if scene not in self._whole:
            planes = [self._stored(scene, outer, at) for at in np.ndindex(*(length for _, length in outer))]
            # Planes have the shape (..., height, width), but the file may store channels last.
            stack = np.stack(planes).reshape(*(length for _, length in outer), *planes[0].shape)
            order = [axis for axis, _ in outer] + ["Y", "X"]
            self._whole[scene] = stack.transpose(_positions([axis for axis, _ in stored], order)).reshape(
                [length for _, length in stored]
            )
        array = self._whole[scene][tuple(slice(None) if axis in "YX" else wanted[axis] for axis in self._axes)]
        ordered = array if self._axes.index("Y") < self._axes.index("X") else array.T
        return np.ascontiguousarray(ordered)

    def close(self) -> None:
        """Close nothing; the file is closed by the function that opened it."""

    def _stored(self, scene: int, outer: list[tuple[str, int]], at: tuple[int, ...]) -> NDArray[Any]:
        """Return the plane at a position along the outer axes of the file."""
        place = {"C": 0, "Z": 0, "T": 0}
        page = 0
        for (axis, length), number in zip(outer, at, strict=True):
            if axis in place:
                place[axis] = number
            else:
                page = page * length + number
        return self._image.plane(scene, channel=place["C"], depth=place["Z"], time=place["T"], page=page)


def _positions(wanted: list[str], have: list[str]) -> list[int]:
    """Return the position in ``have`` of each axis in ``wanted``; equal letters are taken in order."""
    left = list(enumerate(have))
    positions = []
    for axis in wanted:
        found = next(each for each in left if each[1] == axis)
        left.remove(found)
        positions.append(found[0])
    return positions + [number for number, _ in left]
