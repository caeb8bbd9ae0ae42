"""Training runs: the function :func:`train`, and the folder of each run.

A run is one recipe on one fold. Its folder contains ``recipe.toml`` (complete), ``run.json`` (dataset, fold,
environment, and the run that it started from), ``log.csv``, ``best.ckpt``, ``last.ckpt``, ``best-cycleN.ckpt`` if there
are several cycles, and when it is finished ``predictions.parquet``, the predictions of the validation fold.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.errors import SettingsError, TrainingError
from cytoloc.files import disk_errors, new_folder, refuse_existing, write_json
from cytoloc.labels.label_set import LabelSet
from cytoloc.models.network import build_network
from cytoloc.predict.model import Model
from cytoloc.predict.model_info import ModelInfo
from cytoloc.predict.runs import learned_from_datasets, load_network, model_spec
from cytoloc.predict.sources import DatasetSource
from cytoloc.prediction_files import read_predictions, write_predictions
from cytoloc.predictions import Predictions, cells_of
from cytoloc.recipes.recipe import Recipe, load_recipe, read_resolved, to_toml
from cytoloc.runs import HEADER, PREDICTIONS, RECIPE, RUN_FORMAT, is_finished, read_header
from cytoloc.training.callbacks import LAST
from cytoloc.training.data import Split, folds_to_train, split_dataset
from cytoloc.training.distributed import (
    SINGLE,
    Processes,
    accelerator,
    all_gather_object,
    check_batches,
    check_precision,
    find_processes,
    leave_process_group,
)
from cytoloc.training.fit import clear_errors, fit
from cytoloc.training.module import Learner
from cytoloc.training.options import DEFAULT_OPTIONS, TrainOptions
from cytoloc.training.resolve import build_learner, resolve_recipe
from cytoloc.training.starting import Start, earlier_run, first_network, inherit_settings
from cytoloc.training.tracking import open_tracking, tracking

PACKAGES = ("cytoloc", "torch", "torchvision", "timm", "pytorch-lightning", "numpy", "tensorstore")
"""Packages whose versions are recorded in ``run.json``."""


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        folder: The folder of the run.
        recipe: The name of the recipe.
        fold: The validation fold.
    """

    folder: Path
    recipe: str
    fold: int

    @property
    def name(self) -> str:
        """The name of the run, which is the name of its folder."""
        return self.folder.name

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def predictions(self) -> Predictions:
        """Return the out-of-fold predictions, for the fields of the validation fold."""
        return read_predictions(self.folder / PREDICTIONS)

    def log(self) -> pl.DataFrame:
        """Return the training log, with one row per epoch."""
        return pl.read_csv(self.folder / "log.csv")


