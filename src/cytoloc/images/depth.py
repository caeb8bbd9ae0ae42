"""Sixteen bits and floats to eight: the Human Protein Atlas's percentile rule, for one field or for a whole import.

Black is the 0.001th percentile of a channel and white the 99.999th. For 16-bit pixels white is at least 10,000, so that
an empty channel is not stretched into noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoloc._typing import UInt8Array
from cytoloc.channels import CHANNELS
from cytoloc.errors import ImageError
from cytoloc.images.decoding import located

FLOOR_16_BIT: Final = 10_000.0
"""Lowest white of 16-bit pixels in the Human Protein Atlas's rule."""

_KEYS: Final = 2**16

_FLOAT_KEYS: Final = 2**20
"""Steps by which floats are counted: sign, exponent and eleven bits of the mantissa."""


class Bounds(NamedTuple):
    """The values of a plane that become 0 and 255."""

    black: float
    white: float


@dataclass(frozen=True, kw_only=True)
class DepthRule:
    """How planes of more than 8 bits become 8 bits.

    Attributes:
        low: Percentile that becomes black.
        high: Percentile that becomes white.
        floor: Lowest value that may become white; None for 10,000 with 16-bit pixels and no floor with others.
    """

    low: float = 0.001
    high: float = 99.999
    floor: float | None = None

    def bounds(self, plane: NDArray[Any]) -> Bounds:
        """Return the bounds of one plane.

        Raises:
            ImageError: If it holds values that are not finite.
        """
        refuse_not_finite(plane)
        if plane.dtype == np.uint16:
            counts = np.bincount(plane.ravel(), minlength=_KEYS)
            black, white = (_percentile(counts, q) for q in (self.low, self.high))
        else:
            black, white = (float(np.percentile(plane, q)) for q in (self.low, self.high))
        return self.floored(Bounds(black, white), plane.dtype)

    def floored(self, bounds: Bounds, dtype: np.dtype[Any]) -> Bounds:
        """Return ``bounds`` with white not below the floor that holds for ``dtype``."""
        floor = self.floor
        if floor is None:
            floor = FLOOR_16_BIT if dtype == np.uint16 else bounds.white
        return Bounds(bounds.black, max(bounds.white, floor))


class Histogram:
    """Counts of pixel values over many planes of one type, from which their joint percentiles are read.

    Exact for 16-bit pixels. Other types are counted by the upper 20 bits of their float32 form, which orders them with
    steps of at most 0.05 % of the value.
    """

    def __init__(self) -> None:
        self.dtype: np.dtype[Any] | None = None
        self._counts = np.zeros(_FLOAT_KEYS, np.int64)

    def add(self, plane: NDArray[Any]) -> None:
        """Count a plane.

        Raises:
            ImageError: If it holds values that are not finite, or is of another type than those before.
        """
        refuse_not_finite(plane)
        if self.dtype is not None and plane.dtype != self.dtype:
            raise ImageError(
                f"it has {plane.dtype} pixels where earlier files have {self.dtype}.",
                hint="One pair of bounds cannot serve both: import them apart, or use `depth='field'`.",
            )
        self.dtype = plane.dtype
        keys = plane
        if plane.dtype != np.uint16:
            # 20-bit numbers that order like the values; see _value_of_key.
            bits = plane.astype(np.float32).view(np.uint32)
            ordered = np.where(bits >> 31 == 1, ~bits, bits | np.uint32(1 << 31))
            keys = np.asarray(ordered >> 12, np.uint32)
        self._counts += np.bincount(keys.ravel(), minlength=_FLOAT_KEYS)

    def bounds(self, rule: DepthRule) -> JointBounds | None:
        """Return the joint bounds; None if nothing was counted.

        Raises:
            ImageError: If the values lie so close together, so far from 0, that steps would be coarser than grays.
        """
        if self.dtype is None:
            return None
        black, white = (_percentile(self._counts, q) for q in (rule.low, rule.high))
        if self.dtype != np.uint16:
            steps, (black, white) = white - black, (_value_of_key(black), _value_of_key(white))
            if 0 < steps < 256:
                raise ImageError(
                    f"values from {black:g} to {white:g} lie too close together for joint bounds.",
                    hint="Subtract the offset from the pixels, or use `depth='field'`.",
                )
        return JointBounds(rule.floored(Bounds(black, white), self.dtype), self.dtype)


