"""Leaks: test fields that are copies of labeled fields, with the labels of these copies.

Labels of copies say nothing about how well a network predicts. They are written to a file and used only on request.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from cytoloc._typing import LabelIndices
from cytoloc.channels import channel_order
from cytoloc.choices import check_type
from cytoloc.curation.pairs import Pair, PairSource, open_pairs
from cytoloc.dataset.labeled import LabelSource, known_labels, open_labels
from cytoloc.dataset.store import Dataset
from cytoloc.errors import TableError
from cytoloc.files import new_file
from cytoloc.labels.hpa_names import parse_hpa_id
from cytoloc.labels.label_list import LabelList
from cytoloc.labels.label_set import LabelSet


def leak_schema(channels: Sequence[str]) -> pl.Schema:
    """Return the columns of ``leak.csv``; ``Id,Target`` make it a label list like any other."""
    return pl.Schema(
        {
            "Id": pl.String(),
            "Target": pl.String(),
            "source": pl.String(),
            "labels_of": pl.String(),
            **{f"d_{channel}": pl.Float64() for channel in channels},
            "correlation": pl.Float64(),
            "verdict": pl.String(),
            "contradicted": pl.Int64(),
        }
    )


class Known(NamedTuple):
    """What is known of labeled fields.

    Attributes:
        of_field: The labels of each field, by its id.
        of_well: The labels of each well, by plate and well; None where its fields contradict each other.
    """

    of_field: LabelIndices
    of_well: Mapping[tuple[str, str], tuple[int, ...] | None]

    def labels(self, name: str) -> tuple[tuple[int, ...], str] | None:
        """Return the labels of a field and whether they are of the ``field`` or its ``well``; None if unknown."""
        if name in self.of_field:
            return self.of_field[name], "field"
        place = _place(name)
        ids = self.of_well.get(place) if place else None
        return None if ids is None else (ids, "well")


class Leak(NamedTuple):
    """Labels of test fields by their labeled copies.

    Attributes:
        table: A row per test field that has a copy with labels, columns as in :func:`leak_schema`.
        unlabeled: Test fields whose copies have no labels.
        passed_over: Pairs that do not tie a test field to another one, or have the verdict ``different``.
    """

    table: pl.DataFrame
    unlabeled: int
    passed_over: int


def labels_by_place(labels: LabelIndices, places: Mapping[str, tuple[str, str]] | None = None) -> Known:
    """Return labels by field and by well; ``places`` has plate and well of fields whose ids do not state them."""
    wells: dict[tuple[str, str], tuple[int, ...] | None] = {}
    for name, ids in labels.items():
        place = (places or {}).get(name) or _place(name)
        if place is not None:
            wells[place] = ids if wells.get(place, ids) == ids else None
    return Known(labels, wells)


def find_leak(
    pairs: PairSource,
    labels: LabelSource | Sequence[LabelSource],
    *,
    test: Dataset | Collection[str] | None = None,
    doubtful: bool = False,
    label_set: LabelSet | str | None = None,
) -> Leak:
    """Return the test fields that are copies of labeled fields, with the labels of their copies.

    Args:
        pairs: Near-duplicates: the table of :func:`~cytoloc.curation.duplicates.find_duplicates`, files, or pairs of
            ids.
        labels: Labeled fields: datasets or label lists, or their paths. Where several label a field, the first counts.
        test: The test fields: a dataset, or their ids. By default all ids that have no labels and name no well.
        doubtful: Use pairs with the verdict ``doubtful`` too.
        label_set: The label set of label lists that are paths; by default hpa28.

    Raises:
        TableError: If no pair ties a test field to another one, or no such other one has labels.
        LabelSetError: If labels are of different label sets.
    """
    check_type(labels, (Dataset, LabelList, str, Path, list, tuple), argument="labels")
    sources = [labels] if isinstance(labels, Dataset | LabelList | str | Path) else list(labels)
    opened = [open_labels(sources[0], label_set=label_set)]
    opened += [open_labels(each, label_set=opened[0].label_set) for each in sources[1:]]
    known: dict[str, tuple[int, ...]] = {}
    places: dict[str, tuple[str, str]] = {}
    for each in opened:
        known = known_labels(each) | known
        if isinstance(each, Dataset):
            rows = each.fields.select("id", "plate", "well").drop_nulls().iter_rows()
            places = {name: (plate, well) for name, plate, well in rows} | places
    used = [pair for pair in open_pairs(pairs) if doubtful or pair.verdict != "doubtful"]
    names = set(test.ids) if isinstance(test, Dataset) else test
    return labels_of_copies(used, labels_by_place(known, places), opened[0].label_set, test=names)


def labels_of_copies(
    pairs: Sequence[Pair], known: Known, label_set: LabelSet, *, test: Collection[str] | None = None
) -> Leak:
    """Return the labels of test fields by the labels of their copies.

    The labels of a copy are those of its id, else those of its well. If a test field has several copies the surest
    counts (of the highest correlation, then of the least bits), and ``contradicted`` says how many have other labels.

    Raises:
        TableError: If no pair ties a test field to another one, or no such other one has labels.
    """
    copies: dict[str, list[tuple[Pair, str]]] = {}
    passed_over = 0
    for pair in pairs:
        # A field may have the same id in both sets: such a pair is the test field and its copy.
        fields = [
            name
            for name in dict.fromkeys((pair.a, pair.b))
            if (name in test if test is not None else name not in known.of_field and _place(name) is None)
        ]
        same_id = pair.a == pair.b
        field = fields[0] if len(fields) == 1 and not (same_id and test is None) else None
        if field is None or pair.verdict == "different":
            passed_over += 1
            continue
        copies.setdefault(field, []).append((pair, pair.b if field == pair.a else pair.a))
    if pairs and not copies:
        raise TableError(
            f"No pair ties a test field to another one; there are {len(pairs)}.",
            hint="Give pairs of these two sets of fields.",
        )
    channels = channel_order(list(dict.fromkeys(channel for pair in pairs for channel in pair.bits)))
    rows = []
    for field, found in copies.items():
        labeled = [(pair, other, *labels) for pair, other in found if (labels := known.labels(other)) is not None]
        if not labeled:
            continue
        pair, other, ids, of = max(labeled, key=lambda each: each[0].sureness)
        contradicted = sum(labels != ids for _, _, labels, _ in labeled)
        bits = (pair.bits.get(channel) for channel in channels)
        rows.append((field, label_set.format(ids), other, of, *bits, pair.correlation, pair.verdict, contradicted))
    if copies and not rows:
        raise TableError(
            f"There are copies of test fields ({len(copies)} of these), and no labels of any of them.",
            hint="Give the labels of the copies, or of other fields of their wells.",
        )
    table = pl.DataFrame(rows, schema=leak_schema(channels), orient="row").sort("Id")
    return Leak(table, len(copies) - len(rows), passed_over)


def write_leak(leak: Leak, path: str | Path) -> None:
    """Write what was found as CSV to a path that must be free."""
    check_type(leak, Leak, argument="leak")
    check_type(path, (str, Path), argument="path")
    with new_file(Path(path)) as temporary:
        leak.table.write_csv(temporary)


def _place(name: str) -> tuple[str, str] | None:
    origin = parse_hpa_id(name)
    return origin.place if origin else None
