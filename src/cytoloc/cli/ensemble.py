"""The command ``cytoloc ensemble``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cytoloc.choices import EnsembleKind
from cytoloc.cli.console import counted, read_truth, warn_if_trained_on
from cytoloc.cli.members import IdsPath, LabelSetOption, MemberPaths, PredictionPaths, member_files, read_members

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from cytoloc.decide.worth import Worth


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("ensemble")(ensemble)


def ensemble(
    out: Annotated[Path, typer.Option(help="The new predictions file (.parquet).")],
    predictions: PredictionPaths = None,
    member: MemberPaths = None,
    method: Annotated[
        EnsembleKind,
        typer.Option(
            help="Mean of probabilities, of logits, of ranks; with --labels weighted: weights that are not negative;"
            " class: such weights class by class; stack: classes inform each other."
        ),
    ] = "mean",
    labels: Annotated[
        Path | None, typer.Option(help="The truth of some or all fields: says what each member is worth.")
    ] = None,
    folds: Annotated[Path | None, typer.Option(help="Folds file, whose groups the cross-fit keeps together.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ids: IdsPath = None,
    label_set: LabelSetOption = None,
) -> None:
    """Make several models' predictions into one; each of PREDICTIONS is a member, and may lack some fields.

    Methods that are fitted to labels score each labeled field by a fit on other fields, so that a decision may be
    fitted to the result; fields without labels get the fit on all of them.

    Example: `cytoloc ensemble a.parquet b.parquet --labels train.csv --method weighted --out predictions.parquet`
    """
    import json
    from dataclasses import asdict

    import numpy as np

    from cytoloc.decide.worth import correlations, member_worth
    from cytoloc.errors import SettingsError
    from cytoloc.files import check_outputs
    from cytoloc.lists import read_groups, truth_of
    from cytoloc.prediction_files import check_predictions_path, write_predictions
    from cytoloc.predictions import Predictions, combine, join_members, warnings_of

    if folds and labels is None:
        raise typer.BadParameter("is for the worth of members: give --labels too.", param_hint="--folds")
    check_predictions_path(out)
    check_outputs(out)
    fitted = method in ("weighted", "class", "stack")
    if fitted and labels is None:
        raise SettingsError(f"The method {method} is fitted to labels.", hint="Give --labels CSV.")
    parts = read_members(member_files(predictions, member, apart=True), ids=ids, label_set=label_set)
    for tables in parts.values():
        warn_if_trained_on(tables)
    names, members, locations = join_members({name: combine(list(tables.values())) for name, tables in parts.items()})
    alike = correlations(members)
    worth: list[Worth] = []
    if labels is None:
        values = _plain(method, members)
    else:
        known = read_truth(labels, locations)
        labeled = np.array([name in known for name in names])
        truth = truth_of([name for name in names if name in known], known, locations, where=str(labels))
        groups = read_groups(folds, [name for name in names if name in known]) if folds else None
        _refuse_unlabeled(labeled, str(labels))
        here = {name: rows[labeled] for name, rows in members.items()}
        worth = member_worth(here, truth, groups=groups)
        values = _fitted(method, members, labeled, truth, groups) if fitted else _plain(method, members)
    provenance = {
        "ensemble": method,
        "members": {name: [table.provenance for table in tables.values()] for name, tables in parts.items()},
        "worth": [asdict(each) for each in worth],
        **warnings_of(table for tables in parts.values() for table in tables.values()),
    }
    write_predictions(Predictions(names, np.clip(values, 0, 1).astype(np.float32), locations, provenance), out)
    if as_json:
        table = [[None if np.isnan(value) else float(value) for value in row] for row in alike]
        typer.echo(json.dumps({"fields": len(names), "correlations": table, "worth": provenance["worth"]}, indent=2))
        return
    typer.echo(f"{out}: {counted(len(names), 'field')}, {counted(len(members), 'member')}, {method}.")
    typer.echo("\n".join(_said(list(members), alike, worth)))


def _plain(kind: Any, members: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return an ensemble that needs no labels."""
    import numpy as np

    from cytoloc.decide.ensemble import fit_ensemble
    from cytoloc.decide.inputs import stack_members

    stack = stack_members(members)
    return fit_ensemble(kind, stack, np.zeros(stack.shape[1:], bool))(stack)


def _fitted(
    kind: Any,
    members: dict[str, NDArray[np.float32]],
    labeled: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    groups: NDArray[np.int64] | None,
) -> NDArray[np.float64]:
    """Return an ensemble fitted to the labeled fields, which get their own predictions from fits without them."""
    from cytoloc.decide.inputs import stack_members
    from cytoloc.decide.worth import unseen_ensemble

    here = {name: rows[labeled] for name, rows in members.items()}
    unseen, evidence = unseen_ensemble(kind, here, truth, groups=groups)
    values = evidence(stack_members(members))
    values[labeled] = unseen
    return values


def _refuse_unlabeled(labeled: NDArray[np.bool_], where: str) -> None:
    from cytoloc.errors import TableError

    if not labeled.any():
        raise TableError(
            f"{where} has labels of none of the {len(labeled)} predicted fields.", hint="Check that the ids match."
        )


def _said(names: Sequence[str], alike: NDArray[np.float64], worth: list[Worth]) -> list[str]:
    width = max(map(len, names))
    lines = [f"\n{'':<{width}}  correlation of logits with the members above it"]
    lines += [
        f"{name:<{width}}  " + "  ".join(f"{alike[row, column]:.2f}" for column in range(row))
        for row, name in enumerate(names)
    ]
    if worth:
        lines.append(f"\n{'':<{width}} {'fields':>7} {'loss':>9} {'adds':>8} {'weight':>7}")
        for each in worth:
            lines.append(
                f"{each.name:<{width}} {each.fields:>7} {each.log_loss:>9.4f} {each.adds:>+8.4f} {each.weight:>7.3f}"
            )
        lines.append(
            "loss: log loss alone, by that of knowing each class's frequency (1 is to know no more);"
            "\nadds: by how much that of all rises without it; both on unseen fields"
        )
    return lines
