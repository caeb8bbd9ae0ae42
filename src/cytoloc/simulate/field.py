"""A simulated field: the protein, unspecific binding of the antibody, and four channels as imaged by a camera.

The random numbers of each field are derived from the seed and the number of the field. The same seed therefore gives
the same bytes in any order and for any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoloc._typing import FloatArray, UInt8Array
from cytoloc.channels import CHANNELS, PROTEIN
from cytoloc.errors import SettingsError
from cytoloc.simulate.drawing import Plane, smooth_noise, to_unit
from cytoloc.simulate.optics import Bits, Exposure, expose
from cytoloc.simulate.patterns import NEEDED_PHASE, PATTERNS
from cytoloc.simulate.plan import FieldPlan
from cytoloc.simulate.stains import StainedScene, draw_stained

Photograph = NDArray[np.unsignedinteger[Any]]
"""Pixels as a camera records them: uint8 or uint16."""

_WHITE: Final[dict[str, tuple[float, float]]] = {
    "microtubules": (0.63, 0.17),
    "protein": (0.40, 0.20),
    "nucleus": (0.66, 0.18),
    "er": (0.59, 0.20),
}
"""Mean and standard deviation of the 99.5th intensity percentile of each channel, measured on 74 real fields."""


_BINDING: Final = (0.18, 0.12)
"""Mean strength of unspecific staining in cell bodies and in nuclei."""

_MOST_BINDING: Final = 0.4
"""Maximum unspecific staining. With more, the protein would be hidden, and annotators would not name its location."""


def draw_field(plan: FieldPlan, *, size: int) -> UInt8Array:
    """Simulate the field of a plan, scaled down by averaging areas if its raw image is larger.

    Args:
        plan: The plan.
        size: Edge length of the image, in pixels.

    Returns:
        uint8 of shape ``(4, size, size)``.
    """
    image = photograph(plan)
    if image.shape[1] != size:
        image = np.stack([cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA) for plane in image])
    return np.asarray(image, np.uint8)


def photograph(plan: FieldPlan, *, bits: Bits = 8) -> Photograph:
    """Simulate the raw image of a plan.

    Args:
        plan: The plan.
        bits: Bits per pixel of the camera.

    Returns:
        uint8 or uint16 of shape ``(4, original_px, original_px)``.
    """
    if plan.copy_of is not None:
        original = photograph(plan.copy_of, bits=bits)
        return near_duplicate(np.random.default_rng([plan.seed, 3, plan.number]), original, plan)
    rng = np.random.default_rng([plan.seed, 1, plan.number])
    scene = _scene(plan, rng)
    binding = np.random.default_rng([plan.seed, 2, plan.antibody]).gamma(1.5, _BINDING).clip(max=_MOST_BINDING)
    er = scene.er + rng.uniform(0, 0.22) * scene.microtubules
    protein = draw_protein(scene, rng, plan.locations, plan.strengths, binding=binding) + rng.uniform(0, 0.03) * er
    planes = (scene.microtubules, protein, scene.nucleus, er)
    exposed = []
    for role, plane in zip(CHANNELS, planes, strict=True):
        mean, spread = _WHITE[role]
        fewest, most = (20, 250) if role == PROTEIN else (40, 500)
        # A pixel with half the edge length gets a quarter of the light, and its noise averages out when scaled down.
        finer = 2 * scene.scale
        exposure = Exposure(
            white=float(np.clip(rng.normal(mean, spread), 0.12, 1.1)),
            blur_px=float(rng.uniform(0.45, 0.95)) * scene.scale,
            haze=float(rng.uniform(0.0, 0.12)),
            haze_px=float(rng.uniform(4, 10)) * scene.scale,
            uneven=float(rng.uniform(0, 0.12)),
            # A weak stain needs more gain, which means fewer photons.
            photons=float(np.exp(rng.uniform(np.log(fewest), np.log(most)))) / finer**2,
            read_noise=float(rng.uniform(0, 0.006)) * finer,
            black=float(rng.uniform(0.004, 0.02)),
        )
        exposure = replace(exposure, white=plan.gain * exposure.white, photons=exposure.photons / plan.gain)
        exposed.append(expose(rng, np.asarray(plane, np.float32), exposure, bits=bits))
    return np.stack(exposed)


def true_cells(plan: FieldPlan) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the cells and nuclei of the raw image of a plan, to evaluate segmentation.

    Args:
        plan: The plan; not of a near-duplicate.

    Returns:
        The number of the cell and of the nucleus at each pixel, int32 of shape ``(original_px, original_px)`` each. A
        nucleus has the number of its cell. Cells at the border can have their nucleus outside the field.

    Raises:
        SettingsError: If the field is a near-duplicate, whose cells are moved.
    """
    if plan.copy_of is not None:
        raise SettingsError("The cells of a near-duplicate are moved.", hint="Take the plan of the original.")
    scene = _scene(plan, np.random.default_rng([plan.seed, 1, plan.number]))
    return scene.cell_map, scene.nucleus_map


