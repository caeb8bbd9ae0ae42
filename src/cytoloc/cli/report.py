"""The command ``cytoloc report``."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytoloc.choices import MethodName
from cytoloc.cli.console import counted, progress, require_nets
from cytoloc.cli.members import AsJson, IdsPath, LabelSetOption

if TYPE_CHECKING:
    from cytoloc.predictions import Predictions
    from cytoloc.report.page import ReportOptions
    from cytoloc.report.study import StudyTables

FILE_COLUMNS = 160
"""Width in columns of a table that is written to a file."""


class Format(StrEnum):
    """The formats of tables."""

    text = "text"
    markdown = "markdown"
    csv = "csv"


Inputs = Annotated[
    list[Path],
    typer.Argument(
        help="Runs, or folders of runs. A page can also be about predictions files.", metavar="RUNS|PREDICTIONS…"
    ),
]
AsTables = Annotated[
    bool,
    typer.Option("--table", help="Print tables of models and ensembles instead of writing a page."),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="True labels: a CSV file with columns Id,Target, or a dataset. Default: the dataset of the runs. A"
        " page about predictions without labels shows what was found."
    ),
]
Folds = Annotated[
    Path | None,
    typer.Option(help="Folds file. Cross-fitting never separates its groups, and bootstrap intervals resample them."),
]
DecisionMethod = Annotated[
    MethodName,
    typer.Option(
        help="Decision method, fitted by cross-fitting. auto gives better metrics but can take minutes per model;"
        " see 'Calibrate and decide' in the documentation."
    ),
]
Ensembles = Annotated[
    list[str] | None,
    typer.Option(
        help="Models of one ensemble, joined by +. Can be repeated. Default: one ensemble of all models.",
        metavar="MODEL+MODEL…",
    ),
]
Style = Annotated[Format, typer.Option("--format", help="Format of the tables.")]
Out = Annotated[
    Path | None,
    typer.Option(help="New file: .html for a page. With --table, the file of the tables; default: print them."),
]
DatasetOption = Annotated[
    str | None,
    typer.Option(help="For a page: dataset of the fields, for images, wells, plates and quality flags."),
]
ModelOption = Annotated[
    Path | None,
    typer.Option(help="For a page: model for maps of the shown fields. Needs --dataset.", metavar="MODEL"),
]
Reference = Annotated[
    str | None,
    typer.Option(help="For a page: labeled dataset, whose nearest fields are shown. Needs --model."),
]
Pairs = Annotated[Path | None, typer.Option(help="For a page: file of `cytoloc duplicates`.")]
FieldCount = Annotated[
    int,
    typer.Option(
        "--fields",
        help="For a page: number of fields in each list: the worst, the most uncertain and the unusual fields.",
        min=0,
        max=40,
    ),
]
Title = Annotated[str, typer.Option(help="For a page: the title.")]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("report")(report)


def report(
    inputs: Inputs,
    table: AsTables = False,
    labels: Labels = None,
    folds: Folds = None,
    decision: DecisionMethod = "grid",
    ensemble: Ensembles = None,
    style: Style = Format.text,
    as_json: AsJson = False,
    out: Out = None,
    dataset: DatasetOption = None,
    model: ModelOption = None,
    reference: Reference = None,
    pairs: Pairs = None,
    n_fields: FieldCount = 12,
    title: Title = "Report",
    ids: IdsPath = None,
    label_set: LabelSetOption = None,
) -> None:
    """Write a page about predictions, or tables that compare models.

    With labels, the page has metrics with intervals and chance levels, curves, confusions and suspicious labels.
    Without labels, it shows the locations that were found in each well and plate. The page works offline.

    With `--table`, cross-validated metrics are printed, with one row per model and one per ensemble.

    Example: `cytoloc report runs/ --folds folds.csv --out report.html`

    Example: `cytoloc report predictions.parquet --dataset plate.dataset --model model.cytoloc --out report.html`

    Example: `cytoloc report runs/ --table --folds folds.csv --ensemble resnet34-512+resnet50-512`
    """
    from cytoloc.errors import SettingsError
    from cytoloc.files import check_outputs, new_file
    from cytoloc.report.study import compare_runs
    from cytoloc.report.study_format import json_values

    if not table:
        if ensemble or as_json or style != Format.text:
            raise SettingsError(
                "--ensemble, --format and --json are for tables.", hint="Add --table, or leave these options out."
            )
        from cytoloc.report.page import ReportOptions

        options = ReportOptions(
            labels=labels,
            dataset=dataset,
            decision=decision,
            folds=folds,
            pairs=pairs,
            n_fields=n_fields,
            title=title,
            command=shlex.join(["cytoloc", *sys.argv[1:]]),
        )
        _write_page(inputs, out, options, model=model, reference=reference, ids=ids, label_set=label_set)
        return
    if dataset or model or reference or pairs or ids or label_set:
        raise SettingsError(
            "--dataset, --model, --reference, --pairs, --ids and --label-set are for a page.",
            hint="Leave them out, or remove --table.",
        )
    if out:
        check_outputs(out)
    tables = compare_runs(
        list(inputs),
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


def _write_page(
    inputs: list[Path],
    out: Path | None,
    options: ReportOptions,
    *,
    model: Path | None,
    reference: str | None,
    ids: Path | None,
    label_set: str | None,
) -> None:
    """Write a page."""
    from cytoloc.dataset.store import open_dataset
    from cytoloc.errors import SettingsError
    from cytoloc.files import refuse_existing
    from cytoloc.prediction_files import read_predictions
    from cytoloc.report.page import write_report

    if out is None or out.suffix.lower() != ".html":
        raise SettingsError(
            f"{'There is no output' if out is None else f'{out} is not the name of a page'}.",
            hint="Give --out report.html for a page, or add --table for tables.",
        )
    refuse_existing(out)
    if model and not options.dataset:
        raise SettingsError("--model needs the images of the fields.", hint="Give --dataset too.")
    if reference and not model:
        raise SettingsError("--reference needs a model, whose features are compared.", hint="Give --model too.")
    loaded = None
    if model:
        require_nets()
        from cytoloc.predict.loading import load

        loaded = load(model)
    options = replace(options, model=loaded, reference=open_dataset(reference) if reference else None)
    # Only files without ids or a label set need these options. Otherwise the page lists the files and runs.
    given: Predictions | list[str] = [str(each) for each in inputs]
    if ids or label_set:
        given = read_predictions([str(each) for each in inputs], ids=ids, label_set=label_set)
    with progress("Writing the report") as advance:
        write_report(given, out, options=options, progress=advance)
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB. Open it in a browser.")


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
