"""Label images: reading, scaling, measuring, matching."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from cytoloc.cells.labels import (
    CellLabels,
    consecutive,
    labels_file,
    read_cell_labels,
    read_labels,
    scale_labels,
    write_labels,
)
from cytoloc.cells.matching import match_objects
from cytoloc.cells.measures import measure_cells
from cytoloc.errors import ImageError
from tests.cells.conftest import PIXEL_UM


def squares() -> NDArray[np.int64]:
    """Return three objects with gaps between their numbers."""
    labels = np.zeros((40, 60), np.int64)
    labels[5:15, 5:25] = 3
    labels[5:15, 25:45] = 900
    labels[20:40, 30:60] = 70000
    return labels


@pytest.mark.parametrize("kind", ["tif", "png", "zarr"])
def test_labels_of_all_kinds_are_read(kind: str, tmp_path: Path) -> None:
    labels = squares()
    path = tmp_path / f"a.{kind}"
    if kind == "tif":
        tifffile.imwrite(path, labels.astype(np.uint32))
    elif kind == "png":
        labels[labels == 70000] = 7
        path.write_bytes(imagecodecs.png_encode(labels.astype(np.uint16)))
    else:
        from bioio_ome_zarr.writers import OMEZarrWriter

        inner = tmp_path / "image.zarr" / "labels" / "cells"
        writer = OMEZarrWriter(
            str(inner), level_shapes=[labels.shape], dtype="uint32", axes_names=["y", "x"], axes_types=["space"] * 2
        )
        writer.write_full_volume(labels.astype(np.uint32))
        path = inner
    assert np.array_equal(read_labels(path), labels)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.kron(np.eye(8), np.full((4, 4), 255)).astype(np.uint8)[:, ::-2], "is a mask: 8 separate objects"),
        (np.full((8, 8), 0.5, np.float32), "has fractional pixels"),
        (np.full((8, 8), -3, np.int16), "has the negative number -3"),
    ],
)
def test_what_is_no_label_image_is_refused(pixels: NDArray[np.generic], message: str, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    with pytest.raises(ImageError, match=message):
        read_labels(tmp_path / "a.tif")


def test_a_single_object_is_not_a_mask(tmp_path: Path) -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[4:9, 4:9] = 255
    tifffile.imwrite(tmp_path / "a.tif", labels)
    assert read_labels(tmp_path / "a.tif").max() == 255


def test_colored_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(np.zeros((8, 8, 3), np.uint8)))
    with pytest.raises(ImageError, match="is a colored image"):
        read_labels(tmp_path / "a.png")


def test_consecutive_numbers_keep_the_objects() -> None:
    labels = squares()
    for far in (labels, np.where(labels == 900, 2**32 - 1, labels), np.where(labels == 70000, 7, labels)):
        found, numbers = consecutive(far)
        assert np.array_equal(numbers[found], far)
        assert found.max() == 3


def test_written_labels_are_read_again(tmp_path: Path) -> None:
    labels = CellLabels(squares(), np.where(squares() == 3, 1, 0))
    path = labels_file(tmp_path / "labels", "a/b 1")
    assert path.parent == tmp_path / "labels"
    write_labels(path, labels)
    write_labels(path, labels)
    again = read_cell_labels(path)
    assert again.nuclei is not None
    assert labels.nuclei is not None
    assert np.array_equal(again.cells, labels.cells)
    assert np.array_equal(again.nuclei, labels.nuclei)
    write_labels(path, CellLabels(squares()))
    assert read_cell_labels(path).nuclei is None
    assert list(path.parent.iterdir()) == [path]


def test_scaled_labels_keep_their_objects_and_contact() -> None:
    labels = consecutive(squares())[0]
    large = scale_labels(labels, 160, 240)
    for number in (1, 2, 3):
        assert (large == number).sum() == pytest.approx(16 * (labels == number).sum(), rel=0.05)
    # The first two objects touch along a line.
    row = large[40, 20:180]
    assert (row > 0).all()
    assert set(row.tolist()) == {1, 2}
    assert np.array_equal(scale_labels(labels, 40, 60), labels)


def test_measures_of_cells_and_nuclei() -> None:
    nuclei = np.zeros((40, 60), np.int64)
    nuclei[7:10, 7:10], nuclei[7:10, 15:18], nuclei[25:30, 40:45] = 1, 2, 3
    # Most of this nucleus is outside of cells.
    nuclei[0:7, 30:33] = 4
    one, two, three = measure_cells(CellLabels(squares(), nuclei))
    assert (one.number, one.nuclei, one.area, one.nucleus_area) == (3, 2, 200, 18)
    assert (one.x, one.y) == (14.5, 9.5)
    assert one.flags == ("several nuclei",)
    assert (two.nuclei, two.flags) == (0, ("no nucleus",))
    assert (three.number, three.nuclei, three.flags) == (70000, 1, ("at border",))
    assert tuple(three.bounds) == (20, 40, 30, 60)
    assert one.axis == pytest.approx(0)
    assert measure_cells(CellLabels(squares()))[0].nuclei is None
    assert measure_cells(CellLabels(np.zeros((5, 5), np.int64))) == []
    with pytest.raises(ImageError, match="nuclei has 5 x 5 px, that of cells 60 x 40 px"):
        measure_cells(CellLabels(squares(), np.zeros((5, 5), np.int64)))


def test_touching_specks_are_separate_cells() -> None:
    labels = np.zeros((4, 4), np.int64)
    labels[1, 1:3] = (4_000_000_000, 7)
    found = measure_cells(CellLabels(labels))
    assert [(cell.number, cell.area, cell.flags) for cell in found] == [
        (7, 1, ("speck",)),
        (4_000_000_000, 1, ("speck",)),
    ]


def test_agreement_counts_each_object_once() -> None:
    truth = squares()
    assert tuple(match_objects(truth, truth, iou=1)) == (3, 3, 3)
    halves = truth.copy()
    halves[20:40, 45:60] = 5
    agreement = match_objects(halves, truth)
    # Each half has an intersection over union of 0.5 with the whole; only one of them is matched.
    assert tuple(agreement) == (3, 4, 3)
    assert (agreement.precision, agreement.recall) == (0.75, 1)
    with pytest.raises(ImageError, match="shapes"):
        match_objects(truth, truth[:5])


def test_pixel_size_of_the_tests_is_that_of_the_simulator() -> None:
    assert pytest.approx(164, abs=1) == PIXEL_UM * 512
