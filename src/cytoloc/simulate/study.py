"""A study: genes, their antibodies, the wells they are imaged in, and the fields of each well.

All fields of a well show the same antibody, hence the same locations at about the same strength. Every field has a
random source of its own, made from the seed and its number: the same seed gives the same bytes, in any order, on any
number of processes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cytoloc.atlas.store import Atlas, FieldRow
from cytoloc.atlas.writer import write_atlas
from cytoloc.errors import CytolocError
from cytoloc.files import new_folder, refuse_existing
from cytoloc.labels import CHANNEL_COLOURS, CHANNELS, TRAINING_COUNTS, ChannelRole, format_labels
from cytoloc.parallel import in_order
from cytoloc.simulate.drawing import Plane, smooth_noise, to_unit
from cytoloc.simulate.optics import Exposure, expose
from cytoloc.simulate.patterns import NEEDED_PHASE, PATTERNS
from cytoloc.simulate.stains import StainedScene, draw_stained

LABELS_PER_FIELD: Final = (15126, 12485, 3160, 299, 2)
"""Training fields of the 2018 competition with one, two … five labels."""

PIXEL_UM: Final = 0.32
"""Edge of a pixel of a 512-px field: the atlas's 0.08 µm at 2048 px."""


@dataclass(frozen=True)
class Plan:
    """What one field will show: the row of the atlas, and the strength of each of its locations."""

    number: int
    row: FieldRow
    strengths: tuple[float, ...]


def plan_study(n_fields: int, *, seed: int, size: int) -> list[Plan]:
    """Return a plan per field; one to four fields a well, a well per antibody.

    Locations follow the frequencies of the real training set.

    Raises:
        CytolocError: If a number is impossible.
    """
    if n_fields < 1:
        raise CytolocError(f"A study of {n_fields} fields cannot be drawn.", way_out="Ask for at least 1 field.")
    if seed < 0:
        raise CytolocError(f"{seed} is not a seed.", way_out="Seeds are whole numbers from 0.")
    if not 32 <= size <= 4096:
        raise CytolocError(f"Fields of {size} px cannot be drawn.", way_out="Choose a size from 32 to 4096 px.")
    rng = np.random.default_rng([seed, 0])
    drawable = np.array(sorted(PATTERNS))
    frequency = np.array(TRAINING_COUNTS, float)[drawable]
    plans: list[Plan] = []
    antibody = 0
    while len(plans) < n_fields:
        antibody += 1
        count = 1 + int(rng.choice(len(LABELS_PER_FIELD), p=np.array(LABELS_PER_FIELD) / sum(LABELS_PER_FIELD)))
        labels = tuple(
            sorted(int(i) for i in rng.choice(drawable, count, replace=False, p=frequency / frequency.sum()))
        )
        strengths = tuple(float(s) for s in rng.uniform(0.55, 1.0, count))
        for field in range(1, min(int(rng.integers(1, 5)), n_fields - len(plans)) + 1):
            number = len(plans)
            row = FieldRow(
                id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"cytoloc simulated field {seed} {number}")),
                source="simulated",
                labels=labels,
                antibody=f"SIM{antibody:06d}",
                plate=str(1 + antibody // 96),
                well=f"{'ABCDEFGH'[antibody % 96 // 12]}{1 + antibody % 12}",
                field=str(field),
                gene=f"SIMG{antibody:08d}",
                original_px=size,
                original_width_px=size,
                pixel_um=PIXEL_UM * 512 / size,
            )
            plans.append(Plan(number, row, strengths))
    return plans


def draw_field(plan: Plan, *, seed: int) -> NDArray[np.uint8]:
    """Return the field of a plan, uint8 ``(4, size, size)``."""
    rng = np.random.default_rng([seed, 1, plan.number])
    labels = plan.row.labels or ()
    dividing = [NEEDED_PHASE[location] for location in labels if location in NEEDED_PHASE]
    scene = draw_stained(rng, plan.row.original_px, dividing=dividing)
    er = scene.er + rng.uniform(0, 0.12) * scene.microtubules
    protein = draw_protein(scene, rng, labels, plan.strengths) + rng.uniform(0, 0.03) * er
    planes = (scene.microtubules, protein, scene.nucleus, er)
    exposed = [
        expose(rng, np.asarray(plane, np.float32), _exposure(rng, role, scene.scale))
        for role, plane in zip(CHANNELS, planes, strict=True)
    ]
    return np.stack(exposed)


