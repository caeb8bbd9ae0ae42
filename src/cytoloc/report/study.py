"""Tables of cross-validated metrics for the models of a study, and for their ensembles.

The out-of-fold predictions of a model are pooled. The locations of each field are chosen by thresholds that are
fitted to other fields (:func:`cytoloc.decide.cross_fit`), because metrics on the fields that thresholds are fitted to
are too high.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from cytoloc._typing import BoolArray, IntArray
from cytoloc.choices import MethodName, check_type
from cytoloc.dataset.labeled import LabelSource, known_labels, open_labels
from cytoloc.decide import cross_fit
from cytoloc.decide.metrics import class_measures, macro_f1, macro_f1_interval, mean_defined
from cytoloc.errors import SettingsError, TableError
from cytoloc.labels.lists import read_groups, truth_of
from cytoloc.predictions import combine, refuse_different, to_pandas
from cytoloc.recipes.recipe import loss_in_words
from cytoloc.report.runs import FinishedRun, LeftOut, finished_runs, truth_of_runs

if TYPE_CHECKING:
    import pandas as pd

MIN_POSITIVES: Final = 5
"""Minimum number of positives of the classes over which AUC and average precision are averaged."""

TruthOf = Callable[[Sequence[str]], BoolArray]
"""A function from ids to labels, bool of shape ``(n, locations)``."""
GroupsOf = Callable[[Sequence[str]], IntArray]
"""A function from ids to group numbers."""


@dataclass(frozen=True)
class CrossValidation:
    """Cross-validated metrics; all are None if ``note`` states why they are missing.

    Attributes:
        fields: Number of fields.
        cv: Macro F1 over all locations.
        low: Lower end of its 95 % bootstrap interval.
        high: Upper end of its 95 % bootstrap interval.
        classes: Number of classes with at least :data:`MIN_POSITIVES` positives.
        roc_auc: Mean ROC AUC over these classes.
        average_precision: Mean average precision over these classes.
        note: A caution, or the reason for missing metrics.
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
    """The row of a model, which is one recipe.

    Attributes:
        model: The name of the recipe, preceded by the folder if several models have the same name.
        network: The timm name of the backbone.
        image: Edge length of the images, in pixels.
        batch: Number of fields per optimizer step.
        loss: The terms of the loss, as text.
        folds: The numbers of the folds.
        metrics: The metrics.
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
    """The row of an ensemble of models.

    Attributes:
        members: The names of the models.
        metrics: The metrics.
    """

    members: tuple[str, ...]
    metrics: CrossValidation


@dataclass(frozen=True)
class StudyTables:
    """The tables of models and ensembles.

    Attributes:
        decision: The decision method.
        label_set: The name of the common label set.
        locations: The number of locations.
        grouped: Whether cross-fitting keeps groups together, and intervals resample groups.
        models: One row per model.
        ensembles: One row per ensemble.
        left_out: Unfinished runs.
    """

    decision: MethodName
    label_set: str
    locations: int
    grouped: bool
    models: list[ModelRow] = field(default_factory=list)
    ensembles: list[EnsembleRow] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def to_polars(self) -> pl.DataFrame:
        """Return one table of all models and ensembles, distinguished by the column ``kind``, without rounding."""
        rows: list[dict[str, Any]] = []
        for model in self.models:
            settings = {"network": model.network, "image": model.image, "batch": model.batch, "loss": model.loss}
            folds = " ".join(map(str, model.folds))
            rows.append({"kind": "model", "name": model.model, **settings, "folds": folds, **asdict(model.metrics)})
        for ensemble in self.ensembles:
            settings = dict.fromkeys(("network", "image", "batch", "loss", "folds"))
            rows.append(
                {"kind": "ensemble", "name": "+".join(ensemble.members), **settings, **asdict(ensemble.metrics)}
            )
        return pl.DataFrame(rows, infer_schema_length=None).with_columns(decision=pl.lit(self.decision))

    def to_pandas(self) -> pd.DataFrame:
        """Return the table of :meth:`to_polars` for pandas.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        return to_pandas(self.to_polars())


