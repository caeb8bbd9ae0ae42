"""Patterns in the cytoplasm: membranes, vesicles, bodies, and the cytosol."""

from __future__ import annotations

import numpy as np

from cytoloc.simulate.drawing import Plane, draw_dots, draw_lines, random_walk, smooth_noise, streaks, to_unit
from cytoloc.simulate.patterns.placing import dots_in, outward, places
from cytoloc.simulate.stains import StainedScene


def endoplasmic_reticulum(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Follow the network of the endoplasmic reticulum channel, with additional texture."""
    return to_unit(scene.er * np.clip(1 + 0.2 * smooth_noise(rng, scene.size, 2 * scene.scale), 0.2, None))


def golgi_apparatus(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw a ribbon near the nucleus, at the organizing center, with more or less dispersed stacks."""
    ribbons, stacks = [], []
    apart, share = rng.uniform(4, 11) * scene.scale, rng.uniform(0, 1)
    for cell in scene.cells:
        away = outward(cell)
        spots = cell.organizing_center + rng.normal(0, apart, (int(rng.integers(10, 40)), 2))
        stacks.append(np.column_stack([spots, rng.uniform(0.9, 2.2, len(spots)) * scene.scale]))
        for _ in range(int(rng.integers(3, 7))):
            start = cell.organizing_center + rng.normal(0, 5 * scene.scale, 2).astype(np.float32)
            along = away + np.pi / 2 + rng.normal(0, 0.5)
            ribbons.append(
                random_walk(rng, start, along, step=2 * scene.scale, steps=int(rng.integers(4, 9)), wobble=0.5)
            )
    ribbon = draw_lines(scene.size, ribbons, width=rng.uniform(1.6, 2.6) * scene.scale)
    dots = draw_dots(scene.size, np.concatenate(stacks).astype(np.float32))
    return to_unit(np.maximum(share * ribbon, dots) * scene.cytoplasm)


def peroxisomes(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw many tiny dots of equal size in the cytoplasm."""
    return dots_in(scene, rng, scene.cytoplasm, number=(40, 90), radius=(0.7, 1.0))


def endosomes(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw ten to twenty-five small dots of different sizes, mostly towards the cell border."""
    return dots_in(
        scene, rng, scene.cytoplasm & (scene.from_nucleus > 8 * scene.scale), number=(10, 26), radius=(0.8, 1.6)
    )


def lysosomes(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw larger dots near the nucleus."""
    near = scene.cytoplasm & (scene.from_nucleus < 20 * scene.scale)
    return dots_in(scene, rng, near, number=(12, 30), radius=(1.2, 2.2))


def lipid_droplets(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw clusters of hollow droplets in the cytoplasm."""
    rings = []
    for _, spots in places(scene, rng, scene.cytoplasm, number=(2, 5)):
        members = np.repeat(spots, 6, axis=0) + rng.normal(0, 5 * scene.scale, (6 * len(spots), 2))
        rings.append(np.column_stack([members, rng.uniform(1.2, 2.6, len(members)) * scene.scale]))
    dots = np.concatenate(rings).astype(np.float32)
    hollow = draw_dots(scene.size, dots) - 0.7 * draw_dots(scene.size, dots * np.array([1, 1, 0.5], np.float32))
    return np.clip(hollow, 0, 1) * scene.cytoplasm


def mitochondria(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Fill the cytoplasm with curved, broken and branched threads, denser near the nucleus."""
    angle = 2.5 * smooth_noise(rng, scene.size, rng.uniform(10, 20) * scene.scale)
    threads = streaks(rng, angle, length=rng.uniform(5, 14) * scene.scale, width=rng.uniform(1.3, 2.2) * scene.scale)
    threads = 1 / (1 + np.exp(-6 * (threads - rng.uniform(0.4, 0.9))))
    threads *= np.clip(1 + 0.4 * smooth_noise(rng, scene.size, 1.5 * scene.scale), 0, None)
    near = np.exp(-scene.from_nucleus / (rng.uniform(14, 30) * scene.scale))
    return to_unit((threads + 0.08) * scene.cytoplasm * near * (scene.in_cell > 2 * scene.scale))


def aggresome(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw one large bright body near the nucleus, in some cells only."""
    dots = [
        [*(cell.center + 1.35 * (cell.organizing_center - cell.center)), rng.uniform(4, 6.5) * scene.scale]
        for index, cell in enumerate(scene.cells)
        if index == 0 or rng.uniform() < 0.6
    ]
    return draw_dots(scene.size, np.array(dots, np.float32)) * (scene.cell_map > 0)


def cytosol(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Fill the cell evenly, with little or nothing in the nucleus, thinner at the border."""
    grain = np.clip(1 + 0.12 * smooth_noise(rng, scene.size, 2 * scene.scale), 0.3, None)
    grain += 0.15 * smooth_noise(rng, scene.size, 18 * scene.scale)
    share = np.where(scene.nucleus_map > 0, rng.uniform(0.0, 0.15), 1.0)
    thin = 1 - np.exp(-scene.in_cell / (rng.uniform(1.5, 5) * scene.scale))
    return to_unit((scene.cell_map > 0) * share * np.clip(grain, 0.2, None) * thin)


def cytoplasmic_bodies(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw two to six bright round bodies in each cytoplasm."""
    return dots_in(scene, rng, scene.cytoplasm, number=(2, 7), radius=(1.4, 2.2))


def rods_and_rings(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw rods or rings, several micrometers long, in each cell."""
    rods, rings = [], []
    for _, spots in places(scene, rng, scene.cytoplasm, number=(1, 4)):
        for spot in spots:
            angle = rng.uniform(0, 2 * np.pi)
            if rng.uniform() < 0.6:
                rods.append(random_walk(rng, spot, angle, step=3 * scene.scale, steps=5, wobble=0.03))
            else:
                turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
                rings.append(
                    (spot + 4.5 * scene.scale * np.column_stack([np.cos(turn), np.sin(turn)])).astype(np.float32)
                )
    width = 1.5 * scene.scale
    rings_too = np.maximum(
        draw_lines(scene.size, rods, width=width), draw_lines(scene.size, rings, width=width, closed=True)
    )
    return np.asarray(rings_too * (scene.cell_map > 0), np.float32)
