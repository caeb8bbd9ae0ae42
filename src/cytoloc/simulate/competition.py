"""A simulated competition: image files and tables as those of the 2018 Kaggle competition, with their flaws."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final, Literal

from cytoloc._typing import Progress
from cytoloc.choices import check_type
from cytoloc.parallel import in_order, pool_or_threads
from cytoloc.simulate.field import draw_field, photograph
from cytoloc.simulate.files import (
    has_files,
    hpa_name,
    resumable,
    write_hpa_field,
    write_kaggle_field,
    write_labels,
    write_rows,
)
from cytoloc.simulate.plan import Design, FieldPlan
from cytoloc.simulate.study import Flaws, labels_by_antibody, plan_sets

DEFAULT_FLAWS: Final = Flaws()


def simulate_competition(
    path: str | Path,
    design: Design,
    flaws: Flaws = DEFAULT_FLAWS,
    *,
    pool: Executor | None = None,
    progress: Progress = lambda _done, _total: None,
) -> None:
    """Simulate a competition in the form of the 2018 Kaggle competition, with external images.

    Simulations are resumable: call the function again to continue. The new folder contains:

    * ``train/`` and ``train.csv``: four gray PNG files per field, and ``Id,Target``. Some labels are wrong, and some
      fields are near-duplicates.
    * ``test/`` and ``sample_submission.csv``: darker fields without labels, some of which are near-duplicates of
      external fields.
    * ``external/images`` and ``external/labels.csv``: JPEG files as the Human Protein Atlas publishes them, with the
      labels of each well; ``external/labels-by-antibody.csv`` has the labels that competitors used.
    * ``truth/test.csv``: the true labels of the test fields, which Kaggle never published.

    Args:
        path: The new folder.
        design: The design of the training fields.
        flaws: The flaws of the fields and labels.
        pool: Where fields are drawn; by default threads of this process. With
            ``concurrent.futures.ProcessPoolExecutor()`` a script needs ``if __name__ == "__main__":``.
        progress: Called with the number of fields done and of all fields.

    Raises:
        SettingsError: If a number is impossible.
        ArgumentTypeError: If an argument has the wrong type.
        OutputExistsError: If ``path`` contains anything but an unfinished simulation with the same settings.
        StorageError: If the disk is full or read-only.
    """
    check_type(path, (str, Path), argument="path")
    check_type(design, Design, argument="design")
    check_type(flaws, Flaws, argument="flaws")
    path = Path(path)
    flaws.check()
    sets = plan_sets(design, flaws)
    folders = {"train": path / "train", "test": path / "test", "external": path / "external" / "images"}
    with resumable(path, {"design": asdict(design), "flaws": asdict(flaws), "files": "competition"}):
        total, done = sum(len(each.plans) for each in sets.values()), 0
        for name, folder in folders.items():
            folder.mkdir(parents=True, exist_ok=True)
            kind: Literal["png", "jpg"] = "jpg" if name == "external" else "png"
            draw = partial(_draw_files, folder=folder, kind=kind, size=design.size)
            with pool_or_threads(pool) as executor:
                for _ in in_order(draw, sets[name].plans, pool=executor):
                    done += 1
                    progress(done, total)
        write_labels(path / "train.csv", {plan.row.id: plan.row.labels or () for plan in sets["train"].given})
        test = sets["test"].plans
        write_rows(path / "sample_submission.csv", ["Id", "Predicted"], [(plan.row.id, "0") for plan in test])
        external = sets["external"].plans
        write_labels(path / "external" / "labels.csv", {hpa_name(plan): plan.locations for plan in external})
        write_labels(path / "external" / "labels-by-antibody.csv", labels_by_antibody(external, name_of=hpa_name))
        (path / "truth").mkdir(exist_ok=True)
        write_labels(path / "truth" / "test.csv", {plan.row.id: plan.locations for plan in test})


def _draw_files(plan: FieldPlan, *, folder: Path, kind: Literal["png", "jpg"], size: int) -> None:
    """Write the files of a field unless all of them exist: PNG files of ``size`` pixels, JPEG files of the original."""
    name = plan.row.id if kind == "png" else hpa_name(plan)
    if has_files(folder, name, f".{kind}"):
        return
    if kind == "png":
        write_kaggle_field(folder, name, draw_field(plan, size=size))
    else:
        write_hpa_field(folder, name, photograph(plan))
