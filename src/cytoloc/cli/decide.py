"""The commands ``cytoloc decide fit`` and ``decide apply``, which turn probabilities into locations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cytoloc.choices import Blank, CalibrationKind, EnsembleKind, MethodName
from cytoloc.cli.console import counted, note, warn_if_trained_on
from cytoloc.cli.members import (
    IdsPath,
    LabelSetOption,
    LabelsPath,
    MemberPaths,
    MembersSwitch,
    PredictionPaths,
    member_files,
    read_members,
    refuse_calibrated,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cytoloc.dataset.store import Dataset
    from cytoloc.decide import Decision, DecisionReport
    from cytoloc.embed.voting import LabeledNeighbors
    from cytoloc.labels.label_list import LabelList
    from cytoloc.predictions import Predictions

RULE_OPTIONS = {
    "never blank": "--blank",
    "averaged groups": "decide apply --groups, with the near-duplicates of the new fields",
}
"""The option that turns on each rule that ``decide fit`` can report as off."""


DecisionOut = Annotated[Path, typer.Option(help="New decision file (.json).")]
MethodOption = Annotated[
    MethodName,
    typer.Option(
        help="How thresholds are chosen. auto: the method with the lowest cross-fitted log loss, or one whose macro"
        " F1 is clearly higher. grid: the threshold per class with the best F1 on a grid from 0.1 to 0.699. See"
        " 'Calibrate and decide' in the documentation for all methods."
    ),
]
Ensemble = Annotated[
    EnsembleKind | None, typer.Option(help="How ensemble members are combined. Default: mean of probabilities.")
]
Calibration = Annotated[
    CalibrationKind | None,
    typer.Option(
        help="How probabilities are calibrated. Default: platt for --method expected, none for other methods. Not"
        " for --method auto, which chooses."
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Threshold for all classes, with --method fixed only. Default: 0.5.", min=0),
]
Ratios = Annotated[
    Path | None,
    typer.Option(
        help="CSV file with columns Id,Target. --method ratio reproduces its class frequencies. Default: the class"
        " frequencies of --labels."
    ),
]
MaxLocations = Annotated[
    int | None,
    typer.Option(help="Maximum number of locations per field. Default: 5, or all locations if there are fewer.", min=1),
]
BlankRule = Annotated[
    Blank,
    typer.Option(
        help="Location of a field without any probability above its threshold: the location with the highest"
        " probability, margin over its threshold, or ratio to its threshold; or none."
    ),
]
Cooccurrence = Annotated[
    bool,
    typer.Option(
        "--cooccurrence", help="Never predict two locations together that never occur together in the labels."
    ),
]
Folds = Annotated[Path | None, typer.Option(help="Folds file. Cross-fitting never separates its groups.")]
HeldOut = Annotated[
    Path | None,
    typer.Option(
        help="Also write the locations from cross-fitted decisions to this new CSV file with columns Id,Predicted."
    ),
]
Coverage = Annotated[
    float | None,
    typer.Option(
        help="Also fit prediction sets, which contain all true locations of this share of fields, such as 0.9."
        " decide apply --sets writes them."
    ),
]
KnownNeighbors = Annotated[
    list[Path] | None,
    typer.Option(
        help="Features of the labeled fields, from `cytoloc embed`. The nearest labeled fields vote, as one more"
        " member. Needs --folds: fields of one group never vote on each other. Can be repeated."
    ),
]
NeighborCount = Annotated[
    int | None, typer.Option("-k", help="With --neighbors: number of fields that vote. Default: 10.", min=1)
]
DecisionPath = Annotated[Path, typer.Option(help="Decision file of `cytoloc decide fit` (.json).")]
LocationsOut = Annotated[Path, typer.Option(help="New CSV file of locations, with columns Id,Predicted.")]
Without = Annotated[
    list[str] | None,
    typer.Option(help="Name of a member of the decision that has no predictions of these fields. Can be repeated."),
]
Order = Annotated[
    Path | None, typer.Option(help="CSV file with a column Id. Only its fields are written, in its order.")
]
ProbabilitiesOut = Annotated[
    Path | None, typer.Option(help="Also write the calibrated probabilities to this new predictions file.")
]
Groups = Annotated[
    Path | None,
    typer.Option(
        help="CSV file with columns Id,group of near-duplicates or wells. Probabilities are averaged per group."
    ),
]
LabelShift = Annotated[
    bool,
    typer.Option(
        "--label-shift",
        help="Estimate how frequent each location is in these fields, and adapt the probabilities to it.",
    ),
]
Leak = Annotated[
    Path | None,
    typer.Option(
        help="CSV file with columns Id,Target, such as the file of `cytoloc leak`. Its labels replace the predicted"
        " locations."
    ),
]
SetsOut = Annotated[
    Path | None,
    typer.Option(
        help="Also write the prediction set of each field to this new CSV file with columns Id,Predicted. The"
        " decision must be fitted with --coverage."
    ),
]
NewNeighbors = Annotated[
    list[Path] | None,
    typer.Option(
        help="Features of the fields, from `cytoloc embed` with the model of `decide fit --neighbors`. Can be repeated."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    deciding = typer.Typer(
        help="Turn probabilities into locations: fit thresholds, then apply them.\n\nExample: `cytoloc decide fit runs/"
        " --labels train.csv --folds folds.csv --out decision.json`",
        no_args_is_help=True,
    )
    deciding.command("fit")(fit)
    deciding.command("apply")(apply)
    app.add_typer(deciding, name="decide")


def fit(
    labels: LabelsPath,
    out: DecisionOut,
    predictions: PredictionPaths = None,
    method: MethodOption = "auto",
    members: MembersSwitch = False,
    member: MemberPaths = None,
    ensemble: Ensemble = None,
    calibration: Calibration = None,
    threshold: Threshold = None,
    ratios: Ratios = None,
    max_locations: MaxLocations = None,
    blank: BlankRule = "probability",
    cooccurrence: Cooccurrence = False,
    folds: Folds = None,
    held_out: HeldOut = None,
    coverage: Coverage = None,
    neighbors: KnownNeighbors = None,
    k: NeighborCount = None,
    ids: IdsPath = None,
    label_set: LabelSetOption = None,
) -> None:
    """Fit a decision (calibration and thresholds) to out-of-fold predictions, and report its cross-fitted macro F1.

    Example: `cytoloc decide fit runs/ --labels train.csv --folds folds.csv --out decision.json`

    Example: `cytoloc decide fit a.parquet b.parquet --members --labels train.csv --out decision.json`

    Example: `cytoloc decide fit runs/ --labels train.csv --folds folds.csv --neighbors features.parquet --out
    decision.json`
    """
    from cytoloc.dataset.labeled import open_labels
    from cytoloc.decide import Rules, fit_and_cross_fit, method_named, write_decision
    from cytoloc.decide.decision import with_provenance
    from cytoloc.decide.inputs import join_members, refuse_trained_on
    from cytoloc.errors import SettingsError
    from cytoloc.files import check_outputs, new_files, sha256_of
    from cytoloc.labels.ids import warn_about_ids
    from cytoloc.labels.lists import read_groups, read_labels, write_locations
    from cytoloc.predictions import combine

    if k is not None and not neighbors:
        raise SettingsError(
            "The option -k needs --neighbors.", hint="Give the features of the labeled fields, or remove -k."
        )
    outputs = [out, *([held_out] if held_out else []), *([neighbors_path(out)] if neighbors else [])]
    check_outputs(*outputs)
    files = member_files(predictions, member, apart=members)
    tables = read_members(files, ids=ids, label_set=label_set)
    refuse_calibrated(tables)
    refuse_trained_on({path: table for each in tables.values() for path, table in each.items()})
    for each in tables.values():
        warn_if_trained_on(each)
    combined = {name: combine(list(each.values())) for name, each in tables.items()}
    warn_about_ids({name: each.ids for name, each in combined.items()}, always=True)
    names, _, locations = join_members(combined)
    known = open_labels(labels, label_set=locations)
    voting = None
    if neighbors:
        voting, combined = _with_votes(combined, neighbors, known, folds=folds, k=k)
    shares = locations.to_matrix(read_labels(ratios, locations).values()).mean(axis=0) if ratios else None
    report = fit_and_cross_fit(
        combined,
        known,
        method=method_named(method, ensemble=ensemble, calibration=calibration, threshold=threshold, ratios=shares),
        rules=Rules(max_locations=max_locations, blank=blank, cooccurrence=cooccurrence),
        groups=read_groups(folds, names) if folds else None,
        coverage=coverage,
    )
    used = [{"file": str(path), "sha256": sha256_of(path)} for paths in files.values() for path in paths]
    decided = report.cross_fitted.decided
    facts: dict[str, Any] = {"predictions": used}
    with new_files(*outputs) as temporary:
        if voting is not None:
            from cytoloc.embed.voting import write_neighbors

            write_neighbors(voting, temporary[neighbors_path(out)])
            facts["neighbors"] = {"sha256": sha256_of(temporary[neighbors_path(out)]), "k": voting.k}
        write_decision(with_provenance(report.decision, **facts), temporary[out])
        if held_out and decided is not None:
            write_locations(names, decided, temporary[held_out], locations)
    typer.echo(
        f"{out}: macro F1 over {len(locations)} locations {report.macro_f1:.3f} on fields that the thresholds were not"
        f" fitted to ({report.macro_f1_in_sample:.3f} on the fields that they were fitted to)."
    )
    typer.echo("\n".join(_report_lines(report)))
    more = " --neighbors FEATURES" if voting is not None else ""
    typer.echo(f"Next: cytoloc decide apply PREDICTIONS --decision {out}{more} --out submission.csv")


def neighbors_path(decision: Path) -> Path:
    """Return the path of the labeled fields that vote, beside the file of a decision."""
    return decision.with_suffix(".neighbors.parquet")


def _with_votes(
    members: dict[str, Predictions],
    files: list[Path],
    labels: Dataset | LabelList,
    *,
    folds: Path | None,
    k: int | None,
) -> tuple[LabeledNeighbors, dict[str, Predictions]]:
    """Return the labeled fields that vote, and the members with the out-of-fold votes as one more."""
    from cytoloc.dataset.labeled import known_labels
    from cytoloc.embed.embeddings import join_embeddings, read_embeddings
    from cytoloc.embed.voting import DEFAULT_K, MEMBER, labeled_neighbors
    from cytoloc.errors import SettingsError
    from cytoloc.labels.lists import read_groups

    if folds is None:
        raise SettingsError(
            "--neighbors needs --folds, whose groups never vote on each other.",
            hint="Give the folds file, or a CSV file with columns Id,group.",
        )
    if MEMBER in members:
        raise SettingsError(
            f"No member can be named {MEMBER}, because the votes have this name.", hint="Give the member another name."
        )
    voting = labeled_neighbors(join_embeddings([read_embeddings(file) for file in files]), labels, k=k or DEFAULT_K)
    predicted = {name for table in members.values() for name in table.ids} & known_labels(labels).keys()
    votes = voting.out_of_fold(read_groups(folds, voting.embeddings.ids))
    return voting, {**members, MEMBER: _votes_on(votes, predicted)}


def _votes_on(votes: Predictions, ids: set[str]) -> Predictions:
    """Return the votes on some fields, and print how many of these fields have none."""
    from cytoloc.errors import TableError

    both = [name for name in votes.ids if name in ids]
    if not both:
        raise TableError(f"None of the {len(ids)} fields has features.", hint="Compute features of these fields.")
    without = len(ids) - len(both)
    if without:
        note(f"{counted(without, 'field')} without features: decided without votes.")
    return votes[both]


def apply(
    decision: DecisionPath,
    out: LocationsOut,
    predictions: PredictionPaths = None,
    members: MembersSwitch = False,
    member: MemberPaths = None,
    without: Without = None,
    order: Order = None,
    probabilities: ProbabilitiesOut = None,
    groups: Groups = None,
    label_shift: LabelShift = False,
    leak: Leak = None,
    sets: SetsOut = None,
    neighbors: NewNeighbors = None,
    ids: IdsPath = None,
    label_set: LabelSetOption = None,
) -> None:
    """Apply a decision to predictions, and write the locations of each field in the format of the Kaggle competition.

    Example: `cytoloc decide apply predictions.parquet --decision decision.json --order sample_submission.csv
    --out submission.csv`

    Example: `cytoloc decide apply a.parquet b.parquet --members --decision decision.json --out submission.csv`
    """
    import numpy as np

    from cytoloc.decide import read_decision
    from cytoloc.errors import SettingsError
    from cytoloc.files import check_outputs, new_files
    from cytoloc.labels.ids import warn_about_ids
    from cytoloc.labels.lists import read_groups, read_ids, read_known, replace_known, write_locations
    from cytoloc.prediction_files import check_predictions_path, write_predictions
    from cytoloc.predictions import combine, rows_of

    outputs = [out, *(each for each in (probabilities, sets) if each)]
    if probabilities:
        check_predictions_path(probabilities)
    check_outputs(*outputs)
    rule = read_decision(decision)
    if sets and label_shift:
        raise SettingsError(
            "--sets and --label-shift cannot be combined: the coverage holds for unshifted probabilities.",
            hint="Remove one of them.",
        )
    if sets and rule.sets is None:
        raise SettingsError(f"{decision} has no prediction sets.", hint="Fit it again with `coverage`, such as 0.9.")
    tables = read_members(member_files(predictions, member, apart=members), ids=ids, label_set=label_set)
    for path, table in next(iter(tables.values())).items():
        rule.label_set.refuse_other(table.label_set, what=path, than=str(decision))
    refuse_calibrated(tables)
    combined = {name: combine(list(each.values())) for name, each in tables.items()}
    warn_about_ids({name: each.ids for name, each in combined.items()}, always=True)
    fields = read_ids(order) if order else tuple(dict.fromkeys(i for each in combined.values() for i in each.ids))
    combined |= _new_votes(rule, decision, neighbors, without=without or (), ids=set(fields))
    rows_of(fields, list({i: None for each in combined.values() for i in each.ids}), where=str(order or "predictions"))
    result = rule(
        combined,
        groups=read_groups(groups, fields) if groups else None,
        label_shift=label_shift,
        without=without or (),
        fields=fields,
    )
    labels = read_known(leak, result.ids, rule.label_set) if leak else {}
    decided = replace_known(np.array(result.decided, np.bool_), result.ids, labels, rule.label_set)
    with new_files(*outputs) as temporary:
        write_locations(result.ids, decided, temporary[out], rule.label_set)
        if probabilities:
            write_predictions(result, temporary[probabilities])
        if sets and rule.sets:
            write_locations(result.ids, rule.sets.sets(result.probabilities), temporary[sets], rule.label_set)
    typer.echo(f"{out}: {counted(len(result), 'field')}, {decided.sum() / len(result):.2f} locations per field.")
    if leak:
        typer.echo(f"{counted(len(labels), 'field')} with the labels of {leak}.")
    typer.echo(f"Next, if labels are known: cytoloc evaluate {out} --labels LABELS")


def _new_votes(
    rule: Decision, path: Path, files: list[Path] | None, *, without: Sequence[str], ids: set[str]
) -> dict[str, Predictions]:
    """Return the votes of the labeled fields of a decision on new fields, if the decision has such a member."""
    from cytoloc.embed.embeddings import join_embeddings, read_embeddings
    from cytoloc.embed.voting import MEMBER, read_neighbors
    from cytoloc.errors import SettingsError, TableError
    from cytoloc.files import sha256_of

    facts = rule.fitted_on.get("neighbors")
    if not files:
        if facts and MEMBER not in without:
            raise SettingsError(
                f"{path} needs the votes of neighbors.",
                hint="Give --neighbors, the features of the fields, or --without neighbors.",
            )
        return {}
    if not facts:
        raise SettingsError(f"{path} has no neighbors.", hint="Remove --neighbors, or fit with --neighbors.")
    reference = neighbors_path(path)
    voting = read_neighbors(reference)
    if sha256_of(reference) != facts["sha256"]:
        raise TableError(f"{reference} is not the file that was written with {path}.", hint="Fit the decision again.")
    return {MEMBER: _votes_on(voting(join_embeddings([read_embeddings(file) for file in files])), ids)}


def _report_lines(report: DecisionReport) -> list[str]:
    """Return lines about the candidates of ``auto``, the effect of each rule, and the prediction sets."""
    lines = []
    facts: dict[str, Any] = report.decision.fitted_on
    if "candidates" in facts:
        lines.append(
            f"\n{'candidate':<34} {'macro F1':>9} {'log loss':>9}   cross-fitted on"
            f" {facts['candidates_compared_on']} fields"
        )
        for row in facts["candidates"]:
            loss = "-" if row["log_loss"] is None else f"{row['log_loss']:.4f}"
            chosen = "  <- chosen" if row["method"] == report.decision.method.name else ""
            lines.append(f"{row['method']:<34} {row['macro_f1']:>9.4f} {loss:>9}{chosen}")
        lines += [
            facts["reason"],
            "Log loss is divided by the log loss of the class frequencies; values below 1 are better than these.",
            "The macro F1 above the table includes the choice of the method, made again for each cross-fitting part.",
            "",
        ]
    for row in report.rules:
        option = RULE_OPTIONS.get(row["rule"])
        off = "" if row["on"] else f" (off; {option})" if option else " (off)"
        changed = "changed" if row["on"] else "would change"
        lines.append(
            f"{row['rule']}{off}: {counted(row['fields_changed'], 'field')} {changed}, macro F1"
            f" {row['macro_f1_with']:.4f} with and {row['macro_f1_without']:.4f} without"
        )
    if sets := report.decision.sets:
        lines.append(
            f"Prediction sets for a coverage of {sets.coverage:g}: all locations with a probability of at least"
            f" {sets.limit:.3f}. With limits fitted to other fields, the sets contain all true locations of"
            f" {sets.covered:.1%} of the fields, and {sets.mean_size:.1f} locations on average."
        )
    return lines
