"""Segmentation of nuclei without a network."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cytoloc._typing import BoolArray, UInt8Array
from cytoloc.cells.growing import skimage_module
from cytoloc.cells.labels import kept_labels

_WINDOW: Final = 4.0
"""Edge of the window of the local threshold, in diameters of a nucleus."""


def nuclear_mask(nucleus: UInt8Array, *, pixel_um: float, nucleus_um: float) -> BoolArray:
    """Return which pixels are nuclear: brighter than the mean around them and than half of Otsu's threshold.

    Args:
        nucleus: The nuclear stain, uint8 of shape ``(height, width)``.
        pixel_um: Pixel size, in micrometers.
        nucleus_um: Typical diameter of a nucleus, in micrometers.

    Returns:
        bool of shape ``(height, width)``, without thin parts and holes.
    """
    diameter = nucleus_um / pixel_um
    smooth = cv2.GaussianBlur(nucleus, (0, 0), max(diameter / 20, 0.5))
    threshold, _ = cv2.threshold(smooth, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    window = 2 * round(_WINDOW * diameter / 2) + 1
    around: NDArray[Any] = cv2.blur(smooth.astype(np.float32), (window, window), borderType=cv2.BORDER_REFLECT)
    mask = (smooth > around) & (smooth > threshold / 2)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * max(1, round(diameter / 12)) + 1,) * 2)
    filled: BoolArray = ndimage.binary_fill_holes(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc) > 0)
    return filled


def split_nuclei(mask: BoolArray, *, pixel_um: float, nucleus_um: float) -> NDArray[np.int32]:
    """Separate touching nuclei by a watershed from the peaks of the smoothed distance to the background.

    Args:
        mask: Which pixels are nuclear.
        pixel_um: Pixel size, in micrometers.
        nucleus_um: Typical diameter of a nucleus, in micrometers.

    Returns:
        Numbers of nuclei, without gaps; nuclei below a tenth of the typical area are removed.

    Raises:
        MissingExtraError: If scikit-image is not installed.
    """
    peak_local_max = skimage_module("feature").peak_local_max
    watershed = skimage_module("segmentation").watershed
    diameter = nucleus_um / pixel_um
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    distance = cv2.GaussianBlur(inside, (0, 0), max(diameter / 12, 0.5))
    peaks = peak_local_max(distance, min_distance=max(1, round(diameter / 3)), exclude_border=False, labels=mask * 1)
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = watershed(-distance, markers, mask=mask)
    least = 0.1 * np.pi * (diameter / 2) ** 2
    return kept_labels(labels, np.bincount(labels.ravel(), minlength=len(peaks) + 1) >= least)
