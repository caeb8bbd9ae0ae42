"""How the Human Protein Atlas names things: locations by words, fields by antibody, plate, well and number."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from cytoloc.labels import LOCATIONS

_OTHER_NAMES: Final[dict[str, int | None]] = {
    "nucleus": 0,
    "midbody": 16,
    "midbody ring": 16,
    "cleavage furrow": 16,
    "vesicles": None,
    # Of releases after 2018: parts of a location that 2018 had, and places that it had no name for.
    "centriolar satellite": 19,
    "nucleoli rim": 2,
    "mitotic chromosome": None,
    "kinetochore": None,
    # Of ciliated cells and sperm, which later releases annotate.
    "primary cilium": None,
    "primary cilium tip": None,
    "primary cilium transition zone": None,
    "basal body": None,
    "acrosome": None,
    "annulus": None,
    "calyx": None,
    "connecting piece": None,
    "end piece": None,
    "equatorial segment": None,
    "flagellar centriole": None,
    "mid piece": None,
    "perinuclear theca": None,
    "principal piece": None,
}
"""Names outside the 28, in lower case: the location that stands for them, or None where none does."""

KNOWN_NAMES: Final[dict[str, int | None]] = {
    **{location.name.lower(): int(location.key) for location in LOCATIONS},
    **_OTHER_NAMES,
}
"""Every name of a location that the Atlas uses, in lower case, and the id of the 28 that stands for it."""


class Named(NamedTuple):
    """What names of locations mean.

    Attributes:
        ids: Location ids, sorted, each once.
        without: Names that are known and for which none of the 28 stands.
        unknown: Names that are not known.
    """

    ids: tuple[int, ...]
    without: tuple[str, ...]
    unknown: tuple[str, ...]


def locations_of(names: Iterable[str]) -> Named:
    """Return the location ids that the Atlas's names mean; upper and lower case do not matter.

    Examples:
        >>> locations_of(["Nucleus", "Rods & Rings", "Vesicles", "Moon"])
        Named(ids=(0, 27), without=('Vesicles',), unknown=('Moon',))
    """
    ids: set[int] = set()
    without, unknown = [], []
    for name in names:
        key = name.strip().lower()
        if key not in KNOWN_NAMES:
            unknown.append(name)
        elif (number := KNOWN_NAMES[key]) is None:
            without.append(name)
        else:
            ids.add(number)
    return Named(tuple(sorted(ids)), tuple(without), tuple(unknown))


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
