"""Whether two images show the same field: one is laid over the other, then their pixels are correlated."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np

from cytoloc._typing import BoolArray, Float32Array, UInt8Array

MATCHED_PX: Final = 128
"""Edge at which images are laid over each other."""

SURE: Final = 0.98
"""A correlation as they lie that needs no better alignment."""

_STEPS: Final = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-4)
_SMOOTHING_PX: Final = 5


def registered_correlation(a: UInt8Array, b: UInt8Array) -> float:
    """Return how well two fields agree after the second is shifted, scaled and sheared onto the first: 1 is the same.

    The alignment is found on the sum of all channels (enhanced correlation coefficient, Evangelidis & Psarakis 2008);
    the correlation (Pearson's) is the mean over channels, of what both show. Where no alignment can be found, which is
    the rule for different fields, it is that of the images as they lie.

    Args:
        a: uint8 ``(channels, size, size)``.
        b: The same channels of the other field, at the same size.
    """
    one, other = _small(a), _small(b)
    everywhere = np.ones(one.shape[1:], bool)
    as_they_lie = _correlation(one, other, everywhere)
    if as_they_lie >= SURE:
        return as_they_lie
    try:
        warp = _align(_sum(one), _sum(other), _shift(one, other))
    except cv2.error:
        # OpenCV's word for: these two have nothing in common.
        return as_they_lie
    edge = (MATCHED_PX, MATCHED_PX)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = np.stack([cv2.warpAffine(plane, warp, edge, flags=flags) for plane in other]).astype(np.float32)
    both = cv2.warpAffine(np.ones(edge, np.float32), warp, edge, flags=flags) > 0.999
    if both.mean() < 0.5:
        return as_they_lie
    return max(as_they_lie, _correlation(one, laid, both))


def _small(image: UInt8Array) -> Float32Array:
    edge = (MATCHED_PX, MATCHED_PX)
    return np.stack([cv2.resize(plane, edge, interpolation=cv2.INTER_AREA).astype(np.float32) for plane in image])


def _sum(image: Float32Array) -> Float32Array:
    """Return the sum of the channels, each of the same weight."""
    spread = image.std(axis=(1, 2), keepdims=True)
    return np.asarray((image / np.maximum(spread, 1e-6)).sum(axis=0), np.float32)


def _align(a: Float32Array, b: Float32Array, start: Float32Array) -> Float32Array:
    """Return the affine map that lays ``b`` on ``a``; raises ``cv2.error`` if there is none."""
    find: Any = cv2.findTransformECC  # its types do not know that the mask may be None
    _, warp = find(a, b, start, cv2.MOTION_AFFINE, _STEPS, None, _SMOOTHING_PX)
    return np.asarray(warp, np.float32)


def _shift(a: Float32Array, b: Float32Array) -> Float32Array:
    """Return the shift that lays ``b`` on ``a`` best, as an affine map: where the alignment begins."""
    window: Any = cv2.createHanningWindow(a.shape[1:], cv2.CV_32F)
    (right, down), _ = cv2.phaseCorrelate(_sum(a), _sum(b), window)
    return np.array([[1, 0, right], [0, 1, down]], np.float32)


def _correlation(a: Float32Array, b: Float32Array, where: BoolArray) -> float:
    one, other = a[:, where], b[:, where]
    one = one - one.mean(axis=1, keepdims=True)
    other = other - other.mean(axis=1, keepdims=True)
    scale = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    each = (one * other).sum(axis=1) / np.maximum(scale, 1e-6)
    return float(each.mean())
