"""Images of any size to squares of one: cropped or padded only when asked, enlarged only when asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoloc.choices import Square
from cytoloc.errors import ImageError
from cytoloc.images.decoding import MAX_EDGE_PX

HPA_FIELD_UM: Final = 0.08 * 2048
"""Edge of a field of the Human Protein Atlas, in micrometers: 2048 px of about 0.08 µm, a 63x objective."""

FAR_OFF: Final = 1.5
"""Pixel sizes that differ from the Human Protein Atlas's by more than this factor get a warning."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How an image becomes a square of ``size`` pixels.

    Attributes:
        size: Edge of the result, in pixels.
        square: What to do with an image that is not square, or with ``target_um`` does not fill the square: refuse
            it, crop its middle, or pad it with black.
        enlarge: Whether a smaller image may be enlarged.
        target_um: Edge of a pixel of the result, in micrometers; None to show the whole image, whatever its scale.
    """

    size: int
    square: Square = "refuse"
    enlarge: bool = False
    target_um: float | None = None


class Scaled(NamedTuple):
    """A square image ``(channels, size, size)``, and the edge of its pixels in micrometers where that is known."""

    image: NDArray[Any]
    pixel_um: float | None


def scale_field(image: NDArray[Any], scaling: Scaling, *, pixel_um: float | None = None) -> Scaled:
    """Return ``image`` as a square, scaled down by area means or up by bilinear interpolation.

    The silver-medal baseline used area means too (OpenCV's ``INTER_AREA``); they neither ring nor alias.

    Args:
        image: ``(channels, height, width)``.
        scaling: What to make of it.
        pixel_um: Edge of a pixel of ``image``, in micrometers.

    Raises:
        ImageError: If the image is not square or too small and ``scaling`` does not say what to do about it, or
            ``scaling.target_um`` is asked for and ``pixel_um`` is not known.
    """
    height, width = image.shape[1:]
    size, square = scaling.size, scaling.square
    if scaling.target_um is None:
        if height != width:
            if square == "refuse":
                raise ImageError(
                    f"it is {width} x {height} px, not square; squeezing it would distort the cells.",
                    hint="Crop or pad it, or import it with `square='crop'` or `square='pad'` (black bars).",
                )
            image = _placed(image, min(height, width) if square == "crop" else max(height, width))
        shrunk = resize(image, size, size, enlarge=scaling.enlarge)
        return Scaled(shrunk, pixel_um * image.shape[1] / size if pixel_um else None)
    if pixel_um is None:
        raise ImageError(
            "its pixel size is not known, so it cannot be brought to another.", hint="Give it with `pixel_um`."
        )
    factor = pixel_um / scaling.target_um
    tall, wide = max(1, round(height * factor)), max(1, round(width * factor))
    if max(tall, wide) > MAX_EDGE_PX:
        raise ImageError(
            f"with pixels of {pixel_um:g} µm it would become {wide} x {tall} px at {scaling.target_um:g} µm.",
            hint="Its pixel size is probably wrong: give it with `pixel_um`.",
        )
    resized = resize(image, tall, wide, enlarge=scaling.enlarge)
    if max(abs(tall - size), abs(wide - size)) <= size / 100:
        return Scaled(resize(resized, size, size, enlarge=True), scaling.target_um)
    larger, smaller = max(tall, wide) > size, min(tall, wide) < size
    if square == "refuse" or (larger and smaller) or (larger and square == "pad") or (smaller and square == "crop"):
        possible = larger != smaller and square == "refuse"
        fitting = f", or say `square='{'crop' if larger else 'pad'}'`" if possible else ""
        raise ImageError(
            f"at the target pixel size it is {wide} x {tall} px; the dataset has {size} x {size}.",
            hint=f"Choose another `size` or `target_um`{fitting}.",
        )
    return Scaled(_placed(resized, size), scaling.target_um)


def resize(image: NDArray[Any], height: int, width: int, *, enlarge: bool = False) -> NDArray[Any]:
    """Return ``image`` ``(channels, …)`` at another size.

    Raises:
        ImageError: If it would grow and ``enlarge`` does not allow it.
    """
    have = image.shape[1:]
    if have == (height, width):
        return image
    grows = height > have[0] or width > have[1]
    if grows and not enlarge:
        raise ImageError(
            f"it is {have[1]} x {have[0]} px and would be enlarged to {width} x {height}; detail cannot be invented.",
            hint="Choose a smaller size, or import it with `enlarge`.",
        )
    method = cv2.INTER_LINEAR if grows else cv2.INTER_AREA
    result = np.empty((len(image), height, width), image.dtype)
    for plane, target in zip(image, result, strict=True):
        cv2.resize(plane, (width, height), dst=target, interpolation=method)
    return result


def far_off(pixel_um: float, size: int) -> bool:
    """Return whether pixels of a ``size``-pixel field are unlike the Human Protein Atlas's at that size."""
    ratio = pixel_um / (HPA_FIELD_UM / size)
    return not 1 / FAR_OFF <= ratio <= FAR_OFF


def _placed(image: NDArray[Any], size: int) -> NDArray[Any]:
    """Return the middle ``size`` pixels of ``image``, black where it has none."""
    result = np.zeros((len(image), size, size), image.dtype)
    source, target = [], []
    for have in image.shape[1:]:
        shared = min(have, size)
        source.append(slice((have - shared) // 2, (have - shared) // 2 + shared))
        target.append(slice((size - shared) // 2, (size - shared) // 2 + shared))
    result[:, target[0], target[1]] = image[:, source[0], source[1]]
    return result
