"""The command ``cytoloc ensemble``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cytoloc.choices import EnsembleKind
from cytoloc.cli.console import counted, warn_if_trained_on
from cytoloc.cli.members import (
    AsJson,
    IdsPath,
    LabelSetOption,
    MemberPaths,
    PredictionPaths,
    member_files,
    read_members,
    refuse_calibrated,
)

Out = Annotated[Path, typer.Option(help="New predictions file (.parquet).")]
Method = Annotated[
    EnsembleKind,
    typer.Option(
        help="How members are combined. Without labels: mean of probabilities, of logits (logit) or of ranks"
        " (rank). Fitted to --labels: weighted (one nonnegative weight per member), class (nonnegative weights per"
        " location), stack (logistic regression on all locations of all members)."
    ),
]
SomeLabels = Annotated[
    Path | None,
    typer.Option(
        help="Labels of some or all fields: CSV file with columns Id,Target, or a dataset. Also reports the"
        " contribution of each member."
    ),
]
Folds = Annotated[Path | None, typer.Option(help="Folds file. Cross-fitting never separates its groups.")]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("ensemble")(ensemble)


def ensemble(
    out: Out,
    predictions: PredictionPaths = None,
    member: MemberPaths = None,
    method: Method = "mean",
    labels: SomeLabels = None,
    folds: Folds = None,
    as_json: AsJson = False,
    ids: IdsPath = None,
    label_set: LabelSetOption = None,
) -> None:
    """Combine the predictions of several models into one predictions file.

    Each of PREDICTIONS is one member of the ensemble. A member may lack some fields.

    Methods that are fitted to labels are cross-fitted: each labeled field is predicted by a fit on other fields. A
    decision can therefore be fitted to the result. Fields without labels are predicted by a fit on all labeled fields.

    Example: `cytoloc ensemble a.parquet b.parquet --labels train.csv --method weighted --out predictions.parquet`
    """
    import json
    from dataclasses import asdict

    import numpy as np

    from cytoloc.dataset.labeled import open_labels
    from cytoloc.decide import ensemble as combined
    from cytoloc.decide import member_contributions, member_correlations
    from cytoloc.decide.members import NEEDS_LABELS
    from cytoloc.errors import SettingsError
    from cytoloc.files import check_outputs, existing
    from cytoloc.labels.ids import warn_about_ids
    from cytoloc.labels.lists import read_csv
    from cytoloc.prediction_files import check_predictions_path, write_predictions
    from cytoloc.predictions import combine, refuse_different

    if folds and labels is None:
        raise typer.BadParameter("needs --labels, because groups are used for fitting only.", param_hint="--folds")
    check_predictions_path(out)
    check_outputs(out)
    if method in NEEDS_LABELS and labels is None:
        raise SettingsError(f"The ensemble method {method} needs labels.", hint="Add --labels CSV.")
    tables = read_members(member_files(predictions, member, apart=True), ids=ids, label_set=label_set)
    refuse_calibrated(tables)
    for each in tables.values():
        warn_if_trained_on(each)
    members = {name: combine(list(each.values())) for name, each in tables.items()}
    warn_about_ids({name: each.ids for name, each in members.items()}, always=True)
    known = open_labels(labels, label_set=refuse_different(members)) if labels else None
    groups = read_csv(existing(folds, what="folds file")) if folds else None
    correlations = member_correlations(members)
    contributions = member_contributions(members, known, groups=groups) if known is not None else []
    result = combined(members, method=method, labels=known, groups=groups)
    write_predictions(result, out)
    if as_json:
        table = [[None if np.isnan(value) else float(value) for value in row] for row in correlations]
        rows = [asdict(each) for each in contributions]
        typer.echo(json.dumps({"fields": len(result), "correlations": table, "contributions": rows}, indent=2))
        return
    typer.echo(
        f"{out}: {counted(len(result), 'field')}, {counted(len(members), 'member')}, {method}."
        f"\nNext: cytoloc decide fit {out} --labels LABELS --out decision.json"
    )
    width = max(map(len, members))
    lines = [f"\n{'':<{width}}  correlation of logits with the members above"]
    lines += [
        f"{name:<{width}}  " + "  ".join(f"{correlations[row, column]:.2f}" for column in range(row))
        for row, name in enumerate(members)
    ]
    if contributions:
        lines.append(f"\n{'':<{width}} {'fields':>7} {'log loss':>9} {'adds':>8} {'weight':>7}")
        for added in contributions:
            values = f"{added.log_loss:>9.4f} {added.contribution:>+8.4f} {added.weight:>7.3f}"
            lines.append(f"{added.name:<{width}} {added.fields:>7} {values}")
        lines.append(
            "log loss: log loss of the member, divided by the log loss of the class frequencies;\n"
            "adds: increase of the log loss of the weighted ensemble if the member is removed. Both are cross-fitted."
        )
    typer.echo("\n".join(lines))
