"""Cells without a protein: where they lie, their nuclei, microtubules and endoplasmic reticulum.

Lengths are in pixels of a field 512 px wide (about 0.32 µm each) times :attr:`Scene.scale`, so that a field
looks the same at every size. What markers depend on each other follows SimuCell (Rajaram et al., Nature
Methods 2012); microtubules as persistent random walks from an organising centre follow CellOrganizer's model
(Shariff et al., Cytometry A 2010).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Points = NDArray[np.float32]


@dataclass(frozen=True)
class Cell:
    """One cell: its number in the maps (from 1), centre of the nucleus, organising centre and direction.

    Attributes:
        number: Its value in ``Scene.cell_map`` and ``Scene.nucleus_map``.
        centre: Centre of the nucleus, ``(x, y)``.
        radius: Mean radius of the nucleus.
        organising_centre: Where its microtubules start, ``(x, y)``, at the rim of the nucleus.
        axis: Direction of its long axis, in radians.
        nucleoli: Position and radius of each nucleolus, ``(n, 3)`` as ``x, y, r``.
        filaments: Its microtubules, each ``(m, 2)`` points from the organising centre outwards.
    """

    number: int
    centre: Points
    radius: float
    organising_centre: Points
    axis: float
    nucleoli: Points
    filaments: tuple[Points, ...]


@dataclass(frozen=True)
class Scene:
    """The cells of a field and the maps that patterns are drawn from.

    Attributes:
        size: Edge of the field, in pixels.
        scale: ``size / 512``.
        cells: The cells, in no particular order.
        cell_map: int32 ``(size, size)``; the number of the cell at each pixel, 0 for none.
        nucleus_map: The same for nuclei.
        in_cell: Distance to the rim of the cell, 0 outside cells.
        in_nucleus: Distance to the rim of the nucleus, 0 outside nuclei.
        from_nucleus: Distance to the nearest nucleus, 0 inside nuclei.
        nucleoli: 0 to 1, soft-edged nucleoli.
        microtubules: 0 to 1.
        er: 0 to 1.
    """

    size: int
    scale: float
    cells: tuple[Cell, ...]
    cell_map: NDArray[np.int32]
    nucleus_map: NDArray[np.int32]
    in_cell: Plane
    in_nucleus: Plane
    from_nucleus: Plane
    nucleoli: Plane
    microtubules: Plane
    er: Plane

    @property
    def cytoplasm(self) -> NDArray[np.bool_]:
        """Where there is cell but no nucleus."""
        return np.asarray((self.cell_map > 0) & (self.nucleus_map == 0))


def draw_scene(rng: np.random.Generator, size: int) -> Scene:
    """Return the cells of one field: sparse to confluent, round to elongated."""
    scale = size / 512
    centres = _scatter(rng, size, gap=rng.uniform(58, 105) * scale, most=int(rng.integers(6, 34)))
    reach = rng.uniform(38, 85) * scale
    stretch = rng.uniform(1.0, 2.2)
    nucleus_radius = rng.uniform(20, 29) * scale
    cell_map, nucleus_map = _draw_maps(rng, size, centres, reach=reach, stretch=stretch, radius=nucleus_radius)
    in_cell = distance_inside(cell_map)
    in_nucleus = distance_inside(nucleus_map)
    from_nucleus = cv2.distanceTransform((nucleus_map == 0).astype(np.uint8), cv2.DIST_L2, 3)
    cells = tuple(
        _draw_cell(rng, number, centre, nucleus_map, nucleus_radius, reach * stretch, scale)
        for number, centre in enumerate(centres, start=1)
        if (nucleus_map == number).any()
    )
    inside = cell_map > 0
    microtubules = draw_lines(size, [f for cell in cells for f in cell.filaments], width=1.3 * scale)
    microtubules *= inside & (in_nucleus < 3 * scale)
    network = np.abs(smooth_noise(rng, size, 4 * scale))
    er = np.exp(-from_nucleus / (22 * scale)) * (0.35 + np.exp(-2.5 * network)) * inside * (in_nucleus < 2 * scale)
    return Scene(
        size=size,
        scale=scale,
        cells=cells,
        cell_map=cell_map,
        nucleus_map=nucleus_map,
        in_cell=in_cell,
        in_nucleus=in_nucleus,
        from_nucleus=np.asarray(from_nucleus, np.float32),
        nucleoli=draw_dots(size, np.concatenate([cell.nucleoli for cell in cells])) * (nucleus_map > 0),
        microtubules=microtubules,
        er=to_unit(er),
    )


def smooth_noise(rng: np.random.Generator, size: int, length: float) -> Plane:
    """Return Gaussian noise of mean 0 and spread 1 that varies over ``length`` pixels."""
    # Drawn on a coarse grid: blurring by a wide kernel at full size would cost far more.
    step = max(1.0, length / 2)
    edge = int(np.ceil(size / step)) + 4
    coarse = cv2.GaussianBlur(rng.standard_normal((edge, edge), dtype=np.float32), (0, 0), length / step)
    crop = round(edge * step)
    noise = cv2.resize(coarse, (crop, crop), interpolation=cv2.INTER_CUBIC)[:size, :size]
    return np.asarray((noise - noise.mean()) / (noise.std() + 1e-6), np.float32)


def draw_lines(size: int, lines: list[Points], *, width: float, closed: bool = False) -> Plane:
    """Return lines of ``width`` pixels as a plane from 0 to 1; thin ones are faint rather than broken."""
    canvas = np.zeros((size, size), np.uint8)
    fixed_point = [np.round(line * 16).astype(np.int32).reshape(-1, 1, 2) for line in lines if len(line) > 1]
    cv2.polylines(canvas, fixed_point, closed, 255, max(1, round(width)), cv2.LINE_AA, 4)
    return canvas.astype(np.float32) * np.float32(min(1.0, width) / 255)


def draw_dots(size: int, dots: Points) -> Plane:
    """Return soft discs as a plane from 0 to 1; ``dots`` is ``(n, 3)`` as ``x, y, r``."""
    plane = np.zeros((size, size), np.float32)
    for x, y, r in dots:
        reach = int(np.ceil(2 * r + 2))
        left, top = max(0, int(x) - reach), max(0, int(y) - reach)
        right, bottom = min(size, int(x) + reach + 1), min(size, int(y) + reach + 1)
        if left >= right or top >= bottom:
            continue
        dy, dx = np.ogrid[top:bottom, left:right]
        distance = np.sqrt((dx - x) ** 2 + (dy - y) ** 2)
        # The volume is kept for dots below a pixel: they are faint, not gone.
        strength = min(1.0, 2 * r)
        disc = strength / (1 + np.exp(np.clip((distance - r) / max(0.25 * r, 0.3), -30, 30)))
        patch = plane[top:bottom, left:right]
        np.maximum(patch, disc.astype(np.float32), out=patch)
    return plane


def distance_inside(labels: NDArray[np.int32]) -> Plane:
    """Return each pixel's distance to the rim of its own region, 0 outside; touching regions have a rim between."""
    rim = np.zeros(labels.shape, np.uint8)
    rim[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    rim[1:, :] |= labels[1:, :] != labels[:-1, :]
    inside = ((labels > 0) & (rim == 0)).astype(np.uint8)
    return np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, 3), np.float32)


