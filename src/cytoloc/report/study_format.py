"""The tables of a study as terminal output, Markdown, CSV and JSON values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.table import Table

from cytoloc.report.study import MIN_POSITIVES, CrossValidation, StudyTables

_MODELS = ("model", "network", "image", "batch", "loss", "folds")
_METRICS = ("fields", "CV macro F1", "95 % interval", "AUC", "AP")
_LEFT = {"model", "network", "loss", "ensemble", "note"}


def rich_tables(tables: StudyTables) -> Group:
    """Return the tables for the terminal."""
    parts: list[Any] = []
    for heading, rows in _both(tables):
        table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
        for name in heading:
            table.add_column(name, justify="left" if name in _LEFT else "right", no_wrap=name not in {"loss", "note"})
        for row in rows:
            table.add_row(*row)
        parts += [table, ""]
    return Group(*parts, explanation(tables))


def markdown(tables: StudyTables) -> str:
    """Return the tables as Markdown."""
    blocks = []
    for heading, rows in _both(tables):
        lines = [heading, ["---" if name in _LEFT else "---:" for name in heading], *rows]
        blocks.append(
            "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
        )
    return "\n\n".join([*blocks, explanation(tables)]) + "\n"


def csv(tables: StudyTables) -> str:
    """Return one CSV of all models and ensembles, distinguished by the column ``kind``, without rounding."""
    return tables.to_polars().write_csv()


def json_values(tables: StudyTables) -> dict[str, Any]:
    """Return the tables and the runs that were left out as JSON values."""
    rest = [{"run": str(run.folder), "reason": run.reason} for run in tables.left_out]
    return {**asdict(tables), "min_positives": MIN_POSITIVES, "left_out": rest}


def explanation(tables: StudyTables) -> str:
    """Return an explanation of the columns."""
    resampled = "groups" if tables.grouped else "fields"
    kept = ", groups kept together" if tables.grouped else ""
    return (
        f"CV: macro F1 over {tables.locations} locations of the pooled out-of-fold predictions, with cross-fitted"
        f" decisions ({tables.decision}){kept}; bootstrap interval from resampling {resampled}. AUC and AP: means over"
        f" the classes with at least {MIN_POSITIVES} positives (number in brackets)."
    )


def _both(tables: StudyTables) -> list[tuple[list[str], list[list[str]]]]:
    """Return the heading and the rows of each table that is not empty."""
    models = [
        [
            *(row.model, row.network, str(row.image), str(row.batch), row.loss, " ".join(map(str, row.folds))),
            *_metric_cells(row.metrics),
        ]
        for row in tables.models
    ]
    ensembles = [[" + ".join(row.members), *_metric_cells(row.metrics)] for row in tables.ensembles]
    both = [([*_MODELS, *_METRICS, "note"], models), (["ensemble", *_METRICS, "note"], ensembles)]
    # The column of notes is dropped if there are none.
    return [
        (heading, rows) if any(row[-1] for row in rows) else (heading[:-1], [row[:-1] for row in rows])
        for heading, rows in both
        if rows
    ]


def _metric_cells(metrics: CrossValidation) -> list[str]:
    if metrics.cv is None:
        return ["-"] * len(_METRICS) + [metrics.note]
    means = [
        "-" if value is None else f"{value:.3f} ({metrics.classes})"
        for value in (metrics.roc_auc, metrics.average_precision)
    ]
    return [str(metrics.fields), f"{metrics.cv:.3f}", f"{metrics.low:.3f} to {metrics.high:.3f}", *means, metrics.note]
