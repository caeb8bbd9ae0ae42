from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tifffile
from PIL import Image

import cytoloc as cl
from cytoloc.report.explanations import explanation_figure, file_name
from cytoloc.report.panels import colors_of, overlay, scale_bar
from tests.conftest import Cli


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> cl.Dataset:
    design = cl.Design(n_fields=7, seed=4, size=128)
    return cl.simulate_dataset(tmp_path_factory.mktemp("explain") / "made.dataset", design)


def test_the_command_writes_panels_and_tables(bundle: Path, dataset: cl.Dataset, tmp_path: Path, cli: Cli) -> None:
    out, ids = tmp_path / "explained", [dataset.ids[row] for row in (2, 5, 0, 6)]
    done = cli("explain", bundle, dataset.path, "--out", out, "--neighbors", dataset.path, "--maps", "npy",
               *(word for name in ids for word in ("--id", name)), "--device", "cpu")  # fmt: skip
    assert done.code == 0, done.err
    assert "4 fields: panels, channel_effects.csv and channel_effects.parquet, neighbors.csv, maps as .npy" in done.out
    effects = pl.read_parquet(out / "channel_effects.parquet")
    assert set(effects["id"]) == set(ids)
    assert effects["predicted"].all()
    model = cl.load(bundle, device="cpu")
    assert model.decision is not None
    predicted = model.predict_sources(cl.open_sources([dataset.path]))
    for name, places in zip(predicted.ids, model.decision.decide_calibrated(predicted.probabilities), strict=True):
        keys = {model.label_set.keys[place] for place in np.flatnonzero(places)}
        assert name not in ids or set(effects.filter(pl.col("id") == name)["location"]) == keys
    assert pl.read_csv(out / "channel_effects.csv").columns == effects.columns
    near = pl.read_csv(out / "neighbors.csv")
    assert near.height == 20
    assert near["locations"].null_count() == 0
    for name in ids:
        maps = np.load(out / "maps" / f"{name}.npy")
        assert maps.dtype == np.float16
        assert maps.shape == (effects.filter(pl.col("id") == name).height, 128, 128)
        with Image.open(out / "panels" / f"{name}.png") as image:
            assert np.asarray(image.convert("RGB")).std() > 20
    again = cli("explain", bundle, dataset.path, "--out", out)
    assert again.code == 1
    assert "exists" in again.err


def test_named_locations_of_all_fields(bundle: Path, dataset: cl.Dataset, tmp_path: Path, cli: Cli) -> None:
    done = cli("explain", bundle, dataset.path, "--out", tmp_path / "a", "--location", "Nucleoli", "--location",
               "cytosol", "--maps", "tiff", "--method", "gradcam", "--device", "cpu", "--json")  # fmt: skip
    assert done.code == 0, done.err
    rows = json.loads(done.out)
    assert [row["location"] for row in rows] == ["2", "25"] * 7
    assert tifffile.imread(tmp_path / "a" / "maps" / f"{dataset.ids[0]}.tiff").shape == (2, 128, 128)
    assert not (tmp_path / "a" / "neighbors.csv").exists()


def test_maps_as_zarr_and_a_channel_that_was_not_imaged(bundle: Path, dataset: cl.Dataset, tmp_path: Path) -> None:
    import zarr

    model = cl.load(bundle, device="cpu")
    three = cl.dataset_from_arrays(
        dataset[:2][:, 1:], out=tmp_path / "three.dataset", channels=["protein", "nucleus", "er"]
    )
    options = cl.ExplainOptions(locations=["Nucleoli"], absent={"microtubules": "zero"})
    seen: list[tuple[int, int]] = []
    cl.write_explanations(
        model,
        cl.open_sources([three.path]),
        out=tmp_path / "out",
        options=options,
        maps="zarr",
        progress=lambda *done: seen.append(done),
    )
    assert seen == [(2, 2)]
    assert zarr.open_array(tmp_path / "out" / "maps" / f"{three.ids[0]}.zarr").shape == (1, 128, 128)
    found = cl.explain_sources(model, cl.open_sources([three.path]), options=options)
    figure = explanation_figure(found, 0, [0], pixel_um=0.5)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts.count("not imaged") == 1
    assert "10 µm" in texts


def test_wrong_calls(dataset: cl.Dataset, study: cl.Dataset, images: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    for words, code, message in (
        (("--id", "nobody"), 1, "There is no field 'nobody'"),
        (("--location", "nucleolus"), 1, "'nucleolus' is not a location of the label set hpa28"),
        (("--method", "attention"), 2, "no attention head"),
        (("--maps", "gif"), 2, "gif"),
        (("--neighbors", tmp_path / "no.dataset"), 1, "no.dataset"),
    ):
        done = cli("explain", "builtin", dataset.path, "--out", out, "--device", "cpu", *words)
        assert (done.code, message in done.err) == (code, True), done.err
        assert not out.exists()
    for small in (images, study.path):
        done = cli("explain", "builtin", small, "--out", out, "--device", "cpu")
        assert (done.code, "px" in done.err, "could be read" in done.err) == (1, True, True), done.err
        assert not out.exists()


def test_names_of_files_do_not_collide() -> None:
    used: set[str] = set()
    assert [file_name(name, used) for name in ("a/1", "a_1", "A_1", "..")] == ["a_1", "a_1-2", "A_1-3", "field"]


def test_scale_bars_and_overlays() -> None:
    assert scale_bar(0.1, 512) == (100.0, "10 µm")
    assert scale_bar(float("nan"), 512) is None
    plane = np.full((4, 4), 200, np.uint8)
    one_map = np.zeros((4, 4), np.float32)
    one_map[0, 0] = 1
    shown = overlay(plane, one_map)
    assert shown[0, 0, 0] > shown[0, 0, 2] + 30  # yellow
    assert len(set(shown[3, 3].tolist())) == 1  # gray
    for palette in ("hpa", "colorblind"):
        colors = colors_of([*cl.CHANNELS, "actin"], palette)
        assert len(set(colors)) == 5
