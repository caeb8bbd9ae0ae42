"""Sections of a report on predictions of labeled fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import polars as pl
from sklearn.metrics import precision_recall_curve

from cytoloc._typing import BoolArray, Float32Array, FloatArray
from cytoloc.decide.decision import Decision
from cytoloc.decide.evaluation import Evaluation
from cytoloc.decide.label_errors import find_label_errors
from cytoloc.labels.label_set import LabelSet
from cytoloc.predictions import Predictions
from cytoloc.report.blocks import Bar, Block, Cell, Charts, Numbers, Section, Table, Text
from cytoloc.report.charts import Curve, curve_chart, heatmap, thinned

BINS: Final = 10
"""Number of bins of a calibration curve."""

LEAST_IN_BIN: Final = 5
"""Minimum number of fields of a bin that is drawn."""

SUSPECTS_SHOWN: Final = 50
"""Maximum number of suspicious labels that are listed."""

LOCATIONS_DRAWN: Final = 30
"""Maximum number of locations with curves, the most frequent first."""


def summary_section(evaluation: Evaluation, *, how: str, left_out: int, source: str) -> Section:
    """Return the section with the main metrics.

    Args:
        evaluation: The metrics.
        how: How locations were decided.
        left_out: The number of predicted fields without labels.
        source: The origin of the labels.

    Returns:
        The section.
    """
    low, high = evaluation.interval_by_group or evaluation.interval
    resampled = "fields" if evaluation.n_groups is None else f"{evaluation.n_groups:,} groups"
    whole, common = evaluation.overall, evaluation.common
    numbers = [
        ("macro F1", f"{evaluation.macro_f1:.3f}", f"{low:.3f} to {high:.3f}; chance {evaluation.chance:.3f}"),
        ("micro F1", f"{evaluation.micro_f1:.3f}", "over all pairs of a field and a location"),
    ]
    if common["classes"]:
        numbers.append(
            (
                "macro F1, common locations",
                f"{common['macro_f1']:.3f}",
                f"{common['classes']} with {evaluation.min_positives} or more fields; chance"
                f" {common['chance_macro_f1']:.3f}",
            )
        )
    for name, key, remark in (
        (
            "mean average precision",
            "mean_average_precision",
            f"share of positives {common.get('share_of_positives', 0):.3f} for common locations",
        ),
        ("mean ROC AUC", "macro_roc_auc", "chance 0.5"),
        ("calibration error", "mean_calibration_error", "mean over locations; 0 is perfect"),
    ):
        value = whole.get(key)
        if value is not None:
            numbers.append((name, f"{value:.3f}", remark))
    numbers.append(("fields", f"{evaluation.fields:,}", f"{evaluation.blank:,} without a predicted location"))
    text = (
        f"{how} Intervals are 95 % intervals of 2,000 bootstrap resamples of the {resampled}. Chance is the score after"
        f" permuting the predictions across fields. The labels are from {source}."
    )
    blocks: list[Block] = [Numbers(numbers), Text(text)]
    if left_out:
        blocks.append(Text(f"{left_out:,} predicted fields have no label. They are not evaluated."))
    wrong = evaluation.classes.filter((pl.col("positives") == 0) & (pl.col("predicted") > 0))
    if wrong.height:
        names = ", ".join(f"{name} ({count})" for name, count in wrong.select("location", "predicted").iter_rows())
        blocks.append(Text(f"Predicted, although no labeled field has them: {names}.", is_note=True))
    return Section("summary", "Summary", blocks)


def classes_section(evaluation: Evaluation, decision: Decision | None, thresholds: Mapping[str, float]) -> Section:
    """Return the section with a row per location.

    Args:
        evaluation: The metrics.
        decision: The decision fitted to all fields, with the intervals of its thresholds; None if there is none.
        thresholds: The threshold of each location, by key, if there is no decision.

    Returns:
        The section.
    """
    table = evaluation.classes.sort("positives", descending=True)
    headings = ["location", "fields", "predicted", "precision", "recall", "F1", "95 % interval", "chance F1"]
    known = {"average_precision": "AP", "roc_auc": "ROC AUC", "calibration_error": "calibration error"}
    more = [name for name in known if name in table.columns]
    headings += [known[name] for name in more]
    limits = dict(thresholds)
    intervals: dict[str, tuple[float, float]] = {}
    if decision is not None:
        keys = decision.label_set.keys
        limits = dict(zip(keys, decision.thresholds.tolist(), strict=True))
        if decision.intervals is not None:
            intervals = {key: (float(a), float(b)) for key, (a, b) in zip(keys, decision.intervals, strict=True)}
    headings += ["threshold"] * bool(limits) + ["threshold interval"] * bool(intervals)
    rows: list[list[Cell]] = []
    for row in table.iter_rows(named=True):
        f1: Cell = None if row["f1"] is None else Bar(f"{row['f1']:.3f}", row["f1"])
        cells: list[Cell] = [row["location"], row["positives"], row["predicted"], row["precision"], row["recall"], f1]
        cells += [
            f"{row['f1_low']:.3f}\u00a0to\u00a0{row['f1_high']:.3f}",
            row["chance_f1"],
            *(row[name] for name in more),
        ]
        limit = limits.get(row["key"])
        if limits:
            cells.append("never" if limit is not None and limit >= 1 else limit)
        if intervals:
            low, high = intervals[row["key"]]
            cells.append(f"{low:.3f}\u00a0to\u00a0{min(high, 1):.3f}")
        rows.append(cells)
    caption = (
        "Click a heading to sort. A dash means that the metric is undefined: no field has the location, or it is never"
        " predicted. AP is the average precision."
    )
    return Section("locations", "Locations", [Table(headings, rows, caption)])


def curves_section(probabilities: Float32Array, truth: BoolArray, label_set: LabelSet, *, least: int) -> Section:
    """Return the section with precision-recall and calibration curves.

    Args:
        probabilities: Shape ``(n, locations)``.
        truth: bool of shape ``(n, locations)``.
        label_set: The locations.
        least: Minimum number of positives of a location that is drawn.

    Returns:
        The section; without blocks if no location has enough positives.
    """
    positives = truth.sum(axis=0)
    places = [int(place) for place in np.argsort(-positives, kind="stable") if positives[place] >= least]
    if not places:
        return Section("curves", "Curves")
    left_out = (
        f" {len(places) - LOCATIONS_DRAWN} more locations are not drawn." if len(places) > LOCATIONS_DRAWN else ""
    )
    curves, reliability = [], []
    whole_x, whole_y, _ = _reliability(probabilities.ravel(), truth.ravel())
    diagonal = Curve("", np.array([0.0, 1.0]), np.array([0.0, 1.0]), "dashed", 9)
    axes = ("mean probability", "share of fields")
    reliability.append(
        ("All locations together", curve_chart([diagonal, Curve("", whole_x, whole_y, "dots")], labels=axes))
    )
    for place in places[:LOCATIONS_DRAWN]:
        precision, recall, _ = precision_recall_curve(truth[:, place], probabilities[:, place])
        x, y = thinned(recall[::-1], precision[::-1])
        share = float(truth[:, place].mean())
        level = Curve("", np.array([0.0, 1.0]), np.array([share, share]), "dashed", 9)
        title = f"{label_set.names[place]} ({positives[place]:,})"
        curves.append((title, curve_chart([level, Curve("", x, y)], labels=("recall", "precision"))))
        x, y, _ = _reliability(probabilities[:, place], truth[:, place])
        reliability.append((title, curve_chart([diagonal, Curve("", x, y, "dots", 1)], labels=axes)))
    return Section(
        "curves",
        "Curves",
        [
            Charts(
                curves,
                f"Precision and recall of each location with at least {least} fields (number in brackets). The dashed"
                f" line is the share of fields with the location, which is the precision of chance.{left_out}",
            ),
            Charts(
                reliability,
                f"Calibration: the share of fields with a location, for {BINS} bins of its probability. A calibrated"
                f" probability is on the dashed line. Bins with fewer than {LEAST_IN_BIN} fields are left out.",
            ),
        ],
    )


def _reliability(values: Float32Array, truth: BoolArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return mean probability, share of positives and number of fields of each bin with enough fields."""
    probabilities = np.asarray(values, np.float64)
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    count = np.bincount(bins, minlength=BINS).astype(float)
    enough = count >= LEAST_IN_BIN
    mean = np.bincount(bins, weights=probabilities, minlength=BINS)[enough] / count[enough]
    share = np.bincount(bins, weights=truth, minlength=BINS)[enough] / count[enough]
    return mean, share, count[enough]


