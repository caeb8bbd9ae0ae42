"""PNG images of channels and maps."""

from __future__ import annotations

import cv2
import numpy as np

from cytoloc._typing import Float32Array, UInt8Array
from cytoloc.report.figures import composite


def png_of(plane: UInt8Array, *, size: int | None = None) -> bytes:
    """Return a plane as a gray PNG image, scaled down by averaging areas.

    Args:
        plane: uint8 of shape ``(h, w)``, or ``(h, w, 3)`` for red, green and blue.
        size: Maximum edge length, in pixels. Default: the edge length of the plane.

    Returns:
        The content of the PNG file.
    """
    edge = plane.shape[0]
    if size is not None and size < edge:
        plane = np.asarray(cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    done, content = cv2.imencode(
        ".png", plane if plane.ndim == 2 else plane[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1]
    )
    if not done:
        raise RuntimeError("OpenCV could not write a PNG image.")
    return content.tobytes()


def thumbnail(image: UInt8Array, channels: tuple[str, ...], *, size: int) -> bytes:
    """Return the color composite of a field as a JPEG image.

    Args:
        image: uint8 of shape ``(channels, h, w)``.
        channels: The names of the channels.
        size: Edge length, in pixels.

    Returns:
        The content of the JPEG file.
    """
    if size < image.shape[-1]:
        image = np.stack([cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA) for plane in image]).astype(
            np.uint8
        )
    done, content = cv2.imencode(".jpg", composite(image, channels)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    if not done:
        raise RuntimeError("OpenCV could not write a JPEG image.")
    return content.tobytes()


def map_pixels(values: Float32Array) -> UInt8Array:
    """Return a map with values from 0 to 1 as uint8 from 0 to 255."""
    return np.asarray(np.rint(np.clip(values, 0, 1) * 255), np.uint8)
