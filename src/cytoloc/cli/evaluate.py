"""The command ``cytoloc evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from cytoloc.cli.console import counted, warn_if_trained_on
from cytoloc.cli.members import AsJson, IdsPath, LabelSetOption, LabelsPath, read_prediction_files

Decided = Annotated[
    Path,
    typer.Argument(
        help="Predicted locations: a CSV file with columns Id,Predicted. With --metric map: predictions, a file or a"
        " folder of runs.",
        metavar="LOCATIONS",
    ),
]
MetricName = Annotated[
    Literal["f1", "map"],
    typer.Option(
        help="f1: macro F1 and other metrics of locations. map: mean average precision of probabilities, which needs no"
        " decision."
    ),
]
CellsDataset = Annotated[
    Path | None,
    typer.Option(
        help="With --metric map: dataset of the predicted cells. Cells are then compared by their masks, as in the 2021"
        " Kaggle competition, and --labels has the locations of the true cells."
    ),
]
TrueCells = Annotated[
    Path | None, typer.Option(help="Dataset of the true cells, which has their masks. Default: --cells.")
]
Probabilities = Annotated[
    list[Path] | None,
    typer.Option(
        "--predictions",
        help="Predictions of the same fields (files or folders of runs), to report average precision and AUC too.",
    ),
]
MinPositives = Annotated[
    int | None,
    typer.Option(
        help="Also report the macro F1 over the classes with at least this number of positive fields. Default: 5.",
        min=1,
    ),
]
ClassTable = Annotated[Path | None, typer.Option(help="Also write the table of classes to this new CSV file.")]
Folds = Annotated[Path | None, typer.Option(help="Folds file. Its groups are resampled for the bootstrap interval.")]
Groups = Annotated[
    Path | None,
    typer.Option(help="CSV file with columns Id,group, such as wells or antibodies, to resample instead of --folds."),
]
Leak = Annotated[
    Path | None,
    typer.Option(help="File of `cytoloc leak`. Also report the metrics with its labels, and without the fields in it."),
]
Plot = Annotated[
    Path | None,
    typer.Option(help="Also plot the F1 of each class, with intervals, to this .png, .svg or .pdf file."),
]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("evaluate")(evaluate)


def evaluate(
    decided: Decided,
    labels: LabelsPath,
    metric: MetricName = "f1",
    cells: CellsDataset = None,
    true_cells: TrueCells = None,
    predictions: Probabilities = None,
    min_positives: MinPositives = None,
    table: ClassTable = None,
    folds: Folds = None,
    groups: Groups = None,
    leak: Leak = None,
    plot: Plot = None,
    as_json: AsJson = False,
    ids: IdsPath = None,
    label_set: LabelSetOption = None,
) -> None:
    """Evaluate predicted locations: macro F1 with its interval, metrics per class, and chance levels.

    With `--metric map`, evaluate probabilities by their mean average precision. The label set is taken from the
    predictions or the labeled dataset. If neither states one, `--label-set` is used; its default is hpa28.

    Example: `cytoloc evaluate submission.csv --labels test.csv --predictions predictions.parquet`

    Example: `cytoloc evaluate held-out.csv --labels train.csv --folds folds.csv --plot classes.png`

    Example: `cytoloc evaluate predictions.parquet --labels test.csv --metric map`

    Example: `cytoloc evaluate cells.parquet --metric map --cells plate7-cells --true-cells true-cells --labels
    true-cells.csv`
    """
    if folds and groups:
        raise typer.BadParameter(
            "cannot be combined with --folds, because both name groups. Remove one.", param_hint="--groups"
        )
    if metric == "map":
        for option, given in (
            ("--predictions", predictions),
            ("--min-positives", min_positives),
            ("--leak", leak),
            ("--plot", plot),
        ):
            if given:
                raise typer.BadParameter("is for --metric f1. Remove it.", param_hint=option)
        _evaluate_probabilities(
            decided,
            labels,
            masks=(cells, true_cells),
            groups=folds or groups,
            table=table,
            as_json=as_json,
            ids=ids,
            label_set=label_set,
        )
        return
    if cells or true_cells:
        raise typer.BadParameter("needs --metric map, which compares masks.", param_hint="--cells")
    _evaluate_locations(
        decided,
        labels,
        predictions,
        min_positives=5 if min_positives is None else min_positives,
        outputs=(table, plot),
        groups=folds or groups,
        leak=leak,
        as_json=as_json,
        ids=ids,
        label_set=label_set,
    )


def _evaluate_locations(
    decided: Path,
    labels: Path,
    predictions: list[Path] | None,
    *,
    min_positives: int,
    outputs: tuple[Path | None, Path | None],
    groups: Path | None,
    leak: Path | None,
    as_json: bool,
    ids: Path | None,
    label_set: str | None,
) -> None:
    """Evaluate locations, write the table and the plot, and print the metrics."""
    from rich.console import Console

    from cytoloc.dataset.labeled import open_labels
    from cytoloc.decide import evaluate as evaluated
    from cytoloc.errors import SettingsError
    from cytoloc.files import check_outputs, existing, new_files
    from cytoloc.labels.lists import read_groups, read_known, read_labels
    from cytoloc.prediction_files import prediction_files
    from cytoloc.predictions import Predictions, combine
    from cytoloc.report.tables import class_rows, summary_lines

    if decided.is_dir() or existing(decided).suffix == ".parquet":
        raise SettingsError(
            f"{decided} has predictions, not locations.", hint="Use --metric map, or apply a decision first."
        )
    table, plot = outputs
    tables, plots = [table] if table else [], [plot] if plot else []
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
    evaluation = evaluated(
        given,
        known,
        groups=read_groups(groups, names) if groups else None,
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


def _evaluate_probabilities(
    predictions: Path,
    labels: Path,
    *,
    masks: tuple[Path | None, Path | None],
    groups: Path | None,
    table: Path | None,
    as_json: bool,
    ids: Path | None,
    label_set: str | None,
) -> None:
    """Evaluate probabilities by average precision, and print that of each location and the mean."""
    from cytoloc.dataset.labeled import open_labels
    from cytoloc.files import check_outputs, new_file
    from cytoloc.labels.lists import read_groups
    from cytoloc.prediction_files import prediction_files
    from cytoloc.predictions import combine

    if table:
        check_outputs(table)
    parts = read_prediction_files(prediction_files([predictions]), ids=ids, label_set=label_set)
    warn_if_trained_on(parts)
    given = combine(list(parts.values()))
    known = open_labels(labels, label_set=given.label_set)
    cells, true_cells = masks
    if true_cells and not cells:
        raise typer.BadParameter("needs --cells, the dataset of the predicted cells.", param_hint="--true-cells")
    if cells:
        from cytoloc.cells.competition import cell_mean_average_precision
        from cytoloc.dataset.store import open_dataset

        if groups:
            raise typer.BadParameter(
                "Cells with masks are resampled by field. Remove the groups.", param_hint="--cells"
            )
        truth = open_dataset(true_cells) if true_cells else None
        found = cell_mean_average_precision(given, open_dataset(cells), known, truth=truth)
    else:
        from cytoloc.decide import mean_average_precision

        found = mean_average_precision(given, known, groups=read_groups(groups, given.ids) if groups else None)
    if table:
        with new_file(table) as temporary:
            found.classes.write_csv(temporary, float_precision=4)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    for row in found.classes.iter_rows(named=True):
        if row["average_precision"] is not None:
            between = "" if row["low"] is None else f"  {row['low']:.3f} to {row['high']:.3f}"
            typer.echo(f"{row['location']:<32} {row['positives']:>6} {row['average_precision']:>7.3f}{between}")
    with_positives = found.classes["average_precision"].count()
    typer.echo(
        f"\nmean average precision {found.mean:.3f} over {counted(with_positives, 'location')} with positives"
        f" ({found.classes.height - with_positives} without)"
    )
    if found.share_of_positives is not None:
        typer.echo(f"share of positives {found.share_of_positives:.3f}: the mean over these locations")
    for what, interval in (("fields", found.interval), ("groups", found.interval_by_group)):
        if interval is not None:
            typer.echo(f"95 % interval from resampling {what}: {interval[0]:.3f} to {interval[1]:.3f}")
