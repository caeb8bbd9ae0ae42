"""The commands ``cytoloc duplicates``, ``audit`` and ``leak``, which check fields before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from cytoloc.cli.console import counted, progress, warn_if_unfinished
from cytoloc.cli.members import AsJson, LabelSetOption

PAIRS_SHOWN = 24
"""Number of pairs on a sheet, and of rows in a printed table."""


AuditedLabels = Annotated[
    Path,
    typer.Argument(help="Labels to audit: a CSV file with columns Id,Target, or a dataset.", metavar="LIST.csv"),
]
TrustedLabels = Annotated[
    Path | None, typer.Option(help="Trusted labels: a CSV file with columns Id,Target, or a dataset.")
]
OutOfFold = Annotated[
    list[Path] | None,
    typer.Option(
        help="Out-of-fold predictions, or folders of runs, instead of --truth: lists labels that are probably"
        " wrong. Can be repeated."
    ),
]
Folds = Annotated[
    Path | None,
    typer.Option(
        help="Folds file, with --predictions. The probabilities of each group, such as a well, are averaged first."
    ),
]
AuditedPairs = Annotated[
    Path | None,
    typer.Option(
        help="CSV file of pairs of an audited and a trusted field. Default: fields with the same id are compared."
    ),
]
Match = Annotated[
    Literal["field", "well"],
    typer.Option(
        help="field: compare each field with its own trusted labels. well: compare it with the trusted labels of"
        " another field of its well."
    ),
]
TruthLabelSet = Annotated[
    str | None,
    typer.Option(
        help="Label set of --truth, if it differs. The audited labels are converted to it, as `cytoloc labels"
        " convert` does.",
        metavar="NAME|FILE",
    ),
]
By = Annotated[
    Literal["antibody", "well"] | None,
    typer.Option(help="Also list the antibodies or wells whose labels differ most often."),
]
WriteTo = Annotated[
    Path | None,
    typer.Option(
        help="With --truth: write the corrected labels to this new CSV file with columns Id,Target,Was. With"
        " --predictions: write the list of labels that are probably wrong."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("duplicates")(duplicates)
    app.command("audit")(audit)
    app.command("leak")(leak)


def duplicates(
    paths: Annotated[
        list[str],
        typer.Argument(help="Datasets. Fields are compared within and across all of them.", metavar="DATASET…"),
    ],
    out: Annotated[Path, typer.Option(help="New CSV file of pairs, for `cytoloc folds --pairs`.")],
    limits: Annotated[
        str | None,
        typer.Option(
            help="Maximum Hamming distance, of 64 bits, between the perceptual hashes of microtubules, protein and"
            " nucleus; or CHANNEL=BITS for other channels, such as protein=12,actin=14. Default: 14,12,10; and 12 for"
            " each channel of datasets with fewer than two of these channels."
        ),
    ] = None,
    turns: Annotated[bool, typer.Option(help="Also find rotated and mirrored copies. Reads every image once.")] = True,
    confirm: Annotated[bool, typer.Option(help="Confirm each pair by aligning the two images.")] = True,
    groups: Annotated[
        Path | None, typer.Option(help="Also write the groups of copies to this new CSV file with columns id,group.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Also draw the doubtful pairs side by side to this new .png, .svg or .pdf file.")
    ] = None,
) -> None:
    """Find near-duplicate fields, within and across datasets.

    Pairs are found by perceptual hashes and confirmed on their pixels. The column verdict is copy, doubtful or
    different; pairs with the verdict different are not written.

    Example: `cytoloc duplicates train.dataset external.dataset --out pairs.csv --sheet doubtful.png`
    """
    import polars as pl

    from cytoloc.curation.duplicates import find_duplicates, groups_of, write_duplicates
    from cytoloc.curation.hamming import DEFAULT_LIMITS
    from cytoloc.dataset.store import open_dataset
    from cytoloc.files import check_outputs, new_files
    from cytoloc.report.figures import duplicates_sheet

    words = [word.strip() for word in limits.split(",")] if limits else []
    named = [word.partition("=") for word in words]
    if limits and "=" not in limits and len(words) == len(DEFAULT_LIMITS):
        named = [(channel, "=", word) for channel, word in zip(DEFAULT_LIMITS, words, strict=True)]
    most = {channel: int(bits) for channel, _, bits in named if channel and bits.isdecimal() and int(bits) <= 64}
    if len(most) < len(words):
        raise typer.BadParameter(
            f"{limits!r} is neither three numbers from 0 to 64, such as 14,12,10, nor a list of CHANNEL=BITS.",
            param_hint="'--limits'",
        )
    outputs, sheets = [out, *([groups] if groups else [])], [sheet] if sheet else []
    check_outputs(*outputs, images=sheets)
    datasets = [open_dataset(path) for path in paths]
    for each in datasets:
        warn_if_unfinished(each)
    with progress("Searching for duplicates") as advance:
        found = find_duplicates(
            datasets,
            limits=most if limits else None,
            turned_too=turns,
            confirm=confirm,
            progress=lambda _what, done, total: advance(done, total),
        )
    pairs = found.filter(pl.col("verdict").fill_null("") != "different")
    together = groups_of(pairs.filter(pl.col("verdict").fill_null("copy") == "copy"))
    doubtful = pairs.filter(pl.col("verdict") == "doubtful")
    with new_files(*outputs, images=sheets) as temporary:
        write_duplicates(pairs, temporary[out])
        if groups is not None:
            rows = [(name, number) for number, group in enumerate(together) for name in group]
            table = pl.DataFrame(rows, schema={"id": pl.String, "group": pl.Int64}, orient="row")
            table.write_csv(temporary[groups])
        if sheet is not None and not doubtful.is_empty():
            duplicates_sheet(doubtful.head(PAIRS_SHOWN), datasets, temporary[sheet])
    fields = f"{out}: {counted(pairs.height, 'pair')} of {sum(map(len, datasets))} fields"
    kinds = f", {doubtful.height} of them doubtful; hashes suggested {found.height}" if confirm else ", not confirmed"
    largest = f"; the largest group has {counted(len(together[0]), 'field')}" if together else ""
    typer.echo(f"{fields}{kinds}{largest}.")
    if not pairs.is_empty():
        typer.echo(f"Next: cytoloc folds {paths[0]} --pairs {out} --out folds.csv")
    if sheet is not None and not doubtful.is_empty():
        left = f" of {doubtful.height}" if doubtful.height > PAIRS_SHOWN else ""
        typer.echo(f"{sheet}: {counted(min(PAIRS_SHOWN, doubtful.height), 'doubtful pair')}{left}.")
    elif sheet is not None:
        earlier = f" {sheet} is left from an earlier search." if sheet.exists() else ""
        typer.echo(f"No pair is doubtful, so no sheet was drawn.{earlier}")


def audit(
    listed: AuditedLabels,
    truth: TrustedLabels = None,
    predictions: OutOfFold = None,
    folds: Folds = None,
    pairs: AuditedPairs = None,
    match: Match = "field",
    truth_label_set: TruthLabelSet = None,
    by: By = None,
    write: WriteTo = None,
    as_json: AsJson = False,
    label_set: LabelSetOption = None,
) -> None:
    """Compare labels with trusted labels, location by location, or with out-of-fold predictions.

    With `--truth` and `--write`, the trusted labels of a field replace the labels of all fields of its well. The column
    Was contains the earlier labels.

    With `--predictions`, labels that are probably missing or wrong are listed (confident learning). The clearest cases
    come first. `--write` writes the whole list.

    Example: `cytoloc audit HPAv18RBGY_wodpl.csv --truth train.csv --pairs external_train_duplicates.txt`

    Example: `cytoloc audit train.csv --truth train_2021.csv --truth-label-set hpa19`

    Example: `cytoloc audit train.csv --predictions runs/ --folds folds.csv --write suspects.csv`
    """
    from cytoloc.curation.audit import audit_labels, write_corrections
    from cytoloc.dataset.labeled import open_labels
    from cytoloc.errors import SettingsError
    from cytoloc.files import check_outputs

    if (truth is None) == (not predictions):
        raise SettingsError("Labels are compared with --truth or with --predictions.", hint="Give one of them.")
    if write is not None:
        check_outputs(write)
    if predictions:
        _audit_by_predictions(listed, predictions, folds, write=write, as_json=as_json, label_set=label_set)
        return
    assert truth is not None  # noqa: S101  checked above
    if folds is not None:
        raise SettingsError("--folds is for --predictions only.", hint="Remove --folds.")
    if write is not None and (match == "well" or truth_label_set is not None):
        raise SettingsError(
            "--write needs trusted labels of the audited fields themselves, in the same label set.",
            hint="Remove --match well and --truth-label-set.",
        )
    given = open_labels(listed, label_set=label_set)
    result = audit_labels(given, truth, pairs=pairs, match=match, truth_label_set=truth_label_set)
    if result.conversion:
        typer.echo("\n".join([*result.conversion, ""]), err=as_json)
    groups = result.by(by) if by else None
    if as_json:
        more = {str(by): groups.to_dicts()} if groups is not None else {}
        typer.echo(json.dumps(result.to_json() | more, indent=2))
    else:
        typer.echo("\n".join(result.summary()))
        if groups is not None and groups.is_empty():
            typer.echo(f"\nNo field has a known {by}.")
        elif groups is not None:
            typer.echo(f"\n{by:<20} {'fields':>7} {'different':>10}")
            for row in groups.head(PAIRS_SHOWN).iter_rows():
                typer.echo(f"{row[0]:<20} {row[1]:>7} {row[3]:>10}")
            if groups.height > PAIRS_SHOWN:
                typer.echo(f"and {groups.height - PAIRS_SHOWN} more, which differ no more often; --json lists all.")
    if write is not None:
        corrected = result.corrections()
        write_corrections(result.listed, corrected, write, given.label_set)
        typer.echo(f"{write}: {len(corrected)} of {counted(len(result.listed), 'field')} corrected.", err=as_json)


def _audit_by_predictions(
    listed: Path, paths: list[Path], folds: Path | None, *, write: Path | None, as_json: bool, label_set: str | None
) -> None:
    """List labels that are probably wrong, by confident learning."""
    from cytoloc.cli.members import read_prediction_files
    from cytoloc.curation.folds_file import read_folds
    from cytoloc.dataset.labeled import open_labels
    from cytoloc.decide import find_label_errors
    from cytoloc.decide.inputs import refuse_trained_on
    from cytoloc.files import new_file
    from cytoloc.predictions import combine

    tables = read_prediction_files(paths, ids=None, label_set=label_set)
    refuse_trained_on(tables)
    combined = combine(list(tables.values()))
    labels = open_labels(listed, label_set=label_set or combined.label_set)
    suspects = find_label_errors(combined, labels, groups=read_folds(folds) if folds else None)
    if write is not None:
        with new_file(write) as temporary:
            suspects.write_csv(temporary)
    if as_json:
        typer.echo(json.dumps(suspects.to_dicts(), indent=2))
        return
    missing = suspects.filter(problem="missing").height
    typer.echo(
        f"{counted(suspects.height, 'label')} of {counted(suspects['id'].n_unique(), 'field')} are probably wrong:"
        f" {missing} missing, {suspects.height - missing} extra."
    )
    for row in suspects.head(PAIRS_SHOWN).iter_rows(named=True):
        typer.echo(f"{row['id']}: {row['location']} {row['problem']}, probability {row['probability']:.2f}")
    if suspects.height > PAIRS_SHOWN:
        typer.echo(f"and {suspects.height - PAIRS_SHOWN} more; --write or --json lists all.")


def leak(
    pairs: Annotated[
        list[Path],
        typer.Argument(help="Pair files of `cytoloc duplicates`, or published lists of pairs.", metavar="PAIRS…"),
    ],
    labels: Annotated[
        list[Path],
        typer.Option(
            help="Labels: a CSV file with columns Id,Target, or a dataset. Can be repeated; the first label of a field"
            " is used."
        ),
    ],
    out: Annotated[Path, typer.Option(help="New CSV file: Id, Target and the source of the labels.")],
    test: Annotated[
        Path | None,
        typer.Option(
            help="Test fields: a dataset, or a CSV file with a column Id. Default: ids that have no labels and name no"
            " well."
        ),
    ] = None,
    doubtful: Annotated[bool, typer.Option(help="Also use pairs with the verdict doubtful.")] = False,
    label_set: LabelSetOption = None,
) -> None:
    """Find test fields that are near-duplicates of labeled fields, and write their labels.

    A test field gets the labels of its copy, or of the well of its copy. Use the file with `cytoloc decide apply
    --leak`; see its effect with `cytoloc evaluate --leak`.

    Example: `cytoloc leak pairs.csv --labels external.dataset --test test.dataset --out leak.csv`
    """
    from cytoloc.curation.leak import find_leak, write_leak
    from cytoloc.curation.pairs import open_pairs
    from cytoloc.dataset.store import open_dataset
    from cytoloc.files import check_outputs
    from cytoloc.labels.lists import read_ids

    check_outputs(out)
    given = open_pairs(pairs)
    tied = [pair for pair in given if doubtful or pair.verdict != "doubtful"]
    ids = None if test is None else open_dataset(test).ids if test.is_dir() else read_ids(test)
    found = find_leak(tied, labels, test=None if ids is None else set(ids), doubtful=doubtful, label_set=label_set)
    write_leak(found, out)
    from_wells = int((found.table["labels_of"] == "well").sum())
    contradicted = int((found.table["contradicted"] > 0).sum())
    if tied:
        of_copies = f"{counted(found.table.height, 'test field')} with labels of a copy"
        lines = [f"{out}: {of_copies}, {from_wells} of them by its well."]
    else:
        names = ", ".join(map(str, pairs))
        without = f"{names} {'has' if len(pairs) == 1 else 'have'} no pairs."
        unused = f"All pairs of {names} are doubtful. Use them with --doubtful."
        lines = [f"{out}: no test fields. {unused if given else without}"]
    if contradicted:
        lines.append(
            f"{counted(contradicted, 'field')} with several copies whose labels differ: the most certain copy is used."
        )
    if found.unlabeled:
        lines.append(f"{counted(found.unlabeled, 'test field')} whose copies have no labels.")
    if found.passed_over:
        lines.append(
            f"{counted(found.passed_over, 'pair')} ignored: not a test field with another field, or known to differ."
        )
    if not found.table.is_empty():
        lines.append(
            f"Next: cytoloc decide apply PREDICTIONS --decision decision.json --leak {out} --out submission.csv"
        )
    typer.echo("\n".join(lines))
