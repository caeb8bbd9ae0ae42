"""Commands that look at fields before anything learns from them: duplicates, audit, leak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cytoloc.cli.console import counted, progress, warn_if_unfinished
from cytoloc.cli.members import LabelSetOption

if TYPE_CHECKING:
    from cytoloc.curation.audit import Audit

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
            help="Most bits of 64 by which the hashes of microtubules, protein, nucleus may differ; or, for any"
            " channels, CHANNEL=BITS with commas between, such as protein=12,actin=14."
        ),
    ] = "14,12,10",
    turns: Annotated[bool, typer.Option(help="Also turned and mirrored copies; reads every image once.")] = True,
    confirm: Annotated[bool, typer.Option(help="Lay the images of each pair over each other.")] = True,
    groups: Annotated[
        Path | None, typer.Option(help="A new CSV id,group of the fields that copies tie together.")
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
    from cytoloc.dataset.store import open_dataset
    from cytoloc.files import check_outputs, new_files
    from cytoloc.report.figures import duplicates_sheet

    most = _limits(limits)
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


def _limits(text: str) -> dict[str, int]:
    """Return the most bits by which each channel may differ, by its name."""
    from cytoloc.curation.hamming import DEFAULT_LIMITS

    words = [word.strip() for word in text.split(",")]
    named = [word.partition("=") for word in words]
    if not any("=" in word for word in words) and len(words) == len(DEFAULT_LIMITS):
        named = [(channel, "=", word) for channel, word in zip(DEFAULT_LIMITS, words, strict=True)]
    limits = {channel: int(bits) for channel, _, bits in named if channel and bits.isdecimal() and int(bits) <= 64}
    if len(limits) < len(words):
        raise typer.BadParameter(
            f"{text!r} is not three numbers from 0 to 64, as in 14,12,10, nor CHANNEL=BITS with commas between.",
            param_hint="'--limits'",
        )
    return limits


def audit(
    listed: Annotated[
        Path, typer.Argument(help="The labels to be judged: CSV Id,Target, or a dataset.", metavar="LIST.csv")
    ],
    truth: Annotated[Path, typer.Option(help="The labels that are trusted: CSV Id,Target, or a dataset.")],
    pairs: Annotated[
        Path | None,
        typer.Option(help="Which field of the list is which trusted one; by default those of the same id."),
    ] = None,
    match: Annotated[
        Literal["field", "well"],
        typer.Option(help="well: judge a field of the list by the truth of another field of its well."),
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
    """Say how far two label lists agree, location by location.

    Corrections of `--write` give the truth of a field to all fields of its well; a column Was keeps what the list had.

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
        _print_audit(result)
        if groups is not None and groups.is_empty():
            typer.echo(f"\nNo field says of which {by} it is.")
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


def _print_audit(result: Audit) -> None:
    total = len(result.matched)
    missing = f" ({counted(result.unmatched, 'pair')} not in both lists)" if result.unmatched else ""
    typer.echo(
        f"{counted(total, 'pair')} compared{missing}: {result.equal} label sets equal, {result.equal / total:.1%}."
    )
    typer.echo(f"micro F1 {result.micro_f1:.3f}, macro F1 {result.macro_f1:.3f}\n")
    typer.echo(f"{'location':<43} {'both':>6} {'only listed':>12} {'only true':>10} {'F1':>6}  wrong labels (95 %)")
    for row in result.classes.iter_rows(named=True):
        if row["f1"] is None:
            continue
        wrong = (
            "" if row["wrong"] is None else f"{row['wrong']:.1%} ({row['wrong_low']:.1%} to {row['wrong_high']:.1%})"
        )
        name = f"{row['key']:>2} {row['location']}" if row["key"].isdecimal() else row["location"]
        typer.echo(
            f"{name:<43} {row['both']:>6} {row['only_listed']:>12} {row['only_true']:>10} {row['f1']:>6.3f}  {wrong}"
        )


def leak(
    pairs: Annotated[
        list[Path], typer.Argument(help="Of `cytoloc duplicates`, or a published list of pairs.", metavar="PAIRS…")
    ],
    labels: Annotated[
        list[Path],
        typer.Option(help="Labeled fields: CSV Id,Target, or a dataset. Can be repeated; the first counts."),
    ],
    out: Annotated[Path, typer.Option(help="The new CSV, Id,Target and where each comes from.")],
    test: Annotated[
        Path | None,
        typer.Option(help="The test fields: a dataset, or a CSV with Id. By default ids that are nobody else's."),
    ] = None,
    doubtful: Annotated[bool, typer.Option(help="Also take pairs with the verdict doubtful.")] = False,
    label_set: LabelSetOption = None,
) -> None:
    """Find test fields that are copies of labeled ones, and what their labels say.

    Labels are those of the copy, or of its well. `decide apply --leak` uses them, `evaluate --leak` says what they do.

    Example: `cytoloc leak pairs.csv --labels external.dataset --test test.dataset --out leak.csv`
    """
    from cytoloc.curation.leak import find_leak, write_leak
    from cytoloc.curation.pairs import open_pairs
    from cytoloc.dataset.store import open_dataset
    from cytoloc.files import check_outputs
    from cytoloc.lists import read_ids

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
