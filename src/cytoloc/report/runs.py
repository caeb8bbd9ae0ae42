"""Finished runs without their networks: recipe, fold and out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cytoloc.dataset.store import open_dataset
from cytoloc.errors import FormatError, StorageError, TableError
from cytoloc.labels.label_set import LabelSet
from cytoloc.prediction_files import read_predictions
from cytoloc.predictions import Predictions
from cytoloc.recipes.recipe import Recipe, read_resolved
from cytoloc.runs import PREDICTIONS, RECIPE, find_runs, is_finished, read_header


@dataclass(frozen=True)
class FinishedRun:
    """One recipe on one fold.

    Attributes:
        folder: Where it lies.
        recipe: What was trained.
        fold: Which was held out.
        dataset: Folder or URL of the fields.
        fingerprint: Of that dataset when the run was trained.
        predictions: Of the held-out fold.
    """

    folder: Path
    recipe: Recipe
    fold: int
    dataset: str
    fingerprint: str
    predictions: Predictions


@dataclass(frozen=True)
class LeftOut:
    """A run that cannot be reported.

    Attributes:
        folder: Where it lies.
        reason: Why.
    """

    folder: Path
    reason: str


def finished_runs(paths: Sequence[Path]) -> tuple[list[FinishedRun], list[LeftOut]]:
    """Return the finished runs among ``paths``, and those that are not.

    Raises:
        FormatError: If a folder holds no run, or a run is damaged.
        SettingsError: If a run is given twice.
        RecipeError: If its recipe is not a whole one.
    """
    folders = find_runs(paths)
    finished = [folder for folder in folders if is_finished(folder)]
    reason = "not finished; resume it with `cytoloc train … --resume`"
    left_out = [LeftOut(folder, reason) for folder in folders if folder not in finished]
    found = []
    for folder in finished:
        header = read_header(folder)
        recipe, predictions = read_resolved(folder / RECIPE), read_predictions(folder / PREDICTIONS)
        if set(predictions.ids) != set(header["held_out"]):
            raise FormatError(
                f"{folder / PREDICTIONS} has predictions of other fields than the run held out.", hint="Train it again."
            )
        path, fingerprint = (str(header["dataset"][key]) for key in ("path", "fingerprint"))
        found.append(FinishedRun(folder, recipe, header["fold"], path, fingerprint, predictions))
    return found, left_out


def truth_of_runs(runs: Sequence[FinishedRun], label_set: LabelSet) -> tuple[dict[str, tuple[int, ...]], str]:
    """Return the labels in the datasets that runs were trained on, and the paths of these datasets.

    Raises:
        TableError: If one is not there any more, was changed since, or two disagree on a field.
        LabelSetError: If one has another label set than the predictions.
    """
    hint = "Give the truth with `labels`: a CSV, or the dataset."
    known: dict[str, tuple[int, ...]] = {}
    datasets = {(run.dataset, run.fingerprint): run for run in runs}
    for (path, fingerprint), run in datasets.items():
        try:
            dataset = open_dataset(path)
        except (FormatError, StorageError) as error:
            raise TableError(f"The dataset of {run.folder} cannot be opened: {error.message}", hint=hint) from error
        if dataset.fingerprint != fingerprint:
            raise TableError(f"{path} is not what it was when {run.folder} was trained.", hint=hint)
        label_set.refuse_other(dataset.label_set, what=str(path), than="the predictions")
        for name, labels in zip(dataset.ids, dataset.fields["labels"].to_list(), strict=True):
            if labels is not None and known.setdefault(name, tuple(labels)) != tuple(labels):
                raise TableError(f"{path} and another dataset of these runs disagree on {name}.", hint=hint)
    return known, ", ".join(sorted({path for path, _ in datasets}))
