"""Quality flags for channels that are empty, faint, saturated, blurred, or swapped with another channel.

The limits were determined from 74 real fields and simulated defects; see ``research/quality.py``, and
``research/quality.md`` for the rates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoloc._typing import UInt8Array
from cytoloc.channels import CHANNELS, NUCLEUS

UNKNOWN_RANGE: Final = "unknown range"
"""The flag of a channel with float pixels that are neither integers nor from 0 to 1; see :mod:`.depth`."""

MISSING_CHUNKS: Final = "incomplete"
"""Flag of a channel if chunks of its file are missing, so that parts of the image are black."""

FLAGS: Final = ("empty", "low contrast", "saturated", "blurred", "swapped", UNKNOWN_RANGE, MISSING_CHUNKS)
"""Possible flags of a channel. Only the nucleus can be swapped, usually with another channel."""

MEASURED_PX: Final = 256
"""Edge length to which larger fields are scaled before measuring. The limits were not tested on smaller fields."""

NUCLEUS_PX: Final = 128
"""Edge length at which nuclei are measured; nuclei of the Human Protein Atlas are then about ten pixels wide."""


class Measures(NamedTuple):
    """Measurements of a channel.

    Attributes:
        spread: Gray levels between the 1st and the 99.9th percentile, from every second pixel and row.
        white: Share of pixels with a gray level of 250 or more.
        sharpness: Share of the finest of three octaves in the variance: 0.76 for white noise, 0 for a constant image.
    """

    spread: float
    white: float
    sharpness: float


class Limits(NamedTuple):
    """Limits of the measurements from which flags are set.

    Attributes:
        spread: Below this, a channel has low contrast or is empty.
        white: Above this, a channel is saturated.
        sharpness: Below this, a channel is blurred.
        noise: With at least this sharpness, a channel contains only noise and is empty.
        swapped: If the :func:`nucleus_score` of another channel is higher than the score of the nucleus channel by this
            number, the channels are probably swapped.
    """

    spread: float
    white: float
    sharpness: float
    noise: float
    swapped: float


LIMITS: Final = Limits(spread=37.0, white=0.007, sharpness=0.164, noise=0.757, swapped=3.0)

_DISC: Final = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))

NUCLEUS_WEIGHTS: Final = (-2.27, 8.04, -39.55)
"""Intercept, and weights of solidity and unevenness, of the score for the similarity of a channel to nuclei."""


def measure(plane: UInt8Array) -> Measures:
    """Return the measurements of a channel, uint8 of shape ``(height, width)``."""
    small = shrunk(plane, MEASURED_PX)
    # A quarter of the pixels has the same quantiles, at half the cost.
    some = np.ascontiguousarray(small[::2, ::2])
    upto = cv2.calcHist([some], [0], None, [256], [0, 256]).ravel().cumsum() / some.size
    low, high = np.searchsorted(upto, [0.01, 0.999])
    fine: NDArray[Any] = small.astype(np.float32)
    power = cv2.norm(fine, cv2.NORM_L2SQR) / fine.size
    octaves = []
    for _ in range(3):
        # Means over blocks of four keep the variance between blocks; the difference is the variance within blocks.
        coarse = cv2.resize(fine, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        remaining = cv2.norm(coarse, cv2.NORM_L2SQR) / coarse.size
        octaves.append(max(power - remaining, 0.0))
        fine, power = coarse, remaining
    total = sum(octaves)
    return Measures(float(high - low), float(1 - upto[249]), octaves[0] / total if total > 0 else 0.0)


def nucleus_measures(plane: UInt8Array) -> tuple[float, float]:
    """Return two measurements by which nuclei differ from other stains.

    Args:
        plane: The channel, uint8 of shape ``(height, width)``.

    Returns:
        Solidity: the share of the foreground (by Otsu's threshold) that remains after a morphological opening, because
        nuclei are compact. Unevenness: the standard deviation of the background divided by the difference between
        foreground and background, because nothing but nuclei is stained in this channel.
    """
    # OpenCV halves an image four times as fast as it quarters it, so the image is halved twice.
    small = cv2.GaussianBlur(shrunk(shrunk(plane, MEASURED_PX), NUCLEUS_PX), (3, 3), 0)
    _, mask = cv2.threshold(small, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    foreground = cv2.countNonZero(mask)
    if foreground in (0, mask.size):
        return 0.0, 1.0
    opened = cv2.countNonZero(cv2.morphologyEx(mask, cv2.MORPH_OPEN, _DISC))
    mean, spread = (value.item() for value in cv2.meanStdDev(small, mask=1 - mask))
    background = mask.size - foreground
    inside = (cv2.sumElems(small)[0] - mean * background) / foreground
    return opened / foreground, spread / max(1.0, inside - mean)


def flags_of(image: UInt8Array, channels: Sequence[str], *, limits: Limits = LIMITS) -> tuple[str, ...]:
    """Return the quality flags of a field, such as ``("protein low contrast", "nucleus swapped")``.

    The flag for a swapped nucleus needs a nucleus and another channel of :data:`cytoloc.channels.CHANNELS`.

    Args:
        image: uint8 of shape ``(channels, size, size)``.
        channels: The names of the channels.
        limits: The limits of the measurements.

    Returns:
        The flags.
    """
    flags = []
    planes = {name: shrunk(plane, MEASURED_PX) for name, plane in zip(channels, image, strict=True)}
    for name, plane in planes.items():
        found = measure(plane)
        # White noise is noise at any brightness: real channels have a sharpness of at most 0.63.
        if found.spread < limits.spread or found.sharpness >= limits.noise:
            structure = found.spread > 2 and found.sharpness < limits.noise
            flags.append(f"{name} low contrast" if structure else f"{name} empty")
        elif found.sharpness < limits.sharpness:
            flags.append(f"{name} blurred")
        if found.white > limits.white:
            flags.append(f"{name} saturated")
    # Nothing can be said about the shape of noise.
    roles = {name: plane for name, plane in planes.items() if name in CHANNELS and f"{name} empty" not in flags}
    if NUCLEUS in roles and len(roles) > 1 and swap_score(roles) > limits.swapped:
        flags.append(f"{NUCLEUS} swapped")
    return tuple(flags)


def swap_score(planes: Mapping[str, UInt8Array]) -> float:
    """Return the highest nucleus score of all channels minus the score of the nucleus."""
    scores = {role: nucleus_score(*nucleus_measures(plane)) for role, plane in planes.items()}
    return max(scores.values()) - scores[NUCLEUS]


def nucleus_score(solidity: float, unevenness: float) -> float:
    """Return the similarity of a channel to nuclei, as log odds."""
    intercept, compact, clean = NUCLEUS_WEIGHTS
    return intercept + compact * solidity + clean * unevenness


def shrunk(plane: UInt8Array, edge: int) -> UInt8Array:
    """Return a square image scaled to ``edge`` pixels by averaging areas; smaller images are not changed."""
    if plane.shape[0] <= edge:
        return plane
    return np.asarray(cv2.resize(plane, (edge, edge), interpolation=cv2.INTER_AREA), np.uint8)
