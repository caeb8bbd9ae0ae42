"""A report of predictions as one HTML page."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import numpy as np
import polars as pl

from cytoloc._typing import BoolArray
from cytoloc.choices import MethodName, check_type, refuse_unknown
from cytoloc.curation.folds_file import read_folds
from cytoloc.curation.pairs import read_matches
from cytoloc.dataset.labeled import LabelSource, known_labels, open_labels
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.decide import cross_fit, evaluate, fit_decision
from cytoloc.decide.decision import Decision
from cytoloc.errors import ArgumentTypeError, SettingsError, TableError
from cytoloc.files import new_file
from cytoloc.labels.label_set import LabelSet
from cytoloc.prediction_files import MANIFEST, read_predictions
from cytoloc.predictions import Predictions, combine, decided_locations, training_caution
from cytoloc.report.blocks import Block, Cell, Charts, Code, Section, Table, Text, render
from cytoloc.report.charts import Curve, curve_chart, rounded_up
from cytoloc.report.evaluated import (
    classes_section,
    confusion_section,
    curves_section,
    summary_section,
    suspects_section,
)
from cytoloc.report.field_cards import CardSource, fields_section
from cytoloc.report.found import found_section, quality_section, unusual_section, wells_section
from cytoloc.report.runs import FinishedRun, finished_runs, truth_of_runs
from cytoloc.report.study import CrossValidation, compare_runs
from cytoloc.report.study_format import explanation
from cytoloc.runs import RECIPE

if TYPE_CHECKING:
    from cytoloc.predict.model import Model

LIKELY: Final = 0.5
"""Threshold of all locations, if there is neither a decision nor labels to fit one."""

LEAST_POSITIVES: Final = 5
"""Minimum number of positives of common locations."""

MOST_FIELDS: Final = 40
"""Maximum number of shown fields of each kind. With images, maps and neighbors they take up to 20 MB."""

PACKAGES: Final = ("numpy", "polars", "scikit-learn", "torch", "timm", "opencv-python-headless")
"""The packages whose versions a report states, if they are installed."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What a report contains.

    Attributes:
        labels: The true labels: a dataset, a label list, or the path of either. Default: for runs the labels of their
            datasets; otherwise there are no metrics.
        dataset: The dataset of the fields, for images, wells and quality flags.
        decision: The decision method, which is cross-fitted if the predictions come without decided locations.
        folds: A folds file. Cross-fitting keeps its groups together, and intervals resample them.
        pairs: A file of `cytoloc duplicates`.
        model: The model, for maps of the shown fields.
        reference: A labeled dataset. With a model, the nearest labeled fields are shown.
        n_fields: Number of the worst, the most uncertain, and the unusual fields to show.
        title: The title of the page.
        command: The command that makes the report again.

    Raises:
        ArgumentTypeError: If a value has the wrong type.
        SettingsError: If ``decision`` is unknown, ``n_fields`` is not from 0 to 40, or ``reference`` is given without a
            model, or a model without a dataset.
    """

    labels: LabelSource | None = None
    dataset: Dataset | str | Path | None = None
    decision: MethodName = "grid"
    folds: str | Path | None = None
    pairs: str | Path | None = None
    model: Model | None = None
    reference: Dataset | None = None
    n_fields: int = 12
    title: str = "Report"
    command: str = ""

    def __post_init__(self) -> None:
        check_type(self.dataset, (Dataset, str, Path, type(None)), argument="dataset")
        refuse_unknown(self.decision, get_args(MethodName), argument="decision")
        check_type(self.folds, (str, Path, type(None)), argument="folds")
        check_type(self.pairs, (str, Path, type(None)), argument="pairs")
        check_type(self.reference, (Dataset, type(None)), argument="reference")
        check_type(self.n_fields, int, argument="n_fields")
        check_type(self.title, str, argument="title")
        if not 0 <= self.n_fields <= MOST_FIELDS:
            raise SettingsError(
                f"`n_fields` is {self.n_fields}, but must be from 0 to {MOST_FIELDS}, to limit the size of the page.",
                hint="Draw more fields with cytoloc.contact_sheet.",
            )
        if self.model is not None and self.dataset is None:
            raise SettingsError("Maps need the images of the fields.", hint="Give `dataset` too.")
        if self.reference is not None and self.model is None:
            raise SettingsError("The nearest labeled fields need a model.", hint="Give `model` too.")


@dataclass(frozen=True)
class _Given:
    """What a report is about.

    Attributes:
        predictions: The predictions of all fields.
        runs: The finished runs among the inputs.
        paths: The inputs, for messages.
        notes: Cautions to show.
    """

    predictions: Predictions
    runs: list[FinishedRun]
    paths: list[Path]
    notes: list[str]


def write_report(
    predictions: Predictions | str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    options: ReportOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a report of predictions to a new HTML file, which works offline.

    With labels, it has metrics with intervals and chance levels, curves, confusions, and suspicious labels. Without
    labels, it shows the locations that were found in each well and plate. It also has the fields to look at, training
    curves of runs, the quality of the data, and the settings.

    Args:
        predictions: Predictions; or prediction files, runs, or folders of runs. Predictions of different fields are
            joined, and predictions of the same fields are averaged.
        out: The new ``.html`` file.
        options: What the report contains.
        progress: A function that is called after each section with the number of finished sections and of all.

    Returns:
        The path.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If the name does not end in ``.html``.
        TableError: If no predicted field has a label, or the dataset has none of the fields.
        LabelSetError: If the label sets of predictions, labels and dataset differ.
        OutputExistsError: If the file exists.
    """
    check_type(predictions, (Predictions, str, Path, list, tuple), argument="predictions")
    check_type(out, (str, Path), argument="out")
    check_type(options, (ReportOptions, type(None)), argument="options")
    options = options or ReportOptions()
    path = Path(out)
    if path.suffix.lower() != ".html":
        raise SettingsError(f"{path} is not a valid name for a report.", hint="Choose a name that ends in .html.")
    with new_file(path) as temporary:
        given = _read(predictions)
        label_set = given.predictions.label_set
        dataset = _dataset(options.dataset, given.predictions)
        labels, where = _labels(options, given, label_set)
        sections: list[Section] = []
        steps = 4

        def done(number: int) -> None:
            if progress:
                progress(number, steps)

        done(0)
        if labels is None:
            shown, decided, how = _decided(given.predictions, None, options)
            truth = None
            sections.append(found_section(shown, decided, how=how))
            if dataset is not None:
                sections.append(wells_section(shown, decided, dataset))
            done(1)
        else:
            shown, decided, truth, labeled = _with_labels(given, labels, options, where=where)
            done(1)
            sections += labeled
            if given.runs:
                sections += _run_sections(given, options)
        done(2)
        sections.append(unusual_section(shown))
        source = CardSource(
            predictions=shown,
            decided=decided,
            truth=truth,
            dataset=dataset,
            model=options.model,
            reference=options.reference,
        )
        if options.n_fields:
            sections.append(fields_section(source, options.n_fields))
        if truth is not None:
            sections.append(suspects_section(shown, truth))
        done(3)
        pairs = read_matches(Path(options.pairs)) if options.pairs else None
        folds = read_folds(options.folds) if options.folds else None
        sections.append(quality_section(dataset, pairs=pairs, folds=folds))
        sections.append(_settings_section(given, options, dataset, where))
        for note in reversed(given.notes):
            sections[0].blocks.insert(1, Text(note, is_note=True))
        subtitle = f"{len(shown):,} fields, {len(label_set)} locations of {label_set.name}; {datetime.now():%Y-%m-%d}"
        temporary.write_text(render(options.title, sections, subtitle=subtitle), encoding="utf-8")
        done(steps)
    return path


