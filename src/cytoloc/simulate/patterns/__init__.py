"""The pattern of the protein in each location, one function per location.

A pattern takes the cells of a field and a random generator, and returns a float32 plane from 0 to about 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from cytoloc.simulate.cells import Phase
from cytoloc.simulate.drawing import Plane
from cytoloc.simulate.patterns import nuclear, organelles, rim, skeleton
from cytoloc.simulate.stains import StainedScene

Pattern = Callable[[StainedScene, np.random.Generator], Plane]

PATTERNS: Final[dict[int, Pattern]] = {
    0: nuclear.nucleoplasm,
    1: nuclear.nuclear_membrane,
    2: nuclear.nucleoli,
    3: nuclear.fibrillar_center,
    4: nuclear.nuclear_speckles,
    5: nuclear.nuclear_bodies,
    6: organelles.endoplasmic_reticulum,
    7: organelles.golgi_apparatus,
    8: organelles.peroxisomes,
    9: organelles.endosomes,
    10: organelles.lysosomes,
    11: skeleton.intermediate_filaments,
    12: skeleton.actin_filaments,
    13: rim.focal_adhesions,
    14: skeleton.microtubules,
    15: skeleton.microtubule_ends,
    16: skeleton.cytokinetic_bridge,
    17: skeleton.mitotic_spindle,
    18: skeleton.organizing_center,
    19: skeleton.centrosome,
    20: organelles.lipid_droplets,
    21: rim.plasma_membrane,
    22: rim.cell_junctions,
    23: organelles.mitochondria,
    24: organelles.aggresome,
    25: organelles.cytosol,
    26: organelles.cytoplasmic_bodies,
    27: organelles.rods_and_rings,
}
"""The pattern of each location, by its index in ``hpa28``."""

NEEDED_PHASE: Final[dict[int, Phase]] = {16: "telophase", 17: "metaphase"}
"""Locations that occur in dividing cells only, with the phase in which they occur."""
