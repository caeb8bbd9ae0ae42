"""Selection of z planes, time points and pages in image files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoloc.dataset.sources.channels import Pick
from cytoloc.errors import ImageError
from cytoloc.images.formats import ImageFile, Scene


@dataclass(frozen=True, kw_only=True)
class PlaneChoice:
    """Which planes of a channel form its image.

    Attributes:
        depth: The z plane, from 0; None for a maximum projection.
        time: The time point, from 0; None if files have only one.
        pages: The axis along pages whose meaning a TIFF does not state; None if files have no such pages.
        axes: What the axes of files are, instead of what the files say; see
            :class:`~cytoloc.images.formats.rearranged.Rearranged`.
    """

    depth: int | None = None
    time: int | None = None
    pages: Literal["channel", "z"] | None = None
    axes: str | None = None


_UNSTATED: Final = "IQRP"
"""Axes of pages whose meaning a TIFF does not state."""


class Chosen(NamedTuple):
    """Planes of a scene that are equal in ``place`` and differ along one axis."""

    place: dict[str, int]
    along: Literal["depth", "page"]
    at: Sequence[int]


def channel_names(scene: Scene, choice: PlaneChoice) -> tuple[str, ...]:
    """Return the names of a scene's channels, including pages that are channels.

    Args:
        scene: The scene.
        choice: The choice of planes.

    Returns:
        The names; empty for channels without a name.

    Raises:
        ImageError: If the meaning of pages is neither stated nor chosen.
    """
    if scene.pages == 1:
        return scene.channels
    unknown = [axis for axis, _ in scene.axes if axis not in "TZCYX"]
    if len(unknown) > 1 or unknown[0] not in _UNSTATED:
        raise ImageError(
            f"The file has axes that a field of view does not have: {scene.axes_text}.",
            hint="Say what its axes are, for example `axes='ZCYX'`, or export it as OME-TIFF.",
        )
    if choice.pages == "z":
        return scene.channels
    if choice.pages is None:
        raise ImageError(
            f"The file has {scene.pages} pages and does not state their axis; its axes are {scene.axes_text}.",
            hint="Give `pages='channel'` or `pages='z'`, or say what all axes are, for example `axes='YXC'`.",
        )
    if len(scene.channels) > 1:
        raise ImageError(
            f"The file has {len(scene.channels)} channels, so its {scene.pages} pages cannot be channels.",
            hint="Give `pages='z'`.",
        )
    return ("",) * scene.pages


def other_axes(scene: Scene) -> str:
    """Return the axes of a scene with one channel in words, for messages; empty if there is only one plane."""
    return scene.axes_text if len(scene.channels) == 1 and len(scene.axes) > 2 else ""


def choose(scene: Scene, pick: Pick, choice: PlaneChoice) -> Chosen:
    """Return the planes of a scene that form the image of a channel.

    Args:
        scene: The scene.
        pick: The channel.
        choice: The choice of planes.

    Returns:
        The planes.

    Raises:
        ImageError: If the channel, z plane or time point does not exist, or the choice is ambiguous.
    """
    index = pick.index(channel_names(scene, choice), axes=other_axes(scene))
    if scene.times > 1 and choice.time is None:
        meant = other_axes(scene)
        raise ImageError(
            f"The file has {scene.times} time points{f'; its axes are {meant}' if meant else ''}.",
            hint="Choose one with `time`, counted from 0"
            + (
                ", or say what the axes are, for example `axes='CYX'` if the time points are channels."
                if meant
                else "."
            ),
        )
    place = {"channel": index, "time": choice.time or 0}
    along: Literal["depth", "page"] = "depth"
    length = scene.depths
    if scene.pages > 1 and choice.pages == "z":
        along, length = "page", scene.pages
    elif scene.pages > 1:
        place |= {"channel": 0, "page": index}
    for what, at, count in (("time point", place["time"], scene.times), ("z plane", choice.depth or 0, length)):
        if at >= count:
            raise ImageError(
                f"The file has no {what} {at}: it has {count}, counted from 0.", hint="Choose a smaller number."
            )
    return Chosen(place, along, range(length) if choice.depth is None else [choice.depth])


def read_chosen(image: ImageFile, scene: int, chosen: Chosen) -> NDArray[Any]:
    """Read the image of a channel, as the maximum over the chosen planes, shape ``(height, width)``."""
    result: NDArray[Any] | None = None
    for at in chosen.at:
        plane = image.plane(scene, **chosen.place, **{chosen.along: at})
        result = plane if result is None else np.maximum(result, plane)
    if result is None:
        raise ImageError("The scene has no planes.", hint="Export the file again.")
    return result
