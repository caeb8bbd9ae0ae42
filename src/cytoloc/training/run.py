"""A run: one recipe on one fold. Everything it was made from and everything it learned lies in its folder.

``recipe.toml`` (resolved), ``run.json`` (dataset, fold, environment, the run that it started from), ``log.csv``,
``best.ckpt``, ``last.ckpt``, of several cycles ``best-cycleN.ckpt``, and, once it is finished, ``predictions.parquet``:
probabilities of the held-out fold.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Collection
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from cytoloc.dataset.store import Dataset
from cytoloc.errors import TrainingError
from cytoloc.files import disk_errors, new_folder, refuse_existing, write_json
from cytoloc.labels import LabelSet
from cytoloc.models.network import build_network
from cytoloc.predict.model import Model, ModelInfo
from cytoloc.predict.runs import load_network, model_spec
from cytoloc.predict.sources import DatasetSource
from cytoloc.prediction_files import write_predictions
from cytoloc.predictions import Predictions
from cytoloc.recipe import Recipe, read_resolved, to_toml
from cytoloc.runs import HEADER, PREDICTIONS, RECIPE, RUN_FORMAT, is_finished, read_header
from cytoloc.training.data import Split, split_dataset
from cytoloc.training.devices import accelerator, refuse_precision
from cytoloc.training.learning import LAST, compiling, learn, room_for
from cytoloc.training.module import Learner
from cytoloc.training.processes import ALONE, Processes, others, refuse_processes
from cytoloc.training.resolve import resolve_recipe
from cytoloc.training.starting import Start, earlier_run, first_network
from cytoloc.training.together import told
from cytoloc.training.tracking import tracking
from cytoloc.training.unpacking import build_learner


def train_fold(
    recipe: Recipe,
    dataset: Dataset,
    folds: pl.DataFrame,
    fold: int,
    *,
    out: Path,
    resume: bool = False,
    processes: Processes = ALONE,
    database: Path | None = None,
    place: str = "",
    progress_bar: bool = False,
    report: Callable[[str], None] = print,
) -> Path:
    """Train a recipe on all folds but one and score the one held out; return the run's folder.

    Args:
        recipe: What to train.
        dataset: The fields, at the recipe's image size.
        folds: Columns ``id``, ``group``, ``fold``.
        fold: The one to hold out.
        out: The run's folder is made in here, named after recipe and fold.
        resume: Go on with a run that was stopped; a finished one is left as it is.
        processes: That learn the run together, each of which calls this; the first one writes, and reports.
        database: SQLite file of MLflow, in which the run is tracked too; None tracks nothing.
        place: Which of several runs this is, such as ``2 of 6``; said with every epoch.
        progress_bar: Whether a bar shows the steps of an epoch.
        report: Told a line per epoch.

    Raises:
        TrainingError: If the run cannot start: another size, no such fold, or a resume on other data or another recipe;
            or cannot go on: a loss that is no number, a batch that does not fit into memory.
        WeightsError: If pretrained weights cannot be had.
        OutputExistsError: If the run is there already and ``resume`` is not asked for.
        MissingExtraError: If it is to be tracked, and MLflow is not installed.
        StorageError: If the disk is full or read-only.
    """
    known = recipe.image.mean.keys()
    recipe = resolve_recipe(recipe, dataset)
    split, header = _facts(recipe, dataset, folds, fold, out=out, resume=resume, processes=processes)
    run = run_folder(recipe, fold, out)
    resuming = run.exists()
    if not processes.is_first:
        report, progress_bar = _silent, False
    if is_finished(run):
        report(f"{run.name} is finished already.")
        return run
    learner, started_from = _ready(run, recipe, dataset, split, header, processes=processes)
    if processes.is_first and not resuming:
        begun = {**header, **({"started_from": started_from} if started_from else {})}
        _start_run(run, recipe, begun, processes=processes)
    if processes.is_first:
        _sweep(run)
    for name in sorted(recipe.image.mean.keys() - known):
        mean, deviation = recipe.image.mean[name], recipe.image.std[name]
        report(
            f"{run.name}: channel {name} has a mean of {mean:g} and a standard deviation of {deviation:g}, measured."
        )
    if started_from and not started_from["with_head"]:
        report(f"{run.name}: starts with the backbone of {started_from['name']}; its head is new, as locations differ.")
    _say_what_is_missing(dataset, split, run.name, report)
    name = f"{run.name} ({place})" if place else run.name
    tracks = tracking(database if processes.is_first else None, run)
    together = others() if processes.count > 1 else nullcontext()
    with disk_errors(run), room_for(recipe), compiling(recipe), together, tracks as tracked:
        if tracked:
            tracked.parameters({**recipe.model_dump(mode="json"), "dataset": header["dataset"], "fold": fold})
        keep = tracked.epochs if tracked else None
        learn(run, recipe, learner, processes, name=name, progress_bar=progress_bar, report=report, keep=keep)
        judged = load_network(run / f"{recipe.select.checkpoint}.ckpt", recipe, locations=len(dataset.label_set))
        made_by = {"run": run.name, "recipe": recipe.name, "fold": fold, "held_out": True}
        info = ModelInfo(
            size=recipe.image.field_px,
            channels=tuple(recipe.image.channels),
            label_set=dataset.label_set,
            tta=recipe.select.tta,
            provenance=made_by,
        )
        model = Model([judged], info)
        predictions = _scores_of_all(model, dataset, split.held_out, processes)
        if processes.is_first:
            write_predictions(predictions, run / PREDICTIONS)
        if tracked:
            tracked.files([run / RECIPE, run / "log.csv"])
        # A run that starts from this one finds it finished in every process.
        told(None)
    return run


def check_run(
    recipe: Recipe,
    dataset: Dataset,
    folds: pl.DataFrame,
    fold: int,
    *,
    out: Path,
    resume: bool,
    processes: Processes = ALONE,
    coming: Collection[Path] = (),
) -> None:
    """Raise what :func:`train_fold` would raise before it learns; nothing is written.

    Args:
        recipe: See there, as for all that follow.
        dataset: The fields.
        folds: How they are dealt.
        fold: The one to hold out.
        out: Where runs are.
        resume: Whether a run that was stopped is to go on.
        processes: That are to learn it together.
        coming: Folders of the runs that will be there when this one starts, which may begin with their weights.

    Raises:
        RecipeError: If there is no such network, or it cannot take images of the recipe's sizes.
        TrainingError: If the run cannot start, or not go on.
        WeightsError: If its first weights cannot be had.
        OutputExistsError: If the run is there already and ``resume`` is not asked for.
    """
    recipe = resolve_recipe(recipe, dataset)
    split, header = _facts(recipe, dataset, folds, fold, out=out, resume=resume, processes=processes)
    run = run_folder(recipe, fold, out)
    if is_finished(run):
        return
    earlier = earlier_run(recipe, fold)
    if earlier and earlier.resolve() in {path.resolve() for path in coming}:
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"weights": "none"})})
    _ready(run, recipe, dataset, split, header, processes=processes)


def _sweep(run: Path) -> None:
    """Remove the predictions that a killed process was writing."""
    for stray in run.glob(f".{PREDICTIONS}.*"):
        shutil.rmtree(stray)


def _silent(_line: str) -> None:
    """Say nothing, since another process does."""


def _scores_of_all(model: Model, dataset: Dataset, rows: NDArray[np.int64], processes: Processes) -> Predictions:
    """Return the predictions of some rows of a dataset, of which each process works out a share."""
    own = np.array_split(rows, processes.count)[processes.rank]
    parts = told(model.predict_sources([DatasetSource(dataset, own)]) if len(own) else None)
    known = [part for part in parts if part is not None]
    ids = tuple(name for part in known for name in part.ids)
    probabilities = np.concatenate([part.probabilities for part in known])
    return Predictions(ids, probabilities, known[0].label_set, known[0].provenance)


def _ready(
    run: Path, recipe: Recipe, dataset: Dataset, split: Split, header: dict[str, Any], *, processes: Processes
) -> tuple[Learner, dict[str, Any]]:
    """Return a learner that is ready to start or to go on, and the run that it starts from, empty if from none."""
    torch.manual_seed(recipe.seed)
    if (run / LAST).exists():
        # Everything is in there; where the first weights came from does not matter any more.
        start = Start(build_network(model_spec(recipe, locations=len(dataset.label_set))), {})
    else:
        start = first_network(recipe, dataset.label_set, fold=header["fold"], held_out=header["held_out"])
    return build_learner(recipe, start.network, dataset, split, share=processes.share), start.started_from


def _facts(
    recipe: Recipe,
    dataset: Dataset,
    folds: pl.DataFrame,
    fold: int,
    *,
    out: Path,
    resume: bool,
    processes: Processes,
) -> tuple[Split, dict[str, Any]]:
    """Return the split and the header of a run that these data and what lies in its folder allow.

    Raises:
        TrainingError: If the sizes differ, there is no such fold, or a resume is on other data or another recipe.
        OutputExistsError: If the run is there already and ``resume`` is not asked for.
    """
    wanted = recipe.image.field_px
    if dataset.size != wanted:
        key = "field_size" if recipe.image.field_size else "size"
        raise TrainingError(
            f"Recipe {recipe.name} sees {wanted} px; {dataset.path} has {dataset.size} px.",
            hint=f"Use --set image.{key}={dataset.size}, or import at --size {wanted}.",
        )
    refuse_precision(recipe.compute.precision, accelerator())
    split = split_dataset(dataset, folds, fold)
    refuse_processes(processes, recipe, fields=len(split.train))
    ids = dataset.ids
    header = {
        "fold": fold,
        "dataset": {"path": str(dataset.path), "fingerprint": dataset.fingerprint},
        "label_set": dataset.label_set.to_json(),
        "held_out": [ids[row] for row in split.held_out],
        "trained_on": [ids[row] for row in split.train],
    }
    run = run_folder(recipe, fold, out)
    if resume and run.exists():
        _refuse_other(run, recipe, header)
    # The first process may have made it by now.
    elif processes.is_first:
        refuse_existing(run, hint="Go on with it by --resume, or choose another --out.")
    return split, header


def run_folder(recipe: Recipe, fold: int, out: Path) -> Path:
    """Return where the run of a recipe on a fold lies."""
    return out / f"{recipe.name}-fold{fold}"


def _start_run(run: Path, recipe: Recipe, header: dict[str, Any], *, processes: Processes) -> None:
    packages = ("cytoloc", "torch", "torchvision", "timm", "pytorch-lightning", "numpy", "tensorstore")
    environment = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": accelerator(),
        "processes": processes.count,
        "packages": {name: version(name) for name in packages},
    }
    with new_folder(run) as folder:
        (folder / RECIPE).write_text(to_toml(recipe), encoding="utf-8")
        write_json(folder / HEADER, {**header, "environment": environment}, RUN_FORMAT)


def _refuse_other(run: Path, recipe: Recipe, header: dict[str, Any]) -> None:
    """Raise unless the run in the folder has this recipe, these data and this fold."""
    kept = read_header(run)
    kept["label_set"].refuse_other(LabelSet.from_json(header["label_set"]), what="the dataset", than=str(run))
    if read_resolved(run / RECIPE) != recipe:
        raise TrainingError(
            f"{run} was started with another recipe.",
            hint="Resume with that recipe, or choose another --out.",
        )
    same = kept.get("dataset", {}).get("fingerprint") == header["dataset"]["fingerprint"]
    if not same or any(kept.get(key) != header[key] for key in ("fold", "held_out", "trained_on")):
        raise TrainingError(
            f"{run} was started on other fields or folds.",
            hint="Resume on those, or choose another --out.",
        )


def _say_what_is_missing(dataset: Dataset, split: Split, name: str, report: Callable[[str], None]) -> None:
    """Say which locations no field to learn from has, though held-out ones do: their predictions will mean nothing."""
    truth = dataset.truth
    lost = truth[split.held_out].any(axis=0) & ~truth[split.train].any(axis=0)
    if lost.any():
        names = ", ".join(dataset.label_set[int(number)].name for number in np.flatnonzero(lost))
        report(f"{name}: no field to learn from shows {names}; held-out fields do, and will be missed.")