def confusion_section(predicted: BoolArray, truth: BoolArray, label_set: LabelSet) -> Section:
    """Return the section on locations that are confused, and on locations that occur together.

    Args:
        predicted: bool of shape ``(n, locations)``.
        truth: bool of shape ``(n, locations)``.
        label_set: The locations.

    Returns:
        The section; without blocks if no field has a location.
    """
    places = np.flatnonzero(truth.any(axis=0) | predicted.any(axis=0))
    if not len(places):
        return Section("confusion", "Confusion")
    names = [label_set.names[place] for place in places]
    right, called = truth[:, places], predicted[:, places]
    wrong, missed = (called & ~right).astype(np.float64), (right & ~called).astype(np.float64)
    fields = right.sum(axis=0)
    # Of the fields in which a location was missed, how many were given another wrong location instead?
    counts = missed.T @ wrong
    shares = counts / np.maximum(fields, 1)[:, None]
    shown = shares / max(float(shares.max()), 1e-9)
    texts = [
        [
            f"{names[i]} missed and {names[j]} wrongly predicted: {int(counts[i, j])} of {int(fields[i])} fields"
            for j in range(len(names))
        ]
        for i in range(len(names))
    ]
    order = np.dstack(np.unravel_index(np.argsort(-counts, axis=None, kind="stable")[:10], counts.shape))[0]
    rows: list[list[Cell]] = [
        [names[i], names[j], int(counts[i, j]), Bar(f"{100 * shares[i, j]:.1f} %", float(shares[i, j]))]
        for i, j in order
        if counts[i, j] > 0
    ]
    blocks: list[Block] = [
        Charts(
            [("", heatmap(shown, names, names, texts=texts))],
            "Confusion: a row is a missed location, a column a location that was wrongly predicted in the same field."
            " Color: share of the fields with the missed location; the darkest cell is"
            f" {100 * float(shares.max()):.1f} %.",
            wide=True,
        )
    ]
    if rows:
        blocks.append(Table(["missed", "wrongly predicted", "fields", "share of the missed location"], rows))
    together = right.astype(np.float64).T @ right
    expected = called.astype(np.float64).T @ called
    pair_share = np.divide(together, np.maximum(fields, 1)[:, None])
    np.fill_diagonal(pair_share, np.nan)
    pair_texts = [
        [
            f"{names[i]} and {names[j]}: {int(together[i, j])} fields by the labels, {int(expected[i, j])} predicted"
            for j in range(len(names))
        ]
        for i in range(len(names))
    ]
    blocks.append(
        Charts(
            [("", heatmap(pair_share, names, names, texts=pair_texts))],
            "Co-occurrence in the labels: the share of the fields with the location of the row that also have the"
            " location of the column.",
            wide=True,
        )
    )
    return Section("confusion", "Confusion and co-occurrence", blocks)


