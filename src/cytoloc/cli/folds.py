"""The command that splits fields for training and judging: folds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cytoloc.choices import GroupBy
from cytoloc.cli.console import counted, label_set_of, progress, warn_if_unfinished
from cytoloc.cli.members import LabelSetOption

if TYPE_CHECKING:
    import polars as pl

    from cytoloc.curation.fold_quality import FoldQuality
    from cytoloc.curation.target_fold import Resemblance
    from cytoloc.dataset.store import Dataset
    from cytoloc.labels import LabelSet


UNLIKE = 0.1
"""A picked fold that differs by more than this is said to."""


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("folds")(folds)


def folds(
    path: Annotated[str, typer.Argument(help="A dataset, or a label list, CSV Id,Target.", metavar="DATASET|CSV")],
    out: Annotated[Path | None, typer.Option(help="The new CSV id,group,fold.")] = None,
    k: Annotated[
        int | None,
        typer.Option("-k", help="How many folds; 5 if nothing is said. With --like, one of so many is picked.", min=2),
    ] = None,
    group: Annotated[GroupBy, typer.Option(help="What must not be separated, where it is known.")] = "well",
    pairs: Annotated[
        list[Path] | None,
        typer.Option(help="Lists of near-duplicates, kept together too; of other sources as well. Can be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the stratification.", min=0)] = 0,
    without: Annotated[
        list[str] | None,
        typer.Option(help="Leave out fields with this flag, of any channel or one: blurred, 'nucleus empty'."),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(help="Pick one validation set, fold 0, that looks like these fields: a dataset, or a CSV."),
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Instead of making folds, judge this file: nothing may cross its folds.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="A PNG of what each fold has of each location.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    label_set: LabelSetOption = None,
) -> None:
    """Split fields into folds: no group crosses them, each has its share of every location.

    Groups are wells (or antibodies), and near-duplicates by `--pairs`, also by way of fields of other sources.

    Example: `cytoloc folds train.dataset -k 5 --pairs pairs.csv --out folds.csv --sheet folds.png`
    """
    from cytoloc.curation import fold_quality as quality
    from cytoloc.curation import folds as making
    from cytoloc.curation import folds_file as table
    from cytoloc.curation.groups import group_known
    from cytoloc.curation.pairs import read_pairs
    from cytoloc.files import check_outputs, new_files

    if (out is None) == (check is None):
        raise typer.BadParameter("Folds are either made or checked: give one of --out and --check.")
    if like and without:
        raise typer.BadParameter("--like takes all fields: leave out --without.")
    if check and (like or without or k is not None):
        raise typer.BadParameter("--check judges a file as it is: leave out -k, --like and --without.")
    outputs, sheets = [out] if out else [], [sheet] if sheet else []
    check_outputs(*outputs, images=sheets)
    dataset, fields, locations = _fields(path, label_set)
    tied = [pair for file in pairs or () for pair in read_pairs(file)]
    alike: list[Resemblance] = []
    unknown = 0
    if check:
        made, unknown = _checked(check, path, fields, group=group, pairs=tied)
    elif like:
        made, alike = _pick(dataset, path, fields, like, k=k or 5, group=group, pairs=tied, seed=seed)
    else:
        made = making.make_folds(
            fields,
            k=k or 5,
            group_by=group,
            pairs=tied,
            seed=seed,
            without=without or (),
            where=path,
        )
    found = quality.fold_quality(made, fields, locations, seed=seed)
    with new_files(*outputs, images=sheets) as temporary:
        if out:
            table.write_folds(made, temporary[out])
        if sheet:
            # Drawing is slow to import.
            from cytoloc.report.figures import fold_sheet

            fold_sheet(found.class_fields, found.fields, locations, temporary[sheet])
    ids = set(fields["id"])
    counts = {
        "alone": int((~group_known(fields.filter(fields["labels"].is_not_null()), group)).sum()),
        "left_out": made["fold"].null_count(),
        "unknown": unknown,
        "half_strange_pairs": sum((a in ids) != (b in ids) for a, b in tied),
        "strange_pairs": sum(a not in ids and b not in ids for a, b in tied),
    }
    if as_json:
        typer.echo(json.dumps(_as_json(found, alike) | counts, indent=2))
        return
    typer.echo("\n".join(_lines(found, alike, str(out or check), group, counts)))


def _checked(
    check: Path, path: str, fields: pl.DataFrame, *, group: GroupBy, pairs: list[tuple[str, str]]
) -> tuple[pl.DataFrame, int]:
    """Return the folds of a file, which no group found anew crosses, and how many of its fields are not here."""
    from cytoloc.curation import folds_file as table
    from cytoloc.curation.groups import groups_of_fields
    from cytoloc.errors import TableError

    made = table.read_folds(check, grouped=False)
    labeled = fields.filter(fields["labels"].is_not_null())
    if labeled.is_empty():
        raise TableError(f"{path} has no labeled fields, so there is nothing to check.")
    together = groups_of_fields(labeled, group_by=group, pairs=pairs)
    table.refuse_crossing(made, labeled["id"].to_list(), together, where=check)
    grouped = labeled.select("id").with_columns(group=together)
    unknown = made.join(grouped, on="id", how="anti").height
    made = made.drop("group").join(grouped, on="id", how="inner", maintain_order="left").select("id", "group", "fold")
    if made["fold"].drop_nulls().is_empty():
        raise TableError(f"{check} has a fold for none of the labeled fields here.", hint="Check the file of these.")
    return made, unknown


def _fields(path: str, label_set: str | None) -> tuple[Dataset | None, pl.DataFrame, LabelSet]:
    """Return the dataset if it is one, the table of fields, and their label set."""
    from cytoloc.curation.groups import listed_fields
    from cytoloc.dataset.store import open_dataset

    if Path(path).is_file():
        locations = label_set_of(Path(path), label_set)
        return None, listed_fields(Path(path), locations), locations
    dataset = open_dataset(path)
    warn_if_unfinished(dataset)
    return dataset, dataset.fields, label_set_of(dataset, label_set)


def _looks(dataset: Dataset | None, path: str) -> pl.DataFrame:
    from cytoloc.curation.target_fold import looks_in_list, looks_of_dataset

    if dataset is None:
        return looks_in_list(Path(path))
    with progress(f"looking at {path}") as advance:
        return looks_of_dataset(dataset, advance)


def _pick(
    dataset: Dataset | None, path: str, fields: pl.DataFrame, like: str, *, group: GroupBy, **settings: Any
) -> tuple[pl.DataFrame, list[Resemblance]]:
    from cytoloc.curation.target_fold import pick_like
    from cytoloc.dataset.store import open_dataset

    target = _looks(None if Path(like).is_file() else open_dataset(like), like)
    return pick_like(fields, _looks(dataset, path), target, group_by=group, **settings)


def _lines(found: FoldQuality, alike: list[Resemblance], where: str, group: str, counts: dict[str, int]) -> list[str]:
    k = len(found.fields)
    sizes = ", ".join(map(str, found.fields))
    lines = [f"{where}: {counted(k, 'fold')} of {sizes} fields in {counted(int(found.groups.sum()), 'group')}."]
    if found.together:
        lines.append(
            f"{counted(found.together, 'pair')} of fields belong together; a random split would have torn apart"
            f" {found.cut_at_random}, these folds none."
        )
    if found.worst and not alike:
        number, ratio = found.worst
        lines.append(
            f"Spread least evenly: {found.label_set[number].name},"
            f" {', '.join(map(str, found.class_fields[number]))} fields (apart by {ratio:.1%} of their mean)."
            if ratio
            else "No location's fields differ by more than one between folds."
        )
    if found.scarce:
        names = ", ".join(found.label_set[number].name for number in found.scarce)
        lines.append(f"Locations in fewer groups than there are folds, so that some fold has none: {names}.")
    lines += [
        f"{each.look}: differs from the target's by {each.before:.0%} in all fields, by {each.after:.0%} in fold 0"
        + ("; too few fields look like the target." if each.after > UNLIKE else ".")
        for each in alike
    ]
    if counts["alone"]:
        lines.append(
            f"{counted(counts['alone'], 'field')} whose {group} is not known: only --pairs can tie them to others."
        )
    if counts["half_strange_pairs"]:
        lines.append(
            f"{counted(counts['half_strange_pairs'], 'pair')} of --pairs with one field here and one elsewhere."
        )
    if counts["strange_pairs"]:
        lines.append(
            f"{counted(counts['strange_pairs'], 'pair')} of --pairs with neither field here: they tie by way of others."
        )
    if counts["unknown"]:
        lines.append(f"{counted(counts['unknown'], 'field')} of the file that are not here.")
    if counts["left_out"]:
        lines.append(f"{counted(counts['left_out'], 'field')} left out.")
    return lines


def _as_json(found: FoldQuality, alike: list[Resemblance]) -> dict[str, Any]:
    return {
        "fields": found.fields.tolist(),
        "groups": found.groups.tolist(),
        "together": found.together,
        "cut_at_random": found.cut_at_random,
        "scarce": list(found.label_set.keys_of(found.scarce)),
        "worst": found.worst and {"key": found.label_set[found.worst[0]].key, "apart": found.worst[1]},
        "classes": found.table().to_dicts(),
        "like": [vars(each) for each in alike],
    }
