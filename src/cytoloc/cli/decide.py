"""Commands from predictions to locations: decide fit, decide apply."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cytoloc.choices import Blank, CalibrationKind, EnsembleKind, Method
from cytoloc.cli.console import counted, read_truth
from cytoloc.cli.members import (
    IdsPath,
    LabelSetOption,
    LabelsPath,
    MemberPaths,
    MembersSwitch,
    PredictionPaths,
    member_files,
    read_members,
)

if TYPE_CHECKING:
    from cytoloc.decide import Decision
    from cytoloc.predictions import Joined, Predictions


SWITCHES = {"never blank": "--blank", "groups share their evidence": "decide apply --groups"}
"""What switches on the rules that a fit names though they are off."""


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    deciding = typer.Typer(help="From probabilities to locations.", no_args_is_help=True)
    deciding.command("fit")(fit)
    deciding.command("apply")(apply)
    app.add_typer(deciding, name="decide")


def fit(
    labels: LabelsPath,
    out: Annotated[Path, typer.Option(help="The new decision file (.json).")],
    predictions: PredictionPaths = None,
    method: Annotated[
        Method,
        typer.Option(
            help="grid: per class the best F1 on a grid from 0.1 to 0.699. auto: the best of several on unseen fields."
            " All are explained in docs/decisions.md."
        ),
    ] = "grid",
    members: MembersSwitch = False,
    member: MemberPaths = None,
    ensemble: Annotated[EnsembleKind | None, typer.Option(help="How members become one; by default the mean.")] = None,
    calibration: Annotated[
        CalibrationKind | None,
        typer.Option(help="How predictions become probabilities; by default as the method has it."),
    ] = None,
    fixed: Annotated[
        float | None, typer.Option(help="The threshold of the method fixed; by default 0.5.", min=0)
    ] = None,
    ratios: Annotated[
        Path | None, typer.Option(help="CSV Id,Target whose class frequencies the method ratio matches.")
    ] = None,
    most: Annotated[
        int | None,
        typer.Option(help="Locations a field may have at most; by default 5, or all if there are fewer.", min=1),
    ] = None,
    blank: Annotated[
        Blank, typer.Option(help="What a field above no threshold gets: its best location by this, or none.")
    ] = "probability",
    cooccurrence: Annotated[
        bool, typer.Option("--cooccurrence", help="Locations that never occur together exclude each other.")
    ] = False,
    folds: Annotated[Path | None, typer.Option(help="Folds file, whose groups the cross-fit keeps together.")] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="Also write Id,Predicted of these fields, each decided without itself.")
    ] = None,
    ids: IdsPath = None,
    label_set: LabelSetOption = None,
) -> None:
    """Fit thresholds to out-of-fold predictions, and say what they are worth on fields they did not see.

    Example: `cytoloc decide fit runs/ --labels train.csv --folds folds.csv --out decision.json`

    Example: `cytoloc decide fit a.parquet b.parquet --members --method auto --labels train.csv --out decision.json`
    """
    import numpy as np

    from cytoloc.decide.decision import cross_fit_of, fit_decision, held_out_parts, with_provenance, write_decision
    from cytoloc.decide.effects import rule_effects
    from cytoloc.decide.metrics import macro_f1
    from cytoloc.files import check_outputs, new_files, sha256_of
    from cytoloc.lists import read_groups, read_labels, truth_of, write_locations

    outputs = [out, held_out] if held_out else [out]
    check_outputs(*outputs)
    files = member_files(predictions, member, apart=members)
    parts = read_members(files, ids=ids, label_set=label_set)
    _refuse_trained_on(parts)
    names, probabilities, locations = _joined(parts)
    truth = truth_of(names, read_truth(labels, locations), locations, where=str(labels))
    groups = read_groups(folds, names) if folds else None
    options: dict[str, Any] = {
        "label_set": locations,
        "method": method,
        "most": most,
        "fill_blank": blank != "none",
        "blank": blank,
        "cooccurrence": cooccurrence,
        "ensemble": ensemble,
        "calibration": calibration,
        "fixed": fixed,
        "ratios": np.mean(locations.to_matrix(read_labels(ratios, locations).values()), axis=0) if ratios else None,
    }
    decision = fit_decision(probabilities, truth, groups=groups, **options)
    unseen = list(held_out_parts(probabilities, truth, groups=groups, **options))
    judged = cross_fit_of(unseen, truth)
    effects = rule_effects(unseen, truth, groups=groups)
    seen_f1, unseen_f1 = macro_f1(decision(probabilities), truth), macro_f1(judged, truth)
    used = [{"file": str(path), "sha256": sha256_of(path)} for paths in files.values() for path in paths]
    decision = with_provenance(
        decision, predictions=used, macro_f1_seen=seen_f1, macro_f1_cross_fitted=unseen_f1, rules=effects
    )
    with new_files(*outputs) as temporary:
        write_decision(decision, temporary[out])
        if held_out:
            write_locations(names, judged, temporary[held_out], locations)
    typer.echo(
        f"{out}: macro F1 over {len(locations)} locations {unseen_f1:.3f} on fields that the thresholds did not see"
        f" ({seen_f1:.3f} on the very fields they were fitted to)."
    )
    typer.echo("\n".join(_said(decision)))


def apply(
    decision: Annotated[Path, typer.Option(help="Of `cytoloc decide fit`.")],
    out: Annotated[Path, typer.Option(help="The new submission, CSV Id,Predicted.")],
    predictions: PredictionPaths = None,
    members: MembersSwitch = False,
    member: MemberPaths = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="A member of the decision that has no predictions here: the others stand in. May be repeated."
        ),
    ] = None,
    order: Annotated[
        Path | None, typer.Option(help="CSV with the column Id: write these fields in this order.")
    ] = None,
    probabilities: Annotated[
        Path | None, typer.Option(help="Also write the probabilities that were decided on, as a new predictions file.")
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(help="CSV Id,group: duplicates, or fields of one well, share their evidence.")
    ] = None,
    shift: Annotated[
        bool, typer.Option("--shift", help="Estimate how frequent locations are in these fields, and decide by that.")
    ] = False,
    leak: Annotated[
        Path | None, typer.Option(help="CSV Id,Target of fields whose labels are known: written over the predictions.")
    ] = None,
    ids: IdsPath = None,
    label_set: LabelSetOption = None,
) -> None:
    """Decide every field's locations, and write them as the competition wants them.

    Example: `cytoloc decide apply predictions.parquet --decision decision.json --order sample_submission.csv
    --out submission.csv`

    Example: `cytoloc decide apply a.parquet b.parquet --members --decision decision.json --out submission.csv`
    """
    import numpy as np

    from cytoloc.decide.decision import read_decision
    from cytoloc.files import check_outputs, new_files, sha256_of
    from cytoloc.lists import read_groups, read_ids, read_known, write_locations
    from cytoloc.prediction_files import check_predictions_path, write_predictions
    from cytoloc.predictions import Predictions, rows_of, warnings_of

    outputs = [out, probabilities] if probabilities else [out]
    if probabilities:
        check_predictions_path(probabilities)
    check_outputs(*outputs)
    rule = read_decision(decision)
    parts = read_members(member_files(predictions, member, apart=members), ids=ids, label_set=label_set)
    names, joined, locations = _joined(parts)
    rule.label_set.refuse_other(locations, what=next(iter(next(iter(parts.values())))), than=str(decision))
    joined |= _absent(without or [], rule, joined)
    wanted = read_ids(order) if order else names
    rows = rows_of(wanted, names, where=str(order or "predictions"))
    here = {name: values[rows] for name, values in joined.items()}
    numbers = read_groups(groups, wanted) if groups else None
    predicted = rule(here, groups=numbers, shift=shift)
    known = read_known(leak, wanted, locations) if leak else {}
    for row, name in enumerate(wanted):
        if name in known:
            predicted[row] = locations.to_matrix([known[name]])[0]
    with new_files(*outputs) as temporary:
        write_locations(wanted, predicted, temporary[out], locations)
        if probabilities:
            values = rule.probabilities(here, groups=numbers, shift=shift).astype(np.float32)
            tables = [table for each in parts.values() for table in each.values()]
            fitted = rule.plan.learns or shift or groups is not None
            provenance = {
                "decision": decision.name,
                **({"calibrated_by": sha256_of(decision)} if fitted else {}),
                **warnings_of(tables),
            }
            write_predictions(Predictions(tuple(wanted), values, locations, provenance), temporary[probabilities])
    typer.echo(f"{out}: {counted(len(wanted), 'field')}, {predicted.sum() / len(wanted):.2f} locations a field.")
    if leak:
        typer.echo(f"{counted(len(known), 'field')} of them as {leak} has them.")


def _refuse_trained_on(parts: dict[str, dict[str, Predictions]]) -> None:
    from cytoloc.errors import TableError

    for tables in parts.values():
        for path, part in tables.items():
            seen = part.provenance.get("fields_trained_on", 0)
            if seen:
                raise TableError(
                    f"{path}: the model was trained on {seen} of these {len(part)} fields;"
                    " their predictions are too good to fit on.",
                    hint="Fit on the out-of-fold predictions in the run folders, or on fields of their own.",
                )


def _absent(without: list[str], rule: Decision, joined: dict[str, Any]) -> dict[str, Any]:
    """Return rows of NaN for the members of a decision that are said to have no predictions."""
    import numpy as np

    from cytoloc.errors import SettingsError

    for name in without:
        if name not in rule.members or name in joined:
            raise SettingsError(
                f"--without {name}: it {'has predictions here' if name in joined else 'is no member of the decision'}.",
                hint=f"The decision has the members {', '.join(rule.members)}; name those that have no predictions.",
            )
    return {name: np.full_like(next(iter(joined.values())), np.nan) for name in without}


def _joined(parts: dict[str, dict[str, Predictions]]) -> Joined:
    """Return the members' predictions of all fields, side by side."""
    from cytoloc.predictions import combine, join_members

    return join_members({name: combine(list(tables.values())) for name, tables in parts.items()})


