"""The command ``cytoloc report``."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytoloc.choices import MethodName
from cytoloc.cli.console import counted

if TYPE_CHECKING:
    from cytoloc.report.study import StudyTables

FILE_COLUMNS = 160
"""Width in columns of a table that is written to a file."""


class Format(StrEnum):
    """The formats of tables."""

    text = "text"
    markdown = "markdown"
    csv = "csv"


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("report")(report)


def report(
    runs: Annotated[list[Path], typer.Argument(help="Runs, or folders of runs.", metavar="RUNS…")],
    table: Annotated[
        bool,
        typer.Option("--table", help="Report tables of models and ensembles. Required, because it is the only report."),
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="True labels: a CSV file with columns Id,Target, or a dataset. Default: the dataset of the runs."
        ),
    ] = None,
    folds: Annotated[
        Path | None,
        typer.Option(
            help="Folds file. Cross-fitting never separates its groups, and bootstrap intervals resample them."
        ),
    ] = None,
    decision: Annotated[
        MethodName,
        typer.Option(
            help="Decision method, fitted by cross-fitting. auto gives better metrics but can take minutes per model;"
            " see 'Calibrate and decide' in the documentation."
        ),
    ] = "grid",
    ensemble: Annotated[
        list[str] | None,
        typer.Option(
            help="Models of one ensemble, joined by +. Can be repeated. Default: one ensemble of all models.",
            metavar="MODEL+MODEL…",
        ),
    ] = None,
    style: Annotated[Format, typer.Option("--format", help="Format of the tables.")] = Format.text,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the tables to this new file. Default: print them.")] = None,
) -> None:
    """Report cross-validated metrics, with one row per model and one per ensemble.

    Example: `cytoloc report runs/ --table --format markdown`

    Example: `cytoloc report runs/ --table --folds folds.csv --ensemble resnet34-512+resnet50-512`
    """
    from cytoloc.errors import SettingsError
    from cytoloc.files import check_outputs, new_file
    from cytoloc.report.study import compare_runs
    from cytoloc.report.study_format import json_values

    if not table:
        raise SettingsError("`cytoloc report` cannot make any report but tables yet.", hint="Add --table.")
    if out:
        check_outputs(out)
    tables = compare_runs(
        list(runs),
        labels=labels,
        folds=folds,
        decision=decision,
        ensembles=[each.split("+") for each in ensemble or []],
    )
    for run in tables.left_out:
        typer.echo(f"Left out {run.folder}: {run.reason}", err=True)
    if out:
        with new_file(out) as temporary:
            temporary.write_text(_written(tables, style), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(json_values(tables), indent=2, ensure_ascii=False))
    elif out:
        rows = f"{counted(len(tables.models), 'model')}, {counted(len(tables.ensembles), 'ensemble')}"
        runs_used = counted(sum(len(row.folds) for row in tables.models), "run")
        typer.echo(f"{out}: {rows}, from {runs_used}.")
    else:
        from rich.console import Console

        from cytoloc.report.study_format import rich_tables

        if style == Format.text and Console().is_terminal:
            Console().print(rich_tables(tables))
        else:
            typer.echo(_written(tables, style), nl=False)


def _written(tables: StudyTables, style: Format) -> str:
    import io

    from rich.console import Console

    from cytoloc.report.study_format import csv, markdown, rich_tables

    if style == Format.markdown:
        return markdown(tables)
    if style == Format.csv:
        return csv(tables)
    text = io.StringIO()
    Console(file=text, width=FILE_COLUMNS).print(rich_tables(tables))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
