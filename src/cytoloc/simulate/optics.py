"""The microscope: blur, background, photon noise, and eight bits."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoloc.simulate.cells import Plane, to_unit


def expose(
    rng: np.random.Generator,
    plane: Plane,
    *,
    brightness: float,
    blur_px: float,
    photons: float,
    background: float,
) -> NDArray[np.uint8]:
    """Return what a camera makes of a plane of fluorescence, uint8.

    Args:
        rng: Source of the noise.
        plane: Fluorescence from 0 to 1.
        brightness: Grey value, 0 to 1, of the brightest spot after blurring: microscopists set the gain by it.
        blur_px: Standard deviation of the point-spread function, taken as Gaussian, in pixels.
        photons: Counted at grey value 1; fewer mean more shot noise.
        background: Grey value, 0 to 1, where there is no fluorescence.
    """
    blurred: NDArray[Any] = cv2.GaussianBlur(plane, (0, 0), blur_px) if blur_px > 0.2 else plane
    signal = np.clip(brightness * to_unit(blurred) + background, 0, None)
    counted = rng.poisson(signal * photons) / photons
    return np.asarray(np.clip(np.round(255 * counted), 0, 255), np.uint8)
