"""PNG and JPEG files, a picture each: grey planes as they are, and one plane of a coloured rendering."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

import cv2
import imagecodecs
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from cytoloc.errors import ImageError
from cytoloc.labels import ChannelRole
from cytoloc.pictures.decoding import decoding, read_bytes, refuse_edges

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

_PLANES: Final[dict[ChannelRole, tuple[int, ...]]] = {
    "microtubules": (0,),
    "protein": (1,),
    "nucleus": (2,),
    "er": (0, 1),
}
"""Where a stain's rendering keeps it: red, green and blue in their own plane, yellow in red and green."""


def read_png(path: Path) -> Pixels:
    """Return a PNG, 8 or 16 bits: ``(height, width)`` if it is grey, else ``(height, width, colours)``.

    Raises:
        ImageError: If the file is missing, truncated, damaged (a checksum differs), or too large.
    """
    content = read_bytes(path, kind="PNG")
    with decoding(path):
        width, height = struct.unpack(">II", content[16:24])
        refuse_edges(height, width, path)
        image: Pixels = imagecodecs.png_decode(content)
    return image


def read_grey_png(path: Path) -> NDArray[np.uint8]:
    """Return an 8-bit grey PNG, uint8 ``(height, width)``.

    Raises:
        ImageError: As :func:`read_png`, and if it is not 8-bit grey.
    """
    image = read_png(path)
    if image.dtype != np.uint8 or image.ndim != 2:
        raise ImageError(
            f"{path} is not 8-bit grey: it has shape {image.shape} and type {image.dtype}.",
            way_out="The competition's PNG files have one 8-bit channel each; `cytoloc import folder` takes others.",
        )
    return np.asarray(image, np.uint8)


def read_jpeg(path: Path, *, at_least: int = 0) -> NDArray[np.uint8]:
    """Return a JPEG as RGB, uint8 ``(height, width, 3)``.

    Args:
        path: The file.
        at_least: The shortest edge that is needed, in pixels: a larger picture is decoded at half, a quarter or an
            eighth of its edge if that is enough, which costs a fraction of the time.

    Raises:
        ImageError: If the file is missing, truncated, damaged, or too large.
    """
    content = read_bytes(path, kind="JPEG")
    with decoding(path):
        height, width, _, _ = simplejpeg.decode_jpeg_header(content)
        refuse_edges(height, width, path)
        shrink = 1
        while at_least and shrink < 8 and min(height, width) >= 2 * shrink * at_least:
            shrink *= 2
        image: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            content, "RGB", min_height=-(-height // shrink), min_width=-(-width // shrink), min_factor=shrink
        )
    return image


def read_stain_jpeg(path: Path, role: ChannelRole, *, at_least: int = 0) -> NDArray[np.uint8]:
    """Return a stain from the coloured rendering that the Human Protein Atlas publishes, uint8 ``(height, width)``.

    Red, green and blue stains are in the plane of their colour; yellow is the mean of red and green, which JPEG makes
    differ a little.

    Args:
        path: A JPEG that shows one stain in its colour.
        role: The stain's channel.
        at_least: As for :func:`read_jpeg`.

    Raises:
        ImageError: As :func:`read_jpeg`.
    """
    planes = _PLANES[role]
    colours = cv2.split(read_jpeg(path, at_least=at_least))
    if len(planes) == 1:
        return np.asarray(colours[planes[0]], np.uint8)
    return np.asarray(cv2.addWeighted(colours[planes[0]], 0.5, colours[planes[1]], 0.5, 0), np.uint8)
