"""Drawing primitives: noise, lines, dots, random walks, and texture along a direction."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoloc._typing import Float32Array

Plane = Float32Array
Points = Float32Array


def smooth_noise(rng: np.random.Generator, size: int, length: float) -> Plane:
    """Return Gaussian noise with mean 0, standard deviation 1, and a correlation length of ``length`` pixels."""
    # Drawn on a coarse grid, because blurring with a wide kernel at full size is slow.
    step = max(1.0, length / 2)
    edge = int(np.ceil(size / step)) + 4
    coarse = cv2.GaussianBlur(rng.standard_normal((edge, edge), dtype=np.float32), (0, 0), length / step)
    crop = round(edge * step)
    noise = cv2.resize(coarse, (crop, crop), interpolation=cv2.INTER_CUBIC)[:size, :size]
    return np.asarray((noise - noise.mean()) / (noise.std() + 1e-6), np.float32)


def streaks(rng: np.random.Generator, angle: Plane, *, length: float, width: float) -> Plane:
    """Return texture along a direction, with mean 0 and standard deviation 1: a mesh of curved filaments.

    White noise is averaged along lines that follow the direction (line integral convolution, Cabral & Leedom 1993).

    Args:
        rng: Random generator.
        angle: The direction at each pixel in radians, shape ``(size, size)``.
        length: Length of the filaments, in pixels.
        width: Width of the filaments, in pixels.

    Returns:
        float32 of shape ``(size, size)``.
    """
    size = angle.shape[0]
    noise: NDArray[Any] = rng.standard_normal((size, size), dtype=np.float32)
    if width > 0.6:
        noise = cv2.GaussianBlur(noise, (0, 0), 0.6 * width)
    step = max(1.0, width)
    moves = np.stack([step * np.cos(angle), step * np.sin(angle)], axis=2)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    total = noise.copy()
    for sign in (1.0, -1.0):
        at = np.stack([x, y], axis=2)
        for _ in range(max(2, round(length / (2 * step)))):
            # Without a second map, the first one has both coordinates. The types of OpenCV do not know this.
            move = cv2.remap(moves, at, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
            at += sign * move
            total += cv2.remap(noise, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)  # type: ignore[call-overload]
    return np.asarray((total - total.mean()) / (total.std() + 1e-6), np.float32)


def draw_lines(size: int, lines: list[Points], *, width: float, closed: bool = False) -> Plane:
    """Return lines of ``width`` pixels as a plane from 0 to 1. Lines thinner than a pixel are faint."""
    canvas = np.zeros((size, size), np.uint8)
    fixed_point = [np.round(line * 16).astype(np.int32).reshape(-1, 1, 2) for line in lines if len(line) > 1]
    cv2.polylines(canvas, fixed_point, closed, 255, max(1, round(width)), cv2.LINE_AA, 4)
    return canvas.astype(np.float32) * np.float32(min(1.0, width) / 255)


def draw_dots(size: int, dots: Points) -> Plane:
    """Return dots with soft edges as a plane from 0 to 1; ``dots`` has shape ``(n, 3)`` as ``x, y, r``."""
    plane = np.zeros((size, size), np.float32)
    for x, y, r in dots:
        reach = int(np.ceil(2 * r + 2))
        left, top = max(0, int(x) - reach), max(0, int(y) - reach)
        right, bottom = min(size, int(x) + reach + 1), min(size, int(y) + reach + 1)
        if left >= right or top >= bottom:
            continue
        dy, dx = np.ogrid[top:bottom, left:right]
        distance = np.sqrt((dx - x) ** 2 + (dy - y) ** 2)
        # Dots smaller than a pixel become faint, so that their volume is kept.
        strength = min(1.0, 2 * r)
        disc = strength / (1 + np.exp(np.clip((distance - r) / max(0.25 * r, 0.3), -30, 30)))
        patch = plane[top:bottom, left:right]
        np.maximum(patch, disc.astype(np.float32), out=patch)
    return plane


def distance_inside(labels: NDArray[np.int32]) -> Plane:
    """Return the distance of each pixel to the border of its region, 0 outside. Adjacent regions have a border."""
    rim = np.zeros(labels.shape, np.uint8)
    rim[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    rim[1:, :] |= labels[1:, :] != labels[:-1, :]
    inside = ((labels > 0) & (rim == 0)).astype(np.uint8)
    return np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, 3), np.float32)


def random_walk(
    rng: np.random.Generator, start: Points, heading: float, *, step: float, steps: int, wobble: float
) -> Points:
    """Return the points of a persistent random walk, shape ``(steps + 1, 2)``."""
    headings = heading + np.cumsum(rng.normal(0, wobble, steps))
    moves = step * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    return np.concatenate([start[None], start + np.cumsum(moves, axis=0)]).astype(np.float32)


def to_unit(plane: NDArray[Any]) -> Plane:
    """Return a plane divided by its maximum, if the maximum is above 0."""
    top = float(plane.max())
    return np.asarray(plane / top if top > 0 else plane, np.float32)
