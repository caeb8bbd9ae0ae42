"""The 28 locations of the Human Protein Atlas image classification task, and the four channel roles."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from cytoloc.errors import TableError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ChannelRole = Literal["microtubules", "protein", "nucleus", "er"]

CHANNELS: Final[tuple[ChannelRole, ...]] = ("microtubules", "protein", "nucleus", "er")
"""The order of the channels in every array of cytoloc."""

CHANNEL_COLOURS: Final[dict[ChannelRole, str]] = {
    "microtubules": "red",
    "protein": "green",
    "nucleus": "blue",
    "er": "yellow",
}
"""The colour by which the Human Protein Atlas names each channel's file."""


class Location(NamedTuple):
    """A place in the cell: the task's id, its name, and its Gene Ontology term (empty where there is none)."""

    id: int
    name: str
    go_id: str


LOCATIONS: Final[tuple[Location, ...]] = (
    Location(0, "Nucleoplasm", "GO:0005654"),
    Location(1, "Nuclear membrane", "GO:0031965"),
    Location(2, "Nucleoli", "GO:0005730"),
    Location(3, "Nucleoli fibrillar center", "GO:0001650"),
    Location(4, "Nuclear speckles", "GO:0016607"),
    Location(5, "Nuclear bodies", "GO:0016604"),
    Location(6, "Endoplasmic reticulum", "GO:0005783"),
    Location(7, "Golgi apparatus", "GO:0005794"),
    Location(8, "Peroxisomes", "GO:0005777"),
    Location(9, "Endosomes", "GO:0005768"),
    Location(10, "Lysosomes", "GO:0005764"),
    Location(11, "Intermediate filaments", "GO:0045111"),
    Location(12, "Actin filaments", "GO:0015629"),
    Location(13, "Focal adhesion sites", "GO:0005925"),
    Location(14, "Microtubules", "GO:0015630"),
    Location(15, "Microtubule ends", "GO:1990752"),
    Location(16, "Cytokinetic bridge", "GO:0045171"),
    Location(17, "Mitotic spindle", "GO:0072686"),
    Location(18, "Microtubule organizing center", "GO:0005815"),
    Location(19, "Centrosome", "GO:0005813"),
    Location(20, "Lipid droplets", "GO:0005811"),
    Location(21, "Plasma membrane", "GO:0005886"),
    Location(22, "Cell junctions", "GO:0030054"),
    Location(23, "Mitochondria", "GO:0005739"),
    Location(24, "Aggresome", "GO:0016235"),
    Location(25, "Cytosol", "GO:0005829"),
    Location(26, "Cytoplasmic bodies", "GO:0036464"),
    Location(27, "Rods & rings", ""),
)

N_LOCATIONS: Final = len(LOCATIONS)

TRAINING_COUNTS: Final[tuple[int, ...]] = (
    12885, 1254, 3621, 1561, 1858, 2513, 1008, 2822, 53, 45, 28, 1093, 688, 537,
    1066, 21, 530, 210, 902, 1482, 172, 3777, 802, 2965, 322, 8228, 328, 11,
)  # fmt: skip
"""Fields of each location among the 31,072 training fields of the 2018 Kaggle competition."""


LOCATIONS_2021: Final[tuple[str, ...]] = (
    "Nucleoplasm", "Nuclear membrane", "Nucleoli", "Nucleoli fibrillar center", "Nuclear speckles", "Nuclear bodies",
    "Endoplasmic reticulum", "Golgi apparatus", "Intermediate filaments", "Actin filaments", "Microtubules",
    "Mitotic spindle", "Centrosome", "Plasma membrane", "Mitochondria", "Aggresome", "Cytosol",
    "Vesicles and punctate cytosolic patterns", "Negative",
)  # fmt: skip
"""The 19 classes of the 2021 Kaggle competition, which annotated the same fields anew."""

TO_2021: Final[tuple[int | None, ...]] = (
    0, 1, 2, 3, 4, 5, 6, 7, 17, 17, 17, 8, 9, 9, 10, None, None, 11, 12, 12, 17, 13, 13, 14, 15, 16, 17, None,
)  # fmt: skip
"""For each of the 28 locations the class of 2021 that took it up; None for the three that were given up.

Read off the 21,806 fields that both competitions share: 91 to 100 % of a location's fields have that class, while
microtubule ends, cytokinetic bridge and rods & rings have none in common.
"""


def parse_labels(text: str, *, where: str) -> tuple[int, ...]:
    """Return the location ids of one label cell such as ``"16 0"``, sorted.

    Args:
        text: Location ids separated by spaces, as in the column ``Target`` of the competition's CSV.
        where: The file and row, for the message of an error.

    Raises:
        TableError: If the cell is empty, or holds anything but different ids from 0 to 27.

    >>> parse_labels("16 0", where="labels.csv, row 1")
    (0, 16)
    """
    words = text.split()
    if not words:
        raise TableError(
            f"{where}: the label is empty.",
            way_out=f"Give at least one location id from 0 to {N_LOCATIONS - 1}, or remove the row.",
        )
    for word in words:
        # Python converts no number of thousands of digits.
        if not (word.isascii() and word.isdigit() and len(word) < 10 and int(word) < N_LOCATIONS):
            raise TableError(
                f"{where}: {word!r} is not a location.",
                way_out=f"Labels are location ids from 0 to {N_LOCATIONS - 1}, separated by spaces.",
            )
    ids = sorted({int(word) for word in words})
    if len(ids) != len(words):
        raise TableError(f"{where}: {text!r} names a location twice.", way_out="Name each location once.")
    return tuple(ids)


def format_labels(ids: Iterable[int]) -> str:
    """Return location ids as the competition writes them: ``"0 16"``."""
    return " ".join(str(int(i)) for i in ids)


def to_matrix(labels: Iterable[Iterable[int]]) -> NDArray[np.bool_]:
    """Return one row per field, one column per location: true where the field has that location.

    >>> to_matrix([[0, 16], []]).sum(axis=1)
    array([2, 0])
    """
    import numpy as np  # here, so that commands which need no numbers start at once

    rows = [list(ids) for ids in labels]
    matrix = np.zeros((len(rows), N_LOCATIONS), dtype=bool)
    for row, ids in enumerate(rows):
        matrix[row, ids] = True
    return matrix


def from_matrix(matrix: NDArray[np.bool_]) -> list[tuple[int, ...]]:
    """Return the location ids of each row of a boolean ``(n, 28)`` matrix; undoes :func:`to_matrix`."""
    return [tuple(int(i) for i in row.nonzero()[0]) for row in matrix]