def train(
    recipe: str | Path | Recipe | Sequence[str | Path | Recipe],
    dataset: Dataset | str | Path,
    folds: pl.DataFrame | str | Path,
    *,
    out: str | Path,
    fold: int | Sequence[int] | Literal["all"] = "all",
    overrides: Sequence[str] | Mapping[str, Any] = (),
    options: TrainOptions = DEFAULT_OPTIONS,
) -> tuple[Run, ...]:
    """Train one or more recipes, and predict the fields of the validation fold of each run.

    All runs are checked before the first one starts. Runs are resumable: call the function again with
    ``options=TrainOptions(resume=True)``.

    Args:
        recipe: The name of a recipe, the path of a ``.toml`` file, or a recipe; or a list of them.
        dataset: The dataset, or its path or URL.
        folds: A table with the columns ``id`` and ``fold``, or the path of a folds file.
        out: The folder in which a folder is created for each run, named after recipe and fold.
        fold: The validation fold, or a list of folds, or ``"all"`` for one run per fold.
        overrides: Changes of the recipes: ``["schedule.epochs=3"]`` or ``{"schedule.epochs": 3}``.
        options: Device, resuming, tracking, and custom augmentation, loss, callbacks and metrics.

    Returns:
        The runs, ordered by recipe and fold.

    Raises:
        SettingsError: If an argument has the wrong type, or two runs would have the same name.
        RecipeError: If a recipe is unknown, or a key or value is invalid.
        TrainingError: If a run cannot start or continue, for example because of another image size, an unknown fold,
            other data, a loss that is NaN, or a batch that does not fit into memory.
        WeightsError: If pretrained weights are missing or do not match the network.
        OutputExistsError: If a run exists and ``options.resume`` is false.
        MissingExtraError: If runs are tracked and MLflow is not installed.
        StorageError: If the disk is full or read-only.
    """
    if not isinstance(options, TrainOptions):
        raise SettingsError(f"`options` must be TrainOptions, not {type(options).__name__}.")
    listed = recipe if isinstance(recipe, Sequence) and not isinstance(recipe, str) else [recipe]
    recipes = [load_recipe(each, overrides=overrides) for each in listed]
    if not recipes:
        raise SettingsError("`recipe` is empty.", hint="Give at least one recipe.")
    names = [each.name for each in recipes]
    if len(set(names)) < len(names):
        raise SettingsError(
            f"`recipe` contains two recipes with the same name: {', '.join(names)}.", hint="Give each recipe once."
        )
    if isinstance(dataset, (str, Path)):
        dataset = open_dataset(dataset)
    elif not isinstance(dataset, Dataset):
        raise SettingsError(f"`dataset` must be a dataset or its path, not {type(dataset).__name__}.")
    table, numbers = folds_to_train(folds, fold)
    if not isinstance(out, (str, Path)):
        raise SettingsError(f"`out` must be the path of a folder, not {type(out).__name__}.")
    if options.processes is None:
        processes = find_processes(options.devices, options.nodes, environ=os.environ, device=options.device)
        options = replace(options, processes=processes)
    plans: list[RunPlan] = []
    for each in recipes:
        resolved = resolve_recipe(each, dataset)
        measured = tuple(sorted(resolved.image.mean.keys() - each.image.mean.keys()))
        for number in numbers:
            folder = Path(out) / f"{each.name}-fold{number}"
            planned = {before.folder.resolve(): before.recipe for before in plans}
            inherited = inherit_settings(resolved, fold=number, folder=folder, planned=planned)
            plan = RunPlan.of(inherited, dataset, table, number, folder=folder, options=options)
            plans.append(replace(plan, measured=() if each.model.inherit else measured))
    # A single run keeps the network that the check has built.
    learner: tuple[Learner, dict[str, Any]] | None = None
    for number, plan in enumerate(plans):
        if not is_finished(plan.folder):
            learner = plan.learner(planned=frozenset(before.folder.resolve() for before in plans[:number]))
    if options.mlflow and plans[0].processes.is_first:
        open_tracking(options.mlflow)
    for number, plan in enumerate(plans, start=1):
        name = f"{plan.folder.name} ({number} of {len(plans)})" if len(plans) > 1 else plan.folder.name
        with options.custom_errors_unchanged():
            plan.train(learner if len(plans) == 1 else None, name=name)
    leave_process_group()
    return tuple(Run(plan.folder, plan.recipe.name, plan.fold) for plan in plans)


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A run that can start or continue: everything that is known before its network is built."""

    recipe: Recipe
    dataset: Dataset
    fold: int
    folder: Path
    split: Split
    header: dict[str, Any]
    options: TrainOptions
    measured: tuple[str, ...] = ()
    """Channels whose mean and standard deviation were measured on the dataset."""

    @property
    def processes(self) -> Processes:
        """The processes that train the run."""
        return self.options.processes or SINGLE

    @classmethod
    def of(
        cls, recipe: Recipe, dataset: Dataset, folds: pl.DataFrame, fold: int, *, folder: Path, options: TrainOptions
    ) -> RunPlan:
        """Return the plan of a run.

        Args:
            recipe: The complete recipe.
            dataset: The dataset.
            folds: A table with the columns ``id`` and ``fold``.
            fold: The validation fold.
            folder: The folder of the run.
            options: Options of training.

        Returns:
            The plan.

        Raises:
            TrainingError: If the run cannot start or continue with these data on this device.
            OutputExistsError: If the run exists and is not resumed.
        """
        wanted = recipe.image.field_px
        if dataset.size != wanted:
            key = "field_size" if recipe.image.field_size else "size"
            raise TrainingError(
                f"Recipe {recipe.name} needs images of {wanted} px, but {dataset.path} has {dataset.size} px.",
                hint=f"Set image.{key}={dataset.size}, or import the images at {wanted} px.",
            )
        device, split = accelerator(options.device), split_dataset(dataset, folds, fold)
        ids = dataset.ids
        plan = cls(
            recipe=recipe,
            dataset=dataset,
            fold=fold,
            folder=folder,
            split=split,
            header={
                "fold": fold,
                "dataset": {"path": str(dataset.path), "fingerprint": dataset.fingerprint}
                | {"resample": dataset.resample},
                "label_set": dataset.label_set.to_json(),
                "held_out": [ids[row] for row in split.held_out],
                "trained_on": [ids[row] for row in split.train],
                "custom": options.custom,
            },
            options=options,
        )
        check_precision(recipe.compute.precision, device)
        check_batches(plan.processes, recipe, fields=len(split.train), device=device)
        if options.resume and plan.folder.exists():
            plan.check_resume()
        # In other processes the folder may exist already, made by the first process.
        elif plan.processes.is_first:
            refuse_existing(plan.folder, hint="Continue it with `resume`, or choose another folder.")
        return plan

    def check_resume(self) -> None:
        """Raise unless the run in the folder has the same recipe, data, fold, and custom functions."""
        kept, header = read_header(self.folder), self.header
        kept["label_set"].refuse_other(
            LabelSet.from_json(header["label_set"]), what="the dataset", than=str(self.folder)
        )
        if read_resolved(self.folder / RECIPE) != self.recipe:
            raise TrainingError(
                f"{self.folder} was started with another recipe.",
                hint="Resume with the same recipe, or choose another folder.",
            )
        same = kept.get("dataset", {}).get("fingerprint") == header["dataset"]["fingerprint"]
        if not same or any(kept.get(key) != header[key] for key in ("fold", "held_out", "trained_on")):
            raise TrainingError(
                f"{self.folder} was started on other fields or folds.",
                hint="Resume with the same dataset and folds, or choose another folder.",
            )
        for name in ("augmentation", "loss"):
            before, now = (facts.get("custom", {}).get(name, "none") for facts in (kept, header))
            if before != now:
                raise TrainingError(
                    f"{self.folder} was started with {name} {before}, not {now}.",
                    hint=f"Resume with the same {name}, or choose another folder.",
                )

    def learner(self, *, planned: frozenset[Path] = frozenset()) -> tuple[Learner, dict[str, Any]]:
        """Return a learner that is ready to start or resume, and the run that its weights come from.

        Args:
            planned: Folders of runs that will be finished when this run starts, so their weights cannot be read yet.

        Returns:
            The learner, and the origin of its weights.
        """
        recipe, locations = self.recipe, self.dataset.label_set
        earlier = earlier_run(recipe, self.fold)
        if earlier and earlier.resolve() in planned:
            recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"weights": "none"})})
        torch.manual_seed(recipe.seed)
        if (self.folder / LAST).exists():
            # The checkpoint contains all weights, so the origin of the initial weights is not needed.
            start = Start(build_network(model_spec(recipe, locations=len(locations))), {})
        else:
            start = first_network(recipe, locations, fold=self.fold, held_out=self.header["held_out"])
        learner = build_learner(
            recipe, start.network, self.dataset, self.split, options=self.options, processes=self.processes
        )
        return learner, start.started_from

    def train(self, built: tuple[Learner, dict[str, Any]] | None, *, name: str) -> None:
        """Train the run, and predict the fields of its validation fold. A finished run is not changed.

        Args:
            built: The result of :meth:`learner`; None to build it now.
            name: The name of the run in printed lines.
        """
        recipe, dataset, folder, processes = self.recipe, self.dataset, self.folder, self.processes
        options = self.options
        if not processes.is_first:
            options = replace(options, report=lambda _line: None, progress_bar=False)
        if is_finished(folder):
            options.report(f"{folder.name} is finished already.")
            return
        learner, started_from = built or self.learner()
        if processes.is_first:
            if not folder.exists():
                environment = {
                    "python": platform.python_version(),
                    "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
                    "device": accelerator(options.device),
                    "processes": processes.world_size,
                    "packages": {package: version(package) for package in PACKAGES},
                }
                header = {**self.header, **({"started_from": started_from} if started_from else {})}
                with new_folder(folder) as made:
                    (made / RECIPE).write_text(to_toml(recipe), encoding="utf-8")
                    write_json(made / HEADER, {**header, "environment": environment}, RUN_FORMAT)
            # Files that a killed process was writing.
            for stray in folder.glob(f".{PREDICTIONS}.*"):
                shutil.rmtree(stray)
        for channel in self.measured:
            mean, std = recipe.image.mean[channel], recipe.image.std[channel]
            options.report(f"{folder.name}: measured channel {channel}: mean {mean:g}, standard deviation {std:g}.")
        if started_from.get("trained_on_datasets"):
            options.report(
                f"{folder.name}: the weights of {started_from['name']} were trained on all of"
                f" {' and '.join(started_from['trained_on_datasets'])}. Metrics are too high if fields of the"
                " validation fold are among them."
            )
        if started_from and not started_from["with_head"]:
            source = started_from["name"]
            options.report(f"{folder.name}: uses the backbone of {source} with a new head, because label sets differ.")
        truth = dataset.truth
        lost = truth[self.split.held_out].any(axis=0) & ~truth[self.split.train].any(axis=0)
        if lost.any():
            missing = ", ".join(dataset.label_set[int(number)].name for number in np.flatnonzero(lost))
            options.report(f"{folder.name}: no training field has {missing}, but validation fields do.")
        tracks = tracking(options.mlflow if processes.is_first else None, folder)
        with disk_errors(folder), clear_errors(learner, size=recipe.image.size), tracks as tracked:
            if tracked:
                parameters = {**recipe.model_dump(mode="json"), "dataset": self.header["dataset"], "fold": self.fold}
                tracked.log_parameters(parameters)
            fit(
                learner,
                folder,
                name=name,
                watch=recipe.select.watch,
                options=options,
                start={"run": folder.name, "recipe": to_toml(recipe)},
                on_rows=tracked.log_rows if tracked else None,
            )
            predictions = self.predict_held_out()
            if processes.is_first:
                write_predictions(predictions, folder / PREDICTIONS)
            if tracked:
                tracked.log_files([folder / RECIPE, folder / "log.csv"])
            # All processes wait, so that a run that starts from this one finds it finished.
            all_gather_object(None)

    def predict_held_out(self) -> Predictions:
        """Return the predictions of the validation fold; each of several processes predicts a part of it."""
        recipe, dataset, processes = self.recipe, self.dataset, self.processes
        checkpoint = self.folder / f"{recipe.select.checkpoint}.ckpt"
        info = ModelInfo(
            size=recipe.image.field_px,
            channels=tuple(recipe.image.channels),
            label_set=dataset.label_set,
            tta=recipe.select.tta,
            provenance={"run": self.folder.name, "recipe": recipe.name, "fold": self.fold, "held_out": True},
            trained_on_datasets=learned_from_datasets(read_header(self.folder)),
        )
        device = None if self.options.device == "auto" else self.options.device
        model = Model([load_network(checkpoint, recipe, locations=len(dataset.label_set))], info, device=device)
        rows = np.array_split(self.split.held_out, processes.world_size)[processes.rank]
        parts = all_gather_object(model.predict_sources([DatasetSource(dataset, rows)]) if len(rows) else None)
        known = [part for part in parts if part is not None]
        ids = tuple(name for part in known for name in part.ids)
        return Predictions(
            ids,
            np.concatenate([part.probabilities for part in known]),
            known[0].label_set,
            known[0].provenance,
            cells=cells_of(known, ids),
        )