def suspects_section(predictions: Predictions, truth: BoolArray) -> Section:
    """Return the section that lists suspicious labels; see :func:`cytoloc.find_label_errors`.

    Args:
        predictions: The predictions.
        truth: bool of shape ``(n, locations)``.

    Returns:
        The section; without blocks if no label is suspicious.
    """
    labels = {name: np.flatnonzero(each).tolist() for name, each in zip(predictions.ids, truth, strict=True)}
    # Probabilities that a decision has calibrated can be calibrated again.
    suspects = find_label_errors(replace(predictions, decided=None, provenance={}), labels)
    if suspects.is_empty():
        return Section("suspects", "Suspicious labels")
    names = predictions.label_set.names
    row_of = {name: row for row, name in enumerate(predictions.ids)}
    rows: list[list[Cell]] = []
    for name, key in suspects.select("id", "key").head(SUSPECTS_SHOWN).iter_rows():
        row, place = row_of[name], predictions.label_set.index(key)
        value = float(predictions.probabilities[row, place])
        given = ", ".join(names[each] for each in np.flatnonzero(truth[row])) or "none"
        finding = "labeled, but improbable" if truth[row, place] else "not labeled, but probable"
        rows.append([predictions.ids[row], names[place], finding, Bar(f"{value:.3f}", value), given])
    more = len(suspects) - len(rows)
    caption = (
        f"{len(suspects):,} labels are contradicted by the probabilities (confident learning, Northcutt et al. 2021). A"
        " location that was not labeled is as probable as in fields with the label, or a labeled location is as"
        " improbable as in fields without it. Check these labels by eye."
        f"{f' The {len(rows)} strongest are listed; {more:,} more are not.' if more else ''}"
        " This needs predictions of fields that the model was not trained on."
    )
    headings = ["field", "location", "finding", "probability", "labels of the field"]
    return Section("suspects", "Suspicious labels", [Table(headings, rows, caption)])
