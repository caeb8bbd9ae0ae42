"""The three reference channels of every field: microtubules, endoplasmic reticulum, nucleus."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import cv2
import numpy as np

from cytoloc.simulate.cells import CellScene, Phase, draw_scene
from cytoloc.simulate.drawing import Plane, draw_lines, smooth_noise, streaks, to_unit


@dataclass(frozen=True)
class StainedScene(CellScene):
    """Cells with the three reference channels, float32 of shape ``(size, size)`` from 0 to 1.

    Attributes:
        microtubules: The microtubules.
        nucleus: The DNA.
        er: The endoplasmic reticulum.
    """

    microtubules: Plane
    nucleus: Plane
    er: Plane


def draw_stained(
    rng: np.random.Generator, size: int, *, line: int | None = None, dividing: Collection[Phase] = ()
) -> StainedScene:
    """Simulate the cells of a field with the reference channels; see :func:`~cytoloc.simulate.cells.draw_scene`."""
    scene = draw_scene(rng, size, line=line, dividing=dividing)
    return StainedScene(
        **vars(scene),
        microtubules=draw_microtubules(scene, rng),
        nucleus=draw_nucleus(scene, rng),
        er=draw_er(scene, rng),
    )


def draw_microtubules(scene: CellScene, rng: np.random.Generator) -> Plane:
    """Return a mesh of curved filaments that start at the organizing center and bend along cell border and nucleus.

    Dividing cells have a spindle or a bridge instead.
    """
    scale = scene.scale
    # The direction of microtubules: away from the organizing center, along cell border and nucleus.
    y, x = np.mgrid[0 : scene.size, 0 : scene.size].astype(np.float32)
    starts = np.zeros((int(scene.cell_map.max()) + 1, 2), np.float32)
    for cell in scene.cells:
        starts[cell.number] = cell.organizing_center
    start = starts[scene.cell_map]
    right, down = x - start[..., 0], y - start[..., 1]
    length = np.hypot(right, down) + 1e-3
    right, down = right / length, down / length
    for distance, reach in ((scene.in_cell, 9.0), (scene.from_nucleus, 7.0)):
        soft = cv2.GaussianBlur(distance, (0, 0), 2 * scene.scale)
        slope_y, slope_x = np.gradient(soft)
        steep = np.hypot(slope_x, slope_y) + 1e-3
        along_x, along_y = -slope_y / steep, slope_x / steep
        # A line has two opposite directions; the one closer to the first direction is used.
        turn = np.where(along_x * right + along_y * down < 0, -1.0, 1.0)
        weight = np.exp(-distance / (reach * scene.scale)) * np.minimum(1, steep)
        right = (1 - weight) * right + weight * turn * along_x
        down = (1 - weight) * down + weight * turn * along_y
    direction = np.asarray(np.arctan2(down, right), np.float32)
    mesh = np.zeros((scene.size, scene.size), np.float32)
    for _ in range(2):
        angle = direction + rng.uniform(0.25, 0.5) * smooth_noise(rng, scene.size, rng.uniform(18, 40) * scale)
        mesh += np.clip(0.25 + streaks(rng, angle, length=26 * scale, width=1.1 * scale), 0, None)
    single = draw_lines(scene.size, [f for cell in scene.cells for f in cell.filaments], width=0.9 * scale)
    near = np.exp(-scene.from_nucleus / (rng.uniform(18, 45) * scale))
    rim = 1 - np.exp(-scene.in_cell / (3 * scale))
    inside = rim * (0.35 + near) * (mesh + 0.9 * single)
    # Some filaments above and below the nucleus are visible out of focus.
    over = np.exp(-scene.in_nucleus / (3 * scale))
    filaments = inside * np.where(scene.nucleus_map > 0, 0.08 + 0.35 * over, 1.0) * scene.amount[scene.cell_map]
    share = np.ones(int(scene.cell_map.max()) + 1, np.float32)
    share[[cell.number for cell in scene.cells if cell.phase == "metaphase"]] = 0.15
    filaments *= (scene.cell_map > 0) * share[scene.cell_map]
    filaments += 2.0 * np.maximum(spindles(scene, rng), bridges(scene))
    haze = cv2.GaussianBlur(filaments, (0, 0), 5 * scale)
    return to_unit(filaments + rng.uniform(0.2, 0.6) * haze)


def draw_nucleus(scene: CellScene, rng: np.random.Generator) -> Plane:
    """Return nuclei with texture, dark nucleoli, and the bright chromosomes of dividing cells."""
    grain = 1 + rng.uniform(0.12, 0.3) * smooth_noise(rng, scene.size, rng.uniform(1.6, 3) * scene.scale)
    grain += 0.1 * smooth_noise(rng, scene.size, 7 * scene.scale)
    amount = 0.5 + 0.5 * scene.amount
    for cell in scene.cells:
        if cell.phase != "interphase":
            amount[cell.number] *= 1.7
    soft = 1 - np.exp(-scene.in_nucleus / (1.2 * scene.scale))
    dark = rng.uniform(0.3, 0.7)
    plane = (scene.nucleus_map > 0) * np.clip(grain, 0.2, None) * soft * (1 - dark * scene.nucleoli)
    return to_unit(plane * amount[scene.nucleus_map])


def draw_er(scene: CellScene, rng: np.random.Generator) -> Plane:
    """Return a network of tubes and sheets with texture, densest near the nucleus."""
    scale = scene.scale
    tubes = np.exp(-1.3 * np.abs(smooth_noise(rng, scene.size, rng.uniform(2.2, 5) * scale)))
    fine = np.clip(1 + rng.uniform(0.1, 0.3) * smooth_noise(rng, scene.size, 1.5 * scale), 0.1, None)
    near = rng.uniform(0.05, 0.4) + np.exp(-scene.from_nucleus / (rng.uniform(16, 60) * scale))
    rim = 1 - np.exp(-scene.in_cell / (4 * scale))
    patches = np.clip(1 + rng.uniform(0.15, 0.4) * smooth_noise(rng, scene.size, 22 * scale), 0.2, None)
    plane = (scene.cell_map > 0) * rim * near * patches * (0.3 + tubes) * fine * scene.amount[scene.cell_map]
    return to_unit(plane * np.where(scene.nucleus_map > 0, rng.uniform(0.15, 0.6), 1.0))


def spindles(scene: CellScene, rng: np.random.Generator) -> Plane:
    """Return fibers from two poles to the metaphase plate of each cell in metaphase."""
    fibres = []
    for cell in scene.cells:
        if cell.phase != "metaphase":
            continue
        along = np.array([np.cos(cell.axis), np.sin(cell.axis)])
        across = np.array([-along[1], along[0]])
        for sign in (1, -1):
            pole = cell.center + sign * 1.0 * cell.radius * along
            for offset in np.linspace(-0.75, 0.75, 15):
                foot = cell.center + offset * cell.radius * across + rng.normal(0, 0.03 * cell.radius, 2)
                bent = 0.5 * (pole + foot) + 0.22 * offset * cell.radius * across
                fibres.append(np.stack([pole, bent, foot]).astype(np.float32))
    return draw_lines(scene.size, fibres, width=1.2 * scene.scale)


def bridges(scene: CellScene) -> Plane:
    """Return the thin bridge between the daughter cells of each cell in telophase."""
    places = {cell.number: cell.center for cell in scene.cells}
    lines = [
        np.stack([0.72 * a + 0.28 * b, 0.28 * a + 0.72 * b])
        for cell in scene.cells
        if cell.sister is not None and cell.number < cell.sister and cell.sister in places
        for a, b in [(cell.center, places[cell.sister])]
    ]
    return draw_lines(scene.size, lines, width=2.4 * scene.scale)
