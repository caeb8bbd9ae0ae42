"""Commands that check fields before training: duplicates, audit, leak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from cytoloc.cli.console import counted, progress, warn_if_unfinished
from cytoloc.cli.members import LabelSetOption

PAIRS_SHOWN = 24
"""Pairs on a sheet."""


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("duplicates")(duplicates)
    app.command("audit")(audit)
    app.command("leak")(leak)


def duplicates(
    paths: Annotated[
        list[str], typer.Argument(help="Datasets; fields of all are compared with each other.", metavar="DATASET…")
    ],
    out: Annotated[Path, typer.Option(help="The new CSV of pairs; `folds --pairs` keeps them together.")],
    limits: Annotated[
        str,
        typer.Option(
            help="Most bits of 64 by which the hashes of microtubules, protein and nucleus may differ; or CHANNEL=BITS"
            " for any channels, such as protein=12,actin=14."
        ),
    ] = "14,12,10",
    turns: Annotated[bool, typer.Option(help="Also find turned and mirrored copies; reads every image once.")] = True,
    confirm: Annotated[bool, typer.Option(help="Confirm each pair by aligning its images.")] = True,
    groups: Annotated[
        Path | None, typer.Option(help="A new CSV id,group of fields that are copies of each other.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="A PNG of the doubtful pairs, side by side.")] = None,
) -> None:
    """Find near-duplicate fields, within and across datasets.

    Pairs are found by perceptual hashes and confirmed on their pixels: the column verdict says copy, doubtful or
    different, and only the first two are written.

    Example: `cytoloc duplicates train.dataset external.dataset --out pairs.csv --sheet doubtful.png`
    """
    import polars as pl

    from cytoloc.curation.duplicates import find_duplicates, groups_of, write_duplicates
    from cytoloc.curation.hamming import DEFAULT_LIMITS
    from cytoloc.dataset.store import open_dataset
    from cytoloc.files import check_outputs, new_files
    from cytoloc.report.figures import duplicates_sheet

    words = [word.strip() for word in limits.split(",")]
    named = [word.partition("=") for word in words]
    if "=" not in limits and len(words) == len(DEFAULT_LIMITS):
        named = [(channel, "=", word) for channel, word in zip(DEFAULT_LIMITS, words, strict=True)]
    most = {channel: int(bits) for channel, _, bits in named if channel and bits.isdecimal() and int(bits) <= 64}
    if len(most) < len(words):
        raise typer.BadParameter(
            f"{limits!r} is not three numbers from 0 to 64, as in 14,12,10, nor CHANNEL=BITS with commas between.",
            param_hint="'--limits'",
        )
    outputs, sheets = [out, *([groups] if groups else [])], [sheet] if sheet else []
    check_outputs(*outputs, images=sheets)
    datasets = [open_dataset(path) for path in paths]
    for each in datasets:
        warn_if_unfinished(each)
    with progress("looking for duplicates") as advance:
        found = find_duplicates(
            datasets,
            limits=most,
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
    largest = f"; the largest group has {len(together[0])} fields" if together else ""
    typer.echo(f"{fields}{kinds}{largest}.")
    if sheet is not None and not doubtful.is_empty():
        left = f" of {doubtful.height}" if doubtful.height > PAIRS_SHOWN else ""
        typer.echo(f"{sheet}: {counted(min(PAIRS_SHOWN, doubtful.height), 'doubtful pair')}{left}.")
    elif sheet is not None:
        earlier = f"; {sheet} is of an earlier search" if sheet.exists() else ""
        typer.echo(f"No pair is doubtful: nothing to draw{earlier}.")


def audit(
    listed: Annotated[
        Path, typer.Argument(help="The labels to audit: CSV Id,Target, or a dataset.", metavar="LIST.csv")
    ],
    truth: Annotated[Path, typer.Option(help="The trusted labels: CSV Id,Target, or a dataset.")],
    pairs: Annotated[
        Path | None,
        typer.Option(help="Pairs of a field of the list and a trusted field; by default fields with the same id."),
    ] = None,
    match: Annotated[
        Literal["field", "well"],
        typer.Option(help="well: compare a field of the list with the truth of another field of its well."),
    ] = "field",
    truth_label_set: Annotated[
        str | None,
        typer.Option(
            help="Label set of the truth, if it is not the list's: the list is converted to it, as `cytoloc labels"
            " convert` does.",
            metavar="NAME|FILE",
        ),
    ] = None,
    by: Annotated[
        Literal["antibody", "well"] | None, typer.Option(help="Also show the antibodies, or wells, that agree least.")
    ] = None,
    write: Annotated[Path | None, typer.Option(help="A new CSV Id,Target: the list with corrected labels.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    label_set: LabelSetOption = None,
) -> None:
    """Compare two label lists, location by location.

    With `--write`, the truth of a field corrects all fields of its well; the column Was has the earlier labels.

    Example: `cytoloc audit HPAv18RBGY_wodpl.csv --truth train.csv --pairs external_train_duplicates.txt`

    Example: `cytoloc audit train.csv --truth train_2021.csv --truth-label-set hpa19`
    """
    from cytoloc.curation.audit import audit_labels, write_corrections
    from cytoloc.dataset.labeled import open_labels
    from cytoloc.errors import SettingsError
    from cytoloc.files import check_outputs

    if write is not None:
        check_outputs(write)
        if match == "well" or truth_label_set is not None:
            raise SettingsError(
                "--write needs the truth of the listed fields themselves, in the label set of the list.",
                hint="Leave out --match well and --truth-label-set.",
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
            typer.echo(f"\nThe {by} of no field is known.")
        elif groups is not None:
            typer.echo(f"\n{by:<20} {'fields':>7} {'different':>10}")
            for row in groups.head(PAIRS_SHOWN).iter_rows():
                typer.echo(f"{row[0]:<20} {row[1]:>7} {row[3]:>10}")
            if groups.height > PAIRS_SHOWN:
                typer.echo(f"and {groups.height - PAIRS_SHOWN} more, which differ no more often; --json has all.")
    if write is not None:
        corrected = result.corrections()
        write_corrections(result.listed, corrected, write, given.label_set)
        typer.echo(f"{write}: {len(corrected)} of {counted(len(result.listed), 'label set')} corrected.", err=as_json)


def leak(
    pairs: Annotated[
        list[Path],
        typer.Argument(help="Pairs of `cytoloc duplicates`, or a published list of pairs.", metavar="PAIRS…"),
    ],
    labels: Annotated[
        list[Path],
        typer.Option(
            help="Labeled fields: CSV Id,Target, or a dataset. May be repeated; the first label of a field counts."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The new CSV: Id, Target and their source.")],
    test: Annotated[
        Path | None,
        typer.Option(
            help="The test fields: a dataset, or a CSV with Id. By default ids without labels that name no well."
        ),
    ] = None,
    doubtful: Annotated[bool, typer.Option(help="Also use pairs with the verdict doubtful.")] = False,
    label_set: LabelSetOption = None,
) -> None:
    """Find test fields that are copies of labeled fields, and list these labels.

    Labels are those of the copy, or of its well. `decide apply --leak` uses them; `evaluate --leak` shows their effect.

    Example: `cytoloc leak pairs.csv --labels external.dataset --test test.dataset --out leak.csv`
    """
    from cytoloc.curation.leak import find_leak, write_leak
    from cytoloc.curation.pairs import open_pairs
    from cytoloc.dataset.store import open_dataset
    from cytoloc.files import check_outputs
    from cytoloc.labels.lists import read_ids

    check_outputs(out)
    tied = [pair for pair in open_pairs(pairs) if doubtful or pair.verdict != "doubtful"]
    ids = None if test is None else open_dataset(test).ids if test.is_dir() else read_ids(test)
    found = find_leak(tied, labels, test=None if ids is None else set(ids), doubtful=doubtful, label_set=label_set)
    write_leak(found, out)
    from_wells = int((found.table["labels_of"] == "well").sum())
    contradicted = int((found.table["contradicted"] > 0).sum())
    lines = [
        f"{out}: {counted(found.table.height, 'test field')} with labels of a copy, {from_wells} of them by its well."
        if tied
        else f"{out}: there are no pairs{'' if doubtful else ' that are not doubtful'}, so no test field is a copy."
    ]
    if contradicted:
        lines.append(f"{counted(contradicted, 'field')} with several copies whose labels differ: the surest counts.")
    if found.unlabeled:
        lines.append(f"{counted(found.unlabeled, 'test field')} whose copies have no labels.")
    if found.passed_over:
        lines.append(
            f"{counted(found.passed_over, 'pair')} not of a test field and another one, or held to be different."
        )
    typer.echo("\n".join(lines))
