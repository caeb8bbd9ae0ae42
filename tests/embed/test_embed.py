from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import cytoloc as cl
from cytoloc.embed.map import color_groups
from cytoloc.errors import FormatError, SettingsError, TableError
from tests.conftest import Cli

RNG = np.random.default_rng(0)
CLUSTERS = np.repeat(np.eye(3, 8, dtype=np.float32), 10, axis=0) + RNG.normal(0, 0.02, (30, 8)).astype(np.float32)
FOUND = cl.Embeddings(tuple(f"f{i}" for i in range(30)), CLUSTERS, "model")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> cl.Dataset:
    design = cl.Design(n_fields=8, seed=4, size=128)
    return cl.simulate_dataset(tmp_path_factory.mktemp("embed") / "made.dataset", design)


def test_features_are_those_of_the_network(dataset: cl.Dataset) -> None:
    import torch

    model = cl.load("builtin", device="cpu", engine="torch")
    model.info = replace(model.info, tta=1)
    found = cl.embed_sources(model, cl.open_sources([dataset.path]), batch_size=3)
    assert found.ids == dataset.ids
    np.testing.assert_allclose(found.features, model.embed(dataset), atol=1e-5)
    with torch.inference_mode():
        maps = model.networks[0].features(torch.from_numpy(dataset[:]))
    assert isinstance(maps, torch.Tensor)
    np.testing.assert_allclose(found.features, maps.mean(dim=(2, 3)), atol=1e-5)


def test_the_nearest_fields_are_of_the_same_cluster_and_never_the_field_itself() -> None:
    nearest = cl.find_neighbors(FOUND, FOUND, k=9)
    for row in range(30):
        assert set(nearest.rows[row]) == set(range(row // 10 * 10, row // 10 * 10 + 10)) - {row}
    assert (np.diff(nearest.distances, axis=1) >= 0).all()
    unit = CLUSTERS / np.linalg.norm(CLUSTERS, axis=1, keepdims=True)
    np.testing.assert_allclose(nearest.distances[3], 1 - unit[nearest.rows[3]] @ unit[3], atol=1e-5)
    others = cl.Embeddings(("new",), CLUSTERS[:1], "model")
    assert cl.find_neighbors(others, FOUND, k=1).to_polars()["neighbor"].to_list() == ["f0"]
    with pytest.raises(SettingsError, match="different models"):
        cl.find_neighbors(cl.Embeddings(("a",), CLUSTERS[:1], "other"), FOUND)
    with pytest.raises(SettingsError, match="from 1 to 29"):
        cl.find_neighbors(FOUND, FOUND, k=30)


def test_files_come_back(tmp_path: Path) -> None:
    path = cl.write_embeddings(FOUND, tmp_path / "f.parquet")
    read = cl.read_embeddings(path)
    assert (read.ids, read.model) == (FOUND.ids, "model")
    np.testing.assert_allclose(read.features, FOUND.features, atol=1e-3)
    with pytest.raises(SettingsError, match="not a valid name"):
        cl.write_embeddings(FOUND, tmp_path / "f.csv")
    pl.DataFrame({"id": ["a"]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(FormatError):
        cl.read_embeddings(tmp_path / "other.parquet")
    with pytest.raises(TableError, match="not finite"):
        cl.Embeddings(("a",), np.full((1, 2), np.nan, np.float32), "model")


@pytest.mark.filterwarnings("ignore")
def test_anndata_has_the_table_of_fields(dataset: cl.Dataset, tmp_path: Path) -> None:
    import anndata

    found = cl.Embeddings(dataset.ids, np.ones((8, 3), np.float32), "model")
    # anndata sorts these texts as people do, and 2 before 10.
    named = dataset.fields.with_columns(gene=pl.Series([f"g{number}" for number in range(5, 13)]))
    path = cl.write_embeddings(found, tmp_path / "f.h5ad", fields=named)
    read = anndata.read_h5ad(path)
    assert read.shape == (8, 3)
    assert read.obs_names.to_list() == list(dataset.ids)
    assert read.obs["gene"].to_list() == named["gene"].to_list()
    assert "labels" in read.obs


@pytest.mark.slow
def test_a_map_separates_clusters_and_works_without_a_network(dataset: cl.Dataset, tmp_path: Path) -> None:
    positions = cl.map_positions(FOUND)
    centers = np.stack([positions[i * 10 : i * 10 + 10].mean(axis=0) for i in range(3)])
    spread = max(np.linalg.norm(positions[i * 10 : i * 10 + 10] - centers[i], axis=1).max() for i in range(3))
    apart = min(np.linalg.norm(centers[i] - centers[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert apart > spread
    groups = color_groups(dataset, dataset.ids, by="location")
    page = cl.write_map(positions[:8], dataset.ids, tmp_path / "m.html", groups=groups, dataset=dataset).read_text()
    assert "http" not in page
    assert page.count("data:image/jpeg") == 1
    assert all(name in page for name in dataset.ids)
    assert cl.write_map(positions[:8], dataset.ids, tmp_path / "m.png", groups=groups).stat().st_size > 5000
    with pytest.raises(SettingsError, match="no column 'nothing' to color by"):
        color_groups(dataset, dataset.ids, by="nothing")
    with pytest.raises(SettingsError, match="not a valid name for a map"):
        cl.write_map(positions[:8], dataset.ids, tmp_path / "m.svg")


@pytest.mark.slow
def test_the_command(dataset: cl.Dataset, tmp_path: Path, cli: Cli) -> None:
    out, near, page = tmp_path / "f.parquet", tmp_path / "n.csv", tmp_path / "map.html"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = cli(
            "embed", "builtin", dataset.path, "--out", out, "--neighbors", near, "-k", 2, "--map", page,
            "--device", "cpu",
        )  # fmt: skip
    assert done.code == 0, done.err
    assert len(pl.read_csv(near, infer_schema=False)) == 16
    assert page.exists()
    again = cli("embed", "builtin", dataset.path, "--out", out)
    assert again.code == 1
