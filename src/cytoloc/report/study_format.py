"""The tables of a study as text, Markdown, CSV and JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import polars as pl
from rich.console import Group
from rich.table import Table

from cytoloc.report.runs import LeftOut
from cytoloc.report.study import MIN_POSITIVES, EnsembleRow, ModelRow, StudyTables, Worth

_MODELS = ("model", "network", "image", "batch", "loss", "folds")
_WORTH = ("fields", "CV macro F1", "95 % interval", "AUC", "AP")
_LEFT = {"model", "network", "loss", "ensemble", "note"}


def rich_tables(tables: StudyTables) -> Group:
    """Return both tables for the terminal."""
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
    """Return both tables as Markdown."""
    blocks = []
    for heading, rows in _both(tables):
        lines = [heading, ["---" if name in _LEFT else "---:" for name in heading], *rows]
        blocks.append(
            "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
        )
    return "\n\n".join([*blocks, explanation(tables)]) + "\n"


def csv(tables: StudyTables) -> str:
    """Return both tables as one CSV; the column ``kind`` says which row is of which, numbers are not rounded."""
    rows: list[dict[str, Any]] = []
    for model in tables.models:
        settings = {"network": model.network, "image": model.image, "batch": model.batch, "loss": model.loss}
        folds = " ".join(map(str, model.folds))
        rows.append({"kind": "model", "name": model.model, **settings, "folds": folds, **asdict(model.worth)})
    for ensemble in tables.ensembles:
        settings = dict.fromkeys(("network", "image", "batch", "loss", "folds"))
        rows.append({"kind": "ensemble", "name": "+".join(ensemble.members), **settings, **asdict(ensemble.worth)})
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(decision=pl.lit(tables.decision)).write_csv()


def json_values(tables: StudyTables, left_out: Sequence[LeftOut]) -> dict[str, Any]:
    """Return both tables and the runs that are in neither."""
    rest = [{"run": str(run.folder), "reason": run.reason} for run in left_out]
    return {**asdict(tables), "min_positives": MIN_POSITIVES, "left_out": rest}


def explanation(tables: StudyTables) -> str:
    """Return what the numbers are."""
    drawn = "groups" if tables.grouped else "fields"
    kept = ", groups kept together" if tables.grouped else ""
    return (
        f"CV: macro F1 over {tables.locations} locations on the pooled held-out folds, each field decided"
        f" ({tables.decision}) by a fit on other fields{kept}; bootstrap interval over {drawn}. AUC and AP: means over"
        f" the classes with at least {MIN_POSITIVES} true fields, in brackets how many."
    )


def _both(tables: StudyTables) -> list[tuple[list[str], list[list[str]]]]:
    """Return heading and rows of each table that has rows."""
    models = [_model_cells(row) for row in tables.models]
    ensembles = [_ensemble_cells(row) for row in tables.ensembles]
    both = [([*_MODELS, *_WORTH, "note"], models), (["ensemble", *_WORTH, "note"], ensembles)]
    # A column of notes only where there are any.
    return [
        (heading, rows) if any(row[-1] for row in rows) else (heading[:-1], [row[:-1] for row in rows])
        for heading, rows in both
        if rows
    ]


def _model_cells(row: ModelRow) -> list[str]:
    folds = " ".join(map(str, row.folds))
    return [row.model, row.network, str(row.image), str(row.batch), row.loss, folds, *_worth_cells(row.worth)]


def _ensemble_cells(row: EnsembleRow) -> list[str]:
    return [" + ".join(row.members), *_worth_cells(row.worth)]


def _worth_cells(worth: Worth) -> list[str]:
    if worth.cv is None:
        return ["-"] * len(_WORTH) + [worth.note]
    means = [
        "-" if value is None else f"{_short(value)} ({worth.classes})"
        for value in (worth.roc_auc, worth.average_precision)
    ]
    return [
        str(worth.fields),
        _short(worth.cv),
        f"{_short(worth.low)} to {_short(worth.high)}",
        *means,
        worth.note,
    ]


def _short(value: float | None) -> str:
    """Return a number from 0 to 1 with three decimals."""
    return "-" if value is None else f"{value:.3f}"
