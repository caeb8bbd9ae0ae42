"""Two tables of a study: cross-validated metrics of each model, and of ensembles.

The out-of-fold predictions of a model are pooled. Each field is decided by thresholds that were fitted to other fields
(:func:`cytoloc.decide.cross_fit`), because thresholds look too good on the fields that they were fitted to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from cytoloc._typing import BoolArray, IntArray
from cytoloc.choices import MethodName
from cytoloc.decide import cross_fit
from cytoloc.decide.metrics import class_measures, macro_f1, macro_f1_interval, mean_defined
from cytoloc.errors import SettingsError
from cytoloc.predictions import combine, refuse_different
from cytoloc.recipe import loss_in_words
from cytoloc.report.runs import FinishedRun

MIN_POSITIVES: Final = 5
"""Classes with fewer positives are left out of the means of AUC and average precision."""

TruthOf = Callable[[Sequence[str]], BoolArray]
"""From ids to their locations, bool ``(n, locations)``."""
GroupsOf = Callable[[Sequence[str]], IntArray]
"""From ids to the number of the group of each."""


@dataclass(frozen=True)
class CrossValidation:
    """Cross-validated metrics; all None if ``note`` says why there are none.

    Attributes:
        fields: Number of fields.
        cv: Macro F1 over all locations.
        low: Lower end of its 95 % bootstrap interval.
        high: Upper end.
        classes: Number of classes with at least :data:`MIN_POSITIVES` positives.
        roc_auc: Mean over these classes.
        average_precision: Mean over these classes.
        note: A caution, or why there are no metrics.
    """

    fields: int | None = None
    cv: float | None = None
    low: float | None = None
    high: float | None = None
    classes: int | None = None
    roc_auc: float | None = None
    average_precision: float | None = None
    note: str = ""


@dataclass(frozen=True)
class ModelRow:
    """One recipe.

    Attributes:
        model: The recipe's name; with its folder before it if others have the same.
        network: timm's name.
        image: Edge of the images, in pixels.
        batch: Fields per optimizer step.
        loss: In words.
        folds: Numbers of the folds.
        metrics: Its metrics.
    """

    model: str
    network: str
    image: int
    batch: int
    loss: str
    folds: tuple[int, ...]
    metrics: CrossValidation


@dataclass(frozen=True)
class EnsembleRow:
    """Several models together.

    Attributes:
        members: Their names.
        metrics: Their metrics.
    """

    members: tuple[str, ...]
    metrics: CrossValidation


@dataclass(frozen=True)
class StudyTables:
    """Both tables.

    Attributes:
        decision: The method that decided each field.
        label_set: The name of the label set that all models have.
        locations: How many locations it has.
        grouped: Whether groups were kept together, and resampled for the intervals.
        models: A row per model.
        ensembles: A row per ensemble.
    """

    decision: MethodName
    label_set: str
    locations: int
    grouped: bool
    models: list[ModelRow] = field(default_factory=list)
    ensembles: list[EnsembleRow] = field(default_factory=list)


def study_tables(
    runs: Sequence[FinishedRun],
    truth_of: TruthOf,
    *,
    decision: MethodName = "grid",
    ensembles: Sequence[Sequence[str]] = (),
    groups_of: GroupsOf | None = None,
) -> StudyTables:
    """Return the tables of finished runs.

    Args:
        runs: All of them; those of one recipe in one folder are the folds of a model.
        truth_of: Gives the truth of fields.
        decision: How fields are decided; see docs/decisions.md.
        ensembles: Names of the models of each; by default one ensemble of all models, if there are several.
        groups_of: Gives their groups, which are kept together.

    Raises:
        SettingsError: If an ensemble names an unknown model, or fewer than two.
        TableError: If a field has no label, or there are too few fields.
        LabelSetError: If runs have different label sets.
    """
    label_set = refuse_different({str(run.folder): run.predictions for run in runs})
    by_place: dict[tuple[Path, str], list[FinishedRun]] = {}
    for run in runs:
        by_place.setdefault((run.folder.absolute().parent.resolve(), run.recipe.name), []).append(run)
    recipes = [name for _, name in by_place]
    # Models of the same name are named by their folders too.
    folds = {
        name if recipes.count(name) == 1 else f"{each[0].folder.parent}/{name}": sorted(each, key=lambda run: run.fold)
        for (_, name), each in by_place.items()
    }
    wanted = [tuple(each) for each in ensembles] or ([tuple(folds)] if len(folds) > 1 else [])
    for names in wanted:
        unknown = [name for name in names if name not in folds]
        if unknown:
            raise SettingsError(
                f"There is no finished model {unknown[0]!r} for an ensemble.", hint=f"Choose from {', '.join(folds)}."
            )
        if len(set(names)) < max(2, len(names)):
            raise SettingsError(
                f"An ensemble has two or more different models; this is {'+'.join(names)}.", hint="Write A+B."
            )
    faults = {name: _fault_of_folds(each) for name, each in folds.items()}
    pooled = {name: combine([run.predictions for run in each]) for name, each in folds.items() if not faults[name]}

    def metrics_of(names: Sequence[str], fault: str) -> CrossValidation:
        if fault:
            return CrossValidation(note=fault)
        best = any(folds[name][0].recipe.select.checkpoint == "best" for name in names)
        note = "checkpoints chosen by the fold that evaluates them" if best else ""
        ids = pooled[names[0]].ids
        truth, groups = truth_of(ids), groups_of(ids) if groups_of else None
        members = {name: pooled[name].rows(ids) for name in names}
        predicted = cross_fit(members, truth, groups=groups, method=decision)
        low, high = macro_f1_interval(predicted, truth, groups=groups)
        mean = np.mean(list(members.values()), axis=0)
        classes = class_measures(predicted, truth, mean).filter(pl.col("positives") >= MIN_POSITIVES)
        auc, average_precision = mean_defined(classes["roc_auc"]), mean_defined(classes["average_precision"])
        return CrossValidation(
            len(ids), macro_f1(predicted, truth), low, high, classes.height, auc, average_precision, note
        )

    models = []
    for name, each in folds.items():
        recipe = each[0].recipe
        models.append(
            ModelRow(
                name,
                recipe.model.backbone,
                recipe.image.size,
                recipe.schedule.batch_size * recipe.schedule.accumulate,
                loss_in_words(recipe),
                tuple(run.fold for run in each),
                metrics_of([name], faults[name]),
            )
        )
    rows = [
        EnsembleRow(names, metrics_of(names, _difference({name: folds[name] for name in names}))) for names in wanted
    ]
    return StudyTables(decision, label_set.name, len(label_set), groups_of is not None, models, rows)


def _fault_of_folds(folds: Sequence[FinishedRun]) -> str:
    """Return why the predictions of folds cannot be pooled; empty if they can."""
    if any(run.recipe != folds[0].recipe for run in folds):
        return "its folds were trained by different recipes"
    if len({run.fingerprint for run in folds}) > 1:
        return "its folds are of different datasets"
    ids = [name for run in folds for name in run.predictions.ids]
    return "its folds share fields" if len(set(ids)) < len(ids) else ""


def _difference(members: Mapping[str, Sequence[FinishedRun]]) -> str:
    """Return why models cannot be evaluated together; empty if they can."""
    for name, folds in members.items():
        if _fault_of_folds(folds):
            return f"{name}: {_fault_of_folds(folds)}"
    fields = {name: {frozenset(run.predictions.ids) for run in folds} for name, folds in members.items()}
    first, *others = fields
    for name in others:
        if set().union(*fields[name]) != set().union(*fields[first]):
            return f"{name} has predictions of other fields than {first}"
        if fields[name] != fields[first]:
            return f"{name} has other folds than {first}"
    return ""
