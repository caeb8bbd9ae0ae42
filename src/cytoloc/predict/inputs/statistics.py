"""Statistics of a field that show what is wrong with it: brightness, contrast, spectrum, and likeness of channels."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from typing import Final

import cv2
import numpy as np
import scipy.fft

from cytoloc._typing import Float32Array, UInt8Array

STATISTICS_PX: Final = 128
"""Edge length at which statistics are computed. Larger images are averaged down to it."""

BANDS: Final = (0.0, 0.02, 0.04, 0.08, 0.16, 0.32, 1.0)
"""Limits of the bands of spatial frequency, in cycles per pixel."""

PER_CHANNEL: Final = 14 + len(BANDS) - 1
"""Number of statistics of one channel."""

LAGS: Final = (1, 2, 4, 8, 16)
"""Distances in pixels at which a channel is compared with itself."""


def field_statistics(fields: UInt8Array) -> Float32Array:
    """Return the statistics of fields.

    For each channel: logarithms of mean, standard deviation and percentiles; skewness; shares of black and white
    pixels; correlation with itself at several distances; shares of the spectrum's bands. For each pair of channels: the
    correlation of pixels and of gradients.

    Args:
        fields: uint8 of shape ``(n, channels, size, size)``.

    Returns:
        float32 of shape ``(n, statistics)``.
    """
    count = fields.shape[1]
    rows: list[list[float]] = []
    for field in fields:
        size = min(field.shape[1], STATISTICS_PX)
        if field.shape[1] > size:
            field = np.stack([cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA) for plane in field])
        planes = field.astype(np.float32)
        mean = planes.mean(axis=(1, 2), keepdims=True)
        centered = planes - mean
        squared = centered * centered
        variance = squared.mean(axis=(1, 2)) + 1e-3
        skewness = (squared * centered).mean(axis=(1, 2)) / variance**1.5
        window, band = _window_and_bands(size)
        power = np.abs(scipy.fft.rfft2(centered * window)) ** 2
        sums = np.array([np.bincount(band, weights=one.ravel(), minlength=len(BANDS) - 1) for one in power])
        shares = np.log((sums + 1e-3) / (sums.sum(axis=1, keepdims=True) + 1))
        lagged = [
            (centered[:, :, lag:] * centered[:, :, :-lag]).mean(axis=(1, 2)) / variance for lag in LAGS if lag < size
        ]
        lagged += [np.zeros_like(variance)] * (len(LAGS) - len(lagged))
        found: list[float] = []
        for i, plane in enumerate(field):
            counts = np.bincount(plane.ravel(), minlength=256)
            percentiles = np.searchsorted(counts.cumsum(), plane.size * np.array([0.01, 0.5, 0.99, 0.999]))
            found += [
                float(np.log1p(mean[i, 0, 0])),
                float(np.log(variance[i]) / 2),
                float(skewness[i]),
                *np.log1p(percentiles).tolist(),
                float(counts[0] / plane.size),
                float(counts[254:].sum() / plane.size),
                *(float(one[i]) for one in lagged),
                *shares[i].tolist(),
            ]
        gradients = np.stack([np.hypot(cv2.Sobel(p, cv2.CV_32F, 1, 0), cv2.Sobel(p, cv2.CV_32F, 0, 1)) for p in planes])
        for values in (centered, gradients - gradients.mean(axis=(1, 2), keepdims=True)):
            flat = values.reshape(len(values), -1)
            norms = np.sqrt((flat**2).sum(axis=1) + 1e-3)
            likeness = (flat @ flat.T) / (norms[:, None] * norms)
            found += [float(likeness[i, j]) for i, j in combinations(range(len(field)), 2)]
        rows.append(found)
    return np.array(rows, np.float32).reshape(len(fields), PER_CHANNEL * count + count * (count - 1))


def permuted_statistics(values: Float32Array, order: tuple[int, ...]) -> Float32Array:
    """Return the statistics that fields have after their channels are exchanged.

    Args:
        values: Statistics of shape ``(n, statistics)``.
        order: The former position of each channel.

    Returns:
        The statistics of ``fields[:, order]``, shape ``(n, statistics)``.
    """
    count, pairs = len(order), list(combinations(range(len(order)), 2))
    columns = [PER_CHANNEL * channel + i for channel in order for i in range(PER_CHANNEL)]
    for kind in range(2):
        start = PER_CHANNEL * count + kind * len(pairs)
        columns += [start + pairs.index((min(order[i], order[j]), max(order[i], order[j]))) for i, j in pairs]
    return values[:, columns]


@lru_cache(maxsize=4)
def _window_and_bands(size: int) -> tuple[Float32Array, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Return a window that hides the edges of an image, and the band of each frequency."""
    edge = np.hanning(size).astype(np.float32)
    frequency = np.hypot(scipy.fft.fftfreq(size)[:, None], scipy.fft.rfftfreq(size))
    return edge[:, None] * edge, np.digitize(frequency.ravel(), BANDS[1:-1])
