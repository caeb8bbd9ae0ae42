"""Patterns of the cytoskeleton and of cell division."""

from __future__ import annotations

import cv2
import numpy as np

from cytoloc.simulate.drawing import Plane, draw_dots, draw_lines, random_walk, smooth_noise, to_unit
from cytoloc.simulate.stains import StainedScene, bridges, spindles


def intermediate_filaments(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw wavy bundles around the nucleus that become sparse towards the cell border."""
    bundles = []
    for cell in scene.cells:
        for angle in rng.uniform(0, 2 * np.pi, int(rng.integers(18, 34))):
            start = cell.center + cell.radius * rng.uniform(1.0, 1.6) * np.array([np.cos(angle), np.sin(angle)])
            heading = angle + np.pi / 2 + rng.normal(0, 0.6)
            bundles.append(
                random_walk(rng, start.astype(np.float32), heading, step=3 * scene.scale, steps=16, wobble=0.35)
            )
    plane = draw_lines(scene.size, bundles, width=1.6 * scene.scale)
    return to_unit(plane * scene.cytoplasm * (0.3 + np.exp(-scene.from_nucleus / (20 * scene.scale))))


def actin_filaments(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw straight parallel stress fibers across each cell, and a thin cortex along its border."""
    fibres = []
    for cell in scene.cells:
        direction = rng.uniform(0, np.pi)
        along = np.array([np.cos(direction), np.sin(direction)])
        across = np.array([-along[1], along[0]])
        for offset in rng.uniform(-2.4, 2.4, int(rng.integers(8, 18))) * cell.radius:
            middle = cell.center + offset * across + rng.normal(0, 0.6) * cell.radius * along
            half = rng.uniform(0.8, 2.4) * cell.radius * along
            fibres.append(np.stack([middle - half, middle + half]).astype(np.float32))
    cortex = 0.4 * np.exp(-((scene.in_cell / (1.5 * scene.scale)) ** 2))
    return to_unit((draw_lines(scene.size, fibres, width=1.4 * scene.scale) + cortex) * (scene.cell_map > 0))


def microtubules(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Follow the filaments of the microtubule channel, with uneven brightness."""
    return to_unit(scene.microtubules * np.clip(1 + 0.25 * smooth_noise(rng, scene.size, 20 * scene.scale), 0.3, None))


def microtubule_ends(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw comets at the outer ends of filaments."""
    tips = []
    for cell in scene.cells:
        for line in cell.filaments:
            # A comet is at the last point of a filament inside the cell, or slightly before it.
            columns = np.clip(line.astype(int), 0, scene.size - 1)
            inside = np.flatnonzero(scene.cell_map[columns[:, 1], columns[:, 0]] == cell.number)
            last = int(inside[-1]) if len(inside) else 0
            start = max(0, last - 1 - int(rng.integers(0, 3)))
            tips.append(line[start : start + 2])
    return draw_lines(scene.size, tips, width=1.8 * scene.scale) * (scene.cell_map > 0)


def organizing_center(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw a hazy bright patch, several dots wide, where microtubules start."""
    dots = [
        np.column_stack(
            [cell.organizing_center + rng.normal(0, 2.2 * scene.scale, (7, 2)), np.full(7, 1.7 * scene.scale)]
        )
        for cell in scene.cells
    ]
    return to_unit(cv2.GaussianBlur(draw_dots(scene.size, np.concatenate(dots)), (0, 0), 1.2 * scene.scale))


def centrosome(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw one or two sharp dots at the organizing center of each cell."""
    dots = [
        [*(cell.organizing_center + rng.normal(0, 1.6 * scene.scale, 2)), 1.2 * scene.scale]
        for cell in scene.cells
        for _ in range(int(rng.integers(1, 3)))
    ]
    return draw_dots(scene.size, np.array(dots, np.float32))


def cytokinetic_bridge(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw the thin bridge between daughter cells, and the midbody in its center."""
    sisters = {cell.number: cell for cell in scene.cells}
    middles = [
        [*(0.5 * (cell.center + sisters[cell.sister].center)), 2.2 * scene.scale]
        for cell in scene.cells
        if cell.sister in sisters and cell.number < sisters[cell.sister].number
    ]
    plane = 0.75 * bridges(scene)
    if middles:
        plane = np.maximum(plane, draw_dots(scene.size, np.array(middles, np.float32)))
    return _also_a_little_everywhere(scene, plane, rng)


def mitotic_spindle(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw the spindle fibers of cells in metaphase, bright towards the poles."""
    return _also_a_little_everywhere(scene, to_unit(spindles(scene, rng)), rng)


def _also_a_little_everywhere(scene: StainedScene, plane: Plane, rng: np.random.Generator) -> Plane:
    """Add a faint stain of all cells to a pattern of few cells; otherwise most of a field would be black."""
    haze = (scene.cell_map > 0) * rng.uniform(0.02, 0.12) * (1 - np.exp(-scene.in_cell / (6 * scene.scale)))
    return np.asarray(np.maximum(plane, haze), np.float32)
