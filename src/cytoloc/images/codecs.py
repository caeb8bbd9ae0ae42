"""Reading of PNG and JPEG files: gray images, and single channels of colored renderings."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
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
from cytoloc.errors import ImageError, first_line
from cytoloc.images.decoding import decoding, read_bytes, refuse_edges, truncated

Pixels = UInt8Array | NDArray[np.uint16]

_EIGHT_BIT_GREY: Final = (8, 0)
"""Bit depth and color type of 8-bit gray images in the header of PNG files."""


def read_png(path: Path) -> Pixels:
    """Read a PNG file with 8 or 16 bits.

    Args:
        path: The file.

    Returns:
        Shape ``(height, width)`` if the image is gray, otherwise ``(height, width, colors)``.

    Raises:
        ImageError: If the file is missing, truncated, damaged (a checksum differs), or too large.
    """
    content = read_bytes(path, kind="PNG")
    with decoding(path), _whole(content, b"IEND", path):
        width, height, depth, colors = struct.unpack(">IIBB", content[16:26])
        refuse_edges(height, width, path)
        if (depth, colors) == _EIGHT_BIT_GREY:
            # Twice as fast as libpng. Checksums of chunks are compared, but not the checksum of the compressed stream.
            gray: UInt8Array = kornia_rs.io.decode_image_png_u8(content, (height, width), "mono")
            return gray[..., 0]
        image: Pixels = imagecodecs.png_decode(content)
    return image


@contextmanager
def _whole(content: bytes, end: bytes, path: Path) -> Iterator[None]:
    """Turn exceptions of a decoder into errors about a truncated file if the content lacks the marker of its end."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        if end in content[-1024:]:
            raise
        raise truncated(path, first_line(error)) from error


def read_gray_png(path: Path) -> Pixels:
    """Read a gray PNG file with 8 or 16 bits.

    Args:
        path: The file.

    Returns:
        Shape ``(height, width)``.

    Raises:
        ImageError: For the reasons of :func:`read_png`, or if the image is not gray.
    """
    image = read_png(path)
    if image.ndim != 2:
        raise ImageError(
            f"{path} is not gray: its shape is {image.shape}.",
            hint="Give one file per channel, as in the 2018 Kaggle competition.",
        )
    return image


def read_jpeg(path: Path) -> UInt8Array:
    """Read a JPEG file.

    Args:
        path: The file.

    Returns:
        uint8 of shape ``(height, width)`` if the image is gray, otherwise ``(height, width, 3)`` (red, green, blue).

    Raises:
        ImageError: If the file is missing, truncated, damaged, or too large.
    """
    content = read_bytes(path, kind="JPEG")
    with decoding(path), _whole(content, b"\xff\xd9", path):
        height, width, space, _ = simplejpeg.decode_jpeg_header(content)
        refuse_edges(height, width, path)
        if space in ("CMYK", "YCCK"):
            raise ImageError(
                f"{path} has the inks of a printer ({space}), not intensities of stains.",
                hint="Export it as gray or RGB.",
            )
        image: UInt8Array = simplejpeg.decode_jpeg(content, "GRAY" if space == "Gray" else "RGB")
    return image[..., 0] if image.shape[-1] == 1 else image


class Stain(NamedTuple):
    """The image of a channel, uint8 ``(height, width)``, possibly reduced, and the height and width in the file."""

    plane: UInt8Array
    original: tuple[int, int]


def read_stain_jpeg(path: Path, role: str, *, at_least: int = 0) -> Stain:
    """Read a channel from a colored rendering of the Human Protein Atlas.

    Red, green and blue channels are read from the plane of their color. A yellow channel is the mean of red and green,
    which differ slightly after JPEG compression.

    Args:
        path: A JPEG file that shows one channel in its color.
        role: The channel.
        at_least: Shortest edge that is needed, in pixels. Larger images are decoded at 1/2, 1/4 or 1/8 of their size if
            this is sufficient, which is much faster.

    Returns:
        The image of the channel.

    Raises:
        ImageError: If the file is missing, truncated, damaged, too large, or brighter in another color.
    """
    content = read_bytes(path, kind="JPEG")
    planes = HPA_PLANES[role]
    with decoding(path), _whole(content, b"\xff\xd9", path):
        height, width, space, _ = simplejpeg.decode_jpeg_header(content)
        refuse_edges(height, width, path)
        if space == "Gray":
            raise ImageError(
                f"{path} is gray, not a rendering of a channel in its color.",
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
            # JPEG compression mixes colors slightly; a rendering of another channel has several times as much.
            if place not in planes and means[place] > 2 * own + 4:
                raise ImageError(
                    f"{path} is brighter in {color} (mean {means[place]:.1f}) than in its own color ({own:.1f}).",
                    hint="It may show another channel: rename or replace the file.",
                )
        if len(planes) == 1:
            plane = colors[planes[0]]
        else:
            plane = cv2.addWeighted(colors[planes[0]], 0.5, colors[planes[1]], 0.5, 0)
    return Stain(np.asarray(plane, np.uint8), (height, width))