def _off(rule: str) -> str:
    return f" (off; {SWITCHES[rule]})" if rule in SWITCHES else " (off)"


def _said(decision: Decision) -> list[str]:
    """Return what a fit says beyond its score: the candidates, why, and what each rule does."""
    lines = []
    facts = decision.fitted_on
    if "candidates" in facts:
        lines.append(
            f"\n{'candidate, by one fit of its kind':<34} {'macro F1':>9} {'loss':>9}"
            f"   on {facts['candidates_judged_on']} fields"
        )
        for row in facts["candidates"]:
            loss = "-" if row["log_loss"] is None else f"{row['log_loss']:.4f}"
            chosen = "  <- chosen" if row["plan"] == decision.plan.name else ""
            lines.append(f"{row['plan']:<34} {row['macro_f1']:>9.4f} {loss:>9}{chosen}")
        lines += [
            facts["why"],
            "Loss is log loss by that of knowing each class's frequency; 1 is to know no more.",
            "The table compares. What the choice is worth, made anew without each field, is the number above it.",
            "",
        ]
    for row in facts["rules"]:
        lines.append(
            f"{row['rule']}{'' if row['on'] else _off(row['rule'])}: {counted(row['fields_changed'], 'field')} changed,"
            f" macro F1 {row['macro_f1_with']:.4f} with and {row['macro_f1_without']:.4f} without"
        )
    return lines
