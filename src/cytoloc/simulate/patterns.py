"""Where the protein is: one function per location, each drawing what a biologist looks for.

A pattern takes a scene and a random source and returns a float32 plane from 0 to 1. Cytokinetic bridge (16) and
mitotic spindle (17) are not drawn: the scene has no dividing cells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoloc.simulate.cells import (
    Cell,
    Plane,
    Points,
    Scene,
    draw_dots,
    draw_lines,
    smooth_noise,
    to_unit,
    walk,
)

Pattern = Callable[[Scene, np.random.Generator], Plane]


def nucleoplasm(scene: Scene, rng: np.random.Generator) -> Plane:
    """Fill the nucleus with fine grain, the nucleoli left dark."""
    grain = 1 + 0.15 * smooth_noise(rng, scene.size, 2.5 * scene.scale)
    return to_unit((scene.nucleus_map > 0) * np.clip(grain, 0.3, None) * (1 - 0.8 * scene.nucleoli))


def nuclear_membrane(scene: Scene, rng: np.random.Generator) -> Plane:
    """Draw the bright rim of each nucleus over a faint fill."""
    width = rng.uniform(1.2, 2.0) * scene.scale
    return to_unit((scene.nucleus_map > 0) * (0.15 + np.exp(-((scene.in_nucleus / width) ** 2))))


def nucleoli(scene: Scene, rng: np.random.Generator) -> Plane:
    """Fill the one to four roundish bodies that the nuclear stain leaves dark."""
    return to_unit(scene.nucleoli + 0.08 * rng.uniform() * (scene.nucleus_map > 0))


def fibrillar_center(scene: Scene, rng: np.random.Generator) -> Plane:
    """Set a cluster of points inside each nucleolus, not its whole body."""
    dots = [
        np.column_stack([rng.normal(x, 0.5 * r, n), rng.normal(y, 0.5 * r, n), np.full(n, 1.0 * scene.scale)])
        for cell in scene.cells
        for x, y, r in cell.nucleoli
        for n in [int(rng.integers(2, 6))]
    ]
    return draw_dots(scene.size, np.concatenate(dots)) * (scene.nucleus_map > 0)


def nuclear_speckles(scene: Scene, rng: np.random.Generator) -> Plane:
    """Scatter some twenty irregular islands of splicing factors through the nucleus, nucleoli left out."""
    noise = smooth_noise(rng, scene.size, 3.2 * scene.scale)
    islands = 1 / (1 + np.exp(-8 * (noise - 0.9)))
    return to_unit((scene.in_nucleus > scene.scale) * (islands + 0.08) * (1 - scene.nucleoli))


def nuclear_bodies(scene: Scene, rng: np.random.Generator) -> Plane:
    """Set two to seven separate round dots in each nucleus."""
    return _dots_in(scene, rng, scene.in_nucleus > 2 * scene.scale, number=(2, 8), radius=(1.0, 1.9))


def endoplasmic_reticulum(scene: Scene, rng: np.random.Generator) -> Plane:
    """Follow the network of the er channel, with grain of its own."""
    return to_unit(scene.er * np.clip(1 + 0.2 * smooth_noise(rng, scene.size, 2 * scene.scale), 0.2, None))


def golgi_apparatus(scene: Scene, rng: np.random.Generator) -> Plane:
    """Wind a thick ribbon beside the nucleus, on the side of the organising centre."""
    ribbons = []
    for cell in scene.cells:
        outward = _outward(cell)
        for _ in range(int(rng.integers(3, 7))):
            start = cell.organising_centre + rng.normal(0, 5 * scene.scale, 2).astype(np.float32)
            along = outward + np.pi / 2 + rng.normal(0, 0.5)
            ribbons.append(walk(rng, start, along, step=2 * scene.scale, steps=int(rng.integers(4, 9)), wobble=0.5))
    return draw_lines(scene.size, ribbons, width=2.6 * scene.scale) * scene.cytoplasm


def peroxisomes(scene: Scene, rng: np.random.Generator) -> Plane:
    """Scatter many tiny equal dots through the cytoplasm."""
    return _dots_in(scene, rng, scene.cytoplasm, number=(40, 90), radius=(0.7, 1.0))


def endosomes(scene: Scene, rng: np.random.Generator) -> Plane:
    """Scatter a dozen or two small dots of uneven size, rather towards the rim of the cell."""
    return _dots_in(
        scene,
        rng,
        scene.cytoplasm & (scene.from_nucleus > 8 * scene.scale),
        number=(10, 26),
        radius=(0.8, 1.6),
    )


def lysosomes(scene: Scene, rng: np.random.Generator) -> Plane:
    """Gather larger dots in the neighbourhood of the nucleus."""
    near = scene.cytoplasm & (scene.from_nucleus < 20 * scene.scale)
    return _dots_in(scene, rng, near, number=(12, 30), radius=(1.2, 2.2))


def intermediate_filaments(scene: Scene, rng: np.random.Generator) -> Plane:
    """Wrap wavy bundles around the nucleus, a cage that thins out towards the rim."""
    bundles = []
    for cell in scene.cells:
        for angle in rng.uniform(0, 2 * np.pi, int(rng.integers(18, 34))):
            start = cell.centre + cell.radius * rng.uniform(1.0, 1.6) * np.array([np.cos(angle), np.sin(angle)])
            heading = angle + np.pi / 2 + rng.normal(0, 0.6)
            bundles.append(walk(rng, start.astype(np.float32), heading, step=3 * scene.scale, steps=16, wobble=0.35))
    plane = draw_lines(scene.size, bundles, width=1.6 * scene.scale)
    return to_unit(plane * scene.cytoplasm * (0.3 + np.exp(-scene.from_nucleus / (20 * scene.scale))))


def actin_filaments(scene: Scene, rng: np.random.Generator) -> Plane:
    """Lay straight parallel stress fibres across each cell and a thin cortex along its rim."""
    fibres = []
    for cell in scene.cells:
        direction = rng.uniform(0, np.pi)
        along = np.array([np.cos(direction), np.sin(direction)])
        across = np.array([-along[1], along[0]])
        for offset in rng.uniform(-2.4, 2.4, int(rng.integers(8, 18))) * cell.radius:
            middle = cell.centre + offset * across + rng.normal(0, 0.6) * cell.radius * along
            half = rng.uniform(0.8, 2.4) * cell.radius * along
            fibres.append(np.stack([middle - half, middle + half]).astype(np.float32))
    cortex = 0.4 * np.exp(-((scene.in_cell / (1.5 * scene.scale)) ** 2))
    return to_unit((draw_lines(scene.size, fibres, width=1.4 * scene.scale) + cortex) * (scene.cell_map > 0))


def focal_adhesions(scene: Scene, rng: np.random.Generator) -> Plane:
    """Set short streaks at the rim of the cell, pointing at its middle."""
    streaks = []
    rim = (scene.in_cell > 0.5 * scene.scale) & (scene.in_cell < 7 * scene.scale)
    for cell, spots in _places(scene, rng, rim, number=(14, 34)):
        inward = cell.centre - spots
        inward /= np.linalg.norm(inward, axis=1, keepdims=True) + 1e-6
        lengths = rng.uniform(3, 8, (len(spots), 1)) * scene.scale
        streaks += list(np.stack([spots, spots + inward * lengths], axis=1).astype(np.float32))
    return draw_lines(scene.size, streaks, width=1.8 * scene.scale) * (scene.cell_map > 0)


def microtubules(scene: Scene, rng: np.random.Generator) -> Plane:
    """Follow the filaments of the microtubule channel, unevenly bright."""
    return to_unit(scene.microtubules * np.clip(1 + 0.25 * smooth_noise(rng, scene.size, 20 * scene.scale), 0.3, None))


def microtubule_ends(scene: Scene, rng: np.random.Generator) -> Plane:
    """Draw comets on the outer ends of the filaments only."""
    tips = [line[k : k + 2] for cell in scene.cells for line in cell.filaments for k in [_tip(line, scene, cell, rng)]]
    return draw_lines(scene.size, tips, width=1.8 * scene.scale) * (scene.cell_map > 0)


def organizing_center(scene: Scene, rng: np.random.Generator) -> Plane:
    """Set a hazy bright patch, several dots wide, where the microtubules start."""
    dots = [
        np.column_stack(
            [cell.organising_centre + rng.normal(0, 2.2 * scene.scale, (7, 2)), np.full(7, 1.7 * scene.scale)]
        )
        for cell in scene.cells
    ]
    return to_unit(cv2.GaussianBlur(draw_dots(scene.size, np.concatenate(dots)), (0, 0), 1.2 * scene.scale))


def centrosome(scene: Scene, rng: np.random.Generator) -> Plane:
    """Set one or two sharp points, and nothing else, at the organising centre of each cell."""
    dots = [
        [*(cell.organising_centre + rng.normal(0, 1.6 * scene.scale, 2)), 1.2 * scene.scale]
        for cell in scene.cells
        for _ in range(int(rng.integers(1, 3)))
    ]
    return draw_dots(scene.size, np.array(dots, np.float32))


def lipid_droplets(scene: Scene, rng: np.random.Generator) -> Plane:
    """Gather droplets with hollow middles into clusters in the cytoplasm."""
    rings = []
    for _, spots in _places(scene, rng, scene.cytoplasm, number=(2, 5)):
        members = np.repeat(spots, 6, axis=0) + rng.normal(0, 5 * scene.scale, (6 * len(spots), 2))
        rings.append(np.column_stack([members, rng.uniform(1.2, 2.6, len(members)) * scene.scale]))
    dots = np.concatenate(rings).astype(np.float32)
    hollow = draw_dots(scene.size, dots) - 0.7 * draw_dots(scene.size, dots * np.array([1, 1, 0.5], np.float32))
    return np.clip(hollow, 0, 1) * scene.cytoplasm


def plasma_membrane(scene: Scene, rng: np.random.Generator) -> Plane:
    """Line the whole rim of every cell, ruffled, over a faint haze."""
    ruffle = np.clip(1 + 0.5 * smooth_noise(rng, scene.size, 7 * scene.scale), 0.15, None)
    edge = np.exp(-((scene.in_cell / (2.4 * scene.scale)) ** 2)) * ruffle
    return to_unit((scene.cell_map > 0) * (edge + 0.12))


def cell_junctions(scene: Scene, rng: np.random.Generator) -> Plane:
    """Draw beads on a string where two cells touch, and only there."""
    reach = max(1, round(2.5 * scene.scale))
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    cells = scene.cell_map.astype(np.float32)
    empty = scene.cell_map == 0
    highest = cv2.dilate(np.where(empty, -np.inf, cells).astype(np.float32), kernel)
    lowest = cv2.erode(np.where(empty, np.inf, cells).astype(np.float32), kernel)
    touching = (~empty & (highest != lowest) & (scene.in_cell < reach)).astype(np.float32)
    beads = np.clip(0.6 + 0.6 * smooth_noise(rng, scene.size, 3 * scene.scale), 0, None)
    return to_unit(touching * beads)


def mitochondria(scene: Scene, rng: np.random.Generator) -> Plane:
    """Fill the cytoplasm with short worms, denser by the nucleus."""
    worms = []
    for _, spots in _places(scene, rng, scene.cytoplasm & (scene.from_nucleus < 32 * scene.scale), number=(30, 65)):
        worms += [
            walk(
                rng,
                spot,
                rng.uniform(0, 2 * np.pi),
                step=2 * scene.scale,
                steps=int(rng.integers(2, 6)),
                wobble=0.5,
            )
            for spot in spots
        ]
    plane = draw_lines(scene.size, worms, width=1.9 * scene.scale)
    return to_unit(plane * scene.cytoplasm * (0.4 + np.exp(-scene.from_nucleus / (18 * scene.scale))))


def aggresome(scene: Scene, rng: np.random.Generator) -> Plane:
    """Set one large bright body beside the nucleus, in some cells only."""
    dots = [
        [*(cell.centre + 1.35 * (cell.organising_centre - cell.centre)), rng.uniform(4, 6.5) * scene.scale]
        for index, cell in enumerate(scene.cells)
        if index == 0 or rng.uniform() < 0.6
    ]
    return draw_dots(scene.size, np.array(dots, np.float32))


def cytosol(scene: Scene, rng: np.random.Generator) -> Plane:
    """Fill the cell evenly but for the nucleus, thinner at the rim."""
    grain = np.clip(1 + 0.12 * smooth_noise(rng, scene.size, 2 * scene.scale), 0.3, None)
    return to_unit(scene.cytoplasm * grain * (1 - np.exp(-scene.in_cell / (6 * scene.scale))))


def cytoplasmic_bodies(scene: Scene, rng: np.random.Generator) -> Plane:
    """Set two to six bright round bodies in each cytoplasm."""
    return _dots_in(scene, rng, scene.cytoplasm, number=(2, 7), radius=(1.4, 2.2))


def rods_and_rings(scene: Scene, rng: np.random.Generator) -> Plane:
    """Draw a rod or a ring, several micrometres long, in each cell."""
    rods, rings = [], []
    for _, spots in _places(scene, rng, scene.cytoplasm, number=(1, 4)):
        for spot in spots:
            angle = rng.uniform(0, 2 * np.pi)
            if rng.uniform() < 0.6:
                rods.append(walk(rng, spot, angle, step=3 * scene.scale, steps=5, wobble=0.03))
            else:
                turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
                rings.append(
                    (spot + 4.5 * scene.scale * np.column_stack([np.cos(turn), np.sin(turn)])).astype(np.float32)
                )
    width = 1.5 * scene.scale
    return np.maximum(
        draw_lines(scene.size, rods, width=width), draw_lines(scene.size, rings, width=width, closed=True)
    )


PATTERNS: Final[dict[int, Pattern]] = {
    0: nucleoplasm,
    1: nuclear_membrane,
    2: nucleoli,
    3: fibrillar_center,
    4: nuclear_speckles,
    5: nuclear_bodies,
    6: endoplasmic_reticulum,
    7: golgi_apparatus,
    8: peroxisomes,
    9: endosomes,
    10: lysosomes,
    11: intermediate_filaments,
    12: actin_filaments,
    13: focal_adhesions,
    14: microtubules,
    15: microtubule_ends,
    18: organizing_center,
    19: centrosome,
    20: lipid_droplets,
    21: plasma_membrane,
    22: cell_junctions,
    23: mitochondria,
    24: aggresome,
    25: cytosol,
    26: cytoplasmic_bodies,
    27: rods_and_rings,
}
"""The pattern of each location that can be drawn, by location id."""


def _outward(cell: Cell) -> float:
    """Return the direction from the nucleus to the organising centre, in radians."""
    dx, dy = cell.organising_centre - cell.centre
    return float(np.arctan2(dy, dx))


def _tip(line: Points, scene: Scene, cell: Cell, rng: np.random.Generator) -> int:
    """Return where on a filament a comet sits: at its last point inside the cell, or somewhat before."""
    columns = np.clip(line.astype(int), 0, scene.size - 1)
    inside = np.flatnonzero(scene.cell_map[columns[:, 1], columns[:, 0]] == cell.number)
    last = int(inside[-1]) if len(inside) else 0
    return max(0, last - 1 - int(rng.integers(0, 3)))


def _places(
    scene: Scene, rng: np.random.Generator, allowed: NDArray[np.bool_], *, number: tuple[int, int]
) -> list[tuple[Cell, Points]]:
    """Return for each cell between ``number[0]`` and ``number[1] - 1`` points ``(x, y)`` in its ``allowed`` part."""
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


def _dots_in(
    scene: Scene,
    rng: np.random.Generator,
    allowed: NDArray[np.bool_],
    *,
    number: tuple[int, int],
    radius: tuple[float, float],
) -> Plane:
    """Return dots in the ``allowed`` part of each cell; radii in pixels of a 512-px field."""
    dots = [
        np.column_stack([spots, rng.uniform(*radius, len(spots)) * scene.scale])
        for _, spots in _places(scene, rng, allowed, number=number)
    ]
    return draw_dots(scene.size, np.concatenate([np.empty((0, 3)), *dots]).astype(np.float32))
