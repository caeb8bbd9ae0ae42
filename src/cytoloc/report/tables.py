"""An evaluation as a table and as text, for the terminal."""

from __future__ import annotations

import polars as pl
from rich.table import Table

from cytoloc.decide.evaluation import Evaluation


def class_rows(classes: pl.DataFrame) -> Table:
    """Return the table of the locations that some field has, for the terminal."""
    seen = classes.filter(pl.col("positives") > 0)
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
    if "average_precision" in shown:
        table.caption = "AP: average precision. AUC: area under the ROC curve. ECE: expected calibration error."
        table.caption_justify = "left"
    for name, heading in shown.items():
        table.add_column(heading, justify="left" if name in ("key", "location") else "right", no_wrap=True)
    for row in seen.select(list(shown)).iter_rows():
        table.add_row(*(_cell(value) for value in row))
    return table


def summary_lines(evaluation: Evaluation) -> list[str]:
    """Return an evaluation as lines of text."""
    low, high = evaluation.interval
    common, whole = evaluation.common, evaluation.overall
    lines = [
        f"macro F1 over {len(evaluation.label_set)} locations of {evaluation.label_set.name}  {evaluation.macro_f1:.3f}"
        f"  (95 % interval {low:.3f} to {high:.3f}; chance {evaluation.chance:.3f}; {evaluation.fields} fields)"
    ]
    if evaluation.interval_by_group:
        low, high = evaluation.interval_by_group
        lines.append(f"    by group: 95 % interval {low:.3f} to {high:.3f} ({evaluation.n_groups} groups)")
    lines.append(
        f"micro F1 {whole['micro_f1']:.3f} (precision {whole['micro_precision']:.3f}, recall"
        f" {whole['micro_recall']:.3f})"
    )
    if "coverage_error" in whole:
        lines[-1] += (
            f"; mean calibration error {_cell(whole['mean_calibration_error'])}; coverage error"
            f" {whole['coverage_error']:.1f} locations"
        )
    if common["classes"]:
        lines.append(
            f"locations with {evaluation.min_positives} or more fields ({common['classes']} of"
            f" {len(evaluation.label_set)}):  macro F1 {common['macro_f1']:.3f} (chance"
            f" {common['chance_macro_f1']:.3f})"
        )
        if "mean_average_precision" in common:
            lines.append(
                f"    mean average precision {common['mean_average_precision']:.3f}"
                f" (share of positives {common['share_of_positives']:.3f}),"
                f" macro ROC AUC {_cell(common['macro_roc_auc'])} (chance 0.5)"
            )
    wrong = evaluation.classes.filter((pl.col("positives") == 0) & (pl.col("predicted") > 0))
    if wrong.height:
        counts = (f"{name} {count}" for name, count in wrong.select("location", "predicted").iter_rows())
        lines.append(f"predicted, although no field has them: {', '.join(counts)}")
    if evaluation.leak:
        leak, others = evaluation.leak, evaluation.leak.macro_f1_others
        lines += [
            f"leak: {leak.fields} of these fields, {leak.correct} with their true labels",
            f"  macro F1 with leaked labels            {leak.macro_f1_with:.3f}",
            f"  macro F1 without leaked labels         {leak.macro_f1_without:.3f}",
            "  all fields are leaked" if others is None else f"  macro F1 of the other fields           {others:.3f}",
        ]
    return lines


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
