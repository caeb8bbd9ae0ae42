"""Random positions in cells."""

from __future__ import annotations

import numpy as np

from cytoloc._typing import BoolArray
from cytoloc.simulate.cells import Cell
from cytoloc.simulate.drawing import Plane, Points, draw_dots
from cytoloc.simulate.stains import StainedScene


def places(
    scene: StainedScene, rng: np.random.Generator, allowed: BoolArray, *, number: tuple[int, int]
) -> list[tuple[Cell, Points]]:
    """Return random points in the allowed part of each cell.

    Args:
        scene: The cells.
        rng: Random generator.
        allowed: Mask of allowed pixels, shape ``(size, size)``.
        number: Range of the number of points per cell; the upper end is excluded.

    Returns:
        Each cell that has allowed pixels, with its points ``(x, y)``.
    """
    rows, columns = np.nonzero(allowed)
    owner = scene.cell_map[rows, columns]
    order = np.argsort(owner, kind="stable")
    rows, columns, owner = rows[order], columns[order], owner[order]
    places = []
    for cell in scene.cells:
        first, last = np.searchsorted(owner, [cell.number, cell.number + 1])
        if first < last:
            chosen = rng.integers(first, last, int(rng.integers(*number)))
            spots = np.column_stack([columns[chosen], rows[chosen]]) + rng.uniform(-0.5, 0.5, (len(chosen), 2))
            places.append((cell, spots.astype(np.float32)))
    return places


def dots_in(
    scene: StainedScene,
    rng: np.random.Generator,
    allowed: BoolArray,
    *,
    number: tuple[int, int],
    radius: tuple[float, float],
) -> Plane:
    """Return dots in the allowed part of each cell; see :func:`places`. Radii are in pixels of a 512-px field."""
    dots = [
        np.column_stack([spots, rng.uniform(*radius, len(spots)) * scene.scale])
        for _, spots in places(scene, rng, allowed, number=number)
    ]
    return draw_dots(scene.size, np.concatenate([np.empty((0, 3)), *dots]).astype(np.float32))


def outward(cell: Cell) -> float:
    """Return the direction from the nucleus to the organizing center, in radians."""
    dx, dy = cell.organizing_center - cell.center
    return float(np.arctan2(dy, dx))
