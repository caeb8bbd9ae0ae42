"""Which planes of a file make the image of a stain: of depths, time points, and pages that say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoloc.dataset.sources.channels import Pick
from cytoloc.errors import ImageError
from cytoloc.images.formats import ImageFile, Scene


@dataclass(frozen=True, kw_only=True)
class PlaneChoice:
    """Which planes of a channel make its image.

    Attributes:
        depth: The z plane, counted from 0; None for the maximum over all.
        time: The time point, counted from 0; None if files must have only one.
        pages: What pages are whose meaning a TIFF does not state; None if files must not have such.
    """

    depth: int | None = None
    time: int | None = None
    pages: Literal["channel", "z"] | None = None


class Chosen(NamedTuple):
    """Planes of a scene: all have ``place`` in common, and differ along one axis."""

    place: dict[str, int]
    along: Literal["depth", "page"]
    at: Sequence[int]


def channel_names(scene: Scene, choice: PlaneChoice) -> tuple[str, ...]:
    """Return the names of a scene's channels, as the choice about pages makes them.

    Raises:
        ImageError: If pages say nothing and the choice says nothing of them.
    """
    if scene.pages == 1 or choice.pages == "z":
        return scene.channels
    if choice.pages is None:
        raise ImageError(
            f"it has {scene.pages} pages and does not say what they are.", hint="Say `pages='channel'` or `pages='z'`."
        )
    if len(scene.channels) > 1:
        raise ImageError(f"it has {len(scene.channels)} channels, so its {scene.pages} pages cannot be channels.")
    return ("",) * scene.pages


def choose(scene: Scene, pick: Pick, choice: PlaneChoice) -> Chosen:
    """Return which planes of a scene make the image of a stain.

    Raises:
        ImageError: If it has no such channel, depth or time point, or more than one could be meant.
    """
    index = pick.index(channel_names(scene, choice))
    if scene.times > 1 and choice.time is None:
        raise ImageError(f"it has {scene.times} time points.", hint="Choose one with `time`, counted from 0.")
    place = {"channel": index, "time": choice.time or 0}
    along: Literal["depth", "page"] = "depth"
    length = scene.depths
    if scene.pages > 1 and choice.pages == "z":
        along, length = "page", scene.pages
    elif scene.pages > 1:
        place |= {"channel": 0, "page": index}
    for what, at, count in (("time point", place["time"], scene.times), ("z plane", choice.depth or 0, length)):
        if at >= count:
            raise ImageError(f"it has no {what} {at}: it has {count}, counted from 0.")
    return Chosen(place, along, range(length) if choice.depth is None else [choice.depth])


def read_chosen(image: ImageFile, scene: int, chosen: Chosen) -> NDArray[Any]:
    """Return the chosen plane of a scene, or the maximum of several, ``(height, width)``."""
    result: NDArray[Any] | None = None
    for at in chosen.at:
        plane = image.plane(scene, **chosen.place, **{chosen.along: at})
        result = plane if result is None else np.maximum(result, plane)
    if result is None:
        raise ImageError("it has no planes.")
    return result
