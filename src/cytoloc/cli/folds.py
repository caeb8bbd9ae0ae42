"""The command ``cytoloc folds``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytoloc.choices import GroupBy
from cytoloc.cli.console import counted, progress, warn_if_unfinished
from cytoloc.cli.members import AsJson, LabelSetOption

if TYPE_CHECKING:
    from cytoloc.curation.fold_quality import FoldQuality
    from cytoloc.curation.target_fold import Resemblance


UNLIKE = 0.1
"""Largest difference between the validation fold and the target that causes no warning."""

PairLists = Annotated[
    list[Path] | None,
    typer.Option(help="CSV file of near-duplicate pairs, which folds never separate. Can be repeated."),
]
Like = Annotated[
    str | None,
    typer.Option(
        help="Make one validation fold, fold 0, whose images resemble the fields of this dataset or CSV file."
    ),
]
Without = Annotated[
    list[str] | None,
    typer.Option(
        help="Leave out fields with this quality flag, of any channel or of one: blurred, or 'nucleus empty'. Can be"
        " repeated."
    ),
]
LabelsSource = Annotated[
    str,
    typer.Argument(help="Dataset, or a CSV file of labels with columns Id,Target.", metavar="DATASET|CSV"),
]
FoldsOut = Annotated[Path | None, typer.Option(help="New folds file: CSV with columns id,group,fold.")]
FoldCount = Annotated[
    int | None,
    typer.Option("-k", help="Number of folds. With --like, fold 0 gets 1/K of the fields. Default: 5.", min=2),
]
Grouping = Annotated[
    GroupBy,
    typer.Option(
        help="Fields that folds never separate: all fields of a well, all fields of an antibody, or none (field)."
    ),
]
Check = Annotated[
    Path | None,
    typer.Option(help="Check this folds file instead of making one: no group may be in more than one fold."),
]
Sheet = Annotated[
    Path | None,
    typer.Option(help="Also draw the number of fields per location and fold to this .png, .svg or .pdf file."),
]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("folds")(folds)


def folds(
    path: LabelsSource,
    out: FoldsOut = None,
    k: FoldCount = None,
    group: Grouping = "well",
    pairs: PairLists = None,
    seed: Annotated[int, typer.Option(help="Random seed of the stratified split.", min=0)] = 0,
    without: Without = None,
    like: Like = None,
    check: Check = None,
    sheet: Sheet = None,
    as_json: AsJson = False,
    label_set: LabelSetOption = None,
) -> None:
    """Split fields into folds that separate no group and have equal shares of every location.

    A group contains the fields of one well (or antibody), and their near-duplicates in `--pairs`. Near-duplicates are
    also followed through fields of other datasets.

    Example: `cytoloc folds train.dataset -k 5 --pairs pairs.csv --out folds.csv --sheet folds.png`
    """
    from cytoloc.curation.fold_quality import fold_quality
    from cytoloc.curation.folds import make_folds
    from cytoloc.curation.folds_file import check_folds, write_folds
    from cytoloc.curation.groups import group_known
    from cytoloc.curation.pairs import tied_ids
    from cytoloc.curation.target_fold import make_validation_fold
    from cytoloc.dataset.labeled import open_labels
    from cytoloc.dataset.store import Dataset
    from cytoloc.files import check_outputs, new_files

    if (out is None) == (check is None):
        raise typer.BadParameter("Give either --out to make folds, or --check to check them.")
    if like and without:
        raise typer.BadParameter("--like uses all fields. Remove --without.")
    if check and (like or without or k is not None):
        raise typer.BadParameter("--check only reads a folds file. Remove -k, --like and --without.")
    outputs, sheets = [out] if out else [], [sheet] if sheet else []
    check_outputs(*outputs, images=sheets)
    source = open_labels(path, label_set=label_set)
    if isinstance(source, Dataset):
        warn_if_unfinished(source)
    tied = tied_ids(pairs or ())
    alike: list[Resemblance] = []
    unknown = 0
    if check:
        made, unknown = check_folds(check, source, group_by=group, pairs=tied)
    elif like:
        with progress("Comparing images") as advance:
            made, alike = make_validation_fold(
                source,
                like,
                k=k or 5,
                group_by=group,
                pairs=tied,
                seed=seed,
                progress=advance,
            )
    else:
        made = make_folds(source, k=k or 5, group_by=group, pairs=tied, seed=seed, without=without or ())
    fields = source.fields
    found = fold_quality(made, fields, source.label_set, seed=seed)
    with new_files(*outputs, images=sheets) as temporary:
        if out:
            write_folds(made, temporary[out])
        if sheet:
            # Drawing is slow to import.
            from cytoloc.report.figures import fold_sheet

            fold_sheet(found.class_fields, found.fields, source.label_set, temporary[sheet])
    ids = set(fields["id"])
    counts = {
        "alone": int((~group_known(fields.filter(fields["labels"].is_not_null()), group)).sum()),
        "left_out": made["fold"].null_count(),
        "unknown": unknown,
        "half_strange_pairs": sum((a in ids) != (b in ids) for a, b in tied),
        "strange_pairs": sum(a not in ids and b not in ids for a, b in tied),
    }
    if as_json:
        typer.echo(json.dumps({**found.to_json(), "like": [vars(each) for each in alike], **counts}, indent=2))
        return
    typer.echo("\n".join(_summary(found, alike, str(out or check), group, counts, checked=check is not None)))
    if out and isinstance(source, Dataset):
        typer.echo(f"Next: cytoloc train RECIPE {path} --folds {out} --out runs")


def _summary(
    found: FoldQuality,
    alike: list[Resemblance],
    where: str,
    group: str,
    counts: dict[str, int],
    *,
    checked: bool,
) -> list[str]:
    first, last = ", ".join(map(str, found.fields[:-1])), found.fields[-1]
    sizes = f"{first} and {last}" if first else str(last)
    in_groups = f"{counted(sum(found.fields), 'field')} in {counted(int(found.groups.sum()), 'group')}"
    lines = [f"{where}: {in_groups}, split into {counted(len(found.fields), 'fold')} of {sizes} fields."]
    if checked:
        lines.append("No group is in two folds.")
    if found.together:
        lines.append(
            f"{counted(found.together, 'pair')} of fields must be in the same fold. A random split would separate"
            f" {found.cut_at_random} of them; these folds separate none."
        )
    if found.scarce:
        names = ", ".join(found.label_set[number].name for number in found.scarce)
        lines.append(f"Some folds have no field of these locations, which have fewer groups than folds: {names}.")
    if found.worst and not alike:
        (number, ratio), other = found.worst, "other " if found.scarce else ""
        lines.append(
            f"The least evenly divided {other}location is {found.label_set[number].name}, with"
            f" {min(found.class_fields[number])} to {max(found.class_fields[number])} fields per fold."
            if ratio
            else f"For every {other}location, the numbers of fields per fold differ by one at most."
        )
    lines += [
        f"{each.look}: differs from the target by {each.before:.0%} for all fields, by {each.after:.0%} for fold 0"
        + ("; too few fields look like the target." if each.after > UNLIKE else ".")
        for each in alike
    ]
    if counts["alone"]:
        lines.append(
            f"{counted(counts['alone'], 'field')} without a known {group}: only --pairs can keep such fields together."
        )
    if counts["half_strange_pairs"]:
        lines.append(
            f"{counted(counts['half_strange_pairs'], 'pair')} of --pairs with one field in this dataset and one not."
        )
    if counts["strange_pairs"]:
        lines.append(
            f"{counted(counts['strange_pairs'], 'pair')} of --pairs with both fields outside this dataset; they can"
            " still connect its fields."
        )
    if counts["unknown"]:
        lines.append(f"{counted(counts['unknown'], 'field')} of the folds file that are not in the dataset.")
    if counts["left_out"]:
        lines.append(f"{counted(counts['left_out'], 'field')} left out.")
    return lines
