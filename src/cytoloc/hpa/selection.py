"""Which fields of the catalog are wanted, and their labels: per well, and nothing dropped in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from cytoloc.hpa.catalog import Field, Gene
from cytoloc.hpa_names import Named, count_unknown, locations_of
from cytoloc.labels import LabelSet

RELIABILITIES: Final = ("enhanced", "supported", "approved", "uncertain")
"""How far the Atlas trusts an antibody's locations, the most first; since release 17."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is wanted of a catalog.

    Attributes:
        reliability: The values that are taken, in lower case.
        cell_lines: The cell lines that are taken; all if it is None.
        unlabeled: Also take fields whose locations are not in the label set.
        limit: Take the first so many fields.
        label_set: The locations of the labels.
    """

    reliability: frozenset[str] = frozenset(RELIABILITIES[:3])
    cell_lines: frozenset[str] | None = None
    unlabeled: bool = False
    limit: int | None = None
    label_set: LabelSet = field(default_factory=LabelSet.hpa28)


@dataclass(frozen=True)
class Selection:
    """What was taken of a catalog.

    Attributes:
        fields: In the order of the catalog; a field that several genes share is there once, with all of them.
        label_set: The locations of the labels.
        labels: Indices of the locations of each, per well; empty where the label set has none of them.
        unknown: Names that are not known, and in how many of the fields in question they occur.
        without: Names that are known and not in the label set, likewise.
        left_out: Fields that were not taken, counted by the reason.
    """

    fields: tuple[Field, ...]
    label_set: LabelSet
    labels: dict[str, tuple[int, ...]]
    unknown: Counter[str]
    without: Counter[str]
    left_out: Counter[str]

    @property
    def per_location(self) -> list[int]:
        """Fields of each location."""
        counts = [0] * len(self.label_set)
        for ids in self.labels.values():
            for number in ids:
                counts[number] += 1
        return counts


@dataclass
class _Sorting:
    fields: dict[str, Field] = field(default_factory=dict)
    wells: dict[tuple[str, str, str], set[tuple[str, ...]]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)


def select(genes: Iterable[Gene], wanted: Wanted) -> Selection:
    """Return the fields that are wanted, with the locations of their wells.

    Locations are taken from the well's own cell line: what the antibody shows elsewhere says nothing of this field. A
    well of which the catalog says two things is left out and counted.
    """
    sorting = _Sorting()
    for gene in genes:
        sorting.left_out.update(gene.passed_over)
        for each in gene.fields:
            _sort(each, wanted, sorting)
    named: dict[str, Named] = {}
    for each in sorting.fields.values():
        if len(sorting.wells[each.place]) > 1:
            sorting.left_out["of a well of which the catalog says two things"] += 1
        else:
            named[each.id] = locations_of(each.locations, wanted.label_set)
    without = Counter(name for meant in named.values() for name in meant.without)
    taken: list[str] = []
    for name, meant in named.items():
        if not meant.indices and not wanted.unlabeled:
            sorting.left_out["without any location of the label set"] += 1
        elif wanted.limit is not None and len(taken) >= wanted.limit:
            sorting.left_out["beyond the limit"] += 1
        else:
            taken.append(name)
    return Selection(
        fields=tuple(sorting.fields[name] for name in taken),
        label_set=wanted.label_set,
        labels={name: named[name].indices for name in taken},
        unknown=count_unknown(named.values()),
        without=without,
        left_out=sorting.left_out,
    )


def _sort(each: Field, wanted: Wanted, sorting: _Sorting) -> None:
    if each.reliability not in wanted.reliability:
        sorting.left_out[f"of the reliability {each.reliability or 'that is not said'}"] += 1
        return
    if wanted.cell_lines is not None and each.cell_line not in wanted.cell_lines:
        sorting.left_out["of other cell lines"] += 1
        return
    # The order of names does not matter.
    sorting.wells.setdefault(each.place, set()).add(tuple(sorted(name.lower() for name in each.locations)))
    first = sorting.fields.get(each.id)
    if first is None:
        sorting.fields[each.id] = each
    elif each.ensembl not in first.ensembl.split(";"):
        sorting.fields[each.id] = replace(
            first, gene=f"{first.gene};{each.gene}", ensembl=f"{first.ensembl};{each.ensembl}"
        )
