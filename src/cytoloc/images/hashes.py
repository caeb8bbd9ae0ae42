"""Perceptual hashes: 64 bits per channel that hardly change when an image is compressed, dimmed or resized.

The rule is `phash` of the ImageHash library, with which the published lists of duplicates were made. The image is
scaled to 32 px by Lanczos's filter, and transformed by the discrete cosine transform. Each of the 8 x 8 lowest
frequencies is compared with their median. Here the image is first scaled to 64 px by averaging areas, and both steps
are matrix products, which is much faster. ``tests/images/test_hashes.py`` compares both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cytoloc._typing import Float32Array, UInt8Array
from cytoloc.images.quality import shrunk

TRANSFORMS: Final = ("r0", "r90", "r180", "r270", "m0", "m90", "m180", "m270")
"""The eight orientations of a square: rotations by 0 to 270 degrees to the left, the last four after a flip."""

_EDGE: Final = 32
_KEPT: Final = 8
_HASHED_PX: Final = 64
"""Size of the hashed image, small enough that BLAS uses one thread. More would compete with the import's processes."""


def phashes(planes: UInt8Array) -> list[int]:
    """Return the 64-bit hash of each of several square images, uint8 of shape ``(n, size, size)``.

    Args:
        planes: The images.

    Returns:
        One integer per image; its first bit is the most significant.

    Examples:
        >>> plane = np.add.outer(np.arange(64), 3 * np.arange(64)).astype(np.uint8)
        >>> one, other = phashes(np.stack([plane, np.rot90(plane)]))
        >>> (one ^ other).bit_count() > 20
        True
    """
    return _numbers(frequencies(planes))


def phashes_turned(planes: UInt8Array) -> list[list[int]]:
    """Return the hashes of images, uint8 of shape ``(n, size, size)``, in the orientations of :data:`TRANSFORMS`."""
    # A flip changes the sign of odd frequencies, and a rotation by 90 degrees is a transposition and a flip.
    odd = np.where(np.arange(_KEPT) % 2, -1.0, 1.0).astype(np.float32)
    hashes = []
    for low in frequencies(planes):
        each = []
        for transform in TRANSFORMS:
            way = low * odd if transform[0] == "m" else low
            for _ in range(int(transform[1:]) // 90):
                way = way.T * odd[:, None]
            each.append(way)
        hashes.append(_numbers(np.stack(each)))
    return hashes


def field_hashes(image: UInt8Array, channels: Sequence[str]) -> dict[str, int | None]:
    """Return the hash of each channel of a field.

    Args:
        image: uint8 of shape ``(channels, size, size)``.
        channels: The names of the channels.

    Returns:
        The hashes by channel; None for a channel whose pixels are all equal.
    """
    pixels = image.reshape(len(image), -1)
    flat = pixels.min(axis=1) == pixels.max(axis=1)
    return {
        name: None if says_nothing else number
        for name, says_nothing, number in zip(channels, flat, phashes(image), strict=True)
    }


def frequencies(planes: UInt8Array) -> Float32Array:
    """Return the 8 x 8 lowest frequencies of the cosine transform of each image at 32 px.

    Args:
        planes: Square images, uint8 of shape ``(n, size, size)``.

    Returns:
        float32 of shape ``(n, 8, 8)``.
    """
    small = planes
    if planes.shape[-1] > _HASHED_PX:
        small = np.stack([shrunk(plane, _HASHED_PX) for plane in planes])
    weights = _lanczos(small.shape[-1])
    # Pillow, with which ImageHash resizes, rounds to integers after each direction.
    narrow = _whole_grays(small.astype(np.float32) @ weights.T)
    tiny = _whole_grays(weights @ narrow)
    return np.asarray(_cosines() @ tiny @ _cosines().T, np.float32)


def _whole_grays(values: Float32Array) -> Float32Array:
    np.rint(values, out=values)
    return np.clip(values, 0, 255, out=values)


def turned(image: NDArray[Any], transform: str) -> NDArray[Any]:
    """Return an image of shape ``(…, size, size)`` in one of the orientations :data:`TRANSFORMS`."""
    flipped = image[..., ::-1] if transform[0] == "m" else image
    return np.rot90(flipped, int(transform[1:]) // 90, axes=(-2, -1))


def _numbers(low: Float32Array) -> list[int]:
    """Return the hashes of several images from their frequencies, shape ``(n, 8, 8)``."""
    values = low.reshape(len(low), -1)
    middle = values.shape[1] // 2
    # The mean of the two central values, as in `numpy.median`, for all images at once.
    medians = np.sort(values, axis=1)[:, middle - 1 : middle + 1].mean(axis=1, keepdims=True)
    return [int.from_bytes(bits.tobytes(), "big") for bits in np.packbits(values > medians, axis=1)]


@cache
def _lanczos(size: int) -> Float32Array:
    """Return the weights of Pillow's Lanczos filter from ``size`` to 32 pixels, shape ``(32, size)``."""
    step = size / _EDGE
    width = max(step, 1.0)
    centers = (np.arange(_EDGE)[:, None] + 0.5) * step
    offsets = (np.arange(size) + 0.5 - centers) / width
    weights = np.where(np.abs(offsets) < 3, np.sinc(offsets) * np.sinc(offsets / 3), 0.0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


@cache
def _cosines() -> Float32Array:
    """Return the first rows of the cosine transform (type II) of 32 values."""
    angles = np.pi * np.outer(np.arange(_KEPT), 2 * np.arange(_EDGE) + 1) / (2 * _EDGE)
    return np.asarray(2 * np.cos(angles), np.float32)
