"""Quality flags: channels that are empty, faint, saturated or blurred, and channels that are not the nucleus.

The limits come from 74 real fields and simulated defects: see ``research/quality.py``, and ``research/quality.md``
for the rates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoloc._typing import UInt8Array
from cytoloc.channels import CHANNELS, NUCLEUS

FLAGS: Final = ("empty", "low contrast", "saturated", "blurred", "swapped")
"""What can be wrong with a channel; only the nucleus can be swapped (with another channel, probably)."""

MEASURED_PX: Final = 256
"""Larger fields are measured at this edge, so that the limits apply to them; smaller ones were not tested."""

NUCLEUS_PX: Final = 128
"""Edge at which nuclei are measured; those in fields of the Human Protein Atlas are then some ten pixels wide."""


class Measures(NamedTuple):
    """What is measured of a channel.

    Attributes:
        spread: Gray levels between the 1st and the 99.9th percentile of every other pixel of every other row.
        white: Share of pixels of 250 and more.
        sharpness: Share of the finest of three octaves in their variation: 0.76 for white noise, 0 for a flat plane.
    """

    spread: float
    white: float
    sharpness: float


class Limits(NamedTuple):
    """Where a measure becomes a flag.

    Attributes:
        spread: Less than this many gray levels are low contrast, or nothing at all.
        white: A larger share of white is saturated.
        sharpness: Less is blurred.
        noise: With little spread and at least this sharpness there is nothing but noise: the channel is empty.
        swapped: If another channel's :func:`nucleus_score` is this much larger, the nucleus is probably that one.
    """

    spread: float
    white: float
    sharpness: float
    noise: float
    swapped: float


LIMITS: Final = Limits(spread=37.0, white=0.007, sharpness=0.164, noise=0.757, swapped=3.0)

_DISC: Final = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))

NUCLEUS_WEIGHTS: Final = (-2.27, 8.04, -39.55)
"""Intercept, and weights of solidity and unevenness, of the score that says how much a channel looks like nuclei."""


def measure(plane: UInt8Array) -> Measures:
    """Return what is measured of a channel, uint8 ``(height, width)``."""
    small = shrunk(plane, MEASURED_PX)
    # A quarter of the pixels has the same quantiles, at half the cost.
    some = np.ascontiguousarray(small[::2, ::2])
    upto = cv2.calcHist([some], [0], None, [256], [0, 256]).ravel().cumsum() / some.size
    low, high = np.searchsorted(upto, [0.01, 0.999])
    fine: NDArray[Any] = small.astype(np.float32)
    power = cv2.norm(fine, cv2.NORM_L2SQR) / fine.size
    octaves = []
    for _ in range(3):
        # Means over blocks of four keep what varies between blocks; the rest varies inside them.
        coarse = cv2.resize(fine, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        remaining = cv2.norm(coarse, cv2.NORM_L2SQR) / coarse.size
        octaves.append(max(power - remaining, 0.0))
        fine, power = coarse, remaining
    total = sum(octaves)
    return Measures(float(high - low), float(1 - upto[249]), octaves[0] / total if total > 0 else 0.0)


def nucleus_measures(plane: UInt8Array) -> tuple[float, float]:
    """Return the two measures by which nuclei differ from other stains.

    Returns:
        Solidity, the share of the foreground (by Otsu's threshold) that survives an opening by a disc: nuclei are
        compact. And unevenness, the spread of the background over the step between background and foreground: nothing
        else is stained in the channel of the nuclei.
    """
    # OpenCV halves four times as fast as it quarters, so the image is halved twice.
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
    """Return the quality flags of a field, as in ``("protein low contrast", "nucleus swapped")``.

    A swapped nucleus is only looked for if the field has a nucleus and another of :data:`cytoloc.channels.CHANNELS`.
    """
    flags = []
    planes = {name: shrunk(plane, MEASURED_PX) for name, plane in zip(channels, image, strict=True)}
    for name, plane in planes.items():
        found = measure(plane)
        if found.spread < limits.spread:
            structure = found.spread > 2 and found.sharpness < limits.noise
            flags.append(f"{name} low contrast" if structure else f"{name} empty")
        elif found.sharpness < limits.sharpness:
            flags.append(f"{name} blurred")
        if found.white > limits.white:
            flags.append(f"{name} saturated")
    roles = {name: plane for name, plane in planes.items() if name in CHANNELS}
    if NUCLEUS in roles and len(roles) > 1 and swap_score(roles) > limits.swapped:
        flags.append(f"{NUCLEUS} swapped")
    return tuple(flags)


def swap_score(planes: Mapping[str, UInt8Array]) -> float:
    """Return by how much the channel that looks most like nuclei does so more than the nucleus does."""
    scores = {role: nucleus_score(*nucleus_measures(plane)) for role, plane in planes.items()}
    return max(scores.values()) - scores[NUCLEUS]


def nucleus_score(solidity: float, unevenness: float) -> float:
    """Return how much a channel looks like nuclei, as log odds."""
    intercept, compact, clean = NUCLEUS_WEIGHTS
    return intercept + compact * solidity + clean * unevenness


def shrunk(plane: UInt8Array, edge: int) -> UInt8Array:
    """Return a square plane at ``edge`` pixels by area means, or as it is if it is no larger."""
    if plane.shape[0] <= edge:
        return plane
    return np.asarray(cv2.resize(plane, (edge, edge), interpolation=cv2.INTER_AREA), np.uint8)
