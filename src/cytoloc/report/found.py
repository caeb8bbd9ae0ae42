"""Sections of a report on what was found: counts per location, well and plate, and unusual fields."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from cytoloc._typing import BoolArray, FloatArray
from cytoloc.curation.pairs import Pair
from cytoloc.dataset.store import Dataset
from cytoloc.predictions import Predictions
from cytoloc.report.blocks import Bar, Block, Cell, Charts, Numbers, Section, Table, Text
from cytoloc.report.charts import plate_chart, row_name

PLATES_DRAWN: Final = 8
"""Maximum number of plates that are drawn."""

LOCATIONS_PER_PLATE: Final = 4
"""Number of locations that are drawn for each plate, the most frequent first."""

WELLS_LISTED: Final = 1536
"""Maximum number of wells that are listed."""

CAUTIONS_LISTED: Final = 50
"""Maximum number of unusual fields that are listed."""


def found_section(predictions: Predictions, decided: BoolArray, *, how: str) -> Section:
    """Return the section with the number of fields per location.

    Args:
        predictions: The predictions.
        decided: The locations of each field, bool of shape ``(n, locations)``.
        how: How locations were decided.

    Returns:
        The section.
    """
    count = len(predictions)
    fields = decided.sum(axis=0)
    blank = int((~decided.any(axis=1)).sum())
    several = int((decided.sum(axis=1) > 1).sum())
    numbers = [
        ("fields", f"{count:,}", f"{len(predictions.rejected):,} could not be read" if predictions.rejected else ""),
        ("with one location", f"{count - blank - several:,}", ""),
        ("with several", f"{several:,}", ""),
        ("without a location", f"{blank:,}", ""),
    ]
    if predictions.cautions:
        numbers.append(("unusual", f"{predictions.n_cautions:,}", "see below"))
    rows: list[list[Cell]] = [
        [
            predictions.label_set.names[place],
            Bar(f"{fields[place]:,}  ({100 * fields[place] / count:.1f} %)", fields[place] / max(fields.max(), 1)),
            float(predictions.probabilities[:, place].mean()),
        ]
        for place in np.argsort(-fields, kind="stable")
    ]
    return Section(
        "found",
        "What was found",
        [Numbers(numbers), Text(how), Table(["location", "fields", "mean probability"], rows)],
    )


def wells_section(predictions: Predictions, decided: BoolArray, dataset: Dataset) -> Section:
    """Return the section with counts per well, and plates colored by the probability of frequent locations.

    Args:
        predictions: The predictions.
        decided: The locations of each field, bool of shape ``(n, locations)``.
        dataset: The dataset of the fields, whose table states their wells.

    Returns:
        The section. If the dataset states no wells, it says so.
    """
    title = "Wells and plates"
    rows_of = {name: row for row, name in enumerate(predictions.ids)}
    wells: dict[tuple[str, str], list[int]] = defaultdict(list)
    for name, plate, well in dataset.fields.select("id", "plate", "well").iter_rows():
        if well and name in rows_of:
            wells[plate or "", well].append(rows_of[name])
    if not wells:
        return Section("wells", title, [Text(f"{dataset.path} states no wells, so there are no counts per well.")])
    names = predictions.label_set.names
    frequent = [int(place) for place in np.argsort(-decided.sum(axis=0), kind="stable")[:LOCATIONS_PER_PLATE]]
    plates: dict[str, dict[tuple[int, int], list[int]]] = defaultdict(dict)
    for (plate, well), rows in wells.items():
        position = well_position(well)
        if position is not None:
            plates[plate].setdefault(position, []).extend(rows)
    charts = []
    for plate in sorted(plates)[:PLATES_DRAWN]:
        for place in frequent:
            means = {at: float(predictions.probabilities[rows, place].mean()) for at, rows in plates[plate].items()}
            texts = {
                at: f"{dataset_well(at)}: {means[at]:.2f}, {int(decided[rows, place].sum())} of {len(rows)} fields"
                for at, rows in plates[plate].items()
            }
            charts.append((f"{plate or 'Plate'}: {names[place]}", plate_chart(means, texts)))
    blocks: list[Block] = []
    if charts:
        more = len(plates) - PLATES_DRAWN
        blocks.append(
            Charts(
                charts,
                "Mean probability of a location over the fields of each well, from 0 (no color) to 1. The"
                f" {len(frequent)} most frequent locations are drawn."
                f"{f' {more} more plates are not drawn.' if more > 0 else ''}",
            )
        )
    table: list[list[Cell]] = []
    ordered = sorted(wells.items(), key=lambda each: (each[0][0], well_position(each[0][1]) or (99, 0), each[0][1]))
    for (plate, well), rows in ordered[:WELLS_LISTED]:
        counts = decided[rows].sum(axis=0)
        order = [int(place) for place in np.argsort(-counts, kind="stable") if counts[place]]
        text = ", ".join(f"{names[place]} {counts[place]}" for place in order[:6]) or "none"
        table.append([plate, well, len(rows), text])
    left_out = len(wells) - len(table)
    caption = f"Fields per location in each well.{f' {left_out:,} more wells are not listed.' if left_out else ''}"
    blocks.append(Table(["plate", "well", "fields", "locations"], table, caption))
    return Section("wells", title, blocks)


def well_position(well: str) -> tuple[int, int] | None:
    """Return the row and the column of a well, counted from 0; None for another form of name.

    >>> well_position("B03"), well_position("AF48"), well_position("7")
    ((1, 2), (31, 47), None)
    """
    found = re.fullmatch(r"([A-Pa-p]|[Aa][A-Fa-f])[-_]?0*([1-9]\d?)", well.strip())
    if found is None:
        return None
    letters = found[1].upper()
    row = ord(letters) - 65 if len(letters) == 1 else 26 + ord(letters[1]) - 65
    return row, int(found[2]) - 1


def dataset_well(position: tuple[int, int]) -> str:
    """Return the name of a well.

    >>> dataset_well((1, 2))
    'B03'
    """
    return f"{row_name(position[0])}{position[1] + 1:02d}"


def unusual_section(predictions: Predictions) -> Section:
    """Return the section with the fields whose images are unusual, and those that could not be read.

    Args:
        predictions: The predictions.

    Returns:
        The section; without blocks if images were not checked and all fields were read.
    """
    blocks: list[Block] = []
    if predictions.cautions:
        texts = [(name, text) for name, text in zip(predictions.ids, predictions.cautions, strict=True) if text]
        share = f"{len(texts):,} of {len(predictions):,} fields"
        blocks.append(
            Text(f"The images of {share} are unusual. A model can be wrong about them with high probability.")
        )
        if texts:
            counts = Counter(text for _, text in texts).most_common(15)
            kinds: list[list[Cell]] = [[text, count] for text, count in counts]
            blocks.append(Table(["what is unusual", "fields"], kinds))
            listed: list[list[Cell]] = [[name, text] for name, text in texts[:CAUTIONS_LISTED]]
            more = len(texts) - len(listed)
            blocks.append(Table(["field", "what is unusual"], listed, f"{more:,} more are not listed." if more else ""))
    if predictions.rejected:
        bad = list(predictions.rejected.items())
        rows: list[list[Cell]] = [[name, reason] for name, reason in bad[:CAUTIONS_LISTED]]
        blocks.append(Table(["field", "reason"], rows, f"{len(bad):,} fields could not be read."))
    return Section("unusual", "Unusual fields", blocks)


def quality_section(
    dataset: Dataset | None, *, pairs: Sequence[Pair] | None = None, folds: pl.DataFrame | None = None
) -> Section:
    """Return the section on the quality of the data.

    Args:
        dataset: The dataset.
        pairs: The pairs of near-duplicates.
        folds: The folds of :func:`cytoloc.make_folds`.

    Returns:
        The section; without blocks if nothing is given.
    """
    blocks: list[Block] = []
    if dataset is not None:
        counts = Counter(flag for flags in dataset.fields["flags"].to_list() for flag in flags or ())
        quarantined = len(dataset.quarantine)
        numbers = [
            ("fields", f"{len(dataset):,}", f"{int(dataset.labeled.sum()):,} labeled"),
            ("size", f"{dataset.size} px", ", ".join(dataset.channels)),
            ("quarantined", f"{quarantined:,}", "fields that could not be imported"),
        ]
        blocks.append(Numbers(numbers))
        rows: list[list[Cell]] = [
            [flag.replace("_", " "), count, Bar(f"{100 * count / len(dataset):.1f} %", count / len(dataset))]
            for flag, count in counts.most_common()
        ]
        if rows:
            blocks.append(Table(["flag", "fields", "share"], rows, "Quality flags that the import set."))
        else:
            blocks.append(Text("No field has a quality flag."))
    if pairs is not None:
        verdicts = Counter(pair.verdict or "no verdict" for pair in pairs)
        fields = {name for pair in pairs if pair.verdict != "different" for name in (pair.a, pair.b)}
        text = ", ".join(f"{count:,} {verdict}" for verdict, count in verdicts.most_common())
        blocks.append(
            Text(
                f"Near-duplicates: {len(pairs):,} pairs were compared{f' ({text})' if text else ''}."
                f" {len(fields):,} fields have or may have a near-duplicate."
            )
        )
    table = pl.DataFrame()
    if folds is not None and dataset is not None:
        table = folds.filter(pl.col("fold").is_not_null()).join(dataset.fields.select("id", "labels"), on="id")
        if not table.height:
            blocks.append(Text("The folds file has no field of the dataset."))
    if dataset is not None and table.height:
        numbers_of = sorted(table["fold"].unique().to_list())
        truth = dataset.label_set.to_matrix([labels or () for labels in table["labels"].to_list()])
        fold = np.array(table["fold"].to_list())
        names = dataset.label_set.names
        matrix: FloatArray = np.stack([truth[fold == each].sum(axis=0) for each in numbers_of], axis=1)
        sheet: list[list[Cell]] = [
            [names[place], int(matrix[place].sum()), *(int(each) for each in matrix[place])]
            for place in np.argsort(-matrix.sum(axis=1), kind="stable")
            if matrix[place].sum()
        ]
        headings = ["location", "fields", *(f"fold {each}" for each in numbers_of)]
        blocks.append(Table(headings, sheet, "Fields of each location in each fold."))
    return Section("quality", "Data quality", blocks)