def _read(predictions: Predictions | str | Path | Sequence[str | Path]) -> _Given:
    """Return the predictions of files and runs."""
    if isinstance(predictions, Predictions):
        return _Given(predictions, [], [], _notes(predictions))
    paths = [Path(predictions)] if isinstance(predictions, str | Path) else [Path(each) for each in predictions]
    if not paths:
        raise SettingsError("There are no predictions.", hint="Give prediction files, runs, or folders of runs.")
    folders = [path for path in paths if path.is_dir() and not (path / MANIFEST).exists()]
    runs, left_out = finished_runs(folders) if folders else ([], [])
    files = [path for path in paths if path not in folders]
    parts = [run.predictions for run in runs] + ([read_predictions(files)] if files else [])
    if not parts:
        raise TableError("None of the runs is finished.", hint="Continue them with `cytoloc train … --resume`.")
    found = parts[0] if len(parts) == 1 else combine(parts)
    notes = [f"{run.folder} is left out: {run.reason}." for run in left_out]
    return _Given(found, runs, paths, notes + _notes(found))


def _notes(predictions: Predictions) -> list[str]:
    """Return the cautions of predictions."""
    seen = predictions.provenance.get("fields_trained_on", 0)
    trained = (
        f"The model was trained on {seen:,} of these {len(predictions):,} fields, so metrics that include them are too"
        " high."
    )
    return [
        each for each in (predictions.caution, trained if seen else "", training_caution(predictions) or "") if each
    ]