def _scene(plan: FieldPlan, rng: np.random.Generator) -> StainedScene:
    """Return the cells of a plan, drawn with the first random numbers of its generator."""
    dividing = [NEEDED_PHASE[location] for location in plan.locations if location in NEEDED_PHASE]
    return draw_stained(rng, plan.row.original_px, line=plan.line, dividing=dividing)


def true_amounts(plan: FieldPlan) -> FloatArray:
    """Return the amount of the protein in the cells of a plan, to evaluate the heterogeneity of cells.

    Args:
        plan: The plan; not of a near-duplicate.

    Returns:
        The amount in each cell, by its number in :func:`true_cells`, where 0 is the background. The cell with the
        largest amount has 1. Cells without the protein, which have only a trace of it, have less than 0.12.

    Raises:
        SettingsError: If the field is a near-duplicate, whose cells are moved.
    """
    if plan.copy_of is not None:
        raise SettingsError("The cells of a near-duplicate are moved.", hint="Take the plan of the original.")
    rng = np.random.default_rng([plan.seed, 1, plan.number])
    scene = _scene(plan, rng)
    # The same random numbers as in the image of the field.
    rng.uniform(0, 0.22)
    _draw_locations(scene, rng, plan.locations, plan.strengths)
    return np.asarray(_draw_amounts(scene, rng), np.float64)


def draw_protein(
    scene: StainedScene,
    rng: np.random.Generator,
    locations: Sequence[int],
    strengths: Sequence[float],
    *,
    binding: FloatArray,
) -> Plane:
    """Return the protein channel: its locations, and unspecific binding of the antibody.

    The cells of a field differ in their amount of the protein, and a few contain none.

    Args:
        scene: The cells.
        rng: Random generator.
        locations: Indices of the locations.
        strengths: The relative brightness of each location.
        binding: The unspecific binding in cell bodies and nuclei.

    Returns:
        float32 of shape ``(size, size)``.
    """
    protein = _draw_locations(scene, rng, locations, strengths)
    amount = _draw_amounts(scene, rng)
    body = (scene.cell_map > 0) * (0.5 + scene.er) * (1 - np.exp(-scene.in_cell / (5 * scene.scale)))
    grain = np.clip(1 + 0.4 * smooth_noise(rng, scene.size, 1.2 * scene.scale), 0, None)
    unspecific = grain * (binding[0] * body + binding[1] * scene.nucleus)
    return np.asarray((to_unit(protein) + unspecific) * amount[scene.cell_map], np.float32)


def _draw_locations(
    scene: StainedScene, rng: np.random.Generator, locations: Sequence[int], strengths: Sequence[float]
) -> Plane:
    """Return the pattern of all locations of the protein."""
    protein = np.zeros((scene.size, scene.size), np.float32)
    for location, strength in zip(locations, strengths, strict=True):
        protein = np.maximum(protein, strength * PATTERNS[location](scene, rng))
    return protein


def _draw_amounts(scene: StainedScene, rng: np.random.Generator) -> Plane:
    """Return the amount of the protein in each cell, at most 1."""
    amount: Plane = scene.amount * rng.uniform(0.5, 1.0, len(scene.amount)).astype(np.float32)
    amount[rng.uniform(size=len(amount)) < rng.choice([0, 0.1, 0.3], p=[0.7, 0.2, 0.1])] *= 0.1
    # Without this, a field of dark cells only would be black.
    amount *= 1 / max(float(amount[np.unique(scene.cell_map)].max()), 1e-6)
    return amount


def near_duplicate(rng: np.random.Generator, image: Photograph, plan: FieldPlan) -> Photograph:
    """Return a near-duplicate of a field, changed in the way that its plan states, shape ``(4, size, size)``."""
    white = int(np.iinfo(image.dtype).max)
    if plan.kind == "turned":
        flipped = image[..., ::-1] if rng.uniform() < 0.5 else image
        return np.ascontiguousarray(np.rot90(flipped, int(rng.integers(4)), axes=(1, 2)))
    if plan.kind == "dimmed":
        return np.asarray(np.clip(image * rng.uniform(0.7, 1.3), 0, white), image.dtype)
    if plan.kind == "shifted":
        # The stage never returns to exactly the same position.
        right, down = rng.uniform(-0.02, 0.02, 2) * image.shape[1]
        move = np.array([[1, 0, right], [0, 1, down]], np.float32)
        edge = image.shape[1:]
        return np.stack([cv2.warpAffine(plane, move, edge, borderMode=cv2.BORDER_REFLECT) for plane in image])
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(50, 91))]
    grays = white // 255
    coded = [cv2.imencode(".jpg", (plane // grays).astype(np.uint8), quality)[1] for plane in image]
    decoded = np.stack([np.asarray(cv2.imdecode(each, cv2.IMREAD_GRAYSCALE), np.uint8) for each in coded])
    return np.asarray(decoded.astype(image.dtype) * grays, image.dtype)
