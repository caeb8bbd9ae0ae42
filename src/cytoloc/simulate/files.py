"""A study as image files: the competition's PNG files, or renderings as the Human Protein Atlas publishes them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from cytoloc._typing import Progress
from cytoloc.channels import CHANNELS, COLORS, HPA_COLORS, HPA_PLANES
from cytoloc.choices import check_type
from cytoloc.errors import OutputExistsError
from cytoloc.files import FileFormat, disk_errors, locked, read_json, refuse_existing, write_json
from cytoloc.labels.label_set import LabelSet
from cytoloc.parallel import in_order
from cytoloc.simulate.field import Photograph, photograph
from cytoloc.simulate.optics import Bits
from cytoloc.simulate.plan import Design, FieldPlan, Locations, plan_study

STUDY_FORMAT: Final = FileFormat("cytoloc-study", 1)

HPA_QUALITY: Final = 50
"""JPEG quality of renderings: the quantisation tables of two published fields are those of quality 50, and like them
colors have half the resolution."""


def simulate_kaggle(
    path: str | Path,
    design: Design,
    *,
    bits: Bits = 8,
    pool: Executor | None = None,
    progress: Progress = lambda _done, _total: None,
) -> None:
    """Draw a study in the competition's format: four gray PNG files per field and ``labels.csv``.

    Unlike in the competition, ``pairs.csv`` lists fields of the same well, which folds must not separate.

    Args:
        path: The new folder.
        design: The design of the study.
        bits: Of the images: 8 as in the competition, or 16 as microscopes write them.
        pool: As for :func:`cytoloc.simulate.study.simulate_dataset`, like the errors.
        progress: Called with the number of fields done and of all fields.
    """
    check_type(path, (str, Path), argument="path")
    check_type(design, Design, argument="design")
    path, plans = Path(path), plan_study(design)
    with resumable(path, {"design": asdict(design), "files": "kaggle", "bits": bits}):
        _draw_files(plans, partial(_draw_once, folder=path, suffix=".png", bits=bits), pool, progress)
        write_labels(path / "labels.csv", {plan.row.id: plan.locations for plan in plans})
        write_rows(path / "pairs.csv", ["a", "b"], of_one_well(plans))


def simulate_hpa(
    path: str | Path, design: Design, *, pool: Executor | None = None, progress: Progress = lambda _done, _total: None
) -> None:
    """Draw a study as the Human Protein Atlas publishes fields: JPEG files, each stain in its color.

    They are named ``{antibody}_{plate}_{well}_{field}_{color}.jpg`` and lie in ``images/``; ``labels.csv`` has the
    labels of their wells.

    Args:
        path: The new folder.
        design: The design of the study.
        pool: As for :func:`cytoloc.simulate.study.simulate_dataset`, like the errors.
        progress: Called with the number of fields done and of all fields.
    """
    check_type(path, (str, Path), argument="path")
    check_type(design, Design, argument="design")
    path, plans = Path(path), plan_study(design)
    with resumable(path, {"design": asdict(design), "files": "hpa"}):
        (path / "images").mkdir(exist_ok=True)
        _draw_files(plans, partial(_draw_once, folder=path / "images", suffix=".jpg"), pool, progress)
        write_labels(path / "labels.csv", {hpa_name(plan): plan.locations for plan in plans})


def write_kaggle_field(folder: Path, name: str, image: Photograph) -> None:
    """Write a field, ``(4, size, size)``, as ``{name}_{red,green,blue,yellow}.png``, with its own 8 or 16 bits."""
    for role, plane in zip(CHANNELS, image, strict=True):
        _save_image(Image.fromarray(plane), folder / f"{name}_{HPA_COLORS[role]}.png")


def write_hpa_field(folder: Path, name: str, image: Photograph) -> None:
    """Write a field, uint8 ``(4, size, size)``, as ``{name}_{red,green,blue,yellow}.jpg``, each stain in its color."""
    for role, plane in zip(CHANNELS, image, strict=True):
        rendering = np.zeros((*plane.shape, 3), np.uint8)
        rendering[..., HPA_PLANES[role]] = plane[..., None]
        path = folder / f"{name}_{HPA_COLORS[role]}.jpg"
        _save_image(Image.fromarray(rendering), path, quality=HPA_QUALITY, subsampling="4:2:0")


@contextmanager
def resumable(path: Path, settings: Mapping[str, Any], *, done: Path | None = None) -> Iterator[None]:
    """Make or reopen a folder whose files are drawn in the block, with a note of its settings while it is unfinished.

    Args:
        path: The folder, which must not exist, be empty, or be unfinished with the same settings.
        settings: The settings, as JSON.
        done: New name of the note when everything is drawn; by default the note is removed.

    Raises:
        OutputExistsError: If the folder is finished, has other settings, or is anything else.
        StorageError: If the disk is full or read-only.
    """
    # Another release may draw other images.
    note, content = path / "study.part.json", json.loads(json.dumps({**settings, "cytoloc": version("cytoloc")}))
    lock = path.with_name(f".{path.name}.part.lock")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock, busy=f"{path}: another process is drawing there"):
            if note.exists():
                found = read_json(note, STUDY_FORMAT)
                if {name: found.get(name) for name in content} != content:
                    raise OutputExistsError(
                        f"{path} is an unfinished study with other settings, or of another release.",
                        hint="Rerun that command to finish it, or remove the folder.",
                    )
            else:
                # A process that was killed here leaves at most a hidden folder of the note.
                if not path.is_dir() or any(not each.name.startswith(f".{note.name}.") for each in path.iterdir()):
                    refuse_existing(path)
                path.mkdir(parents=True, exist_ok=True)
                for left in path.iterdir():
                    shutil.rmtree(left)
                write_json(note, content, STUDY_FORMAT)
            yield
            if done is None:
                note.unlink()
            else:
                note.rename(done)


def _draw_files(
    plans: Sequence[FieldPlan], draw: Callable[[FieldPlan], None], pool: Executor | None, progress: Progress
) -> None:
    """Draw fields, each of which is written to files of its own."""
    for number, _ in enumerate(in_order(draw, plans, pool=pool), start=1):
        progress(number, len(plans))


def _draw_once(plan: FieldPlan, *, folder: Path, suffix: str, bits: Bits = 8) -> None:
    """Write the files of a field unless all of them exist."""
    name = plan.row.id if suffix == ".png" else hpa_name(plan)
    if not has_files(folder, name, suffix):
        write = write_kaggle_field if suffix == ".png" else write_hpa_field
        write(folder, name, photograph(plan, bits=bits))


def has_files(folder: Path, name: str, suffix: str) -> bool:
    """Return whether all four files of a field exist."""
    return all((folder / f"{name}_{color}{suffix}").exists() for color in COLORS)


def _save_image(image: Image.Image, path: Path, **options: Any) -> None:
    """Write an image that gets its name when it is whole."""
    temporary = path.with_name(f".{path.name}.part")
    with disk_errors(path):
        try:
            with temporary.open("wb") as file:
                image.save(file, format="PNG" if path.suffix == ".png" else "JPEG", **options)
                # On the disk before it gets its name: what has its name is not drawn again.
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def of_one_well(plans: Sequence[FieldPlan]) -> Iterator[tuple[str, str]]:
    """Yield each field with the one before it of the same well."""
    last: dict[tuple[str, str], str] = {}
    for plan in plans:
        if plan.row.plate is None or plan.row.well is None:
            continue
        place = (plan.row.plate, plan.row.well)
        if place in last:
            yield last[place], plan.row.id
        last[place] = plan.row.id


def write_labels(path: Path, labels: Mapping[str, Locations]) -> None:
    """Write the labels of fields as CSV ``Id,Target``."""
    write_rows(path, ["Id", "Target"], [(name, LabelSet.hpa28().format(indices)) for name, indices in labels.items()])


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV of cells that need no quotes."""
    lines = [",".join(header), *(",".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def hpa_name(plan: FieldPlan) -> str:
    """Return the name of a field in the Human Protein Atlas."""
    row = plan.row
    return f"{row.antibody}_{row.plate}_{row.well}_{row.field}"