def walk(rng: np.random.Generator, start: Points, heading: float, *, step: float, steps: int, wobble: float) -> Points:
    """Return a persistent random walk, ``(steps + 1, 2)`` points."""
    headings = heading + np.cumsum(rng.normal(0, wobble, steps))
    moves = step * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    return np.concatenate([start[None], start + np.cumsum(moves, axis=0)]).astype(np.float32)


def to_unit(plane: NDArray[Any]) -> Plane:
    """Return ``plane`` divided by its maximum, if that is above 0."""
    top = float(plane.max())
    return np.asarray(plane / top if top > 0 else plane, np.float32)


def _scatter(rng: np.random.Generator, size: int, *, gap: float, most: int) -> Points:
    """Return at least one and at most ``most`` points, at least ``gap`` apart, some beyond the border."""
    points: list[Points] = []
    for candidate in rng.uniform(-0.05 * size, 1.05 * size, (12 * most, 2)):
        if len(points) < most and all(np.hypot(*(candidate - p)) >= gap for p in points):
            points.append(candidate.astype(np.float32))
    # One cell is always in the picture.
    points[0] = np.asarray(rng.uniform(0.25 * size, 0.75 * size, 2), np.float32)
    return np.stack([points[0], *[p for p in points[1:] if np.hypot(*(p - points[0])) >= gap]])


def _draw_maps(
    rng: np.random.Generator, size: int, centres: Points, *, reach: float, stretch: float, radius: float
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the maps of cells and of nuclei: each pixel belongs to the nearest cell within its reach."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    x += 5 * size / 512 * smooth_noise(rng, size, 14 * size / 512)
    y += 5 * size / 512 * smooth_noise(rng, size, 14 * size / 512)
    lean = rng.uniform(0, np.pi)
    nearest = np.full((size, size), np.inf, np.float32)
    cell_map = np.zeros((size, size), np.int32)
    nucleus_map = np.zeros((size, size), np.int32)
    for number, (cx, cy) in enumerate(centres, start=1):
        angle = lean + rng.normal(0, 0.5)
        along = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        across = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        cell_reach = reach * rng.uniform(0.8, 1.25)
        distance = np.hypot(along / stretch, across) / cell_reach
        mine = (distance < 1) & (distance < nearest)
        cell_map[mine] = number
        nearest[mine] = distance[mine]
        round_ = rng.uniform(1.0, 1.35)
        nucleus = np.hypot(along / round_, across * round_) < radius * rng.uniform(0.85, 1.15)
        nucleus_map[nucleus & (nucleus_map == 0)] = number
    # A nucleus belongs to its own cell, whatever lies nearer.
    cell_map = np.where(nucleus_map > 0, nucleus_map, cell_map)
    return cell_map, nucleus_map


def _draw_cell(
    rng: np.random.Generator,
    number: int,
    centre: Points,
    nucleus_map: NDArray[np.int32],
    radius: float,
    reach: float,
    scale: float,
) -> Cell:
    angle = rng.uniform(0, 2 * np.pi)
    start = (centre + radius * 1.08 * np.array([np.cos(angle), np.sin(angle)])).astype(np.float32)
    count = int(rng.integers(45, 80))
    filaments = tuple(
        walk(
            rng,
            start,
            heading,
            step=5 * scale,
            steps=int(rng.uniform(0.5, 1.5) * reach / (5 * scale)) + 2,
            wobble=0.16,
        )
        for heading in rng.uniform(0, 2 * np.pi, count)
    )
    where = np.argwhere(nucleus_map == number)[:, ::-1]
    spots = where[rng.integers(0, len(where), int(rng.integers(1, 5)))]
    # Towards the centre: nucleoli do not sit on the nuclear membrane.
    spots = centre + 0.6 * (spots - centre)
    radii = rng.uniform(2.5, 5.5, len(spots)) * scale
    return Cell(
        number=number,
        centre=centre,
        radius=radius,
        organising_centre=start,
        axis=float(angle),
        nucleoli=np.column_stack([spots, radii]).astype(np.float32),
        filaments=filaments,
    )