def _dataset(given: Dataset | str | Path | None, predictions: Predictions) -> Dataset | None:
    """Return the dataset of the images, if one is given."""
    if given is None:
        return None
    dataset = given if isinstance(given, Dataset) else open_dataset(given)
    if not any(name in dataset for name in predictions.ids):
        raise TableError(
            f"{dataset.path} has none of the {len(predictions):,} predicted fields, such as {predictions.ids[0]}.",
            hint="Give the dataset that was predicted.",
        )
    return dataset


def _labels(
    options: ReportOptions, given: _Given, label_set: LabelSet
) -> tuple[dict[str, tuple[int, ...]] | None, str]:
    """Return the labels by id, and where they are from; None if there are none."""
    if options.labels is not None:
        source = open_labels(options.labels, label_set=label_set)
        return known_labels(source), str(source.path)
    if given.runs:
        return truth_of_runs(given.runs, label_set)
    return None, ""


def _decided(
    predictions: Predictions, labels: dict[str, tuple[int, ...]] | None, options: ReportOptions
) -> tuple[Predictions, BoolArray, str]:
    """Return predictions with decided locations, these locations, and how they were decided."""
    if predictions.decided is not None:
        return predictions, predictions.decided, "Locations are those of the decision of the model."
    decided = decided_locations(predictions)
    if decided is not None:
        return predictions, decided, "Locations are those above the thresholds of the model."
    if labels is not None:
        groups = read_folds(options.folds) if options.folds else None
        found = cross_fit(predictions, labels, method=options.decision, groups=groups)
        how = (
            f"Locations are chosen by the method {options.decision}, cross-fitted: the thresholds for each field were"
            " fitted to other fields."
        )
        if found.decided is None:
            raise ArgumentTypeError("The decision made no locations.")
        known = predictions[list(found.ids)].cautions
        return replace(found, cautions=known, rejected=predictions.rejected), found.decided, how
    how = f"The predictions come without a decision, so a location is predicted if its probability is above {LIKELY}."
    return predictions, predictions.probabilities > LIKELY, how


def _with_labels(
    given: _Given, labels: dict[str, tuple[int, ...]], options: ReportOptions, *, where: str
) -> tuple[Predictions, BoolArray, BoolArray, list[Section]]:
    """Return the labeled predictions, their locations and labels, and the sections with metrics."""
    every = given.predictions
    rows = [row for row, name in enumerate(every.ids) if name in labels]
    if not rows:
        raise TableError(
            f"None of the {len(every):,} predicted fields, such as {every.ids[0]}, has a label in {where}.",
            hint="Give the labels of the predicted fields.",
        )
    predictions = every if len(rows) == len(every) else every[rows]
    known = {name: labels[name] for name in predictions.ids}
    shown, decided, how = _decided(predictions, known, options)
    truth = shown.label_set.to_matrix(known.values())
    groups = read_folds(options.folds) if options.folds else None
    evaluation = evaluate(
        Predictions(shown.ids, shown.probabilities, shown.label_set, decided=decided),
        known,
        groups=groups,
        min_positives=LEAST_POSITIVES,
        label_set=shown.label_set,
    )
    fitted: Decision | None = None
    thresholds = predictions.provenance.get("thresholds") or {}
    if predictions.decided is None and not thresholds:
        fitted = fit_decision(predictions, known, method=options.decision, groups=groups)
    sections = [
        summary_section(evaluation, how=how, left_out=len(every) - len(rows), source=where or "the given labels"),
        classes_section(evaluation, fitted, thresholds),
        curves_section(shown.probabilities, truth, shown.label_set, least=LEAST_POSITIVES),
        confusion_section(decided, truth, shown.label_set),
    ]
    return shown, decided, truth, sections


