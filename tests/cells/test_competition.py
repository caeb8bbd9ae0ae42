"""The single-cell task of the 2021 competition."""

from __future__ import annotations

import base64
import csv
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tifffile

import cytoloc as cl
from cytoloc.errors import SettingsError, TableError
from cytoloc.predictions import CELL_COLUMNS


def test_masks_are_encoded_as_coco_does() -> None:
    mask = np.zeros((6, 7), bool)
    mask[2:5, 1:4], mask[0, 6] = True, True
    # The answer of pycocotools 2.0.
    assert zlib.decompress(base64.b64decode(cl.encode_mask(mask))) == b"833000:NH"


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.98, 1])
def test_masks_survive_encoding(share: float) -> None:
    rng = np.random.default_rng(1)
    for shape in ((1, 1), (5, 9), (64, 33), (200, 150)):
        mask = rng.random(shape) < share
        assert np.array_equal(cl.decode_mask(cl.encode_mask(mask), *shape), mask)


def test_damaged_masks_are_refused() -> None:
    text = cl.encode_mask(np.ones((4, 4), bool))
    with pytest.raises(TableError, match="has 16 pixels, not 4 x 5"):
        cl.decode_mask(text, 4, 5)
    with pytest.raises(TableError, match="cannot be decoded"):
        cl.decode_mask("nonsense", 4, 4)


def test_a_submission_has_a_row_per_field(study: cl.Dataset, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for name in study.ids:
        labels = np.zeros((64, 64), np.uint8)
        labels[5:30, 5:30], labels[35:60, 35:60] = 4, 7
        tifffile.imwrite(tmp_path / "labels" / f"{name}_cells.tif", labels)
    method, crops = cl.LabelFiles(folder=tmp_path / "labels"), cl.CropOptions(size=32, window_px=32)
    cells = cl.segment_cells(study, tmp_path / "cells", method=method, crops=crops)
    values = np.full((len(cells), 19), 0.001, np.float32)
    values[:, 3] = 0.25
    made = cl.Predictions(cells.ids, values, cl.LabelSet.hpa19(), cells=cells.fields.select(*CELL_COLUMNS))
    path = cl.write_cell_submission(made, cells, tmp_path / "submission.csv")
    csv.field_size_limit(10**7)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["ID"] for row in rows] == list(study.ids)
    words = rows[0]["PredictionString"].split()
    assert words[:2] == ["3", "0.25"]
    assert len(words) == 6
    mask = cl.decode_mask(words[5], int(rows[0]["ImageHeight"]), int(rows[0]["ImageWidth"]))
    assert np.array_equal(mask, labels == 7)
    with pytest.raises(SettingsError, match="the competition has 19 locations"):
        other = cl.Predictions(cells.ids, values[:, :2], cl.LabelSet.from_names(["a", "b"], name="ab"))
        cl.write_cell_submission(other, cells, tmp_path / "x.csv")
    with pytest.raises(SettingsError, match="are not of cells"):
        cl.write_cell_submission(cl.Predictions(made.ids, values, cl.LabelSet.hpa19()), cells, tmp_path / "x.csv")


def test_average_precision_ranks_cells_and_takes_each_once() -> None:
    labels = np.zeros((10, 30), np.int64)
    labels[:, :10], labels[:, 10:20], labels[:, 20:] = 1, 2, 3
    truth = {"a": (labels, np.array([[True, False], [False, False], [True, False]]))}
    values = np.array([[0.9, 0.1], [0.8, 0.1], [0.7, 0.1]])
    found = cl.cell_average_precision({"a": (labels, values)}, truth)
    # Right, wrong, right: precision 1 at recall 1/2, and 2/3 at recall 1.
    assert found[0] == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(found[1])
    # Cells that overlap too little are wrong.
    shifted = np.roll(labels, 5, axis=1)
    assert cl.cell_average_precision({"a": (shifted, values)}, truth)[0] == 0
    # Only the better half of a cell is right.
    halves = labels.copy()
    halves[:, 5:10] = 4
    better = np.array([[0.9, 0], [0.1, 0], [0.1, 0], [0.8, 0]])
    whole = {"a": (labels, np.array([[True, False], [False, False], [False, False]]))}
    assert cl.cell_average_precision({"a": (halves, better)}, whole, iou=0.5)[0] == 1
    assert cl.cell_average_precision({"a": (halves, better[:, :1])}, truth, iou=0.5)[0] < 1
    with pytest.raises(TableError, match="different fields"):
        cl.cell_average_precision({"b": (labels, values)}, truth)


def test_the_order_of_fields_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    fields = {name: np.kron(np.arange(1, 5).reshape(2, 2), np.ones((8, 8), np.int64)) for name in "abc"}
    found = {name: (labels, rng.random((4, 3))) for name, labels in fields.items()}
    truth = {name: (labels, rng.random((4, 3)) < 0.5) for name, labels in fields.items()}
    one = cl.cell_average_precision(found, truth)
    other = cl.cell_average_precision(dict(reversed(found.items())), dict(reversed(truth.items())))
    assert one == pytest.approx(other)
    assert pl.Series(one).is_between(0, 1).all()
