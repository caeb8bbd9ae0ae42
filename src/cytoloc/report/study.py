"""The two tables of a study: what each model is worth by cross-validation, and what several are worth together.

Predictions of a model's held-out folds are pooled. Each field is decided by thresholds that were fitted to other fields
(:func:`cytoloc.decide.decision.cross_fit`): thresholds judged on the fields that they were fitted to, as the starting
system's table has them, look far better than they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cytoloc.choices import Method
from cytoloc.decide.decision import cross_fit
from cytoloc.decide.metrics import class_measures, macro_f1, macro_f1_interval
from cytoloc.errors import SettingsError
from cytoloc.predictions import Predictions, combine, refuse_different
from cytoloc.recipe import Recipe, loss_in_words
from cytoloc.report.runs import FinishedRun

MIN_POSITIVES: Final = 5
"""Classes with fewer true fields are left out of the means of AUC and average precision: those would be luck."""

TruthOf = Callable[[Sequence[str]], NDArray[np.bool_]]
"""From ids to their locations, bool ``(n, locations)``."""
GroupsOf = Callable[[Sequence[str]], NDArray[np.int64]]
"""From ids to the number of the group of each."""


@dataclass(frozen=True)
class Worth:
    """What cross-validation says; all of it None where ``note`` says why it cannot be said.

    Attributes:
        fields: How many fields it was measured on.
        cv: Macro F1 over all locations.
        low: Lower end of its 95 % bootstrap interval.
        high: Upper end.
        classes: How many classes have at least :data:`MIN_POSITIVES` true fields.
        roc_auc: Mean over those.
        average_precision: Mean over those.
        note: What to know about these numbers.
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
        batch: Fields whose gradients make a step.
        loss: In words.
        folds: Which were held out, one after the other.
        worth: What it is worth.
    """

    model: str
    network: str
    image: int
    batch: int
    loss: str
    folds: tuple[int, ...]
    worth: Worth


@dataclass(frozen=True)
class EnsembleRow:
    """Several models together.

    Attributes:
        members: Their names.
        worth: What they are worth.
    """

    members: tuple[str, ...]
    worth: Worth


@dataclass(frozen=True)
class StudyTables:
    """Both tables.

    Attributes:
        decision: The method that decided each field.
        label_set: The name of the label set that all models have.
        locations: How many locations it has.
        grouped: Whether fields of a group were kept together, and drawn together for the intervals.
        models: A row per model.
        ensembles: A row per ensemble.
    """

    decision: Method
    label_set: str
    locations: int
    grouped: bool
    models: list[ModelRow] = field(default_factory=list)
    ensembles: list[EnsembleRow] = field(default_factory=list)


def study_tables(
    runs: Sequence[FinishedRun],
    truth_of: TruthOf,
    *,
    decision: Method = "grid",
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
        SettingsError: If an ensemble names a model that is not there, or has fewer than two.
        TableError: If a field has no label, or there are too few to judge.
        LabelSetError: If runs have different label sets.
    """
    label_set = refuse_different({str(run.folder): run.predictions for run in runs})
    folds = _by_model(runs)
    wanted = [tuple(each) for each in ensembles] or ([tuple(folds)] if len(folds) > 1 else [])
    for names in wanted:
        _refuse_unknown(names, list(folds))
    pooled = {name: _pooled(each) for name, each in folds.items()}

    def judged(names: Sequence[str], note: str) -> Worth:
        return _worth([pooled[name] for name in names], truth_of, decision=decision, groups_of=groups_of, note=note)

    models = []
    for name, each in folds.items():
        note = _unfit(each) or _caution([each])
        worth = Worth(note=note) if _unfit(each) else judged([name], note)
        models.append(_model_row(name, each, worth))
    rows = []
    for names in wanted:
        why = _apart({name: folds[name] for name in names})
        rows.append(EnsembleRow(names, Worth(note=why) if why else judged(names, _caution([folds[n] for n in names]))))
    return StudyTables(decision, label_set.name, len(label_set), groups_of is not None, models, rows)


