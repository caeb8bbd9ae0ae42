"""Conversion of images with more than 8 bits to 8 bits by the percentile rule of the Human Protein Atlas.

The 0.001th percentile of a channel becomes black, and the 99.999th becomes white. White is at least a floor above
black, so that the noise of an empty channel does not look like signal:

* Integers that span at most 16 bits are counts of a camera. White is at least 10,000 above black.
* Floats from 0 to 1 are counts divided by 65,535. White is at least 10,000 / 65,535 above black.
* Other values have no known range. White is at least 50 times the noise above black, so that noise spans less than a
  fifth of the gray levels. These channels are flagged.

The values decide, not the type of the pixels. Percentiles are of one field, or of a whole import.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoloc._typing import UInt8Array
from cytoloc.channels import CHANNELS
from cytoloc.errors import ImageError
from cytoloc.images.decoding import located
from cytoloc.images.quality import UNKNOWN_RANGE

FLOOR_16_BIT: Final = 10_000.0
"""Smallest distance between black and white for counts. The Human Protein Atlas uses 10,000 as the lowest white."""

FLOORS: Final = {"counts": FLOOR_16_BIT, "unit": FLOOR_16_BIT / 65_535}
"""Smallest distance between black and white for each kind of values with a known range."""

NOISE_FLOOR: Final = 50.0
"""Smallest distance between black and white for other values, in standard deviations of the noise.

