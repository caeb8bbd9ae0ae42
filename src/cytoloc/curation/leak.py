"""Leaks: test fields that are near-duplicates of labeled fields.

Labels of copies say nothing about the quality of a network. They are therefore written to a separate file, and used
only on request.
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
from cytoloc.labels.ids import alike_note, warn_ids
from cytoloc.labels.label_list import LabelList
from cytoloc.labels.label_set import LabelSet


def leak_schema(channels: Sequence[str]) -> pl.Schema:
    """Return the schema of ``leak.csv``, which is also a valid label list.

    Args:
        channels: The channels for which distances are known.

    Returns:
        The names and types of the columns.
    """
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
    """Labels by field and by well.

    Attributes:
        of_field: The labels of each field, by id.
        of_well: The labels of each well, by plate and well; None if its fields have different labels.
    """

    of_field: LabelIndices
    of_well: Mapping[tuple[str, str], tuple[int, ...] | None]

    def labels(self, name: str) -> tuple[tuple[int, ...], str] | None:
        """Return the labels of a field, and whether they are known for the ``field`` or its ``well``; None if unknown.

        Args:
            name: The id of the field.

        Returns:
            Indices of locations, and ``"field"`` or ``"well"``.
        """
        if name in self.of_field:
            return self.of_field[name], "field"
        place = _place(name)
        ids = self.of_well.get(place) if place else None
        return None if ids is None else (ids, "well")


class Leak(NamedTuple):
    """Test fields that are copies of labeled fields.

    Attributes:
        table: A table with one row per test field with a labeled copy; see :func:`leak_schema` for its columns.
        unlabeled: The number of test fields whose copies have no labels.
        passed_over: The number of ignored pairs: not a test field and another field, or with the verdict ``different``.
    """

    table: pl.DataFrame
    unlabeled: int
    passed_over: int


def labels_by_place(labels: LabelIndices, places: Mapping[str, tuple[str, str]] | None = None) -> Known:
    """Return labels by field and by well.

    Args:
        labels: The labels of each field, by id.
        places: Plate and well of fields whose ids do not contain them.

    Returns:
        The labels.
    """
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
    """Find test fields that are near-duplicates of labeled fields.

    Args:
        pairs: Near-duplicates: the table of :func:`~cytoloc.curation.duplicates.find_duplicates`, files, or pairs of
            ids.
        labels: Labeled fields: datasets or label lists, or their paths. If several contain a field, the first is used.
        test: The test fields: a dataset, or ids. Default: all ids that have no labels and contain no well.
        doubtful: Also use pairs with the verdict ``doubtful``.
        label_set: The label set of label lists that are given as paths. Default: hpa28.

    Returns:
        The test fields with the labels of their copies.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        TableError: If no pair connects a test field with another field, or no such other field has labels.
        LabelSetError: If the labels have different label sets.

    Warns:
        IdWarning: If ids in the pairs look like ids of the fields, but have another spelling.
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
    if looks := alike_note(dict.fromkeys(name for pair in used for name in pair[:2]), {*known, *(names or ())}):
        warn_ids(f"Some ids in the pairs are neither labeled nor test fields.{looks}")
    return labels_of_copies(used, labels_by_place(known, places), opened[0].label_set, test=names)


def labels_of_copies(
    pairs: Sequence[Pair], known: Known, label_set: LabelSet, *, test: Collection[str] | None = None
) -> Leak:
    """Return the labels of copies for test fields.

    A test field gets the labels of its copy or, if these are unknown, of the well of the copy. If a test field has
    several copies, the most certain copy is used: the highest correlation, then the smallest Hamming distance.
    ``contradicted`` is the number of copies with other labels.

    Args:
        pairs: Pairs of near-duplicate fields.
        known: The known labels.
        label_set: The label set of the labels.
        test: The ids of the test fields. Default: all ids that have no labels and contain no well.

    Returns:
        The test fields with the labels of their copies.

    Raises:
        TableError: If no pair connects a test field with another field, or no such other field has labels.
    """
    copies: dict[str, list[tuple[Pair, str]]] = {}
    passed_over = 0
    for pair in pairs:
        # A field can have the same id in both sets. Such a pair is a test field and its copy.
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
            f"None of {len(pairs)} pairs connects a test field with another field.",
            hint="Give pairs of a test field and a labeled field.",
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
            f"{len(copies)} test fields have copies, but none of these copies has labels.",
            hint="Give the labels of the copies, or of other fields in their wells.",
        )
    table = pl.DataFrame(rows, schema=leak_schema(channels), orient="row").sort("Id")
    return Leak(table, len(copies) - len(rows), passed_over)


def write_leak(leak: Leak, path: str | Path) -> None:
    """Write leaked test fields to a new CSV file.

    Args:
        leak: The result of :func:`find_leak`.
        path: The new file.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        OutputExistsError: If the file exists.
    """
    check_type(leak, Leak, argument="leak")
    check_type(path, (str, Path), argument="path")
    with new_file(Path(path)) as temporary:
        leak.table.write_csv(temporary)


def _place(name: str) -> tuple[str, str] | None:
    origin = parse_hpa_id(name)
    return origin.place if origin else None
