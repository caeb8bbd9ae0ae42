"""The microscope: blur, uneven light, photon and read noise, saturation, and eight or sixteen bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoloc.simulate.drawing import Plane, smooth_noise

Bits = Literal[8, 16]


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """How a plane of fluorescence is photographed.

    Attributes:
        white: Gray value, 0 to 1, of the field's 99.5th percentile: microscopists set the gain by its bright parts.
        blur_px: Standard deviation of the point-spread function, taken as Gaussian, in pixels.
        haze: Share of the light that comes from outside the focus.
        haze_px: How far that is spread.
        uneven: Spread of the light over the field.
        photons: Counted at gray value 1; fewer mean more shot noise.
        read_noise: Spread of the camera's own noise, as gray value 0 to 1.
        black: Gray value that is taken off: what is darker becomes 0.
    """

    white: float
    blur_px: float
    haze: float
    haze_px: float
    uneven: float
    photons: float
    read_noise: float
    black: float


def expose(
    rng: np.random.Generator, plane: Plane, exposure: Exposure, *, bits: Bits = 8
) -> NDArray[np.unsignedinteger[Any]]:
    """Return what a camera makes of a plane of fluorescence; what is too bright is white."""
    size = plane.shape[0]
    seen: NDArray[Any] = cv2.GaussianBlur(plane, (0, 0), exposure.blur_px) if exposure.blur_px > 0.2 else plane
    if exposure.haze:
        seen = seen + exposure.haze * cv2.GaussianBlur(plane, (0, 0), exposure.haze_px)
    if exposure.uneven:
        seen = seen * np.clip(1 + exposure.uneven * smooth_noise(rng, size, size / 2), 0.3, None)
    # Small bright things count too, where they are all there is.
    bright = max(float(np.quantile(seen, 0.995)), 0.35 * float(seen.max()), 1e-6)
    signal = exposure.white / bright * seen
    counted = rng.poisson(signal * exposure.photons) / exposure.photons
    noisy = counted + exposure.read_noise * rng.standard_normal(plane.shape, dtype=np.float32) - exposure.black
    white = 2**bits - 1
    return np.asarray(np.clip(np.round(white * noisy), 0, white), np.uint8 if bits == 8 else np.uint16)
