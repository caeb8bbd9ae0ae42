"""Finished runs without their networks: recipes, folds and out-of-fold predictions."""

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
    """A finished run.

    Attributes:
        folder: The folder of the run.
        recipe: The complete recipe.
        fold: The validation fold.
        dataset: The folder or URL of the dataset.
        fingerprint: The fingerprint of the dataset when the run was trained.
        predictions: The predictions of the validation fold.
    """

    folder: Path
    recipe: Recipe
    fold: int
    dataset: str
    fingerprint: str
    predictions: Predictions


@dataclass(frozen=True)
class LeftOut:
    """A run that is not reported.

    Attributes:
        folder: The folder of the run.
        reason: The reason.
    """

    folder: Path
    reason: str


def finished_runs(paths: Sequence[Path]) -> tuple[list[FinishedRun], list[LeftOut]]:
    """Return the finished runs in some folders, and the runs that are not finished.

    Args:
        paths: Runs, or folders of runs.

    Returns:
        Both lists.

    Raises:
        FormatError: If a folder contains no run, or a run is damaged.
        SettingsError: If a run is given twice.
        RecipeError: If the recipe of a run is not complete.
    """
    folders = find_runs(paths)
    finished = [folder for folder in folders if is_finished(folder)]
    reason = "not finished; continue it with `cytoloc train … --resume`"
    left_out = [LeftOut(folder, reason) for folder in folders if folder not in finished]
    found = []
    for folder in finished:
        header = read_header(folder)
        recipe, predictions = read_resolved(folder / RECIPE), read_predictions(folder / PREDICTIONS)
        if set(predictions.ids) != set(header["held_out"]):
            raise FormatError(
                f"{folder / PREDICTIONS} does not have the fields of the validation fold.", hint="Train the run again."
            )
        path, fingerprint = (str(header["dataset"][key]) for key in ("path", "fingerprint"))
        found.append(FinishedRun(folder, recipe, header["fold"], path, fingerprint, predictions))
    return found, left_out


def truth_of_runs(runs: Sequence[FinishedRun], label_set: LabelSet) -> tuple[dict[str, tuple[int, ...]], str]:
    """Return the labels in the datasets that runs were trained on, and the paths of these datasets.

    Args:
        runs: The runs.
        label_set: The label set of the predictions.

    Returns:
        Indices of locations by id, and the paths as text.

    Raises:
        TableError: If a dataset does not exist or was changed, or two datasets have different labels for a field.
        LabelSetError: If a dataset has another label set than the predictions.
    """
    hint = "Give the true labels with `labels`: a CSV file, or a dataset."
    known: dict[str, tuple[int, ...]] = {}
    datasets = {(run.dataset, run.fingerprint): run for run in runs}
    for (path, fingerprint), run in datasets.items():
        try:
            dataset = open_dataset(path)
        except (FormatError, StorageError) as error:
            raise TableError(f"The dataset of {run.folder} cannot be opened: {error.message}", hint=hint) from error
        if dataset.fingerprint != fingerprint:
            raise TableError(f"{path} was changed after {run.folder} was trained.", hint=hint)
        label_set.refuse_other(dataset.label_set, what=str(path), than="the predictions")
        for name, labels in zip(dataset.ids, dataset.fields["labels"].to_list(), strict=True):
            if labels is not None and known.setdefault(name, tuple(labels)) != tuple(labels):
                raise TableError(
                    f"{path} and another dataset of these runs have different labels for {name}.", hint=hint
                )
    return known, ", ".join(sorted({path for path, _ in datasets}))
