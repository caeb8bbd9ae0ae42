"""PNG and JPEG files, an image each: gray planes as they are, and one plane of a colored rendering."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import imagecodecs
import kornia_rs
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from cytoloc._typing import UInt8Array
from cytoloc.channels import HPA_PLANES
from cytoloc.errors import ImageError
from cytoloc.images.decoding import decoding, read_bytes, refuse_edges

Pixels = UInt8Array | NDArray[np.uint16]

_EIGHT_BIT_GREY: Final = (8, 0)
"""Bit depth and color type of the header, as the PNG specification numbers them."""


def read_png(path: Path) -> Pixels:
    """Return a PNG, 8 or 16 bits: ``(height, width)`` if it is gray, else ``(height, width, colors)``.

    Raises:
        ImageError: If the file is missing, truncated, damaged (a checksum differs), or too large.
    """
    content = read_bytes(path, kind="PNG")
    with decoding(path):
        width, height, depth, colors = struct.unpack(">IIBB", content[16:26])
        refuse_edges(height, width, path)
        if (depth, colors) == _EIGHT_BIT_GREY:
            # Twice as fast as libpng. The checksums of chunks are compared, but not the one of the stream in them.
            gray: UInt8Array = kornia_rs.io.decode_image_png_u8(content, (height, width), "mono")
            return gray[..., 0]
        image: Pixels = imagecodecs.png_decode(content)
    return image


def read_gray_png(path: Path) -> Pixels:
    """Return a gray PNG, 8 or 16 bits, ``(height, width)``.

    Raises:
        ImageError: As :func:`read_png`, and if it is not gray.
    """
    image = read_png(path)
    if image.ndim != 2:
        raise ImageError(
            f"{path} is not gray: it has shape {image.shape}.", hint="The competition's files hold one channel each."
        )
    return image


def read_jpeg(path: Path) -> UInt8Array:
    """Return a JPEG: ``(height, width)`` if it is gray, else ``(height, width, 3)`` in red, green and blue.

    Raises:
        ImageError: If the file is missing, truncated, damaged, or too large.
    """
    content = read_bytes(path, kind="JPEG")
    with decoding(path):
        height, width, space, _ = simplejpeg.decode_jpeg_header(content)
        refuse_edges(height, width, path)
        image: UInt8Array = simplejpeg.decode_jpeg(content, "GRAY" if space == "Gray" else "RGB")
    return image[..., 0] if image.shape[-1] == 1 else image


class Stain(NamedTuple):
    """A stain's plane, uint8 ``(height, width)``, perhaps at a reduced scale, and height and width in the file."""

    plane: UInt8Array
    original: tuple[int, int]


def read_stain_jpeg(path: Path, role: str, *, at_least: int = 0) -> Stain:
    """Return a stain from the colored rendering that the Human Protein Atlas publishes.

    Red, green and blue stains are in the plane of their color; yellow is the mean of red and green, which JPEG makes
    differ a little.

    Args:
        path: A JPEG that shows one stain in its color.
        role: The stain's channel.
        at_least: The shortest edge that is needed, in pixels: a larger image is decoded at half, a quarter or an
            eighth of its edge if that is enough, which costs a fraction of the time.

    Raises:
        ImageError: If the file is missing, truncated, damaged, too large, or brighter in another color.
    """
    content = read_bytes(path, kind="JPEG")
    planes = HPA_PLANES[role]
    with decoding(path):
        height, width, space, _ = simplejpeg.decode_jpeg_header(content)
        refuse_edges(height, width, path)
        if space == "Gray":
            raise ImageError(
                f"{path} is gray, not a rendering of a stain in its color.",
                hint="Import gray files with `cytoloc import folder`.",
            )
        shrink = 1
        while at_least and shrink < 8 and min(height, width) >= 2 * shrink * at_least:
            shrink *= 2
        image = simplejpeg.decode_jpeg(
            content, "RGB", min_height=-(-height // shrink), min_width=-(-width // shrink), min_factor=shrink
        )
        colors = cv2.split(image)
        means = [cv2.mean(color)[0] for color in colors]
        own = min(means[place] for place in planes)
        for place, color in enumerate(("red", "green", "blue")):
            # JPEG lets a little of a color into the others; a rendering of another stain has several times as much.
            if place not in planes and means[place] > 2 * own + 4:
                raise ImageError(
                    f"{path} is brighter in {color} (mean {means[place]:.1f}) than in its own color ({own:.1f}).",
                    hint="Is it the rendering of another stain? Rename or replace it.",
                )
        if len(planes) == 1:
            plane = colors[planes[0]]
        else:
            plane = cv2.addWeighted(colors[planes[0]], 0.5, colors[planes[1]], 0.5, 0)
    return Stain(np.asarray(plane, np.uint8), (height, width))