def _run_sections(given: _Given, options: ReportOptions) -> list[Section]:
    """Return the section that compares the models of runs, and the section with the training curves of their logs."""
    folders = [run.folder for run in given.runs]
    tables = compare_runs(folders, labels=options.labels, folds=options.folds, decision=options.decision)
    rows: list[list[Cell]] = []
    named: list[tuple[str, str, int | None, str, tuple[int, ...], CrossValidation]]
    named = [(row.model, row.network, row.image, row.loss, row.folds, row.metrics) for row in tables.models]
    named += [(" + ".join(row.members), "ensemble", None, "", (), row.metrics) for row in tables.ensembles]
    for name, network, image, loss, folds, found in named:
        interval = "" if found.low is None else f"{found.low:.3f}\u00a0to\u00a0{found.high:.3f}"
        cells: list[Cell] = [name, network, image, loss, " ".join(map(str, folds)), found.fields, found.cv, interval]
        rows.append([*cells, found.roc_auc, found.average_precision, found.note])
    headings = ["model", "network", "image", "loss", "folds", "fields", "CV", "95 % interval", "AUC", "AP", "note"]
    if not any(row[-1] for row in rows):
        headings, rows = headings[:-1], [row[:-1] for row in rows]
    caption = explanation(tables).replace(" (number in brackets)", "")
    models = Section("models", "Models", [Table(headings, rows, caption)])
    losses, scores = [], []
    for run in given.runs:
        log = run.folder / "log.csv"
        if not log.is_file():
            continue
        table = pl.read_csv(log, glob=False)
        if not {"epoch", "train_loss", "val_loss", "val_macro_f1"} <= set(table.columns) or table.height < 2:
            continue
        epoch, train, val, score = (
            table[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
            for name in ("epoch", "train_loss", "val_loss", "val_macro_f1")
        )
        span = (float(epoch.min()), float(epoch.max()))
        most = rounded_up(float(np.nanmax(np.concatenate([train, val]))))
        curves = [Curve("training", epoch, train, "dashed", 1), Curve("validation", epoch, val)]
        losses.append((run.folder.name, curve_chart(curves, labels=("epoch", "loss"), x_range=span, y_range=(0, most))))
        top = rounded_up(max(float(np.nanmax(score)), 0.05))
        line = [Curve("", epoch, score, "line", 2)]
        scores.append(
            (run.folder.name, curve_chart(line, labels=("epoch", "macro F1"), x_range=span, y_range=(0, top)))
        )
    charts: list[Block] = [
        Charts(losses, "Loss of each run."),
        Charts(scores, "Macro F1 of the validation fold at the threshold 0.5, before thresholds are fitted."),
    ]
    return [models, Section("training", "Training", charts if losses else [])]


def _settings_section(given: _Given, options: ReportOptions, dataset: Dataset | None, where: str) -> Section:
    """Return the section with settings, versions and fingerprints."""
    import cytoloc

    rows: list[list[Cell]] = [["inputs", ", ".join(map(str, given.paths)) or "predictions in memory"]]
    if where:
        rows.append(["labels", where])
    if dataset is not None:
        rows += [["dataset", str(dataset.path)], ["fingerprint of the dataset", dataset.fingerprint]]
    rows += [["dataset of the runs", path] for path in sorted({run.dataset for run in given.runs})]
    rows += [["fingerprint when trained", each] for each in sorted({run.fingerprint for run in given.runs})]
    if options.model is not None:
        rows.append(["fingerprint of the model", options.model.fingerprint])
    rows.append(["decision method", options.decision])
    hidden = {"thresholds", "knowledge", "caution"}
    facts: dict[str, Any] = {k: v for k, v in given.predictions.provenance.items() if k not in hidden}
    rows += [
        [name.replace("_", " "), str(value)[:400]] for name, value in facts.items() if value not in ("", None, [], {})
    ]
    versions = [["cytoloc", cytoloc.__version__], ["Python", platform.python_version()]]
    for package in PACKAGES:
        try:
            versions.append([package, version(package)])
        except PackageNotFoundError:
            continue
    blocks: list[Block] = [Table(["setting", "value"], rows), Table(["program", "version"], versions)]
    commands = [
        shlex.join(
            ["cytoloc", "train", str(run.folder / RECIPE), run.dataset, "--fold", str(run.fold), "--out", "runs"]
            + (["--folds", str(options.folds)] if options.folds else ["--folds", "folds.csv"])
        )
        for run in given.runs
    ]
    if commands:
        blocks.append(Text("The commands that train these runs again, with their folds file:"))
        blocks.append(Code("\n".join(commands)))
    if options.command:
        blocks.append(Text("The command that makes this report:"))
        blocks.append(Code(options.command))
    return Section("settings", "Settings and versions", blocks)
