"""Conversion of 16-bit and float images to 8 bits by the percentile rule of the Human Protein Atlas.

The 0.001th percentile of a channel becomes black, and the 99.999th becomes white. For 16-bit images, white is at least
10,000, so that the noise of an empty channel is not amplified. Percentiles are of one field, or of a whole import.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoloc._typing import UInt8Array
from cytoloc.channels import CHANNELS
from cytoloc.errors import ImageError
from cytoloc.images.decoding import located

FLOOR_16_BIT: Final = 10_000.0
"""Lowest white level of 16-bit images in the rule of the Human Protein Atlas."""

_KEYS: Final = 2**16
_EVERY: Final = np.arange(_KEYS, dtype=np.float64)
"""All 16-bit values."""

_FLOAT_KEYS: Final = 2**20
"""Number of bins for counting floats, by sign, exponent and eleven bits of the mantissa."""


class Bounds(NamedTuple):
    """The intensities that become 0 and 255."""

    black: float
    white: float


@dataclass(frozen=True, kw_only=True)
class DepthRule:
    """How intensities are scaled to 8 bits.

    Attributes:
        low: Percentile that becomes black.
        high: Percentile that becomes white.
        floor: Lowest intensity that can become white. None: 10,000 for 16-bit images, and no limit for others.
    """

    low: float = 0.001
    high: float = 99.999
    floor: float | None = None

    def bounds(self, plane: NDArray[Any]) -> Bounds:
        """Return the bounds of an image.

        Args:
            plane: The image, shape ``(height, width)``.

        Returns:
            The intensities that become black and white.

        Raises:
            ImageError: If the image has values that are not finite.
        """
        refuse_not_finite(plane)
        if plane.dtype == np.uint16:
            upto = np.cumsum(_counts(plane))
            black, white = (_percentile(upto, q) for q in (self.low, self.high))
        else:
            black, white = (float(np.percentile(plane, q)) for q in (self.low, self.high))
        return self.floored(Bounds(black, white), plane.dtype)

    def floored(self, bounds: Bounds, dtype: np.dtype[Any]) -> Bounds:
        """Return bounds with white not below the floor for a pixel type."""
        floor = self.floor
        if floor is None:
            floor = FLOOR_16_BIT if dtype == np.uint16 else bounds.white
        return Bounds(bounds.black, max(bounds.white, floor))


class Histogram:
    """A histogram of intensities over many images of one type, for their joint percentiles.

    It is exact for 16-bit images. Other types are counted by the upper 20 bits of their float32 values, which gives
    bins of at most 0.05 % of the value.
    """

    def __init__(self) -> None:
        self.dtype: np.dtype[Any] | None = None
        self._counts = np.zeros(_FLOAT_KEYS, np.int64)

    def add(self, plane: NDArray[Any]) -> None:
        """Count an image.

        Args:
            plane: The image, shape ``(height, width)``.

        Raises:
            ImageError: If the image has values that are not finite, or another type than earlier images.
        """
        refuse_not_finite(plane)
        if self.dtype is not None and plane.dtype != self.dtype:
            raise ImageError(
                f"The image has {plane.dtype} pixels, but earlier files have {self.dtype} pixels.",
                hint="Import these files separately, or use `depth='field'`.",
            )
        self.dtype = plane.dtype
        keys = plane
        if plane.dtype != np.uint16:
            # 20-bit numbers with the same order as the values; see _value_of_key.
            bits = plane.astype(np.float32).view(np.uint32)
            ordered = np.where(bits >> 31 == 1, ~bits, bits | np.uint32(1 << 31))
            keys = np.asarray(ordered >> 12, np.uint32)
        self._counts += np.bincount(keys.ravel(), minlength=_FLOAT_KEYS)

    def bounds(self, rule: DepthRule) -> JointBounds | None:
        """Return the joint bounds of all counted images.

        Args:
            rule: How intensities are scaled.

        Returns:
            The bounds; None if nothing was counted.

        Raises:
            ImageError: If the bins are too coarse for the range of the values.
        """
        if self.dtype is None:
            return None
        upto = np.cumsum(self._counts)
        black, white = (_percentile(upto, q) for q in (rule.low, rule.high))
        if self.dtype != np.uint16:
            steps, (black, white) = white - black, (_value_of_key(black), _value_of_key(white))
            if 0 < steps < 256:
                raise ImageError(
                    f"The values from {black:g} to {white:g} are too close together for joint bounds.",
                    hint="Subtract an offset from the pixels, or use `depth='field'`.",
                )
        return JointBounds(rule.floored(Bounds(black, white), self.dtype), self.dtype)


class JointBounds(NamedTuple):
    """Joint bounds of one channel for all fields of an import, and the pixel type that they are valid for."""

    bounds: Bounds
    dtype: np.dtype[Any]


class EightBit(NamedTuple):
    """An 8-bit image, uint8 of shape ``(channels, height, width)``, and the intensities that became 0 and 255.

    The intensities are None for channels that had 8 bits.
    """

    image: UInt8Array
    black: tuple[float | None, ...]
    white: tuple[float | None, ...]


def all_to_8_bit(
    planes: Sequence[NDArray[Any]],
    rule: DepthRule,
    joint: Sequence[JointBounds | None] | None = None,
    *,
    called: Sequence[str] = CHANNELS,
) -> EightBit:
    """Convert the channels of a field to 8 bits. Channels with 8 bits are not changed.

    Args:
        planes: The channels, shape ``(height, width)`` each.
        rule: How intensities are scaled.
        joint: Joint bounds of each channel, to use instead of the bounds of each image.
        called: The names of the channels, for error messages.

    Returns:
        The 8-bit image and its bounds.

    Raises:
        ImageError: If pixels are not finite, are not numbers, or have another type than the joint bounds.
    """
    converted: list[UInt8Array] = []
    used: list[Bounds | None] = []
    for channel, plane in enumerate(planes):
        if plane.dtype == np.uint8:
            converted.append(plane)
            used.append(None)
            continue
        with located(called[channel]):
            refuse_not_gray(plane.dtype)
            shared = joint[channel] if joint else None
            if joint and (shared is None or shared.dtype != plane.dtype):
                raise ImageError(
                    f"The image has {plane.dtype} pixels, but the joint bounds are for"
                    f" {shared.dtype if shared else 'other'} pixels.",
                    hint="Import this file separately, or use `depth='field'`.",
                )
            bounds = shared.bounds if shared else rule.bounds(plane)
            refuse_not_finite(plane)
        converted.append(to_8_bit(plane, bounds))
        used.append(bounds)
    black, white = (tuple(bounds and bounds[side] for bounds in used) for side in (0, 1))
    return EightBit(np.stack(converted), black, white)


def refuse_not_gray(dtype: np.dtype[Any]) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` unless pixels are integers or floats."""
    if not (np.issubdtype(dtype, np.integer) or np.issubdtype(dtype, np.floating)):
        raise ImageError(
            f"The image has {dtype} pixels, which are not gray values.", hint="Export it with 8 or 16 bits."
        )


