"""Measurements of cells: position, area, nuclei, and what is unusual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cytoloc.cells.labels import CellLabels, Labels, border_numbers, consecutive
from cytoloc.errors import ImageError

TINY: Final = 50
"""Area in pixels below which an object is flagged as a speck."""

NO_NUCLEUS: Final = "no nucleus"
SEVERAL_NUCLEI: Final = "several nuclei"
AT_BORDER: Final = "at border"
TOO_LARGE: Final = "larger than crop"
SPECK: Final = "speck"

CELL_FLAGS: Final = (NO_NUCLEUS, SEVERAL_NUCLEI, AT_BORDER, TOO_LARGE, SPECK)
"""What can be unusual about a cell."""


class Bounds(NamedTuple):
    """The bounding rectangle of a cell, in pixels; the ends are not included."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True)
class MeasuredCell:
    """A cell of a label image.

    Attributes:
        number: Its number in the label image.
        bounds: Its bounding rectangle.
        x: Column of its center of mass, in pixels.
        y: Row of its center of mass, in pixels.
        area: Area in pixels.
        nuclei: The number of its nuclei; None if nuclei are unknown.
        nucleus_area: The area of its nuclei in pixels; None if nuclei are unknown.
        axis: Direction of its long axis, in degrees from the horizontal, counterclockwise in the image, from -90 to 90.
        flags: What is unusual: ``no nucleus``, ``several nuclei``, ``at border``, ``speck``.
    """

    number: int
    bounds: Bounds
    x: float
    y: float
    area: int
    nuclei: int | None
    nucleus_area: int | None
    axis: float
    flags: tuple[str, ...]


def measure_cells(labels: CellLabels) -> list[MeasuredCell]:
    """Measure the cells of a field.

    A nucleus belongs to the cell that contains most of it, if this is at least half of the nucleus.

    Args:
        labels: The cells and nuclei.

    Returns:
        The cells, in order of their numbers.

    Raises:
        ImageError: If the images of cells and nuclei differ in size.
    """
    cells, numbers = consecutive(labels.cells)
    count = len(numbers)
    nuclei: NDArray[np.int64] | None = None
    nucleus_areas = np.zeros(count, np.int64)
    if labels.nuclei is not None:
        if labels.nuclei.shape != labels.cells.shape:
            raise ImageError(
                f"The label image of nuclei has {_size(labels.nuclei)} px, that of cells {_size(labels.cells)} px.",
                hint="Give label images of the same size.",
            )
        # Only pixels of nuclei matter, which are a small part of a field.
        places = np.flatnonzero(labels.nuclei)
        own = cells.ravel()[places]
        home = cells_of_nuclei(own, consecutive(labels.nuclei.ravel()[places])[0])
        nuclei = np.bincount(home[1:], minlength=count)
        nucleus_areas = np.bincount(own, minlength=count)
    at_border = set(border_numbers(cells).tolist())
    found = []
    for place, box in enumerate(ndimage.find_objects(cells), start=1):
        moments = cv2.moments((cells[box] == place).astype(np.uint8), binaryImage=True)
        area = round(moments["m00"])
        # The direction in which the pixels of the cell vary most.
        axis = 0.5 * np.degrees(np.arctan2(-2 * moments["mu11"], moments["mu20"] - moments["mu02"]))
        flags = [AT_BORDER] if place in at_border else []
        if nuclei is not None and nuclei[place] != 1:
            flags.insert(0, SEVERAL_NUCLEI if nuclei[place] else NO_NUCLEUS)
        if area < TINY:
            flags.append(SPECK)
        found.append(
            MeasuredCell(
                number=int(numbers[place]),
                bounds=Bounds(box[0].start, box[0].stop, box[1].start, box[1].stop),
                x=box[1].start + moments["m10"] / area,
                y=box[0].start + moments["m01"] / area,
                area=area,
                nuclei=None if nuclei is None else int(nuclei[place]),
                nucleus_area=None if nuclei is None else int(nucleus_areas[place]),
                axis=float(axis),
                flags=tuple(flags),
            )
        )
    return found


def cells_of_nuclei(cells: NDArray[np.int32], nuclei: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the cell of each nucleus: the one that contains at least half of it, otherwise 0.

    Args:
        cells: Numbers of cells, without gaps.
        nuclei: Numbers of nuclei, without gaps.

    Returns:
        The number of the cell of each nucleus, beginning with nucleus 0, which is background and has none.
    """
    shared = overlaps(nuclei, cells)
    inside = shared[:, 1:]
    if not inside.size:
        return np.zeros(len(shared), np.int64)
    home = np.where(2 * inside.max(axis=1) >= shared.sum(axis=1), inside.argmax(axis=1) + 1, 0)
    home[0] = 0
    return home.astype(np.int64)


def overlaps(one: NDArray[np.int32], other: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the number of shared pixels of each object of one label image and each of another, background included."""
    shape = (int(one.max(initial=0)) + 1, int(other.max(initial=0)) + 1)
    pairs = one.astype(np.int64) * shape[1] + other
    return np.bincount(pairs.ravel(), minlength=shape[0] * shape[1]).reshape(shape)


def _size(labels: Labels) -> str:
    return f"{labels.shape[1]} x {labels.shape[0]}"
