"""The single-cell task of the 2021 competition."""

from __future__ import annotations

import base64
import csv
import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tifffile
from numpy.typing import NDArray

import cytoloc as cl
from cytoloc.errors import SettingsError, TableError
from cytoloc.predictions import CELL_COLUMNS
from tests.conftest import Cli


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
    assert cl.cell_average_precision({"a": (halves, better)}, truth, iou=0.5)[0] < 1
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


def cells_of(folder: Path, image: NDArray[np.int64]) -> cl.Dataset:
    """Return the dataset of the cells of field ``a``, from a label image of 64 px."""
    folder.mkdir()
    pixels = np.full((1, 2, 64, 64), 99, np.uint8)
    fields = cl.dataset_from_arrays(pixels, out=folder / "fields", channels=["protein", "nucleus"], ids=["a"])
    tifffile.imwrite(folder / "a_cells.tif", image.astype(np.uint8))
    crops = cl.CropOptions(size=32, window_px=32)
    return cl.segment_cells(fields, folder / "cells", method=cl.LabelFiles(folder=folder), crops=crops)


def test_datasets_of_cells_are_scored_by_their_masks(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((64, 64), np.int64)
    image[:20, :20], image[:20, 20:40], image[:20, 40:60] = 1, 2, 3
    truth = cells_of(tmp_path / "true", image)
    image[:20, 40:60], image[:20, 50:64] = 0, 3
    cells = cells_of(tmp_path / "found", image)
    two = cl.LabelSet.from_names(["Cytosol", "Nucleoli"], name="two")
    values = np.array([[0.5, 0.6], [0.9, 0.3], [0.8, 0.1]], np.float32)
    given = cl.Predictions(cells.ids, values, two, cells=cells.fields.select(*CELL_COLUMNS))
    labels = cl.LabelList({"a_c1": (0,), "a_c2": (1,), "a_c3": (0,)}, two, "truth")
    found = cl.cell_mean_average_precision(given, cells, labels, truth=truth)
    # Cytosol: cell 2 has another location, cell 3 overlaps too little, cell 1 is right: a third of one of two cells.
    # Nucleoli: cell 1 has another location, cell 2 is right.
    assert found.classes["average_precision"].to_list() == pytest.approx([1 / 6, 1 / 2])
    assert found.classes["positives"].to_list() == [2, 1]
    assert found.mean == pytest.approx(1 / 3)
    assert found.interval == pytest.approx((1 / 3, 1 / 3))
    # With other masks of the same numbers, cell 3 is right too: precision 1/2 and 2/3, the former raised to the latter.
    same = cl.cell_mean_average_precision(given, cells, labels)
    assert same.classes["average_precision"].to_list() == pytest.approx([2 / 3, 1 / 2])
    # A true cell without a prediction is missed.
    fewer = cl.cell_mean_average_precision(given[:2], cells, labels)
    assert fewer.classes["average_precision"].to_list() == pytest.approx([1 / 4, 1 / 2])
    with pytest.raises(TableError, match="1 predicted fields have no true cells, such as b"):
        moved = given.cells.with_columns(field=pl.lit("b"))  # type: ignore[union-attr]
        cl.cell_mean_average_precision(replace(given, cells=moved), cells, labels)
    with pytest.raises(TableError, match="The predicted cell 9 of a is not in the label image"):
        moved = given.cells.with_columns(cell=pl.Series([1, 9, 3], dtype=pl.Int64))  # type: ignore[union-attr]
        cl.cell_mean_average_precision(replace(given, cells=moved), cells, labels, truth=truth)
    cl.write_predictions(given, tmp_path / "cells.parquet")
    pl.DataFrame({"Id": list(truth.ids), "Target": ["Cytosol", "Nucleoli", "Cytosol"]}).write_csv(
        tmp_path / "labels.csv"
    )
    words = ("evaluate", tmp_path / "cells.parquet", "--labels", tmp_path / "labels.csv")
    done = cli(*words, "--metric", "map", "--cells", cells.folder, "--true-cells", truth.folder)
    assert done.code == 0, done.err
    assert "mean average precision 0.333 over 2 locations with positives (0 without)" in done.out
    done = cli(*words, "--metric", "map", "--json")
    assert json.loads(done.out)["mean_average_precision"] == pytest.approx((1 / 2 + 2 / 3) / 2 / 2 + 1 / 4)
    assert cli(*words, "--cells", cells.folder).code == 2
    assert cli(*words, "--metric", "map", "--true-cells", truth.folder).code == 2
    group = ("aggregate", tmp_path / "cells.parquet", "--out", tmp_path / "f.parquet", "--cells", cells.folder)
    before = sorted(tmp_path.iterdir())
    wrong = cli(*group, "--table", tmp_path / "t.csv", "--submission", tmp_path / "s.csv")
    assert (wrong.code, "the competition has 19 locations" in wrong.err) == (2, True)
    nineteen = cl.Predictions(cells.ids, np.full((3, 19), 0.5, np.float32), cl.LabelSet.hpa19(), cells=given.cells)
    cl.write_predictions(replace(nineteen, cells=moved), tmp_path / "other.parquet")
    wrong = cli("aggregate", tmp_path / "other.parquet", *group[2:4], "--submission", tmp_path / "s.csv", *group[4:])
    assert (wrong.code, "The predicted cell 9 of a is not" in wrong.err) == (1, True)
    (tmp_path / "other.parquet").unlink()
    assert sorted(tmp_path.iterdir()) == before
    weights = pl.DataFrame({"id": list(cells.ids), "weight": [1.0, 2, 3]})
    monkeypatch.setattr("cytoloc.embed.attention.attention_weights", lambda *_: weights)
    done = cli(*group, "--method", "weighted", "--attention", "builtin")
    assert done.code == 0, done.err
    assert cl.read_predictions(tmp_path / "f.parquet").provenance["aggregated"]["weights"] == "attention of builtin"