Noise spans 9 of them. Of 312 real channels, 95 % span more than 50.
"""

_LAG_PX: Final = 4
"""Distance of the pixels whose differences measure noise. Neighbors can be correlated by interpolation."""

_BLOCK_PX: Final = 16
"""Edge length of the blocks in which noise is measured. The flattest tenth of the blocks shows noise only."""

Values = Literal["counts", "unit", "unknown"]
"""Kinds of values: integers that span at most 16 bits, floats from 0 to 1, and others."""

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
        floor: Smallest distance between black and white. None: 10,000 for counts of at most 16 bits, 10,000 / 65,535
            for floats from 0 to 1, and 50 times the noise for other values.
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
        values = values_of(plane)
        if plane.dtype == np.uint16 or (values == "counts" and plane.min() >= 0 and plane.max() < _KEYS):
            upto = np.cumsum(_counts(plane.astype(np.uint16, copy=False)))
            black, white = (_percentile(upto, q) for q in (self.low, self.high))
        else:
            black, white = (float(each) for each in np.percentile(plane, (self.low, self.high)))
        return self.floored(Bounds(black, white), values, noise=noise_of(plane) if values == "unknown" else 0.0)

    def floored(self, bounds: Bounds, values: Values, *, noise: float) -> Bounds:
        """Return bounds with white not below the floor.

        Args:
            bounds: The percentiles.
            values: The kind of values.
            noise: Standard deviation of the noise; only used for values of unknown range.

        Returns:
            The bounds.
        """
        floor = FLOORS.get(values, NOISE_FLOOR * noise) if self.floor is None else self.floor
        return Bounds(bounds.black, max(bounds.white, bounds.black + floor))


def values_of(plane: NDArray[Any]) -> Values:
    """Return the kind of values in an image.

    >>> values_of(np.float32([[0, 200]])), values_of(np.float32([[0, 0.5]])), values_of(np.float32([[-1, 0.5]]))
    ('counts', 'unit', 'unknown')
    """
    if plane.dtype.kind in "ui" and plane.dtype.itemsize <= 2:
        return "counts"
    low, high = plane.min(), plane.max()
    whole = not np.issubdtype(plane.dtype, np.floating)
    if not whole and low >= 0 and high <= 1:
        return "unit"
    if float(high) - float(low) >= _KEYS:
        return "unknown"
    return "counts" if whole or bool((plane == np.rint(plane)).all()) else "unknown"


def native_pixels(images: NDArray[Any]) -> NDArray[Any]:
    """Return images in native byte order. Integers from 0 to 255 in a type of 32 or more bits become uint8.

    Args:
        images: Images in memory.

    Returns:
        Images of the same shape.
    """
    native: NDArray[Any] = images.astype(images.dtype.newbyteorder("="), copy=False)
    if native.dtype.kind in "iuf" and native.dtype.itemsize > 2 and native.size and native.max() > 1:
        eight: NDArray[Any] = np.clip(native, 0, 255).astype(np.uint8)
        if np.array_equal(eight, native):
            return eight
    return native


def noise_of(plane: NDArray[Any]) -> float:
    """Return the standard deviation of the noise, from the flattest tenth of an image.

    Args:
        plane: The image, shape ``(height, width)``.

    Returns:
        The standard deviation; 0 for an image that is narrower than eight pixels.
    """
    if min(plane.shape) < 2 * _LAG_PX:
        return 0.0
    # Every second row has the same noise, at half the cost. The offset is subtracted, because float32 is coarse for
    # large numbers.
    rows = plane[::2].astype(np.float64)
    pixels: NDArray[Any] = (rows - rows[0, 0]).astype(np.float32)
    differences = cv2.absdiff(pixels[:, _LAG_PX:], pixels[:, :-_LAG_PX])
    height, width = differences.shape
    blocks = (max(1, width // _BLOCK_PX), max(1, 2 * height // _BLOCK_PX))
    means = cv2.resize(differences, blocks, interpolation=cv2.INTER_AREA)
    # The mean of the absolute difference of two normal variables is 2 / sqrt(pi) standard deviations.
    return float(np.percentile(means, 10)) * math.sqrt(math.pi) / 2


class Histogram:
    """A histogram of intensities over many images of one type, for their joint percentiles.

    It is exact for 16-bit images. Other types are counted by the upper 20 bits of their float32 values, which gives
    bins of at most 0.05 % of the value.
    """

    def __init__(self) -> None:
        self.dtype: np.dtype[Any] | None = None
        self._counts = np.zeros(_FLOAT_KEYS, np.int64)
        self._values: set[Values] = set()
        self._noises: list[float] = []

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
        kind = values_of(plane)
        self._values.add(kind)
        if kind == "unknown":
            self._noises.append(noise_of(plane))

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
        # An empty image has values from 0 to 1 whatever its range is.
        values = self._values - {"unit"} if len(self._values) > 1 else self._values
        kind: Values = "unknown" if len(values) > 1 else next(iter(values))
        if self.dtype == np.uint16:
            joint = Bounds(black, white)
        else:
            steps, joint = white - black, Bounds(_value_of_key(black), _value_of_key(white))
            span = rule.floored(joint, kind, noise=0.0)
            # Bins must not be coarser than gray levels.
            if steps and (joint.white - joint.black) / steps > max(span.white - span.black, 0.0) / 255:
                raise ImageError(
                    f"The values from {joint.black:g} to {joint.white:g} are too close together for joint bounds.",
                    hint="Subtract an offset from the pixels, or use `depth='field'`.",
                )
        return JointBounds(rule.floored(joint, kind, noise=float(np.median(self._noises or [0.0]))), self.dtype)


class JointBounds(NamedTuple):
    """Joint bounds of one channel for all fields of an import, and the pixel type that they are valid for."""

    bounds: Bounds
    dtype: np.dtype[Any]


class EightBit(NamedTuple):
    """An 8-bit image, uint8 of shape ``(channels, height, width)``, and the intensities that became 0 and 255.

    The intensities are None for channels that had 8 bits. ``unknown`` says for each channel whether its values have no
    known range, so that its brightness depends on its brightest pixels.
    """

    image: UInt8Array
    black: tuple[float | None, ...]
    white: tuple[float | None, ...]
    unknown: tuple[bool, ...]

    def flags(self, channels: Sequence[str]) -> tuple[str, ...]:
        """Return the quality flags of channels whose values have no known range."""
        return tuple(f"{name} {UNKNOWN_RANGE}" for name, bad in zip(channels, self.unknown, strict=True) if bad)


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
    unknown: list[bool] = []
    for channel, plane in enumerate(planes):
        if plane.dtype == np.uint8:
            converted.append(plane)
            used.append(None)
            unknown.append(False)
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
        unknown.append(shared is None and rule.floor is None and values_of(plane) == "unknown")
    black, white = (tuple(bounds and bounds[side] for bounds in used) for side in (0, 1))
    return EightBit(np.stack(converted), black, white, tuple(unknown))


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