def compare_runs(
    runs: str | Path | Sequence[str | Path],
    *,
    labels: LabelSource | None = None,
    folds: str | Path | None = None,
    decision: MethodName = "grid",
    ensembles: Sequence[Sequence[str]] = (),
) -> StudyTables:
    """Compare models by cross-validated metrics.

    Args:
        runs: Runs, or folders of runs. Unfinished runs are listed in ``left_out`` of the result.
        labels: The true labels: a dataset, a label list, or the path of either. Default: the datasets of the runs.
        folds: A folds file, whose groups cross-fitting keeps together.
        decision: The decision method.
        ensembles: The names of the models of each ensemble. Default: one ensemble of all models.

    Returns:
        Tables with one row per model and one per ensemble.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        TableError: If no run is finished, or a field has no label.
        SettingsError: If an ensemble contains an unknown model.
        LabelSetError: If runs or labels have different label sets.
    """
    check_type(runs, (str, Path, list, tuple), argument="runs")
    check_type(folds, (str, Path, NoneType), argument="folds")
    paths = [runs] if isinstance(runs, str | Path) else list(runs)
    finished, left_out = finished_runs([Path(path) for path in paths])
    if not finished:
        unfinished = ", ".join(str(run.folder) for run in left_out)
        raise TableError(
            f"None of the runs is finished: {unfinished}.", hint="Continue them with `cytoloc train … --resume`."
        )
    label_set = refuse_different({str(run.folder): run.predictions for run in finished})
    if labels is None:
        known, where = truth_of_runs(finished, label_set)
    else:
        source = open_labels(labels, label_set=label_set)
        known, where = known_labels(source), str(source.path)
    tables = study_tables(
        finished,
        lambda ids: truth_of(ids, known, label_set, where=where),
        decision=decision,
        ensembles=ensembles,
        groups_of=(lambda ids: read_groups(folds, ids)) if folds else None,
    )
    return replace(tables, left_out=left_out)


def study_tables(
    runs: Sequence[FinishedRun],
    truth_of: TruthOf,
    *,
    decision: MethodName = "grid",
    ensembles: Sequence[Sequence[str]] = (),
    groups_of: GroupsOf | None = None,
) -> StudyTables:
    """Return the tables for finished runs.

    Args:
        runs: The runs. Runs of one recipe in one folder are the folds of a model.
        truth_of: A function that returns the labels of fields.
        decision: The decision method; see 'Calibrate and decide' in the documentation.
        ensembles: The names of the models of each ensemble. Default: one ensemble of all models.
        groups_of: A function that returns the groups of fields, which cross-fitting keeps together.

    Returns:
        The tables.

    Raises:
        SettingsError: If an ensemble contains an unknown model, or fewer than two models.
        TableError: If a field has no label, or there are too few fields.
        LabelSetError: If runs have different label sets.
    """
    label_set = refuse_different({str(run.folder): run.predictions for run in runs})
    by_place: dict[tuple[Path, str], list[FinishedRun]] = {}
    for run in runs:
        by_place.setdefault((run.folder.absolute().parent.resolve(), run.recipe.name), []).append(run)
    recipes = [name for _, name in by_place]
    # Models with the same name are distinguished by their folders.
    folds = {
        name if recipes.count(name) == 1 else f"{each[0].folder.parent}/{name}": sorted(each, key=lambda run: run.fold)
        for (_, name), each in by_place.items()
    }
    wanted = [tuple(each) for each in ensembles] or ([tuple(folds)] if len(folds) > 1 else [])
    for names in wanted:
        unknown = [name for name in names if name not in folds]
        if unknown:
            raise SettingsError(
                f"The ensemble contains {unknown[0]!r}, which is not a finished model.",
                hint=f"Choose from {', '.join(folds)}.",
            )
        if len(set(names)) < max(2, len(names)):
            raise SettingsError(
                f"The ensemble {'+'.join(names)} needs at least two different models.",
                hint="Join models with +, as in A+B.",
            )
    faults = {name: _fault_of_folds(each) for name, each in folds.items()}
    pooled = {name: combine([run.predictions for run in each]) for name, each in folds.items() if not faults[name]}

    def metrics_of(names: Sequence[str], fault: str) -> CrossValidation:
        if fault:
            return CrossValidation(note=fault)
        best = any(folds[name][0].recipe.select.checkpoint == "best" for name in names)
        note = "checkpoints were chosen on the validation folds" if best else ""
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
    """Return why the predictions of several folds cannot be pooled; empty if they can."""
    if any(run.recipe != folds[0].recipe for run in folds):
        return "folds were trained with different recipes"
    if len({run.fingerprint for run in folds}) > 1:
        return "folds have different datasets"
    ids = [name for run in folds for name in run.predictions.ids]
    return "folds share fields" if len(set(ids)) < len(ids) else ""


def _difference(members: Mapping[str, Sequence[FinishedRun]]) -> str:
    """Return why models cannot be evaluated as an ensemble; empty if they can."""
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
