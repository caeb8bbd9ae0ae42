"""Names in the Human Protein Atlas: names of locations, and ids of fields."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final, NamedTuple

from cytoloc.labels.label_set import SHIPPED, LabelSet, find_label_set, shipped_text


class HpaName(NamedTuple):
    """A name of a location that the Human Protein Atlas uses or used.

    Attributes:
        name: The name, as written.
        part_of: The name of the larger location that contains it; empty if there is none.
        keys: The key of the location in each shipped label set. Label sets without such a location are missing.
    """

    name: str
    part_of: str
    keys: Mapping[str, str]


class Named(NamedTuple):
    """Locations that were found for a list of names.

    Attributes:
        indices: Indices of the locations, sorted and unique.
        without: Names of the Human Protein Atlas for which the label set has no location.
        unknown: Unknown names.
    """

    indices: tuple[int, ...]
    without: tuple[str, ...]
    unknown: tuple[str, ...]


@cache
def hpa_names() -> tuple[HpaName, ...]:
    """Return all location names of the Human Protein Atlas."""
    rows = csv.DictReader(shipped_text("names.csv").splitlines())
    return tuple(
        HpaName(row["name"], row["part_of"], {name: row[name] for name in SHIPPED if row[name]}) for row in rows
    )


def shipped_name(label_set: LabelSet) -> str | None:
    """Return the name of a label set if it comes with cytoloc.

    Args:
        label_set: Any label set.

    Returns:
        The name of the shipped label set that matches it; None if there is none.
    """
    return next((name for name in SHIPPED if find_label_set(name).matches(label_set)), None)


def locations_of(names: Iterable[str], label_set: LabelSet) -> Named:
    """Find the locations that names of the Human Protein Atlas mean. Names may differ in case.

    A shipped label set knows all names of the Human Protein Atlas. Any other label set knows only the names of its own
    locations.

    Args:
        names: The names.
        label_set: The label set to find locations in.

    Returns:
        The locations, and the names without a location.

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
    """Return the index of the location for each known name in lower case; None if the label set has none."""
    shipped = shipped_name(label_set)
    own = {location.name.casefold(): index for index, location in enumerate(label_set)}
    keys = ((each.name.casefold(), each.keys.get(shipped or "")) for each in hpa_names())
    return {name: None if key is None else label_set.index(key) for name, key in keys} | own


def count_unknown(every: Iterable[Named]) -> Counter[str]:
    """Count unknown names, so that they can be reported.

    Args:
        every: The results of :func:`locations_of` for several fields.

    Returns:
        The number of occurrences of each unknown name.
    """
    return Counter(name for named in every for name in named.unknown)


class HpaId(NamedTuple):
    """The parts of a field's id. The antibody is None if the id does not contain it."""

    antibody: str | None
    plate: str
    well: str
    field: str

    @property
    def place(self) -> tuple[str, str]:
        """The plate and well, which identify one antibody in one cell line."""
        return self.plate, self.well


_ID: Final = re.compile(
    r"(?:ENSG\d+_)?(?:(?P<antibody>[^_]+)_)?(?P<plate>[^_]+)_(?P<well>[A-Z]+[0-9]+)_(?P<field>[^_]+(?:_cr[^_]*)?)"
    r"(?:_classes_[\d_]*)?"
)


def parse_hpa_id(name: str) -> HpaId | None:
    """Parse a field's id in the format of the Human Protein Atlas.

    The format is ``{antibody}_{plate}_{well}_{field}``. A gene may precede it, the antibody may be missing, and labels
    may follow, as in ``_classes_25_5``. A few fields have a fifth part such as ``cr58f2a7``.

    Args:
        name: The id.

    Returns:
        The parts of the id; None if it has another format.

    Examples:
        >>> parse_hpa_id("10580_1610_C1_1")
        HpaId(antibody='10580', plate='1610', well='C1', field='1')
        >>> parse_hpa_id("1639_A8_6_classes_25_5_0").place
        ('1639', 'A8')
        >>> parse_hpa_id("00070df0-bbc3-11e8-b2bc-ac1f6b6435d0")
    """
    found = _ID.fullmatch(name)
    return HpaId(**found.groupdict()) if found else None
