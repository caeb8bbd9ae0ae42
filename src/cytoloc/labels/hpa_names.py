"""How the Human Protein Atlas names things: locations by words, fields by antibody, plate, well and number."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final, NamedTuple

from cytoloc.labels.label_set import SHIPPED, LabelSet, find_label_set, shipped_text


class HpaName(NamedTuple):
    """A name of a location that the Human Protein Atlas uses, or has used.

    Attributes:
        name: As it is written.
        part_of: The name of the location that it is a part of; empty if there is none.
        keys: The key that stands for it in each shipped label set; a set without such a location is missing.
    """

    name: str
    part_of: str
    keys: Mapping[str, str]


class Named(NamedTuple):
    """What names of locations mean in a label set.

    Attributes:
        indices: Indices of locations, sorted, each once.
        without: Names that the Human Protein Atlas uses and the label set has no location for.
        unknown: Names that are not known.
    """

    indices: tuple[int, ...]
    without: tuple[str, ...]
    unknown: tuple[str, ...]


@cache
def hpa_names() -> tuple[HpaName, ...]:
    """Return all names of locations of the Human Protein Atlas."""
    rows = csv.DictReader(shipped_text("names.csv").splitlines())
    return tuple(
        HpaName(row["name"], row["part_of"], {name: row[name] for name in SHIPPED if row[name]}) for row in rows
    )


def shipped_name(label_set: LabelSet) -> str | None:
    """Return under which name a label set comes with cytoloc; None if it does not."""
    return next((name for name in SHIPPED if find_label_set(name).matches(label_set)), None)


def locations_of(names: Iterable[str], label_set: LabelSet) -> Named:
    """Return the locations that names mean; upper and lower case do not matter.

    A shipped label set knows all names of the Human Protein Atlas that one of its locations stands for. Of any other
    label set only the names of its own locations count.

    Examples:
        >>> locations_of(["Nucleus", "Rods & Rings", "Vesicles", "Moon"], LabelSet.hpa28())
        Named(indices=(0, 27), without=('Vesicles',), unknown=('Moon',))
    """
    meanings = _meanings(label_set)
    indices: set[int] = set()
    without, unknown = [], []
    for name in names:
        word = name.strip().casefold()
        if word not in meanings:
            unknown.append(name)
        elif (index := meanings[word]) is None:
            without.append(name)
        else:
            indices.add(index)
    return Named(tuple(sorted(indices)), tuple(without), tuple(unknown))


@cache
def _meanings(label_set: LabelSet) -> dict[str, int | None]:
    """Return the location of each known name, in lower case; None if there is none."""
    shipped = shipped_name(label_set)
    own = {location.name.casefold(): index for index, location in enumerate(label_set)}
    keys = ((each.name.casefold(), each.keys.get(shipped or "")) for each in hpa_names())
    return {name: None if key is None else label_set.index(key) for name, key in keys} | own


def count_unknown(every: Iterable[Named]) -> Counter[str]:
    """Return how often each name occurs that is not known, so that nothing is dropped in silence."""
    return Counter(name for named in every for name in named.unknown)


class HpaId(NamedTuple):
    """What the id of a field says; the antibody is None in lists that leave it out."""

    antibody: str | None
    plate: str
    well: str
    field: str

    @property
    def place(self) -> tuple[str, str]:
        """Plate and well: what is imaged there is one antibody in one cell line."""
        return self.plate, self.well


_ID: Final = re.compile(
    r"(?:ENSG\d+_)?(?:(?P<antibody>[^_]+)_)?(?P<plate>[^_]+)_(?P<well>[A-Z]+[0-9]+)_(?P<field>[^_]+(?:_cr[^_]*)?)"
    r"(?:_classes_[\d_]*)?"
)


def parse_hpa_id(name: str) -> HpaId | None:
    """Return what an id says, or None if it is not of the Atlas's form.

    It is ``{antibody}_{plate}_{well}_{field}``; a gene may stand before it, the antibody may be missing, and labels may
    follow as ``_classes_25_5``. A few fields have a fifth part such as ``cr58f2a7``.

    Examples:
        >>> parse_hpa_id("10580_1610_C1_1")
        HpaId(antibody='10580', plate='1610', well='C1', field='1')
        >>> parse_hpa_id("1639_A8_6_classes_25_5_0").place
        ('1639', 'A8')
        >>> parse_hpa_id("00070df0-bbc3-11e8-b2bc-ac1f6b6435d0")
    """
    found = _ID.fullmatch(name)
    return HpaId(**found.groupdict()) if found else None