def to_8_bit(plane: NDArray[Any], bounds: Bounds) -> UInt8Array:
    """Scale an image linearly to 8 bits: ``bounds.black`` becomes 0, ``bounds.white`` 255, and others are clipped.

    If both bounds are equal, the image becomes black.

    Args:
        plane: The image, shape ``(height, width)``.
        bounds: The intensities that become black and white.

    Returns:
        uint8 of the same shape.
    """
    spread = bounds.white - bounds.black
    scale = 255.0 / spread if spread > 0 else 0.0
    if plane.dtype == np.uint16:
        every = (_EVERY - bounds.black) * scale
        table = np.clip(np.rint(every, out=every), 0, 255, out=every).astype(np.uint8)
        # OpenCV looks values up eight times as fast as NumPy.
        return np.asarray(cv2.LUT(np.ascontiguousarray(plane), table), np.uint8)
    scaled = (plane.astype(np.float64) - bounds.black) * scale
    return np.asarray(np.clip(np.rint(scaled), 0, 255), np.uint8)


def refuse_not_finite(plane: NDArray[Any]) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` if a float image has NaN or infinite values."""
    if not np.issubdtype(plane.dtype, np.floating):
        return
    bad = int(plane.size - np.isfinite(plane).sum())
    if bad:
        raise ImageError(
            f"The image has NaN or infinite values in {bad} of {plane.size} pixels.", hint="Replace them by numbers."
        )


def _counts(plane: NDArray[Any]) -> NDArray[np.integer[Any]]:
    """Return how often each 16-bit value occurs in an image."""
    if plane.size >= 2**24:
        # OpenCV counts in float32, which is exact up to this number.
        return np.bincount(plane.ravel(), minlength=_KEYS)
    # Only values up to the highest one are counted.
    keys = int(plane.max()) + 1
    counts = cv2.calcHist([np.ascontiguousarray(plane)], [0], None, [keys], [0, keys])
    return counts.ravel().astype(np.int64)


def _percentile(upto: NDArray[np.integer[Any]], percent: float) -> float:
    """Return a percentile of the values 0, 1, …, with linear interpolation as in NumPy.

    Args:
        upto: For each value the number of pixels up to it.
        percent: The percentile.

    Returns:
        The percentile.
    """
    rank = percent / 100 * (upto[-1] - 1)
    below, above = np.searchsorted(upto, np.array([np.floor(rank), np.ceil(rank)], upto.dtype), side="right")
    return float(below + (above - below) * (rank - np.floor(rank)))


def _value_of_key(key: float) -> float:
    """Return the center of the values that :meth:`Histogram.add` counts in bin ``key``."""
    ordered = np.array([(round(key) << 12) | 0x800], np.uint32)
    bits = np.where(ordered >> 31 == 1, ordered & np.uint32(0x7FFFFFFF), ~ordered)
    return float(np.asarray(bits, np.uint32).view(np.float32)[0])