def draw_protein(
    scene: StainedScene, rng: np.random.Generator, labels: Sequence[int], strengths: Sequence[float]
) -> Plane:
    """Return the protein's plane: its locations at their strengths, and what the antibody binds besides.

    Cells of one field differ in how much of the protein they hold, and a few hold none.
    """
    protein = np.zeros((scene.size, scene.size), np.float32)
    for location, strength in zip(labels, strengths, strict=True):
        protein = np.maximum(protein, strength * PATTERNS[location](scene, rng))
    amount = scene.amount * rng.uniform(0.5, 1.0, len(scene.amount)).astype(np.float32)
    amount[rng.uniform(size=len(amount)) < rng.choice([0, 0.1, 0.3], p=[0.7, 0.2, 0.1])] *= 0.1
    # What is left of a field whose only bright cells are dark ones would be nothing.
    amount *= 1 / max(float(amount[np.unique(scene.cell_map)].max()), 1e-6)
    body = (scene.cell_map > 0) * (0.5 + scene.er) * (1 - np.exp(-scene.in_cell / (5 * scene.scale)))
    grain = np.clip(1 + 0.4 * smooth_noise(rng, scene.size, 1.2 * scene.scale), 0, None)
    unspecific = grain * (rng.gamma(1.0, 0.06) * body + rng.gamma(1.0, 0.06) * scene.nucleus)
    return np.asarray((to_unit(protein) + unspecific) * amount[scene.cell_map], np.float32)


_WHITE: Final[dict[ChannelRole, tuple[float, float]]] = {
    "microtubules": (0.63, 0.17),
    "protein": (0.40, 0.20),
    "nucleus": (0.66, 0.18),
    "er": (0.59, 0.20),
}
"""Mean and spread of the brightness of a channel: those of the 99.5th percentiles of 74 real fields."""


def _exposure(rng: np.random.Generator, role: ChannelRole, scale: float) -> Exposure:
    mean, spread = _WHITE[role]
    return Exposure(
        white=float(np.clip(rng.normal(mean, spread), 0.12, 1.1)),
        blur_px=float(rng.uniform(0.45, 0.95)) * scale,
        haze=float(rng.uniform(0.0, 0.12)),
        haze_px=float(rng.uniform(4, 10)) * scale,
        uneven=float(rng.uniform(0, 0.12)),
        photons=float(np.exp(rng.uniform(np.log(40), np.log(500)))),
        read_noise=float(rng.uniform(0, 0.006)),
        black=float(rng.uniform(0.004, 0.02)),
    )


def simulate_atlas(
    path: Path,
    *,
    n_fields: int,
    seed: int,
    size: int,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> Atlas:
    """Draw a study into a new atlas; the same seed gives the same bytes.

    Raises:
        CytolocError: If a number is impossible, the output exists, or the disk refuses.
    """
    plans = plan_study(n_fields, seed=seed, size=size)
    refuse_existing(path)
    made_by = {"command": "simulate", "seed": seed}
    fields = ((plan.row, image) for plan, image in _draw_all(plans, seed, advance))
    return write_atlas(path, fields, size=size, made_by=made_by)


def simulate_kaggle(
    path: Path,
    *,
    n_fields: int,
    seed: int,
    size: int,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """Draw a study as the competition gave it out: four PNG files a field and ``labels.csv``.

    The competition did not say which fields come from one well; ``pairs.csv`` does, for honest folds.

    Raises:
        CytolocError: If a number is impossible, the output exists, or the disk refuses.
    """
    plans = plan_study(n_fields, seed=seed, size=size)
    with new_folder(path) as folder:
        for plan, image in _draw_all(plans, seed, advance):
            write_kaggle_field(folder, plan.row.id, image)
        lines = ["Id,Target", *(f"{plan.row.id},{format_labels(plan.row.labels or ())}" for plan in plans)]
        (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        neighbours = [(a.row, b.row) for a, b in pairwise(plans) if a.row.antibody == b.row.antibody]
        lines = ["a,b", *(f"{a.id},{b.id}" for a, b in neighbours)]
        (folder / "pairs.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_kaggle_field(folder: Path, name: str, image: NDArray[np.uint8]) -> None:
    """Write a field, uint8 ``(4, size, size)``, as ``{name}_{red,green,blue,yellow}.png``."""
    for role, plane in zip(CHANNELS, image, strict=True):
        Image.fromarray(plane).save(folder / f"{name}_{CHANNEL_COLOURS[role]}.png")


def _draw_all(
    plans: list[Plan], seed: int, advance: Callable[[int, int], None]
) -> Iterator[tuple[Plan, NDArray[np.uint8]]]:
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for done, image in enumerate(in_order(partial(draw_field, seed=seed), plans, pool=pool), start=1):
            yield plans[done - 1], image
            advance(done, len(plans))
