"""Scaling of images to squares of one size. Images are cropped, padded and enlarged only on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoloc.choices import Resample, Square
from cytoloc.errors import ImageError
from cytoloc.images.decoding import MAX_EDGE_PX

HPA_FIELD_UM: Final = 0.08 * 2048
"""Edge length of a field of the Human Protein Atlas, in micrometers: 2048 px of about 0.08 µm, with a 63x objective."""

NATIVE: Final = 0
"""The size of a :class:`Scaling` that leaves images as they are, for the segmentation of cells."""

FAR_OFF: Final = 1.5
"""Factor between pixel sizes from which a warning is given that cells have another scale."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How an image is scaled to a square.

    Attributes:
        size: Edge length of the result, in pixels; :data:`NATIVE` leaves images as they are.
        square: What to do with an image that is not square, or with ``target_um`` does not fit the square: ``refuse``,
            ``crop`` to the center, or ``pad`` with black.
        enlarge: Whether smaller images may be enlarged.
        target_um: Pixel size of the result in micrometers. None: scale the whole image, at any pixel size.
        resample: How larger images are scaled down: by ``area`` means, or by the ``nearest`` pixel.
    """

    size: int
    square: Square = "refuse"
    enlarge: bool = False
    target_um: float | None = None
    resample: Resample = "area"


class Scaled(NamedTuple):
    """A square image of shape ``(channels, size, size)``, and its pixel size in micrometers if it is known."""

    image: NDArray[Any]
    pixel_um: float | None


def scale_field(image: NDArray[Any], scaling: Scaling, *, pixel_um: float | None = None) -> Scaled:
    """Scale an image to a square: down by ``scaling.resample``, and up by bilinear interpolation.

    Averaging areas (OpenCV's ``INTER_AREA``), as in the silver-medal baseline, causes neither ringing nor aliasing. The
    nearest pixel keeps the noise of single pixels, as the 512 px files of the 2018 Kaggle competition do.

    Args:
        image: Shape ``(channels, height, width)``.
        scaling: How the image is scaled.
        pixel_um: Pixel size of the image, in micrometers.

    Returns:
        The square image and its pixel size.

    Raises:
        ImageError: If the image is not square or too small and ``scaling`` does not allow this, or ``target_um`` is
            given and the pixel size of the image is unknown.
    """
    height, width = image.shape[1:]
    size, square = scaling.size, scaling.square
    if size == NATIVE:
        return Scaled(image, pixel_um)
    if scaling.target_um is None:
        if height != width:
            if square == "refuse":
                raise ImageError(
                    f"The image is {width} x {height} px, not square, and squeezing it would distort the cells.",
                    hint="Crop or pad the image, or import it with `square='crop'` or `square='pad'` (black bars).",
                )
            image = _placed(image, min(height, width) if square == "crop" else max(height, width))
        shrunk = resize(image, size, size, enlarge=scaling.enlarge, resample=scaling.resample)
        return Scaled(shrunk, pixel_um * image.shape[1] / size if pixel_um else None)
    if pixel_um is None:
        raise ImageError(
            "The pixel size of the image is unknown, so it cannot be scaled to another.", hint="Give `pixel_um`."
        )
    factor = pixel_um / scaling.target_um
    tall, wide = max(1, round(height * factor)), max(1, round(width * factor))
    if max(tall, wide) > MAX_EDGE_PX:
        raise ImageError(
            f"The image with pixels of {pixel_um:g} µm would have {wide} x {tall} px at {scaling.target_um:g} µm.",
            hint="Check the pixel size, and give the right one with `pixel_um`.",
        )
    resized = resize(image, tall, wide, enlarge=scaling.enlarge, resample=scaling.resample)
    if max(abs(tall - size), abs(wide - size)) <= size / 100:
        return Scaled(resize(resized, size, size, enlarge=True, resample=scaling.resample), scaling.target_um)
    larger, smaller = max(tall, wide) > size, min(tall, wide) < size
    if square == "refuse" or (larger and smaller) or (larger and square == "pad") or (smaller and square == "crop"):
        possible = larger != smaller and square == "refuse"
        fitting = f", or give `square='{'crop' if larger else 'pad'}'`" if possible else ""
        raise ImageError(
            f"The image has {wide} x {tall} px at the target pixel size, but the dataset has {size} x {size} px.",
            hint=f"Choose another `size` or `target_um`{fitting}.",
        )
    return Scaled(_placed(resized, size), scaling.target_um)


def resize(
    image: NDArray[Any], height: int, width: int, *, enlarge: bool = False, resample: Resample = "area"
) -> NDArray[Any]:
    """Scale an image to another size.

    Args:
        image: Shape ``(channels, height, width)``.
        height: New height, in pixels.
        width: New width, in pixels.
        enlarge: Whether the image may be enlarged.
        resample: How the image is scaled down.

    Returns:
        Shape ``(channels, height, width)``.

    Raises:
        ImageError: If the image would be enlarged without ``enlarge``.
    """
    have = image.shape[1:]
    if have == (height, width):
        return image
    grows = height > have[0] or width > have[1]
    if grows and not enlarge:
        raise ImageError(
            f"The image is {have[1]} x {have[0]} px and would be enlarged to {width} x {height} px.",
            hint="Choose a smaller size, or import it with `enlarge`.",
        )
    if resample == "nearest" and not grows:
        return np.ascontiguousarray(image[:, _nearest(have[0], height)[:, None], _nearest(have[1], width)])
    if not grows and have[0] % height and 1 < len(image) <= 4 and image.dtype.itemsize <= 2:
        # If the factor is not an integer, OpenCV scales one image of several channels faster than several images, and
        # 16 bits faster than 8. The result is the same.
        several = cv2.merge(list(image))
        wide = several.astype(np.uint16) if image.dtype == np.uint8 else several
        shrunk = cv2.resize(wide, (width, height), interpolation=cv2.INTER_AREA)
        return np.stack(cv2.split(shrunk.astype(image.dtype, copy=False)))
    method = cv2.INTER_LINEAR if grows else cv2.INTER_AREA
    result = np.empty((len(image), height, width), image.dtype)
    for plane, target in zip(image, result, strict=True):
        cv2.resize(plane, (width, height), dst=target, interpolation=method)
    return result


def _nearest(have: int, want: int) -> NDArray[np.intp]:
    """Return the pixels that are nearest to the centers of ``want`` pixels, as Pillow's ``NEAREST`` chooses them.

    >>> _nearest(12, 3)
    array([ 2,  6, 10])
    """
    return (2 * np.arange(want) + 1) * have // (2 * want)


def far_off(pixel_um: float, size: int) -> bool:
    """Return whether a pixel size differs much from the Human Protein Atlas at the same image size."""
    ratio = pixel_um / (HPA_FIELD_UM / size)
    return not 1 / FAR_OFF <= ratio <= FAR_OFF


def _placed(image: NDArray[Any], size: int) -> NDArray[Any]:
    """Return the central ``size`` pixels of an image, with black where the image is smaller."""
    result = np.zeros((len(image), size, size), image.dtype)
    source, target = [], []
    for have in image.shape[1:]:
        shared = min(have, size)
        source.append(slice((have - shared) // 2, (have - shared) // 2 + shared))
        target.append(slice((size - shared) // 2, (size - shared) // 2 + shared))
    result[:, target[0], target[1]] = image[:, source[0], source[1]]
    return result
