"""Commands that look at fields before anything learns from them: duplicates, audit, leak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cytoloc.cli.console import counted, label_set_of, progress, read_truth, warn_if_unfinished
from cytoloc.cli.members import LabelSetOption

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from cytoloc.curation.audit import Audit
    from cytoloc.dataset.store import Dataset
    from cytoloc.hpa_names import HpaId
    from cytoloc.labels import LabelSet


SHOWN = 24
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

    most = _limits(limits)
    outputs, sheets = [out, *([groups] if groups else [])], [sheet] if sheet else []
    check_outputs(*outputs, images=sheets)
    local = [path.removeprefix("file://").rstrip("/") for path in paths]
    places = [path if "://" in path else str(Path(path).resolve()) for path in local]
    twice = next((path for path, place in zip(paths, places, strict=True) if places.count(place) > 1), None)
    if twice:
        raise typer.BadParameter(f"{twice} is given twice: every field would be its own copy.")
    datasets = [open_dataset(path) for path in paths]
    for each in datasets:
        warn_if_unfinished(each)
    with progress("looking for duplicates") as advance:
        found = find_duplicates(
            datasets, limits=most, turns=turns, confirm=confirm, advance=lambda _what, done, total: advance(done, total)
        )
    pairs = found.filter(pl.col("verdict").fill_null("") != "different")
    certain = pairs.filter(pl.col("verdict").fill_null("copy") == "copy")
    together = groups_of(certain)
    with new_files(*outputs, images=sheets) as temporary:
        write_duplicates(pairs, temporary[out])
        if groups is not None:
            rows = [(name, number) for number, group in enumerate(together) for name in group]
            table = pl.DataFrame(rows, schema={"id": pl.String, "group": pl.Int64}, orient="row")
            table.write_csv(temporary[groups])
        drawn = _draw(pairs, datasets, temporary[sheet]) if sheet else 0
    doubtful = pairs.filter(pl.col("verdict") == "doubtful")
    said = f"{out}: {counted(pairs.height, 'pair')} of {sum(map(len, datasets))} fields"
    kinds = f", {doubtful.height} of them doubtful; hashes suggested {found.height}" if confirm else ", not confirmed"
    largest = f"; the largest group has {len(together[0])} fields" if together else ""
    typer.echo(f"{said}{kinds}{largest}.")
    if sheet is not None and drawn:
        left = f" of {doubtful.height}" if doubtful.height > drawn else ""
        typer.echo(f"{sheet}: {counted(drawn, 'doubtful pair')}{left}.")
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


def _draw(pairs: pl.DataFrame, datasets: list[Dataset], sheet: Path) -> int:
    """Draw the surest of the doubtful pairs, and return how many they are."""
    import polars as pl

    from cytoloc.images.hashes import TRANSFORMS, turned
    from cytoloc.report.figures import composite, pair_sheet

    rows = {str(dataset.path): {name: row for row, name in enumerate(dataset.ids)} for dataset in datasets}
    opened = {str(dataset.path): dataset for dataset in datasets}

    def drawn(pair: dict[str, Any], side: str, transform: str) -> NDArray[np.uint8]:
        path = pair[f"dataset_{side}"]
        return composite(turned(opened[path][rows[path][pair[side]]], transform), opened[path].channels)

    shown = list(pairs.filter(pl.col("verdict") == "doubtful").head(SHOWN).iter_rows(named=True))
    if not shown:
        return 0
    images = [(drawn(pair, "a", pair["transform"]), drawn(pair, "b", TRANSFORMS[0])) for pair in shown]
    captions = [(pair["a"], pair["b"], f"correlation {pair['correlation']:.2f}, {pair['transform']}") for pair in shown]
    pair_sheet(images, captions, sheet)
    return len(shown)


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
    from cytoloc.curation import audit as auditing
    from cytoloc.curation.pairs import read_pairs
    from cytoloc.errors import SettingsError, TableError
    from cytoloc.files import check_outputs
    from cytoloc.label_conversion import conversion, convert_labels

    if write is not None:
        check_outputs(write)
        if match == "well" or truth_label_set is not None:
            raise SettingsError(
                "--write needs the truth of the listed fields themselves, in the label set of the list.",
                hint="Leave out --match well and --truth-label-set.",
            )
    own = label_set_of(listed, label_set)
    locations = label_set_of(truth, truth_label_set) if truth_label_set else own
    have, true = read_truth(listed, own), read_truth(truth, locations)
    if not own.matches(locations):
        by_names = conversion(own, locations)
        converted = convert_labels(have, by_names)
        have = converted.labels | dict.fromkeys(converted.emptied, ())
        left = f"{counted(len(converted.emptied), 'field')} of {listed} lost all labels, and count as without any."
        typer.echo("\n".join([*by_names.summary(), left, ""]), err=as_json)
    if pairs is None and not set(have) & set(true):
        raise TableError(
            f"{listed} and {truth} share no id.",
            hint="Say with --pairs which field of the one is which of the other.",
        )
    tied = read_pairs(pairs, doubtful=False) if pairs else [(name, name) for name in have if name in true]
    origins = _origins(truth) | _origins(listed)
    if match == "well":
        matched, unmatched = auditing.match_wells(have, true, tied, origins=origins)
    else:
        matched, unmatched = auditing.match_fields(have, true, tied)
    result = auditing.audit(matched, unmatched, label_set=locations)
    groups = auditing.by_group(result.matched, by, origins=origins) if by else None
    mended = auditing.corrections(have, result.matched, origins=origins) if write else {}
    if as_json:
        found = {
            "matched": len(result.matched),
            "unmatched": result.unmatched,
            "equal": result.equal,
            "micro_f1": result.micro_f1,
            "macro_f1": result.macro_f1,
            "classes": result.classes.to_dicts(),
        }
        typer.echo(json.dumps(found | ({str(by): groups.to_dicts()} if groups is not None else {}), indent=2))
    else:
        _print_audit(result)
        if groups is not None and by is not None and groups.is_empty():
            typer.echo(f"\nNo field says of which {by} it is.")
        elif groups is not None and by is not None:
            typer.echo(f"\n{by:<20} {'fields':>7} {'different':>10}")
            for row in groups.head(SHOWN).iter_rows():
                typer.echo(f"{row[0]:<20} {row[1]:>7} {row[3]:>10}")
            if groups.height > SHOWN:
                typer.echo(f"and {groups.height - SHOWN} more, which differ no more often; --json has all.")
    if write is not None:
        auditing.write_corrections(have, mended, write, own)
        typer.echo(f"{write}: {len(mended)} of {counted(len(have), 'label set')} corrected.", err=as_json)


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
    from cytoloc.curation import leak as leaking
    from cytoloc.curation.pairs import read_matches
    from cytoloc.files import check_outputs

    check_outputs(out)
    tied = [pair for path in pairs for pair in read_matches(path) if doubtful or pair.verdict != "doubtful"]
    locations = label_set_of(labels[0], label_set)
    have, places = _labeled(labels, locations)
    known = leaking.known_labels(have, places)
    found = leaking.find_leak(tied, known, locations, test=_ids(test) if test else None)
    leaking.write_leak(found, out)
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


def _labeled(paths: list[Path], label_set: LabelSet) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[str, str]]]:
    """Return the labels in several lists or datasets, and plate and well of the fields of datasets."""
    from cytoloc.dataset.store import open_dataset

    labels: dict[str, tuple[int, ...]] = {}
    places: dict[str, tuple[str, str]] = {}
    for path in paths:
        labels = read_truth(path, label_set) | labels
        if path.is_dir():
            rows = open_dataset(path).fields.select("id", "plate", "well").drop_nulls().iter_rows()
            places = {name: (plate, well) for name, plate, well in rows} | places
    return labels, places


def _origins(path: Path) -> dict[str, HpaId]:
    """Return what a dataset says of where its fields are from; nothing, of a list, whose ids say it."""
    from cytoloc.dataset.store import open_dataset
    from cytoloc.hpa_names import HpaId

    if not path.is_dir():
        return {}
    rows = open_dataset(path).fields.select("id", "antibody", "plate", "well", "field").iter_rows()
    return {
        name: HpaId(antibody, plate, well, number or name)
        for name, antibody, plate, well, number in rows
        if plate is not None and well is not None
    }


def _ids(path: Path) -> set[str]:
    from cytoloc.dataset.store import open_dataset
    from cytoloc.lists import read_ids

    return set(open_dataset(path).ids if path.is_dir() else read_ids(path))
