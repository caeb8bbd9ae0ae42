"""A z-stack in several files, one or more z planes in each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cytoloc.errors import ImageError
from cytoloc.images.formats.opening import open_image
from cytoloc.images.formats.scene import ImageFile, Scene


class StackFile:
    """Files that are the z planes of one field. A file is open only while it is read.

    Args:
        paths: The files, in order of z.
        first: The first file, open; its scenes describe all files.
    """

    def __init__(self, paths: Sequence[Path], first: ImageFile) -> None:
        self._paths = paths
        self._first = first
        self.scenes = tuple(replace(scene, depths=scene.depths * len(paths)) for scene in first.scenes)

    def plane(self, scene: int, *, channel: int, depth: int = 0, time: int = 0, page: int = 0) -> NDArray[Any]:
        """Return one plane, shape ``(height, width)``."""
        number, inner = divmod(depth, self._first.scenes[scene].depths)
        place = {"channel": channel, "depth": inner, "time": time, "page": page}
        if number == 0:
            return self._first.plane(scene, **place)
        path, expected = self._paths[number], self._first.scenes[scene]
        with open_image(path) as image:
            if _content(image.scenes[scene : scene + 1]) != _content([expected]):
                raise ImageError(
                    f"{path} has other planes than {self._paths[0]}, although both are z planes of one field.",
                    hint="Check the files of this field.",
                )
            return image.plane(scene, **place)

    def close(self) -> None:
        """Do nothing; the first file is closed by :func:`open_stack`."""


@contextmanager
def open_stack(paths: Sequence[Path]) -> Iterator[ImageFile]:
    """Open files that are the z planes of one field, and close them at the end of the block.

    Args:
        paths: The files, in order of z.

    Yields:
        The stack.

    Raises:
        ImageError: If a file cannot be opened.
    """
    with open_image(paths[0]) as first:
        yield StackFile(paths, first)


def _content(scenes: Sequence[Scene]) -> list[Scene]:
    """Return scenes without what differs between the files of a stack."""
    return [replace(scene, name="", pixel_um=None, channels=("",) * len(scene.channels)) for scene in scenes]