class JointBounds(NamedTuple):
    """Bounds of one channel for all fields of an import, and the type of the pixels that they were found from."""

    bounds: Bounds
    dtype: np.dtype[Any]


class EightBit(NamedTuple):
    """Planes of 8 bits, uint8 ``(channels, height, width)``, and for each channel the values that became 0 and 255.

    None where 8 bits were given.
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
    """Return planes of the same size as 8 bits; those that have 8 bits stay as they are.

    Args:
        planes: One per channel, ``(height, width)``.
        rule: Gives the bounds of each plane.
        joint: The bounds of each channel instead.
        called: What each plane is called where something is wrong with it.

    Raises:
        ImageError: If pixels are not finite, are not numbers, or are of another type than those ``joint`` came from.
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
                    f"it has {plane.dtype} pixels; the joint bounds are of {shared.dtype if shared else 'other'}"
                    " pixels.",
                    hint="Import it apart, or use `depth='field'`.",
                )
            bounds = shared.bounds if shared else rule.bounds(plane)
            refuse_not_finite(plane)
        converted.append(to_8_bit(plane, bounds))
        used.append(bounds)
    black, white = (tuple(bounds and bounds[side] for bounds in used) for side in (0, 1))
    return EightBit(np.stack(converted), black, white)


def refuse_not_gray(dtype: np.dtype[Any]) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` unless pixels of a type are integers or floats."""
    if not (np.issubdtype(dtype, np.integer) or np.issubdtype(dtype, np.floating)):
        raise ImageError(f"it has {dtype} pixels, not numbers.", hint="Export it with 8 or 16 bits.")


def to_8_bit(plane: NDArray[Any], bounds: Bounds) -> UInt8Array:
    """Return ``plane`` with ``bounds.black`` at 0 and ``bounds.white`` at 255, rounded, clipped outside.

    A plane without spread becomes black.
    """
    spread = bounds.white - bounds.black
    scale = 255.0 / spread if spread > 0 else 0.0
    if plane.dtype == np.uint16:
        every = np.arange(_KEYS, dtype=np.float64)
        table = np.clip(np.rint((every - bounds.black) * scale), 0, 255).astype(np.uint8)
        return np.asarray(table[plane], np.uint8)
    scaled = (plane.astype(np.float64) - bounds.black) * scale
    return np.asarray(np.clip(np.rint(scaled), 0, 255), np.uint8)


def refuse_not_finite(plane: NDArray[Any]) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` if a float plane holds NaN or infinity."""
    if not np.issubdtype(plane.dtype, np.floating):
        return
    bad = int(plane.size - np.isfinite(plane).sum())
    if bad:
        raise ImageError(
            f"it holds {bad} pixels of {plane.size} that are NaN or infinite.", hint="Replace them by numbers."
        )


def _percentile(counts: NDArray[np.integer[Any]], percent: float) -> float:
    """Return the percentile of the values 0 … that occur ``counts`` times, linear between ranks as in NumPy."""
    upto = np.cumsum(counts)
    rank = percent / 100 * (upto[-1] - 1)
    below, above = np.searchsorted(upto, [np.floor(rank), np.ceil(rank)], side="right")
    return float(below + (above - below) * (rank - np.floor(rank)))


def _value_of_key(key: float) -> float:
    """Return the middle of the values that :meth:`Histogram.add` counts under ``key``."""
    ordered = np.array([(round(key) << 12) | 0x800], np.uint32)
    bits = np.where(ordered >> 31 == 1, ordered & np.uint32(0x7FFFFFFF), ~ordered)
    return float(np.asarray(bits, np.uint32).view(np.float32)[0])
