"""Simulated studies as image files, in the formats of the 2018 Kaggle competition and the Human Protein Atlas."""

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
from cytoloc.parallel import in_order, pool_or_threads
from cytoloc.simulate.field import Photograph, photograph
from cytoloc.simulate.optics import Bits
from cytoloc.simulate.plan import Design, FieldPlan, Locations, plan_study

STUDY_FORMAT: Final = FileFormat("cytoloc-study", 1, "study of `cytoloc simulate`")

HPA_QUALITY: Final = 50
"""JPEG quality. Two published fields have the quantization tables of quality 50, and colors of half the resolution."""


def simulate_kaggle(
    path: str | Path,
    design: Design,
    *,
    bits: Bits = 8,
    pool: Executor | None = None,
    progress: Progress = lambda _done, _total: None,
) -> None:
    """Simulate fields in the format of the 2018 Kaggle competition: four gray PNG files per field, and ``labels.csv``.

    In addition, ``pairs.csv`` lists fields of the same well, which folds must not separate.

    Args:
        path: The new folder.
        design: The design of the fields.
        bits: Bits per pixel: 8 as in the competition, or 16 as from microscopes.
        pool: Executor that simulates the fields; see :func:`cytoloc.simulate_dataset`.
        progress: A function that is called with the number of finished fields and of all fields.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If a value of the design is out of range.
        StorageError: If the disk is full or read-only.
        OutputExistsError: If ``path`` exists and is not an unfinished simulation with these settings.
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
    """Simulate fields in the format of the Human Protein Atlas: JPEG files, one per channel, in its color.

    The files ``images/{antibody}_{plate}_{well}_{field}_{color}.jpg`` are written, and ``labels.csv`` with the labels
    of their wells.

    Args:
        path: The new folder.
        design: The design of the fields.
        pool: Executor that simulates the fields; see :func:`cytoloc.simulate_dataset`.
        progress: A function that is called with the number of finished fields and of all fields.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If a value of the design is out of range.
        StorageError: If the disk is full or read-only.
        OutputExistsError: If ``path`` exists and is not an unfinished simulation with these settings.
    """
    check_type(path, (str, Path), argument="path")
    check_type(design, Design, argument="design")
    path, plans = Path(path), plan_study(design)
    with resumable(path, {"design": asdict(design), "files": "hpa"}):
        (path / "images").mkdir(exist_ok=True)
        _draw_files(plans, partial(_draw_once, folder=path / "images", suffix=".jpg"), pool, progress)
        write_labels(path / "labels.csv", {hpa_name(plan): plan.locations for plan in plans})


def write_kaggle_field(folder: Path, name: str, image: Photograph) -> None:
    """Write a field of shape ``(4, size, size)`` with 8 or 16 bits as ``{name}_{red,green,blue,yellow}.png``."""
    for role, plane in zip(CHANNELS, image, strict=True):
        _save_image(Image.fromarray(plane), folder / f"{name}_{HPA_COLORS[role]}.png")


def write_hpa_field(folder: Path, name: str, image: Photograph) -> None:
    """Write a uint8 field of shape ``(4, size, size)`` as ``{name}_{red,green,blue,yellow}.jpg``, in these colors."""
    for role, plane in zip(CHANNELS, image, strict=True):
        rendering = np.zeros((*plane.shape, 3), np.uint8)
        rendering[..., HPA_PLANES[role]] = plane[..., None]
        path = folder / f"{name}_{HPA_COLORS[role]}.jpg"
        _save_image(Image.fromarray(rendering), path, quality=HPA_QUALITY, subsampling="4:2:0")


@contextmanager
def resumable(path: Path, settings: Mapping[str, Any], *, done: Path | None = None) -> Iterator[None]:
    """Create or reopen a folder that is filled in the block, with a note of its settings until it is finished.

    Args:
        path: The folder, which must not exist, be empty, or be unfinished with the same settings.
        settings: The settings, as JSON values.
        done: New name of the note when the block is finished. Default: the note is removed.

    Raises:
        OutputExistsError: If the folder is finished, has other settings, or contains anything else.
        StorageError: If the disk is full or read-only.
    """
    # The release is part of the settings, because another release may simulate other images.
    note, content = path / "study.part.json", json.loads(json.dumps({**settings, "cytoloc": version("cytoloc")}))
    lock = path.with_name(f".{path.name}.part.lock")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock, busy=f"{path}: another process is simulating to this folder"):
            if note.exists():
                found = read_json(note, STUDY_FORMAT)
                if {name: found.get(name) for name in content} != content:
                    raise OutputExistsError(
                        f"{path} is an unfinished simulation with other settings, or of another release.",
                        hint="Rerun that command to finish it, or remove the folder.",
                    )
            else:
                # A process that was killed here leaves at most a hidden folder.
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
    """Simulate fields that are written to files of their own."""
    with pool_or_threads(pool) as executor:
        for number, _ in enumerate(in_order(draw, plans, pool=executor), start=1):
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
    """Write an image file atomically."""
    temporary = path.with_name(f".{path.name}.part")
    with disk_errors(path):
        try:
            with temporary.open("wb") as file:
                image.save(file, format="PNG" if path.suffix == ".png" else "JPEG", **options)
                # Synced before renaming, because a file with its final name is not simulated again.
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def of_one_well(plans: Sequence[FieldPlan]) -> Iterator[tuple[str, str]]:
    """Yield each field of a well with the previous field of the same well."""
    last: dict[tuple[str, str], str] = {}
    for plan in plans:
        if plan.row.plate is None or plan.row.well is None:
            continue
        place = (plan.row.plate, plan.row.well)
        if place in last:
            yield last[place], plan.row.id
        last[place] = plan.row.id


def write_labels(path: Path, labels: Mapping[str, Locations]) -> None:
    """Write labels as a CSV file with columns ``Id,Target``."""
    write_rows(path, ["Id", "Target"], [(name, LabelSet.hpa28().format(indices)) for name, indices in labels.items()])


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file of cells that need no quotes."""
    lines = [",".join(header), *(",".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def hpa_name(plan: FieldPlan) -> str:
    """Return the name of a field in the Human Protein Atlas."""
    row = plan.row
    return f"{row.antibody}_{row.plate}_{row.well}_{row.field}"
