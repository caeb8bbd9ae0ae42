"""The size, shape and density of simulated cell lines. Lengths are in pixels of a 512-px field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class CellLine:
    """A kind of cells. Each field draws its values from the ranges.

    Attributes:
        name: The cell lines that it resembles.
        share: Share of fields with these cells.
        nucleus: Radius of the nucleus.
        long_nucleus: Aspect ratio of the nucleus.
        reach: Radius of the cell if no other cell is near.
        stretch: Aspect ratio of the cell.
        lobes: Deviation of the outline from an ellipse: 0 for none, 0.3 for corners and processes.
        gap: Minimum distance between cells, in radii of nuclei.
        cells: Maximum number of cells in a field.
        islands: Number of islands in which cells grow; 0 if they grow anywhere.
    """

    name: str
    share: float
    nucleus: Range
    long_nucleus: Range
    reach: Range
    stretch: Range
    lobes: Range
    gap: Range
    cells: tuple[int, int]
    islands: tuple[int, int] = (0, 0)


CELL_LINES: Final = (
    CellLine(
        name="large and flat, as U-2 OS",
        share=0.40,
        nucleus=(25, 34),
        long_nucleus=(1.0, 1.5),
        reach=(63, 112),
        stretch=(1.0, 1.9),
        lobes=(0.10, 0.30),
        gap=(2.1, 3.4),
        cells=(8, 39),
    ),
    CellLine(
        name="epithelial islands, as A-431 and MCF7",
        share=0.28,
        nucleus=(20, 29),
        long_nucleus=(1.0, 1.35),
        reach=(36, 58),
        stretch=(1.0, 1.3),
        lobes=(0.04, 0.14),
        gap=(1.9, 2.4),
        cells=(16, 61),
        islands=(1, 4),
    ),
    CellLine(
        name="long, as fibroblasts and U-251 MG",
        share=0.20,
        nucleus=(23, 32),
        long_nucleus=(1.2, 1.9),
        reach=(45, 74),
        stretch=(1.8, 3.6),
        lobes=(0.12, 0.35),
        gap=(2.2, 3.6),
        cells=(7, 33),
    ),
    CellLine(
        name="small and crowded, as HEK 293 and PC-3",
        share=0.12,
        nucleus=(11, 18),
        long_nucleus=(1.0, 1.4),
        reach=(19, 31),
        stretch=(1.0, 1.5),
        lobes=(0.06, 0.2),
        gap=(1.9, 2.6),
        cells=(49, 139),
    ),
)
"""The kinds of cells, which represent the 27 cell lines of the 2018 competition."""
