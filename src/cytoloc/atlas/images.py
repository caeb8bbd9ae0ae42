"""Pictures in files: decoded whole or refused, and resized the one way that cytoloc resizes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cytoloc.errors import ImageError
from cytoloc.labels import CHANNEL_COLOURS, CHANNELS


def read_grey_png(path: Path) -> NDArray[np.uint8]:
    """Return an 8-bit grey PNG, uint8 ``(height, width)``.

    Raises:
        ImageError: If the file is missing, truncated, damaged (a checksum differs), or not 8-bit grey.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(
            f"{path}: there is no such file.", way_out="Every field needs its four channel files."
        ) from None
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}.") from error
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ImageError(f"{path} is not a PNG file.", way_out="Replace the file.")
    try:
        # Checks every chunk's checksum without decoding; OpenCV alone would hand back a partly grey picture.
        with Image.open(path) as picture:
            picture.verify()
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(
            f"{path} is truncated or damaged: {error}.", way_out="Copy or download the file again."
        ) from error
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ImageError(f"{path} is truncated or damaged.", way_out="Copy or download the file again.")
    if image.dtype != np.uint8 or image.ndim != 2:
        raise ImageError(
            f"{path} is not 8-bit grey: it has shape {image.shape} and type {image.dtype}.",
            way_out="The competition's PNG files have one 8-bit channel each.",
        )
    return np.asarray(image, np.uint8)


def read_kaggle_field(folder: Path, name: str) -> NDArray[np.uint8]:
    """Return the field ``name`` from ``{name}_{red,green,blue,yellow}.png``, uint8 ``(4, height, width)``.

    Raises:
        ImageError: If a file is missing or damaged, or the four differ in size.
    """
    paths = [folder / f"{name}_{CHANNEL_COLOURS[role]}.png" for role in CHANNELS]
    planes = [read_grey_png(path) for path in paths]
    for path, plane in zip(paths, planes, strict=True):
        if plane.shape != planes[0].shape:
            raise ImageError(
                f"Field {name} has two sizes: {paths[0].name} is {_size(planes[0])} px,"
                f" {path.name} is {_size(plane)} px.",
                way_out="The four channels of a field must show the same pixels.",
            )
    return np.stack(planes)


def resize_field(image: NDArray[np.uint8], size: int, *, where: str = "The picture") -> NDArray[np.uint8]:
    """Return ``image`` at ``size`` pixels: area mean when it shrinks, bilinear when it grows.

    Area means are what the starting system used (OpenCV's ``INTER_AREA``); they neither ring nor alias.

    Args:
        image: uint8 ``(channels, height, width)``, square.
        size: Edge of the result, in pixels.
        where: The field, for the message of an error.

    Raises:
        ImageError: If ``image`` is not square.
    """
    height, width = image.shape[1:]
    if height != width:
        raise ImageError(
            f"{where} is {width} x {height} px; only square fields can be resized without distortion.",
            way_out="Crop or pad it to a square.",
        )
    if height == size:
        return image
    method = cv2.INTER_AREA if size < height else cv2.INTER_LINEAR
    return np.stack([np.asarray(cv2.resize(plane, (size, size), interpolation=method), np.uint8) for plane in image])


def _size(plane: NDArray[np.uint8]) -> str:
    return f"{plane.shape[1]} x {plane.shape[0]}"
