"""The cells of a simulated field: positions, outlines, nuclei, division and contents.

Lengths are in pixels of a field 512 px wide (about 0.32 µm each) times :attr:`CellScene.scale`, so that a field looks
the same at every size. As in SimuCell (Rajaram et al., Nature Methods 2012), populations differ, and markers depend on
each other. Microtubules are persistent random walks from an organizing center, as in CellOrganizer (Shariff et al.,
Cytometry A 2010).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoloc._typing import BoolArray
from cytoloc.simulate.cell_lines import CELL_LINES, CellLine
from cytoloc.simulate.drawing import Plane, Points, distance_inside, draw_dots, random_walk, smooth_noise

Phase = Literal["interphase", "metaphase", "telophase"]

DIVIDING: Final = 0.03
"""Share of cells in each of the two phases of division."""


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        number: The value of the cell in ``CellScene.cell_map`` and ``CellScene.nucleus_map``, from 1.
        center: Center of the nucleus, ``(x, y)``.
        radius: Mean radius of the nucleus.
        organizing_center: Start of the microtubules, ``(x, y)``, at the border of the nucleus.
        axis: Direction of the long axis in radians; for a dividing cell, the direction of division.
        phase: In metaphase, the chromosomes form a plate across the axis; in telophase, the cell is one of two
            daughters.
        sister: The number of the other daughter cell in telophase; None otherwise.
        nucleoli: Position and radius of each nucleolus, shape ``(n, 3)`` as ``x, y, r``; none in dividing cells.
        filaments: Some microtubules, each a curve of points ``(m, 2)`` starting at the organizing center.
    """

    number: int
    center: Points
    radius: float
    organizing_center: Points
    axis: float
    phase: Phase
    sister: int | None
    nucleoli: Points
    filaments: tuple[Points, ...]


