"""The command ``cytoloc evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cytoloc.cli.console import counted, warn_if_trained_on
from cytoloc.cli.members import IdsPath, LabelSetOption, LabelsPath, read_prediction_files


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("evaluate")(evaluate)


def evaluate(
    decided: Annotated[
        Path,
        typer.Argument(help="Predicted locations: a CSV file with columns Id,Predicted.", metavar="LOCATIONS"),
    ],
    labels: LabelsPath,
    predictions: Annotated[
        list[Path] | None,
        typer.Option(
            help="Predictions of the same fields (files or folders of runs), to report average precision and AUC too."
        ),
    ] = None,
    min_positives: Annotated[
        int,
        typer.Option(
            help="Also report the macro F1 over the classes with at least this number of positive fields.", min=1
        ),
    ] = 5,
    table: Annotated[Path | None, typer.Option(help="Also write the table of classes to this new CSV file.")] = None,
    folds: Annotated[
        Path | None,
        typer.Option(help="Folds file. Its groups are resampled for the bootstrap interval of the macro F1."),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            help="CSV file with columns Id,group, such as wells or antibodies, to resample instead of --folds."
        ),
    ] = None,
    leak: Annotated[
        Path | None,
        typer.Option(
            help="File of `cytoloc leak`. Also report the metrics with its labels, and without the fields in it."
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also plot the F1 of each class, with intervals, to this .png, .svg or .pdf file."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    ids: IdsPath = None,
    label_set: LabelSetOption = None,
) -> None:
    """Evaluate predicted locations: macro F1 with its interval, metrics per class, and chance levels.

    The label set is taken from the predictions or the labeled dataset. If neither states one, `--label-set` is used;
    its default is hpa28.

    Example: `cytoloc evaluate submission.csv --labels test.csv --predictions predictions.parquet`

    Example: `cytoloc evaluate held-out.csv --labels train.csv --folds folds.csv --plot classes.png`
    """
    from rich.console import Console

    from cytoloc.dataset.labeled import open_labels
    from cytoloc.decide import evaluate as evaluated
    from cytoloc.files import check_outputs, new_files
    from cytoloc.labels.lists import read_groups, read_known, read_labels
    from cytoloc.prediction_files import prediction_files
    from cytoloc.predictions import Predictions, combine
    from cytoloc.report.tables import class_rows, summary_lines

    if folds and groups:
        raise typer.BadParameter(
            "cannot be combined with --folds, because both name groups. Remove one.", param_hint="--groups"
        )
    tables = [table] if table else []
    plots = [plot] if plot else []
    check_outputs(*tables, images=plots)
    combined = None
    if predictions:
        parts = read_prediction_files(prediction_files(predictions), ids=ids, label_set=label_set)
        warn_if_trained_on(parts)
        combined = combine(list(parts.values()))
    known = open_labels(labels, label_set=combined.label_set if combined else label_set)
    locations = known.label_set
    found = read_labels(decided, locations, column="Predicted", blank=True)
    names = tuple(found)
    given: Predictions | dict[str, tuple[int, ...]] = found
    if combined:
        probabilities = combined.rows(names, where=", ".join(map(str, predictions or ())))
        given = Predictions(names, probabilities, locations, decided=locations.to_matrix(found.values()))
    by = folds or groups
    evaluation = evaluated(
        given,
        known,
        groups=read_groups(by, names) if by else None,
        min_positives=min_positives,
        leak=read_known(leak, names, locations) if leak else None,
        label_set=locations,
    )
    with new_files(*tables, images=plots) as temporary:
        if table:
            evaluation.classes.write_csv(temporary[table])
        if plot:
            # Drawing is slow to import.
            from cytoloc.report.figures import score_plot

            score_plot(evaluation, temporary[plot])
    if as_json:
        typer.echo(json.dumps(evaluation.to_json(), indent=2))
        return
    Console(width=None if Console().is_terminal else 120).print(class_rows(evaluation.classes))
    typer.echo("\n" + "\n".join(summary_lines(evaluation)))
    more = evaluation.fields_with_labels - evaluation.fields
    if more > 0:
        typer.echo(f"{counted(more, 'other field')} with labels but without predictions: not evaluated.")
