"""A study as picture files: the competition's PNG files, or renderings as the Human Protein Atlas publishes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from cytoloc.files import new_folder
from cytoloc.labels import CHANNEL_COLOURS, CHANNELS, ChannelRole, format_labels
from cytoloc.parallel import in_order
from cytoloc.simulate.field import Photograph, drawers, photograph
from cytoloc.simulate.optics import Bits
from cytoloc.simulate.plan import Design, LabelSet, Plan, plan_study

HPA_PLANES: Final[dict[ChannelRole, tuple[int, ...]]] = {
    "microtubules": (0,),
    "protein": (1,),
    "nucleus": (2,),
    "er": (0, 1),
}
"""Which of red, green and blue show a stain in the Human Protein Atlas's renderings."""

HPA_QUALITY: Final = 50
"""JPEG quality of renderings: the quantisation tables of two published fields are those of quality 50, and like them
colours have half the resolution."""

Advance = Callable[[int, int], None]


def draw_kaggle(path: Path, design: Design, *, bits: Bits = 8, advance: Advance = lambda _done, _total: None) -> None:
    """Draw a study as the competition gave it out: four grey PNG files a field and ``labels.csv``.

    The competition did not say which fields come from one well; ``pairs.csv`` does, for honest folds.

    Args:
        path: The new folder.
        design: What decides the study.
        bits: Of the pictures: 8 as in the competition, or 16 as microscopes write them.
        advance: Told after each field how many of how many are done.

    Raises:
        SettingsError: If a number is impossible.
        StorageError: If the disk refuses.
        OutputExistsError: If something lies at ``path``.
    """
    plans = plan_study(design)
    with new_folder(path) as folder:
        with drawers() as pool:
            draw = partial(photograph, bits=bits)
            for done, image in enumerate(in_order(draw, plans, pool=pool), start=1):
                write_kaggle_field(folder, plans[done - 1].row.id, image)
                advance(done, len(plans))
        write_labels(folder / "labels.csv", {plan.row.id: plan.locations for plan in plans})
        write_rows(folder / "pairs.csv", ["a", "b"], of_one_well(plans))


def draw_hpa(path: Path, design: Design, *, advance: Advance = lambda _done, _total: None) -> None:
    """Draw a study as the Human Protein Atlas publishes fields: JPEG files, each stain in its colour.

    They are named ``{antibody}_{plate}_{well}_{field}_{colour}.jpg`` and lie in ``images/``; ``labels.csv`` has the
    labels of their wells.

    Args:
        path: The new folder.
        design: What decides the study.
        advance: Told after each field how many of how many are done.

    Raises:
        SettingsError: If a number is impossible.
        StorageError: If the disk refuses.
        OutputExistsError: If something lies at ``path``.
    """
    plans = plan_study(design)
    names = [_hpa_name(plan) for plan in plans]
    with new_folder(path) as folder:
        (folder / "images").mkdir()
        with drawers() as pool:
            for done, image in enumerate(in_order(photograph, plans, pool=pool), start=1):
                write_hpa_field(folder / "images", names[done - 1], image)
                advance(done, len(plans))
        write_labels(folder / "labels.csv", {name: plan.locations for name, plan in zip(names, plans, strict=True)})


def simulate_kaggle(path: Path, *, n_fields: int, seed: int, size: int) -> None:
    """Draw a study as the competition gave it out; see :func:`draw_kaggle`."""
    draw_kaggle(path, Design(n_fields=n_fields, seed=seed, size=size))


def write_kaggle_field(folder: Path, name: str, image: Photograph) -> None:
    """Write a field, ``(4, size, size)``, as ``{name}_{red,green,blue,yellow}.png``, with its own 8 or 16 bits."""
    for role, plane in zip(CHANNELS, image, strict=True):
        Image.fromarray(plane).save(folder / f"{name}_{CHANNEL_COLOURS[role]}.png")


def write_hpa_field(folder: Path, name: str, image: Photograph) -> None:
    """Write a field, uint8 ``(4, size, size)``, as ``{name}_{red,green,blue,yellow}.jpg``, each stain in its colour."""
    for role, plane in zip(CHANNELS, image, strict=True):
        rendering = np.zeros((*plane.shape, 3), np.uint8)
        rendering[..., HPA_PLANES[role]] = plane[..., None]
        Image.fromarray(rendering).save(
            folder / f"{name}_{CHANNEL_COLOURS[role]}.jpg", quality=HPA_QUALITY, subsampling="4:2:0"
        )


def of_one_well(plans: Sequence[Plan]) -> Iterator[tuple[str, str]]:
    """Yield each field with the one before it of the same well."""
    last: dict[tuple[str, str], str] = {}
    for plan in plans:
        if plan.row.plate is None or plan.row.well is None:
            continue
        place = (plan.row.plate, plan.row.well)
        if place in last:
            yield last[place], plan.row.id
        last[place] = plan.row.id


def write_labels(path: Path, labels: Mapping[str, LabelSet]) -> None:
    """Write the labels of fields as CSV ``Id,Target``."""
    write_rows(path, ["Id", "Target"], [(name, format_labels(ids)) for name, ids in labels.items()])


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV of cells that need no quotes."""
    lines = [",".join(header), *(",".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _hpa_name(plan: Plan) -> str:
    row = plan.row
    return f"{row.antibody}_{row.plate}_{row.well}_{row.field}"
