"""The score of a set of predictions, as values, as a table on the terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.table import Table

from cytoloc.decide.metrics import chance_f1, class_table, macro_f1, macro_f1_interval, overall, resampled_f1
from cytoloc.labels import LabelSet


def score_summary(
    predicted: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    probabilities: NDArray[np.floating] | None,
    *,
    label_set: LabelSet,
    min_positives: int,
    groups: NDArray[np.int64] | None = None,
) -> tuple[dict[str, Any], pl.DataFrame]:
    """Return the score as JSON values, and a row per class.

    Chance is that of the same predictions dealt to the fields at random; of average precision, the share of positives.

    Args:
        predicted: bool ``(n, locations)``.
        truth: bool ``(n, locations)``.
        probabilities: float ``(n, locations)``, for average precision and ROC AUC.
        label_set: The locations.
        min_positives: Classes with fewer true fields are left out of the second set of means.
        groups: A group number per field: adds the interval that draws groups instead of fields.
    """
    chance = chance_f1(predicted, truth)
    ends = np.quantile(resampled_f1(predicted, truth, groups=groups), [0.025, 0.975], axis=0)
    classes = class_table(predicted, truth, label_set, probabilities).with_columns(
        pl.Series("chance_f1", chance),
        pl.Series("f1_low", ends[0], pl.Float64),
        pl.Series("f1_high", ends[1], pl.Float64),
    )
    low, high = macro_f1_interval(predicted, truth)
    common = classes.filter(pl.col("positives") >= min_positives)
    summary: dict[str, Any] = {
        "fields": len(truth),
        "label_set": label_set.name,
        "locations": len(label_set),
        "macro_f1": macro_f1(predicted, truth),
        "macro_f1_interval_95": [low, high],
        "chance_macro_f1": float(chance.mean()),
        "overall": overall(predicted, truth, probabilities),
        "blank": int((~predicted.any(axis=1)).sum()),
        "common_classes": {"min_positives": min_positives, "classes": common.height},
    }
    if groups is not None:
        summary["groups"] = len(np.unique(groups))
        summary["macro_f1_interval_95_by_group"] = list(macro_f1_interval(predicted, truth, groups=groups))
    if common.height:
        means = {"macro_f1": common["f1"].mean(), "chance_macro_f1": common["chance_f1"].mean()}
        if probabilities is not None:
            means["mean_average_precision"] = common["average_precision"].mean()
            means["chance_mean_average_precision"] = (common["positives"] / len(truth)).mean()
            means["macro_roc_auc"] = common["roc_auc"].mean()
        summary["common_classes"] |= means
    return summary, classes


def class_rows(classes: pl.DataFrame) -> Table:
    """Return the table of classes for the terminal; classes that are neither true nor predicted are left out."""
    seen = classes.filter((pl.col("positives") > 0) | (pl.col("predicted") > 0))
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    headings = {
        "key": "key",
        "location": "location",
        "positives": "true",
        "predicted": "predicted",
        "precision": "precision",
        "recall": "recall",
        "f1": "F1",
        "chance_f1": "chance F1",
        "average_precision": "AP",
        "roc_auc": "AUC",
        "calibration_error": "ECE",
    }
    shown = {name: heading for name, heading in headings.items() if name in seen.columns}
    for name, heading in shown.items():
        table.add_column(heading, justify="left" if name in ("key", "location") else "right", no_wrap=True)
    for row in seen.select(list(shown)).iter_rows():
        table.add_row(*(_cell(value) for value in row))
    return table


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """Return the score in words."""
    low, high = summary["macro_f1_interval_95"]
    common = summary["common_classes"]
    lines = [
        f"macro F1 over {summary['locations']} locations of {summary['label_set']}  {summary['macro_f1']:.3f}"
        f"  (95 % interval {low:.3f} to {high:.3f}; chance {summary['chance_macro_f1']:.3f};"
        f" {summary['fields']} fields)"
    ]
    if "groups" in summary:
        low, high = summary["macro_f1_interval_95_by_group"]
        lines.append(f"    by group: 95 % interval {low:.3f} to {high:.3f} ({summary['groups']} groups)")
    whole = summary["overall"]
    lines.append(
        f"micro F1 {whole['micro_f1']:.3f} (precision {whole['micro_precision']:.3f}, recall"
        f" {whole['micro_recall']:.3f})"
    )
    if "coverage_error" in whole:
        lines[-1] += (
            f"; mean calibration error {_cell(whole['mean_calibration_error'])}; all true locations are among the"
            f" {whole['coverage_error']:.1f} most probable"
        )
    if common["classes"]:
        lines.append(
            f"over the {common['classes']} classes with at least {common['min_positives']} true fields:"
            f"  macro F1 {common['macro_f1']:.3f} (chance {common['chance_macro_f1']:.3f})"
        )
        if "mean_average_precision" in common:
            lines.append(
                f"    mean average precision {common['mean_average_precision']:.3f}"
                f" (chance {common['chance_mean_average_precision']:.3f}),"
                f" macro ROC AUC {_cell(common['macro_roc_auc'])}"
                " (chance 0.5)"
            )
    return lines


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def leak_effect(
    ids: Sequence[str],
    predicted: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    leak: Mapping[str, tuple[int, ...]],
    label_set: LabelSet,
) -> dict[str, Any]:
    """Return what leaked labels do to a score, as JSON values.

    ``fields`` are leaked, ``correct`` of their label sets are the true ones. ``macro_f1_with`` has them in place of
    predictions, ``macro_f1_without`` has not, both of all fields. ``macro_f1_others`` is that of the other fields, None
    if all are leaked; a class that only leaked fields have counts 0 there.
    """
    leaked = np.array([name in leak for name in ids])
    given = predicted.copy()
    given[leaked] = label_set.to_matrix([leak[name] for name in ids if name in leak])
    return {
        "fields": int(leaked.sum()),
        "correct": int((given[leaked] == truth[leaked]).all(axis=1).sum()),
        "macro_f1_with": macro_f1(given, truth),
        "macro_f1_without": macro_f1(predicted, truth),
        "macro_f1_others": None if leaked.all() else macro_f1(predicted[~leaked], truth[~leaked]),
    }


def leak_lines(effect: Mapping[str, Any]) -> list[str]:
    """Return :func:`leak_effect` in words."""
    others = effect["macro_f1_others"]
    return [
        f"leak: {effect['fields']} of these fields, {effect['correct']} with their true label sets",
        f"  macro F1 with its labels put in        {effect['macro_f1_with']:.3f}",
        f"  macro F1 as predicted                  {effect['macro_f1_without']:.3f}",
        "  all fields are leaked" if others is None else f"  macro F1 of the other fields alone     {others:.3f}",
    ]
