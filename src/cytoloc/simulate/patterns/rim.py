"""Patterns at the cell border: plasma membrane, cell junctions and focal adhesions."""

from __future__ import annotations

import cv2
import numpy as np

from cytoloc.simulate.drawing import Plane, draw_lines, smooth_noise, to_unit
from cytoloc.simulate.patterns.placing import places
from cytoloc.simulate.stains import StainedScene


def focal_adhesions(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw short streaks near the cell border that point to the center."""
    marks = []
    rim = (scene.in_cell > 0.5 * scene.scale) & (scene.in_cell < 7 * scene.scale)
    for cell, spots in places(scene, rng, rim, number=(12, 30)):
        inward = cell.center - spots
        inward /= np.linalg.norm(inward, axis=1, keepdims=True) + 1e-6
        # Small cells have short focal adhesions.
        lengths = rng.uniform(0.12, 0.34, (len(spots), 1)) * cell.radius
        marks += list(np.stack([spots, spots + inward * lengths], axis=1).astype(np.float32))
    return draw_lines(scene.size, marks, width=1.6 * scene.scale) * (scene.cell_map > 0)


def plasma_membrane(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw the whole border of every cell, ruffled, over a faint haze."""
    ruffle = np.clip(1 + 0.5 * smooth_noise(rng, scene.size, 7 * scene.scale), 0.15, None)
    edge = np.exp(-((scene.in_cell / (rng.uniform(1.2, 2.6) * scene.scale)) ** 2)) * ruffle
    # The membrane above and below the focal plane adds a haze.
    return to_unit((scene.cell_map > 0) * (edge + rng.uniform(0.08, 0.6)))


def cell_junctions(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw beaded lines where two cells touch."""
    reach = max(1, round(2.5 * scene.scale))
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    cells = scene.cell_map.astype(np.float32)
    empty = scene.cell_map == 0
    highest = cv2.dilate(np.where(empty, -np.inf, cells).astype(np.float32), kernel)
    lowest = cv2.erode(np.where(empty, np.inf, cells).astype(np.float32), kernel)
    touching = (~empty & (highest != lowest) & (scene.in_cell < reach)).astype(np.float32)
    beads = np.clip(0.6 + 0.6 * smooth_noise(rng, scene.size, 3 * scene.scale), 0, None)
    return to_unit(touching * beads)