@dataclass(frozen=True)
class CellScene:
    """The cells of a field, with the maps from which channels and patterns are drawn.

    Attributes:
        size: Edge length of the field, in pixels.
        scale: ``size / 512``.
        cells: The cells with a visible nucleus, in no particular order.
        cell_map: The number of the cell at each pixel, 0 for background, int32 of shape ``(size, size)``.
        nucleus_map: The same for nuclei and for chromosomes of dividing cells.
        in_cell: Distance to the cell border, 0 outside cells.
        in_nucleus: Distance to the nuclear border, 0 outside nuclei.
        from_nucleus: Distance to the nearest nucleus, 0 inside nuclei.
        nucleoli: Nucleoli with soft edges, 0 to 1.
        amount: The relative brightness of each cell, by its number; about 1.
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
    amount: Plane

    @property
    def cytoplasm(self) -> BoolArray:
        """Whether each pixel belongs to a cell but not to a nucleus."""
        return np.asarray((self.cell_map > 0) & (self.nucleus_map == 0))


class _Outline(NamedTuple):
    """The geometry of a cell before it is drawn."""

    center: Points
    radius: float
    long_nucleus: float
    reach: float
    stretch: float
    axis: float
    lobes: float
    phase: Phase
    sister: int | None

    def relative_distance(self, rng: np.random.Generator, x: Plane, y: Plane, *, limit: Plane) -> Plane:
        """Return the distance from the center relative to the cell border, which has distance 1.

        Pixels that are surely farther than ``limit`` have infinite distance, which saves time.
        """
        along, across = self._turned(x, y)
        root = np.sqrt(self.stretch)
        straight = np.hypot(along / root, across * root) / self.reach
        near = straight < 2 * limit  # lobes move the border outwards by at most a factor of 1.9
        angle = np.arctan2(across[near], along[near])
        outside = np.ones_like(angle)
        for lobe in range(2, 7):
            outside += self.lobes * rng.normal(0, 1 / np.sqrt(lobe)) * np.cos(lobe * angle + rng.uniform(0, 2 * np.pi))
        distance = np.full(straight.shape, np.inf, np.float32)
        distance[near] = straight[near] / np.clip(outside, 0.45, 1.9)
        return distance

    def in_nucleus(self, rng: np.random.Generator, x: Plane, y: Plane) -> BoolArray:
        """Return a mask of the nucleus (nearly an ellipse) or of the metaphase plate."""
        along, across = self._turned(x, y)
        if self.phase == "metaphase":
            return np.asarray(np.hypot(along / (0.3 * self.radius), across / (0.95 * self.radius)) < 1)
        angle = np.arctan2(across, along)
        outside = 1.0 + sum(
            rng.normal(0, 0.05 / lobe) * np.cos(lobe * angle + rng.uniform(0, 2 * np.pi)) for lobe in (2, 3, 4)
        )
        root = np.sqrt(self.long_nucleus)
        return np.asarray(np.hypot(along / root, across * root) < self.radius * outside)

    def filled(self, rng: np.random.Generator, number: int, nucleus_map: NDArray[np.int32], scale: float) -> Cell:
        """Return the cell with microtubules and nucleoli."""
        # The organizing center is on the long side, where a narrow cell has space for it.
        angle = self.axis + rng.choice([0, np.pi]) + rng.normal(0, 2.0 / self.stretch**2)
        outward = np.array([np.cos(angle), np.sin(angle)])
        start = (self.center + 1.08 * self.radius * outward).astype(np.float32)
        reach = self.reach * np.sqrt(self.stretch)
        filaments = tuple(
            random_walk(
                rng,
                start,
                heading,
                step=5 * scale,
                steps=int(rng.uniform(0.5, 1.4) * reach / (5 * scale)) + 2,
                wobble=0.16,
            )
            for heading in rng.uniform(0, 2 * np.pi, int(rng.integers(20, 40)))
        )
        nucleoli = np.empty((0, 3), np.float32)
        if self.phase == "interphase":
            rows, columns = np.nonzero(nucleus_map == number)
            chosen = rng.integers(0, len(rows), int(rng.integers(1, 6)))
            # Moved towards the center, because nucleoli are not at the nuclear membrane.
            spots = self.center + 0.65 * (np.column_stack([columns, rows])[chosen] - self.center)
            radii = self.radius * rng.uniform(0.09, 0.24, len(spots))
            nucleoli = np.column_stack([spots, radii]).astype(np.float32)
        return Cell(
            number=number,
            center=self.center,
            radius=self.radius,
            organizing_center=start,
            axis=self.axis,
            phase=self.phase,
            sister=self.sister,
            nucleoli=nucleoli,
            filaments=filaments,
        )

    def _turned(self, x: Plane, y: Plane) -> tuple[Plane, Plane]:
        cx, cy = self.center
        cosine, sine = np.float32(np.cos(self.axis)), np.float32(np.sin(self.axis))
        return (x - cx) * cosine + (y - cy) * sine, (y - cy) * cosine - (x - cx) * sine


def draw_scene(
    rng: np.random.Generator, size: int, *, line: int | None = None, dividing: Collection[Phase] = ()
) -> CellScene:
    """Simulate the cells of a field, all of one cell line, from sparse to confluent.

    Args:
        rng: Random generator.
        size: Edge length of the field, in pixels.
        line: The number of the cell line in :data:`~cytoloc.simulate.cell_lines.CELL_LINES`. Default: random.
        dividing: Phases of division that at least one cell must have. Other cells divide at random.

    Returns:
        The cells.
    """
    if line is None:
        line = int(rng.choice(len(CELL_LINES), p=[each.share for each in CELL_LINES]))
    scale = size / 512
    outlines = _plan_cells(rng, CELL_LINES[line], size, dividing)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    # Each pixel belongs to the cell in which it has the smallest relative distance. Cell borders are rough; nuclear
    # borders are nearly smooth.
    rough_x = x + 3.5 * scale * smooth_noise(rng, size, 9 * scale)
    rough_y = y + 3.5 * scale * smooth_noise(rng, size, 9 * scale)
    deepest = np.ones((size, size), np.float32)
    cell_map, nucleus_map = np.zeros((2, size, size), np.int32)
    for number, outline in enumerate(outlines, start=1):
        reach = int(np.ceil(outline.reach * outline.stretch * (1.2 + 2 * outline.lobes))) + 8
        cx, cy = (int(each) for each in outline.center)
        here = np.s_[max(0, cy - reach) : max(0, cy + reach + 1), max(0, cx - reach) : max(0, cx + reach + 1)]
        if not x[here].size:
            continue
        depth = outline.relative_distance(rng, rough_x[here], rough_y[here], limit=deepest[here])
        mine = depth < deepest[here]
        cell_map[here][mine] = number
        deepest[here][mine] = depth[mine]
        # Nuclei are much smaller than cells.
        reach = int(2 * outline.radius * np.sqrt(max(outline.long_nucleus, 1 / outline.long_nucleus))) + 2
        here = np.s_[max(0, cy - reach) : max(0, cy + reach + 1), max(0, cx - reach) : max(0, cx + reach + 1)]
        nucleus = outline.in_nucleus(rng, x[here], y[here])
        nucleus_map[here][nucleus & (nucleus_map[here] == 0)] = number
    # A nucleus belongs to its own cell, even if another cell is nearer.
    cell_map = np.where(nucleus_map > 0, nucleus_map, cell_map)
    cells = tuple(
        outline.filled(rng, number, nucleus_map, scale)
        for number, outline in enumerate(outlines, start=1)
        if (nucleus_map == number).any()
    )
    from_nucleus = cv2.distanceTransform((nucleus_map == 0).astype(np.uint8), cv2.DIST_L2, 3)
    spots = np.concatenate([cell.nucleoli for cell in cells])
    return CellScene(
        size=size,
        scale=scale,
        cells=cells,
        cell_map=cell_map,
        nucleus_map=nucleus_map,
        in_cell=distance_inside(cell_map),
        in_nucleus=distance_inside(nucleus_map),
        from_nucleus=np.asarray(from_nucleus, np.float32),
        nucleoli=draw_dots(size, spots) * (nucleus_map > 0),
        amount=np.exp(rng.normal(0, 0.3, len(outlines) + 1)).astype(np.float32),
    )


def _plan_cells(rng: np.random.Generator, line: CellLine, size: int, dividing: Collection[Phase]) -> list[_Outline]:
    """Return the geometry of all cells, those nearest to the center first; these divide if ``dividing`` requires it."""
    scale = size / 512
    nucleus, reach = (rng.uniform(*each) * scale for each in (line.nucleus, line.reach))
    stretch, lobes, lean = rng.uniform(*line.stretch), rng.uniform(*line.lobes), rng.uniform(0, np.pi)
    # Nuclei keep a minimum distance; some are beyond the border. The first is near the center of the field.
    gap = rng.uniform(*line.gap) * nucleus
    most = int(rng.integers(*line.cells))
    tried = rng.uniform(-0.06 * size, 1.06 * size, (14 * most, 2))
    islands = int(rng.integers(line.islands[0], line.islands[1] + 1))
    if islands:
        middles = rng.uniform(0.1 * size, 0.9 * size, (islands, 2))
        spread = rng.uniform(0.18, 0.5) * size
        tried = middles[rng.integers(0, islands, len(tried))] + rng.normal(0, spread, tried.shape)
    placed = [rng.uniform(0.3 * size, 0.7 * size, 2)]
    for candidate in tried:
        if len(placed) >= most:
            break
        if (np.hypot(*(np.array(placed) - candidate).T) >= gap).all():
            placed.append(candidate)
    order = np.argsort(np.hypot(*(np.array(placed) - size / 2).T), kind="stable")
    centers = np.array(placed, np.float32)[order]
    phases: list[Phase] = [
        "interphase" if draw > 2 * DIVIDING else "metaphase" if draw > DIVIDING else "telophase"
        for draw in rng.uniform(size=len(centers))
    ]
    for place, phase in enumerate(sorted(dividing)):
        phases[min(place, len(phases) - 1)] = phase
    outlines: list[_Outline] = []
    for center, phase in zip(centers, phases, strict=True):
        one = _Outline(
            center=center,
            radius=nucleus * rng.uniform(0.85, 1.15),
            long_nucleus=rng.uniform(*line.long_nucleus),
            reach=reach * rng.uniform(0.75, 1.25),
            stretch=stretch * rng.uniform(0.8, 1.2),
            axis=lean + rng.normal(0, 0.6),
            lobes=lobes,
            phase=phase,
            sister=None,
        )
        if phase == "metaphase":
            one = one._replace(reach=1.55 * one.radius, stretch=1.0, lobes=0.02, axis=rng.uniform(0, np.pi))
        if phase != "telophase":
            outlines.append(one)
            continue
        axis = rng.uniform(0, np.pi)
        apart = np.array([np.cos(axis), np.sin(axis)], np.float32) * 1.5 * one.radius
        number = len(outlines) + 1
        small = one._replace(
            radius=0.7 * one.radius, long_nucleus=0.6, reach=1.15 * one.radius, stretch=1.0, axis=axis, lobes=0.05
        )
        outlines += [
            small._replace(center=center - apart, sister=number + 1),
            small._replace(center=center + apart, sister=number),
        ]
    return outlines
