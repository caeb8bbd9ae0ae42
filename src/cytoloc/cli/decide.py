"""Commands from scores to locations and their score: decide fit, decide apply, score."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cytoloc.cli.console import counted, read_truth, score_files

ScorePaths = Annotated[
    list[Path],
    typer.Argument(
        help="Score files, or folders of runs; of different fields they are joined, of the same averaged.",
        metavar="SCORES…",
    ),
]
LabelsPath = Annotated[Path, typer.Option(help="The truth: CSV Id,Target, or a labelled atlas.")]
IdsPath = Annotated[Path | None, typer.Option("--ids", help="Ids, row by row, for .npy and .npz files.")]


class MethodName(StrEnum):
    """How thresholds are found."""

    seed = "seed"


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    deciding = typer.Typer(help="From probabilities to locations.", no_args_is_help=True)
    deciding.command("fit")(fit)
    deciding.command("apply")(apply)
    app.add_typer(deciding, name="decide")
    app.command("score")(score)


def fit(
    scores: ScorePaths,
    labels: LabelsPath,
    out: Annotated[Path, typer.Option(help="The new decision file (.json).")],
    method: Annotated[
        MethodName, typer.Option(help="seed: per class the best F1 on a grid from .100 to .699.")
    ] = MethodName.seed,
    most: Annotated[int, typer.Option(help="Locations a field may have at most.", min=1, max=28)] = 5,
    folds: Annotated[Path | None, typer.Option(help="Folds file, whose groups the cross-fit keeps together.")] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="Also write Id,Predicted of these fields, each decided without itself.")
    ] = None,
    ids: IdsPath = None,
) -> None:
    """Fit thresholds to held-out scores, and say what they are worth on fields they did not see.

    Example: `cytoloc decide fit runs/ --labels train.csv --folds folds.csv --out decision.json`
    """
    import numpy as np

    from cytoloc.decide.decision import cross_fit, fit_decision, with_provenance, write_decision
    from cytoloc.decide.metrics import macro_f1
    from cytoloc.errors import TableError
    from cytoloc.files import refuse_existing, sha256_of
    from cytoloc.folds.table import read_folds
    from cytoloc.scores import combine, read_scores, truth_of, write_locations

    if out == held_out:
        raise typer.BadParameter("is the same file as --out.", param_hint="--held-out")
    for path in filter(None, (out, held_out)):
        refuse_existing(path)
    paths = score_files(scores)
    parts = [read_scores(path, ids=ids) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        seen = part.provenance.get("fields_trained_on", 0)
        if seen:
            raise TableError(
                f"{path}: the model was trained on {seen} of these {len(part)} fields;"
                " their scores are too good to fit on.",
                way_out="Fit on the held-out scores in the run folders, or on fields of their own.",
            )
    table = combine(parts)
    truth = truth_of(table.ids, read_truth(labels), where=str(labels))
    groups = None
    if folds:
        known = dict(read_folds(folds).select("id", "group").iter_rows())
        missing = [name for name in table.ids if name not in known]
        if missing:
            raise TableError(f"{folds} lacks {len(missing)} of the scored fields, e.g. {missing[0]}.")
        groups = np.array([known[name] for name in table.ids])
    members = {"mean": table.probabilities}
    decision = fit_decision(members, truth, method=method.value, most=most)
    judged = cross_fit(members, truth, groups=groups, method=method.value, most=most)
    seen, unseen = macro_f1(decision(members), truth), macro_f1(judged, truth)
    files = [{"file": str(path), "sha256": sha256_of(path)} for path in paths]
    decision = with_provenance(decision, scores=files, macro_f1_seen=seen, macro_f1_cross_fitted=unseen)
    write_decision(decision, out)
    if held_out:
        write_locations(table.ids, judged, held_out)
    typer.echo(
        f"{out}: macro F1 {unseen:.3f} on fields that the thresholds did not see"
        f" ({seen:.3f} on the very fields they were fitted to)."
    )


def apply(
    scores: ScorePaths,
    decision: Annotated[Path, typer.Option(help="Of `cytoloc decide fit`.")],
    out: Annotated[Path, typer.Option(help="The new submission, CSV Id,Predicted.")],
    order: Annotated[
        Path | None, typer.Option(help="CSV with the column Id: write these fields in this order.")
    ] = None,
    ids: IdsPath = None,
) -> None:
    """Decide every field's locations, and write them as the competition wants them.

    Example: `cytoloc decide apply scores.parquet --decision decision.json --order sample_submission.csv
    --out submission.csv`
    """
    from cytoloc.decide.decision import read_decision
    from cytoloc.scores import combine, read_ids, read_scores, write_locations

    rule = read_decision(decision)
    table = combine([read_scores(path, ids=ids) for path in score_files(scores)])
    wanted = read_ids(order) if order else table.ids
    predicted = rule({"mean": table.rows(wanted, where=str(order or "scores"))})
    write_locations(wanted, predicted, out)
    typer.echo(f"{out}: {counted(len(wanted), 'field')}, {predicted.sum() / len(wanted):.2f} locations a field.")


def score(
    predictions: Annotated[Path, typer.Argument(help="CSV Id,Predicted.", metavar="PREDICTIONS")],
    labels: LabelsPath,
    scores: Annotated[
        list[Path] | None,
        typer.Option(help="Scores of these fields, file or folder of runs: adds average precision, AUC."),
    ] = None,
    min_positives: Annotated[
        int, typer.Option(help="Also average over the classes with so many true fields.", min=1)
    ] = 5,
    table: Annotated[Path | None, typer.Option(help="Also write the table of classes, as a new CSV.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ids: IdsPath = None,
) -> None:
    """Score locations: macro F1 with its interval, a row per class, and what chance would give.

    Example: `cytoloc score submission.csv --labels test.csv --scores scores.parquet`
    """
    from rich.console import Console

    from cytoloc.files import new_file, refuse_existing
    from cytoloc.labels import to_matrix
    from cytoloc.report.tables import class_rows, score_summary, summary_lines
    from cytoloc.scores import combine, read_labels, read_scores, truth_of

    if table:
        refuse_existing(table)
    predicted = read_labels(predictions, column="Predicted", blank=True)
    names = list(predicted)
    known = read_truth(labels)
    truth = truth_of(names, known, where=str(labels))
    probabilities = (
        combine([read_scores(path, ids=ids) for path in score_files(scores)]).rows(names) if scores else None
    )
    summary, classes = score_summary(to_matrix(predicted.values()), truth, probabilities, min_positives=min_positives)
    summary["fields_with_labels"] = len(known)
    if table:
        with new_file(table) as temporary:
            classes.write_csv(temporary)
    if as_json:
        typer.echo(json.dumps({**summary, "classes": classes.to_dicts()}, indent=2))
        return
    Console(width=None if Console().is_terminal else 120).print(class_rows(classes))
    typer.echo("\n" + "\n".join(summary_lines(summary)))
    if len(known) > len(names):
        typer.echo(f"{len(known) - len(names)} more fields have labels but no prediction; they are not judged.")
