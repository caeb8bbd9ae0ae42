"""Patterns in the nucleus: nucleoplasm, membrane, nucleoli, speckles and bodies."""

from __future__ import annotations

import numpy as np

from cytoloc.simulate.drawing import Plane, draw_dots, smooth_noise, to_unit
from cytoloc.simulate.patterns.placing import dots_in
from cytoloc.simulate.stains import StainedScene


def nucleoplasm(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Fill the nucleus with fine texture, with dark nucleoli."""
    grain = 1 + 0.15 * smooth_noise(rng, scene.size, 2.5 * scene.scale)
    return to_unit((scene.nucleus_map > 0) * np.clip(grain, 0.3, None) * (1 - 0.8 * scene.nucleoli))


def nuclear_membrane(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw the bright border of each nucleus over a faint fill."""
    width = rng.uniform(1.2, 2.0) * scene.scale
    return to_unit((scene.nucleus_map > 0) * (0.15 + np.exp(-((scene.in_nucleus / width) ** 2))))


def nucleoli(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Fill the nucleoli, which the nuclear stain leaves dark; in some fields draw only their borders."""
    bodies = scene.nucleoli * (1 - scene.nucleoli) * 4 if rng.uniform() < 0.15 else scene.nucleoli
    return to_unit(bodies + 0.35 * rng.uniform() ** 2 * (scene.nucleus_map > 0))


def fibrillar_center(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw a cluster of dots inside each nucleolus."""
    dots = [
        np.column_stack([rng.normal(x, 0.5 * r, n), rng.normal(y, 0.5 * r, n), np.full(n, 1.0 * scene.scale)])
        for cell in scene.cells
        for x, y, r in cell.nucleoli
        for n in [int(rng.integers(2, 6))]
    ]
    return draw_dots(scene.size, np.concatenate(dots)) * (scene.nucleus_map > 0)


def nuclear_speckles(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw about twenty irregular speckles in a hazy nucleus, without nucleoli."""
    noise = smooth_noise(rng, scene.size, rng.uniform(1.8, 3.2) * scene.scale)
    islands = 1 / (1 + np.exp(-8 * (noise - rng.uniform(0.5, 0.9))))
    return to_unit((scene.in_nucleus > scene.scale) * (islands + rng.uniform(0.05, 0.45)) * (1 - scene.nucleoli))


def nuclear_bodies(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Draw two to seven separate round dots in each nucleus."""
    return dots_in(scene, rng, scene.in_nucleus > 2 * scene.scale, number=(2, 8), radius=(1.0, 1.9))
