"""Perceptual hashes: 64 bits per channel that stay nearly the same when an image is compressed, dimmed or resized.

The rule is that of `phash` in the ImageHash library, by which the published lists of duplicates were made: the image
at 32 px by Lanczos's filter, its discrete cosine transform, and of the 8 x 8 lowest frequencies which exceed their
median. Ours begins with the image at 64 px, by area means, and does both steps as products of matrices, in a fraction
of the time; ``tests/images/test_hashes.py`` holds the two against each other.
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
"""The eight turns of a square: quarter turns to the left, the last four after a left-right flip."""

_EDGE: Final = 32
_KEPT: Final = 8
_HASHED_PX: Final = 64
"""So small that products stay in this thread: threads of BLAS's own would stand in the way of an import's."""


def phashes(planes: UInt8Array) -> list[int]:
    """Return the 64-bit hash of each of some square planes, uint8 ``(n, size, size)``; its first bit weighs most.

    Examples:
        >>> plane = np.add.outer(np.arange(64), 3 * np.arange(64)).astype(np.uint8)
        >>> one, other = phashes(np.stack([plane, np.rot90(plane)]))
        >>> (one ^ other).bit_count() > 20
        True
    """
    return _numbers(frequencies(planes))


def phashes_turned(planes: UInt8Array) -> list[list[int]]:
    """Return the hash of each plane, uint8 ``(n, size, size)``, in each of the eight ways of :data:`TRANSFORMS`."""
    # A flip changes the sign of odd frequencies, and a turn by a quarter is a transposition and a flip.
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
    """Return the hash of each channel of a field, uint8 ``(channels, size, size)``, by the channel's name.

    None for a channel whose pixels are all the same: it says nothing about the field.
    """
    pixels = image.reshape(len(image), -1)
    flat = pixels.min(axis=1) == pixels.max(axis=1)
    return {
        name: None if says_nothing else number
        for name, says_nothing, number in zip(channels, flat, phashes(image), strict=True)
    }


def frequencies(planes: UInt8Array) -> Float32Array:
    """Return the 8 x 8 lowest frequencies of the cosine transform of each plane at 32 px, ``(n, 8, 8)``.

    Args:
        planes: Square ones, uint8 ``(n, size, size)``.
    """
    small = planes
    if planes.shape[-1] > _HASHED_PX:
        small = np.stack([shrunk(plane, _HASHED_PX) for plane in planes])
    weights = _lanczos(small.shape[-1])
    # Pillow, which ImageHash resizes with, rounds to whole grays after each direction.
    narrow = _whole_grays(small.astype(np.float32) @ weights.T)
    tiny = _whole_grays(weights @ narrow)
    return np.asarray(_cosines() @ tiny @ _cosines().T, np.float32)


def _whole_grays(values: Float32Array) -> Float32Array:
    np.rint(values, out=values)
    return np.clip(values, 0, 255, out=values)


def turned(image: NDArray[Any], transform: str) -> NDArray[Any]:
    """Return ``image``, ``(…, size, size)``, turned as ``transform``, one of :data:`TRANSFORMS`, says."""
    flipped = image[..., ::-1] if transform[0] == "m" else image
    return np.rot90(flipped, int(transform[1:]) // 90, axes=(-2, -1))


def _numbers(low: Float32Array) -> list[int]:
    """Return the hash of each of some images by their frequencies, ``(n, 8, 8)``."""
    values = low.reshape(len(low), -1)
    middle = values.shape[1] // 2
    # The mean of the two in the middle, as `numpy.median` has it, for all images at once.
    medians = np.sort(values, axis=1)[:, middle - 1 : middle + 1].mean(axis=1, keepdims=True)
    return [int.from_bytes(bits.tobytes(), "big") for bits in np.packbits(values > medians, axis=1)]


@cache
def _lanczos(size: int) -> Float32Array:
    """Return the weights, ``(32, size)``, by which Pillow's Lanczos filter makes 32 pixels of ``size``."""
    step = size / _EDGE
    width = max(step, 1.0)
    centers = (np.arange(_EDGE)[:, None] + 0.5) * step
    offsets = (np.arange(size) + 0.5 - centers) / width
    weights = np.where(np.abs(offsets) < 3, np.sinc(offsets) * np.sinc(offsets / 3), 0.0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


@cache
def _cosines() -> Float32Array:
    """Return the lowest rows of the cosine transform (type II) of 32 values."""
    angles = np.pi * np.outer(np.arange(_KEPT), 2 * np.arange(_EDGE) + 1) / (2 * _EDGE)
    return np.asarray(2 * np.cos(angles), np.float32)
