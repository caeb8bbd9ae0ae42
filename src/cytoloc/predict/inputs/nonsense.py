"""Images that a model should not decide on, made from good ones: the examples that a check of inputs learns from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import cv2
import numpy as np

from cytoloc._typing import UInt8Array

EXCHANGED: Final = "the channels look exchanged"
"""The finding for exchanged channels. Their statistics are computed from those of good fields."""


def exposure(field: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Return a field as another exposure, magnification or focus would show it. It is as good as the original.

    Args:
        field: uint8 of shape ``(channels, size, size)``.
        rng: The source of randomness.

    Returns:
        The changed field.
    """
    size = field.shape[1]
    shown = int(size * (rng.uniform(0.75, 1) if rng.random() < 0.6 else 1))
    top, left = rng.integers(0, size - shown + 1, 2)
    part = field[:, top : top + shown, left : left + shown]
    planes = []
    for plane in part:
        values = cv2.resize(plane, (size, size), interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
        values = values ** np.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.3)) * 255 + rng.normal(0, 3)
        if rng.random() < 0.3:
            values = cv2.GaussianBlur(values, (0, 0), rng.uniform(0.2, 0.7))
        planes.append(values + rng.normal(0, rng.uniform(0, 2.5), values.shape))
    return np.asarray(np.clip(planes, 0, 255), np.uint8)


def _with_noise(field: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    changed = field.copy()
    for channel in _some_channels(field, rng):
        values: Any = rng.normal(0, 1, field.shape[1:])
        if rng.random() < 0.5:
            values = cv2.GaussianBlur(values, (0, 0), rng.uniform(0.4, 1))
        values = (values - values.min()) / np.ptp(values)
        changed[channel] = 255 * values ** rng.uniform(0.5, 3)
    return changed


def _with_blank(field: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    changed = field.copy()
    for channel in _some_channels(field, rng):
        changed[channel] = rng.integers(1, 256) if rng.random() < 0.25 else 0
    return changed


def _with_copies(field: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    changed = field.copy()
    source = rng.integers(len(field))
    changed[_some_channels(field, rng)] = field[source]
    return changed if (changed != field).any() else np.repeat(field[source][None], len(field), axis=0)


def _saturated(field: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    changed = field.astype(np.float32)
    some = _some_channels(field, rng)
    changed[some] = changed[some] * rng.uniform(6, 40) + rng.uniform(0, 60)
    return np.clip(changed, 0, 255).astype(np.uint8)


def _blurred(field: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    width = rng.uniform(0.025, 0.07) * field.shape[1]
    return np.stack([cv2.GaussianBlur(plane, (0, 0), width) for plane in field])


def _larger(field: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    size = field.shape[1]
    shown = max(int(size / rng.uniform(2.5, 5)), 4)
    top, left = rng.integers(0, size - shown + 1, 2)
    part = field[:, top : top + shown, left : left + shown]
    return np.stack([cv2.resize(plane, (size, size), interpolation=cv2.INTER_CUBIC) for plane in part])


def _smaller(field: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    size = field.shape[1]
    wide = np.concatenate([field, field[:, :, ::-1]], axis=2)
    tile = np.concatenate([wide, wide[:, ::-1]], axis=1)
    shown = int(size * rng.uniform(1.9, 4))
    repeated = np.tile(tile, (1, 2, 2))[:, :shown, :shown]
    return np.stack([cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA) for plane in repeated])


NONSENSE: Final[Mapping[str, Callable[[UInt8Array, np.random.Generator], UInt8Array]]] = {
    "a channel looks like noise": _with_noise,
    "a channel looks blank": _with_blank,
    "channels look like copies of one another": _with_copies,
    "a channel looks saturated": _saturated,
    "the image looks too dark": lambda field, rng: (field // rng.integers(16, 64)).astype(np.uint8),
    "the image looks inverted": lambda field, _rng: 255 - field,
    "the image looks blurred": _blurred,
    "the cells look larger than in the training images": _larger,
    "the cells look smaller than in the training images": _smaller,
}
"""How a good field becomes nonsense of each kind, by the finding that users read."""


def _some_channels(field: UInt8Array, rng: np.random.Generator) -> list[int]:
    count = rng.integers(1, max(2, len(field)))
    return sorted(rng.choice(len(field), count, replace=False).tolist())
