"""The simulated microscope: blur, uneven illumination, photon and read noise, saturation, and bit depth."""

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
    """The imaging conditions of a channel.

    Attributes:
        white: Intensity, 0 to 1, of the field's 99.5th percentile, because the gain is usually set by bright parts.
        blur_px: Standard deviation of the Gaussian point-spread function, in pixels.
        haze: Share of out-of-focus light.
        haze_px: Standard deviation of the out-of-focus blur, in pixels.
        uneven: Variation of the illumination over the field.
        photons: Number of photons at intensity 1. Fewer photons mean more shot noise.
        read_noise: Standard deviation of the read noise, as intensity from 0 to 1.
        black: Intensity that is subtracted; darker pixels become 0.
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
    """Image a plane of fluorescence with a camera. Saturated pixels become white.

    Args:
        rng: Random generator.
        plane: Fluorescence, float32 of shape ``(size, size)``.
        exposure: The imaging conditions.
        bits: Bits per pixel.

    Returns:
        uint8 or uint16 of shape ``(size, size)``.
    """
    size = plane.shape[0]
    seen: NDArray[Any] = cv2.GaussianBlur(plane, (0, 0), exposure.blur_px) if exposure.blur_px > 0.2 else plane
    if exposure.haze:
        seen = seen + exposure.haze * cv2.GaussianBlur(plane, (0, 0), exposure.haze_px)
    if exposure.uneven:
        seen = seen * np.clip(1 + exposure.uneven * smooth_noise(rng, size, size / 2), 0.3, None)
    # Small bright structures determine the gain if there is nothing else.
    bright = max(float(np.quantile(seen, 0.995)), 0.35 * float(seen.max()), 1e-6)
    signal = exposure.white / bright * seen
    counted = rng.poisson(signal * exposure.photons) / exposure.photons
    noisy = counted + exposure.read_noise * rng.standard_normal(plane.shape, dtype=np.float32) - exposure.black
    white = 2**bits - 1
    return np.asarray(np.clip(np.round(white * noisy), 0, white), np.uint8 if bits == 8 else np.uint16)
