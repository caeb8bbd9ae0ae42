"""Datasets of cells are ordinary datasets: prediction, evaluation and features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tifffile
import torch

import cytoloc as cl
from cytoloc.errors import SettingsError
from cytoloc.models.network import build_network
from cytoloc.predict.model import Model
from cytoloc.predict.model_info import ModelInfo
from tests.conftest import Cli
from tests.models.nets import spec_of


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory, study: cl.Dataset) -> cl.Dataset:
    """Return a dataset of two cells per simulated field, at 128 px."""
    folder = tmp_path_factory.mktemp("cells")
    for name in study.ids:
        labels = np.zeros((64, 64), np.uint8)
        labels[2:30, 2:60], labels[34:62, 2:60] = 1, 2
        tifffile.imwrite(folder / f"{name}_cells.tif", labels)
    crops = cl.CropOptions(size=128, window_px=64)
    return cl.segment_cells(study, folder / "cells", method=cl.LabelFiles(folder=folder), crops=crops)


@pytest.mark.filterwarnings("ignore::cytoloc.errors.ModelCaution")
def test_predictions_of_cells_carry_their_places(
    cells: cl.Dataset, study: cl.Dataset, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "cells.parquet"
    done = cli("predict", "builtin", cells.folder, "--out", out, "--tta", 1, "--engine", "torch", "--device", "cpu")
    assert done.code == 0, done.err
    assert "cells.parquet: 80 cells predicted by" in done.out
    found = cl.read_predictions(out)
    model = cl.load("builtin", engine="torch", device="cpu")
    assert found.cells is not None
    places = found.to_polars().select("id", "field", "cell", "x", "y", "area")
    assert places.rows() == cells.fields.select("id", "field", "cell", "x", "y", "area").rows()
    parts = tmp_path / "parts"
    cl.predict_parts(model, cl.open_sources([cells.folder]), parts, options=cl.StreamOptions(part_fields=30, tta=1))
    again = cl.read_predictions(parts)
    assert again.cells is not None
    assert again.ids == found.ids
    assert again.cells["cell"].to_list() == found.cells["cell"].to_list()
    of_fields = cl.aggregate_cells(found, method="max")
    assert set(of_fields.predictions.ids) == set(study.ids)
    # The labels of the fields evaluate the aggregated predictions.
    decided = cl.Predictions(
        of_fields.predictions.ids,
        of_fields.predictions.probabilities,
        found.label_set,
        decided=of_fields.predictions.probabilities > 0.3,
    )
    assert cl.evaluate(decided, study).fields == len(study)


def test_features_of_cells_are_described(cells: cl.Dataset, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "features.parquet"
    done = cli("embed", "builtin", cells.folder, "--out", out)
    assert done.code == 0, done.err
    assert cl.read_embeddings(out).ids == cells.ids


def test_folds_of_the_command_keep_fields_together(cells: cl.Dataset, tmp_path: Path, cli: Cli) -> None:
    done = cli("folds", cells.folder, "-k", 2, "--out", tmp_path / "folds.csv")
    assert done.code == 0, done.err
    folds = pl.read_csv(tmp_path / "folds.csv").join(cells.fields.select("id", "field"), on="id")
    assert folds.group_by("field").agg(pl.col("fold").n_unique())["fold"].max() == 1


def test_info_says_that_rows_are_cells(cells: cl.Dataset, cli: Cli) -> None:
    done = cli("info", cells.folder)
    assert done.code == 0, done.err
    assert "80 cells of 40 fields, images of 128 px" in done.out


def test_attention_weights_are_a_softmax_over_the_places_of_all_cells(cells: cl.Dataset) -> None:
    network = build_network(spec_of("efficientnet_lite0", "attention", locations=2, size=128)).eval()
    torch.nn.init.normal_(network.head.places.weight, std=0.1)  # type: ignore[union-attr,arg-type]
    labels = cl.LabelSet.from_names(["Cytosol", "Nucleoli"], name="two")
    info = ModelInfo(size=128, channels=cells.channels, label_set=labels)
    weights = cl.attention_weights(Model([network], info, device="cpu"), cells)
    assert weights["id"].to_list() == list(cells.ids)
    with torch.inference_mode():
        images = torch.from_numpy(cells.read(list(range(len(cells)))))
        places = network.head.places(network.features(images)).flatten(2)  # type: ignore[operator]
        share = places.transpose(0, 1).flatten(1).softmax(dim=1).reshape(2, len(cells), -1).sum(dim=2).T.numpy()
    assert weights.select(labels.keys).to_numpy() == pytest.approx(share / share.max(axis=0), rel=1e-3)
    found = cl.load("builtin", engine="torch", device="cpu")
    with pytest.raises(SettingsError, match="no attention head"):
        cl.attention_weights(found, cells)
