"""Cells from nuclei and pieces of cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cytoloc.cells.growing import complete_nuclei, grow_cells

SHAPE = (120, 160)


def drawn(*rectangles: tuple[int, int, int, int]) -> NDArray[np.int32]:
    """Return labels of rectangles, each given as top, bottom, left and right."""
    labels = np.zeros(SHAPE, np.int32)
    for number, (top, bottom, left, right) in enumerate(rectangles, start=1):
        labels[top:bottom, left:right] = number
    return labels


def grown(
    nuclei: NDArray[np.int32], pieces: NDArray[np.int32], bright: NDArray[np.float32] | None = None
) -> NDArray[np.int32]:
    """Return the cells of nuclei, with pixels of 1 µm."""
    return grow_cells(nuclei, pieces, bright, pixel_um=1.0)[0]


def test_pieces_that_share_a_nucleus_are_one_cell() -> None:
    nucleus = drawn((50, 70, 70, 90))
    pieces = drawn((40, 80, 40, 80), (40, 80, 80, 120))
    cells = grown(nucleus, pieces)
    assert set(np.unique(cells).tolist()) == {0, 1}
    assert (cells > 0).sum() == (pieces > 0).sum()
    # A piece that only touches the nucleus stays another cell, and is removed because it has no nucleus.
    cells = grown(nucleus, drawn((40, 80, 40, 88), (40, 80, 88, 120)))
    assert cells[60, 110] == 0


def test_pieces_without_a_nucleus_stay_at_the_border_only() -> None:
    nuclei = drawn((50, 70, 20, 40))
    cells = grown(nuclei, drawn((40, 80, 10, 50), (40, 80, 70, 100), (90, 120, 120, 150)))
    assert cells[60, 30] > 0
    assert cells[60, 85] == 0
    assert cells[110, 130] > 0


def test_a_nucleus_outside_all_pieces_is_a_cell() -> None:
    nuclei = drawn((20, 30, 20, 30), (60, 80, 100, 120))
    cells = grown(nuclei, drawn((10, 40, 10, 40)))
    assert (cells[nuclei == 2] == cells[70, 110]).all()
    assert len(np.unique(cells)) == 3
    # Cells are numbered from top to bottom.
    assert (cells[25, 25], cells[70, 110]) == (1, 2)


def test_cells_grow_into_stained_cytoplasm_up_to_a_limit() -> None:
    bright = np.full(SHAPE, 5, np.float32)
    bright[40:80, 20:140] = 200
    cells = grown(drawn((50, 70, 40, 60)), drawn((45, 75, 35, 65)), bright)
    assert cells[60, 78] == 1
    assert cells[60, 85] == 0
    assert cells[30, 50] == 0


def test_a_nucleus_with_hardly_any_cytoplasm_is_part_of_the_cell_around_it() -> None:
    nuclei = drawn((40, 60, 40, 60), (70, 84, 90, 104))
    pieces = drawn((20, 100, 20, 140))
    pieces[70:84, 90:104] = 2
    bright = np.full(SHAPE, 5, np.float32)
    bright[20:100, 20:140] = 200
    cells = grown(nuclei, pieces, bright)
    assert set(np.unique(cells).tolist()) == {0, 1}


def test_small_holes_are_filled_and_large_ones_stay() -> None:
    pieces = drawn((20, 100, 20, 140))
    pieces[30:34, 30:34] = 0
    pieces[60:80, 100:120] = 0
    cells = grown(drawn((40, 60, 40, 60)), pieces)
    assert cells[32, 32] == 1
    assert cells[70, 110] == 0


def test_missing_nuclei_are_added_if_they_are_stained() -> None:
    first = drawn((20, 40, 20, 40))
    second = drawn((20, 40, 20, 40), (60, 80, 60, 80), (60, 80, 120, 140))
    mask = drawn((20, 40, 20, 44), (62, 80, 60, 80)) > 0
    found = complete_nuclei(first, second, mask, pixel_um=1.0)
    assert len(np.unique(found)) == 3
    assert found[70, 70] > 0
    assert found[70, 130] == 0
    # A nucleus grows over the mask.
    assert found[30, 42] == found[30, 30]


def test_pieces_of_a_missing_nucleus_are_joined_and_dust_is_removed() -> None:
    second = drawn((40, 60, 40, 55), (40, 60, 56, 70))
    mask = (second > 0) | (drawn((100, 103, 100, 103)) > 0) | (drawn((0, 3, 100, 103)) > 0)
    found = complete_nuclei(np.zeros(SHAPE, np.int32), second, mask, pixel_um=1.0)
    assert found[50, 45] == found[50, 65] > 0
    assert found[101, 101] == 0
    # At the border, most of a nucleus can be outside the field.
    assert found[1, 101] > 0


def test_patches_of_the_stain_without_a_nucleus_are_nuclei() -> None:
    none = np.zeros(SHAPE, np.int32)
    found = complete_nuclei(none, none, drawn((40, 60, 40, 60)) > 0, pixel_um=1.0)
    assert found[50, 50] == 1
