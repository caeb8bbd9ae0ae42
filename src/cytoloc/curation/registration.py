"""Correlation of two images after alignment, to decide whether they show the same field."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np

from cytoloc._typing import BoolArray, Float32Array, UInt8Array

MATCHED_PX: Final = 128
"""Edge length of the images that are aligned, in pixels."""

SURE: Final = 0.98
"""Correlation from which images are not aligned further."""

_STEPS: Final = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-4)
_SMOOTHING_PX: Final = 5


def registered_correlation(a: UInt8Array, b: UInt8Array) -> float:
    """Return the correlation of two fields after aligning the second to the first by an affine transform.

    The sums of all channels are aligned by the enhanced correlation coefficient (Evangelidis & Psarakis 2008). The
    result is Pearson's correlation over the common region, averaged over channels. Different fields can rarely be
    aligned; then the images are compared without alignment.

    Args:
        a: The first field, uint8 of shape ``(channels, size, size)``.
        b: The second field, with the same channels and size.

    Returns:
        The correlation, from -1 to 1.
    """
    one, other = _small(a), _small(b)
    everywhere = np.ones(one.shape[1:], bool)
    as_they_lie = _correlation(one, other, everywhere)
    if as_they_lie >= SURE:
        return as_they_lie
    find: Any = cv2.findTransformECC  # its type hints do not allow None as a mask
    try:
        # The alignment starts with the translation found by phase correlation.
        window: Any = cv2.createHanningWindow(one.shape[1:], cv2.CV_32F)
        (right, down), _ = cv2.phaseCorrelate(_sum(one), _sum(other), window)  # overwrites its arguments
        start = np.array([[1, 0, right], [0, 1, down]], np.float32)
        _, warp = find(_sum(one), _sum(other), start, cv2.MOTION_AFFINE, _STEPS, None, _SMOOTHING_PX)
    except cv2.error:
        # OpenCV found no alignment, so the images have nothing in common.
        return as_they_lie
    edge = (MATCHED_PX, MATCHED_PX)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warp = np.asarray(warp, np.float32)
    laid = np.stack([cv2.warpAffine(plane, warp, edge, flags=flags) for plane in other]).astype(np.float32)
    both = cv2.warpAffine(np.ones(edge, np.float32), warp, edge, flags=flags) > 0.999
    if both.mean() < 0.5:
        return as_they_lie
    return max(as_they_lie, _correlation(one, laid, both))


def _small(image: UInt8Array) -> Float32Array:
    edge = (MATCHED_PX, MATCHED_PX)
    return np.stack([cv2.resize(plane, edge, interpolation=cv2.INTER_AREA).astype(np.float32) for plane in image])


def _sum(image: Float32Array) -> Float32Array:
    """Return the sum of the channels, each divided by its standard deviation."""
    spread = image.std(axis=(1, 2), keepdims=True)
    return np.asarray((image / np.maximum(spread, 1e-6)).sum(axis=0), np.float32)


def _correlation(a: Float32Array, b: Float32Array, where: BoolArray) -> float:
    one, other = a[:, where], b[:, where]
    one = one - one.mean(axis=1, keepdims=True)
    other = other - other.mean(axis=1, keepdims=True)
    scale = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    each = (one * other).sum(axis=1) / np.maximum(scale, 1e-6)
    return float(each.mean())
