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
from cytoloc.channels import CHANNELS, HPA_COLORS
from cytoloc.errors import OutputExistsError
from cytoloc.files import FileFormat, disk_errors, held, read_json, refuse_existing, write_json
from cytoloc.labels import LabelSet
from cytoloc.parallel import in_order
from cytoloc.simulate.field import Photograph, photograph
from cytoloc.simulate.optics import Bits
from cytoloc.simulate.plan import Design, FieldPlan, Locations, plan_study

STUDY_FORMAT: Final = FileFormat("cytoloc-study", 1)

HPA_PLANES: Final[dict[str, tuple[int, ...]]] = {
    "microtubules": (0,),
    "protein": (1,),
    "nucleus": (2,),
    "er": (0, 1),
}
"""Which of red, green and blue show a stain in the Human Protein Atlas's renderings."""

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
    """Draw a study as the competition gave it out: four gray PNG files a field and ``labels.csv``.

    The competition did not say which fields come from one well; ``pairs.csv`` does, for honest folds.

    Args:
        path: The new folder.
        design: What decides the study.
        bits: Of the images: 8 as in the competition, or 16 as microscopes write them.
        pool: Where fields are drawn; by default threads of this process. With
            ``concurrent.futures.ProcessPoolExecutor()`` a script needs ``if __name__ == "__main__":``.
        progress: Called with the number of fields done and of all fields.

    Raises:
        SettingsError: If a number is impossible.
        StorageError: If the disk refuses.
        OutputExistsError: If something else lies at ``path``.
    """
    path, plans = Path(path), plan_study(design)
    with begun(path, {"design": asdict(design), "files": "kaggle", "bits": bits}):
        _draw(plans, partial(_draw_kaggle_field, folder=path, bits=bits), pool, progress)
        write_labels(path / "labels.csv", {plan.row.id: plan.locations for plan in plans})
        write_rows(path / "pairs.csv", ["a", "b"], of_one_well(plans))


def simulate_hpa(
    path: str | Path,
    design: Design,
    *,
    pool: Executor | None = None,
    progress: Progress = lambda _done, _total: None,
) -> None:
    """Draw a study as the Human Protein Atlas publishes fields: JPEG files, each stain in its color.

    They are named ``{antibody}_{plate}_{well}_{field}_{color}.jpg`` and lie in ``images/``; ``labels.csv`` has the
    labels of their wells.

    Args:
        path: The new folder.
        design: What decides the study.
        pool: Where fields are drawn; by default threads of this process. With
            ``concurrent.futures.ProcessPoolExecutor()`` a script needs ``if __name__ == "__main__":``.
        progress: Called with the number of fields done and of all fields.

    Raises:
        SettingsError: If a number is impossible.
        StorageError: If the disk refuses.
        OutputExistsError: If something else lies at ``path``.
    """
    path, plans = Path(path), plan_study(design)
    with begun(path, {"design": asdict(design), "files": "hpa"}):
        (path / "images").mkdir(exist_ok=True)
        _draw(plans, partial(_draw_hpa_field, folder=path / "images"), pool, progress)
        write_labels(path / "labels.csv", {_hpa_name(plan): plan.locations for plan in plans})


def write_kaggle_field(folder: Path, name: str, image: Photograph) -> None:
    """Write a field, ``(4, size, size)``, as ``{name}_{red,green,blue,yellow}.png``, with its own 8 or 16 bits."""
    for role, plane in zip(CHANNELS, image, strict=True):
        _save(Image.fromarray(plane), folder / f"{name}_{HPA_COLORS[role]}.png")


def write_hpa_field(folder: Path, name: str, image: Photograph) -> None:
    """Write a field, uint8 ``(4, size, size)``, as ``{name}_{red,green,blue,yellow}.jpg``, each stain in its color."""
    for role, plane in zip(CHANNELS, image, strict=True):
        rendering = np.zeros((*plane.shape, 3), np.uint8)
        rendering[..., HPA_PLANES[role]] = plane[..., None]
        path = folder / f"{name}_{HPA_COLORS[role]}.jpg"
        _save(Image.fromarray(rendering), path, quality=HPA_QUALITY, subsampling="4:2:0")


@contextmanager
def begun(path: Path, settings: Mapping[str, Any], *, done: Path | None = None) -> Iterator[None]:
    """Keep a note of what is being drawn in the folder ``path``; drawing that was stopped goes on in the block.

    Args:
        path: The folder; made if it is not there, or empty.
        settings: What decides what is drawn, as JSON.
        done: What becomes of the note when all is drawn; by default it goes.

    Raises:
        OutputExistsError: If something is there that is finished, was begun with other settings, or is anything else.
        StorageError: If the disk refuses.
    """
    # Another release may draw otherwise.
    note, content = path / "study.part.json", json.loads(json.dumps({**settings, "cytoloc": version("cytoloc")}))
    lock = path.with_name(f".{path.name}.part.lock")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with held(lock, busy=f"{path}: another process is drawing there"):
            _take_up(path, note, content)
            yield
            if done is None:
                note.unlink()
            else:
                note.rename(done)


def _take_up(path: Path, note: Path, content: dict[str, Any]) -> None:
    """Go on in a folder that was begun with the same settings, or begin a new one."""
    if note.exists():
        kept = read_json(note, STUDY_FORMAT)
        if {name: kept.get(name) for name in content} != content:
            raise OutputExistsError(
                f"{path} is of a study that was begun with other settings, or by another release.",
                hint="Start that one again to finish it, or remove the folder.",
            )
        return
    # A process that was killed here leaves nothing but a hidden folder of the note.
    if not path.is_dir() or any(not each.name.startswith(f".{note.name}.") for each in path.iterdir()):
        refuse_existing(path)
    path.mkdir(parents=True, exist_ok=True)
    for left in path.iterdir():
        shutil.rmtree(left)
    write_json(note, content, STUDY_FORMAT)


def _draw(
    plans: Sequence[FieldPlan], draw: Callable[[FieldPlan], None], pool: Executor | None, progress: Progress
) -> None:
    """Draw fields, each of which is written to files of its own."""
    for number, _ in enumerate(in_order(draw, plans, pool=pool), start=1):
        progress(number, len(plans))


def _draw_kaggle_field(plan: FieldPlan, *, folder: Path, bits: Bits) -> None:
    if not _is_there(folder, plan.row.id, ".png"):
        write_kaggle_field(folder, plan.row.id, photograph(plan, bits=bits))


def _draw_hpa_field(plan: FieldPlan, *, folder: Path) -> None:
    if not _is_there(folder, _hpa_name(plan), ".jpg"):
        write_hpa_field(folder, _hpa_name(plan), photograph(plan))


def _is_there(folder: Path, name: str, suffix: str) -> bool:
    return all((folder / f"{name}_{HPA_COLORS[role]}{suffix}").exists() for role in CHANNELS)


def _save(image: Image.Image, path: Path, **options: Any) -> None:
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


def _hpa_name(plan: FieldPlan) -> str:
    row = plan.row
    return f"{row.antibody}_{row.plate}_{row.well}_{row.field}"