def _by_model(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Return the runs of each model, by fold; models of the same name are told apart by their folders."""
    found: dict[tuple[Path, str], list[FinishedRun]] = {}
    for run in runs:
        found.setdefault((run.folder.absolute().parent.resolve(), run.recipe.name), []).append(run)
    names = [name for _, name in found]
    return {
        name if names.count(name) == 1 else f"{each[0].folder.parent}/{name}": sorted(each, key=lambda run: run.fold)
        for (_, name), each in found.items()
    }


def _unfit(folds: Sequence[FinishedRun]) -> str:
    """Return why the predictions of some folds cannot be pooled; empty if they can."""
    if any(run.recipe != folds[0].recipe for run in folds):
        return "its folds were trained by different recipes"
    if len({run.fingerprint for run in folds}) > 1:
        return "its folds are of different datasets"
    ids = [name for run in folds for name in run.predictions.ids]
    return "its folds share fields" if len(set(ids)) < len(ids) else ""


def _apart(members: Mapping[str, Sequence[FinishedRun]]) -> str:
    """Return why models cannot be judged together; empty if they can."""
    for name, folds in members.items():
        if _unfit(folds):
            return f"{name}: {_unfit(folds)}"
    deals = {name: {frozenset(run.predictions.ids) for run in folds} for name, folds in members.items()}
    first, *others = deals
    for name in others:
        if set().union(*deals[name]) != set().union(*deals[first]):
            return f"{name} was not scored on the same fields as {first}"
        if deals[name] != deals[first]:
            return f"{name} has other folds than {first}"
    return ""


def _caution(models: Sequence[Sequence[FinishedRun]]) -> str:
    best = any(folds[0].recipe.select.checkpoint == "best" for folds in models)
    return "checkpoints chosen by the fold that judges them" if best else ""


def _pooled(folds: Sequence[FinishedRun]) -> Predictions | None:
    return None if _unfit(folds) else combine([run.predictions for run in folds])


def _worth(
    members: Sequence[Predictions | None],
    truth_of: TruthOf,
    *,
    decision: Method,
    groups_of: GroupsOf | None,
    note: str,
) -> Worth:
    known = [predictions for predictions in members if predictions is not None]
    ids = known[0].ids
    truth = truth_of(ids)
    groups = groups_of(ids) if groups_of else None
    probabilities = {str(number): predictions.rows(ids) for number, predictions in enumerate(known)}
    predicted = cross_fit(probabilities, truth, groups=groups, method=decision)
    low, high = macro_f1_interval(predicted, truth, groups=groups)
    mean = np.mean(list(probabilities.values()), axis=0)
    classes = class_measures(predicted, truth, mean).filter(pl.col("positives") >= MIN_POSITIVES)
    return Worth(
        len(ids),
        macro_f1(predicted, truth),
        low,
        high,
        classes.height,
        _mean(classes["roc_auc"]),
        _mean(classes["average_precision"]),
        note,
    )


def _mean(values: pl.Series) -> float | None:
    known = values.drop_nulls().to_list()
    return float(np.mean(known)) if known else None


def _model_row(name: str, folds: Sequence[FinishedRun], worth: Worth) -> ModelRow:
    recipe: Recipe = folds[0].recipe
    return ModelRow(
        name,
        recipe.model.backbone,
        recipe.image.size,
        recipe.schedule.batch_size * recipe.schedule.accumulate,
        loss_in_words(recipe),
        tuple(run.fold for run in folds),
        worth,
    )


def _refuse_unknown(names: Sequence[str], known: Sequence[str]) -> None:
    strange = [name for name in names if name not in known]
    if strange:
        raise SettingsError(
            f"There is no finished model {strange[0]!r} for an ensemble.", hint=f"Choose from {', '.join(known)}."
        )
    if len(set(names)) < max(2, len(names)):
        raise SettingsError(
            f"An ensemble has two or more different models; this is {'+'.join(names)}.",
            hint="Write --ensemble A+B.",
        )
