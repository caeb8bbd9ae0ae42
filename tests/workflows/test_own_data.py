"""A user's own label set and channels, from image files to a bundle, by the commands that she would type."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest

import cytoloc
from cytoloc.channels import CHANNELS, check_channels
from cytoloc.dataset.store import open_dataset
from cytoloc.labels.label_set import LabelSet
from cytoloc.predict.bundle import builtin_bundle
from cytoloc.prediction_files import write_predictions
from tests.conftest import Cli

NAMES = ("Cell cortex", "Nuclear rim", "Perinuclear", "Puncta", "Cytoplasm", "Whole nucleus")
SIZE = 48
FAST = ["--set", "model.backbone=test_resnet", "--set", "model.weights=none", "--set", f"image.size={SIZE}"]
FAST += ["--set", "schedule.epochs=1", "--set", "select.tta=1"]


def draw(folder: Path, channels: tuple[str, ...], *, fields: int = 36) -> None:
    """Write a TIFF of each channel of each field, ``labels.csv`` by name and ``classes.csv``.

    Each location is a bright square of its own, and every third field has two of them.
    """
    folder.mkdir()
    rng = np.random.default_rng(0)
    labels = []
    for number in range(fields):
        shown = sorted({number % len(NAMES), (number + 1) % len(NAMES)} if number % 3 == 0 else {number % len(NAMES)})
        for channel in channels:
            plane = rng.integers(0, 60, (SIZE, SIZE), dtype=np.uint8)
            for place in shown if channel == "protein" else ():
                row, column = divmod(place, 3)
                plane[24 * row : 24 * row + 12, 16 * column : 16 * column + 12] += 150
            assert cv2.imwrite(str(folder / f"f{number:02d}_{channel}.tif"), plane)
        labels.append([f"f{number:02d}", "; ".join(NAMES[place] for place in shown)])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["Id", "Target"], *labels])
    with (folder / "classes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["name"], *([name] for name in NAMES)])


def import_own(cli: Cli, folder: Path, channels: tuple[str, ...], out: Path) -> None:
    patterns = ",".join(f"{channel}=*_{channel}.tif" for channel in channels)
    labels = ["--labels", folder / "labels.csv", "--label-set", folder / "classes.csv"]
    done = cli("import", "folder", folder, "--channels", patterns, *labels, "--size", SIZE, "--out", out)
    assert done.code == 0, done.err


@pytest.mark.usefixtures("short_steps")
def test_six_own_locations_from_files_to_a_bundle(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "plate", CHANNELS)
    monkeypatch.chdir(tmp_path)
    import_own(cli, tmp_path / "plate", CHANNELS, tmp_path / "own.dataset")
    dataset = open_dataset("own.dataset")
    assert dataset.label_set.names == NAMES
    assert dataset.truth.shape == (36, len(NAMES))
    listed = json.loads(cli("info", "own.dataset", "--json").out)
    assert [row["name"] for row in listed["locations"]] == list(NAMES)

    for words in (
        ["folds", "own.dataset", "-k", 2, "--out", "folds.csv"],
        ["train", "quick", "own.dataset", "--folds", "folds.csv", "--out", "runs", *FAST],
        ["decide", "fit", "runs", "--labels", "own.dataset", "--out", "decision.json", "--held-out", "held-out.csv"],
        ["bundle", "runs", "--decision", "decision.json", "--out", "own.cytoloc"],
        ["predict", "own.cytoloc", "own.dataset", "--out", "s.parquet", "--locations", "l.csv"],
        ["show", "own.dataset", "--predictions", "held-out.csv", "--out", "sheet.png"],
    ):
        done = cli(*words)
        assert done.code == 0, (words, done.err)

    keys = [location.key for location in dataset.label_set]
    assert keys[:2] == ["cell_cortex", "nuclear_rim"]
    assert pl.read_parquet("s.parquet").columns == ["id", *keys]
    assert cytoloc.read_predictions("s.parquet").label_set.matches(dataset.label_set)
    model = cytoloc.load("own.cytoloc")
    assert model.label_set == dataset.label_set
    (found,) = model.predict(dataset[0]).locations
    assert {place.name for place in found} <= set(NAMES)

    scored = json.loads(
        cli("evaluate", "held-out.csv", "--labels", "plate/labels.csv", "--predictions", "runs", "--json").out
    )
    assert [row["location"] for row in scored["classes"]] == list(NAMES)
    f1 = [row["f1"] or 0.0 for row in scored["classes"]]
    assert scored["macro_f1"] == pytest.approx(sum(f1) / len(NAMES))
    said = cli("evaluate", "held-out.csv", "--labels", "plate/labels.csv", "--predictions", "runs").out
    assert "6 locations" in said
    assert all(name in said for name in NAMES)

    # What was substituted stays known after a decision.
    write_predictions(
        replace(cytoloc.read_predictions("s.parquet"), provenance={"absent": {"er": "zero"}}), "absent.parquet"
    )
    words = ["decide", "apply", "absent.parquet", "--decision", "decision.json", "--out", "a.csv"]
    assert cli(*words, "--probabilities", "a.parquet").code == 0
    assert cytoloc.read_predictions("a.parquet").provenance["absent"] == {"er": "zero"}

    # What is of another label set is refused, and the message names both.
    refused = cli("decide", "apply", "s.parquet", "--decision", other_decision(tmp_path), "--out", "no.csv")
    assert refused.code == 1
    assert "classes" in refused.err
    assert "hpa28" in refused.err


def other_decision(folder: Path) -> Path:
    """Return the decision file of the model that comes with cytoloc, which is of another label set."""
    import zipfile

    path = folder / "other.json"
    with zipfile.ZipFile(builtin_bundle()) as archive:
        path.write_bytes(archive.read("decision.json"))
    return path


def test_fields_are_appended_in_the_label_set_of_the_dataset(cli: Cli, tmp_path: Path) -> None:
    two, out = ("protein", "nucleus"), tmp_path / "own.dataset"
    draw(tmp_path / "plate", two, fields=4)
    import_own(cli, tmp_path / "plate", two, out)
    draw(tmp_path / "more", two, fields=6)
    call = ["import", "folder", tmp_path / "more", "--channels", "protein=*_protein.tif,nucleus=*_nucleus.tif"]
    call += ["--size", SIZE, "--out", out, "--append", "--skip-known", "--labels", tmp_path / "more" / "labels.csv"]
    refused = cli(*call, "--label-set", "hpa19")
    assert (refused.code, "is not a location of the label set hpa19" in refused.err) == (1, True)
    assert cli(*call).code == 0
    dataset = open_dataset(out)
    assert dataset.label_set.names == NAMES
    assert [dataset.label_set[row[0]].name for row in dataset.fields["labels"].to_list()[4:]] == [
        "Cytoplasm",
        "Whole nucleus",
    ]


def test_protein_and_nucleus_alone(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = ("protein", "nucleus")
    draw(tmp_path / "two", two)
    draw(tmp_path / "four", CHANNELS, fields=6)
    monkeypatch.chdir(tmp_path)
    import_own(cli, tmp_path / "two", two, tmp_path / "two.dataset")
    import_own(cli, tmp_path / "four", CHANNELS, tmp_path / "four.dataset")
    dataset = open_dataset("two.dataset")
    assert dataset.channels == two
    assert dataset.read([0, 1]).shape == (2, 2, SIZE, SIZE)

    for words in (
        ["folds", "two.dataset", "-k", 2, "--out", "folds.csv"],
        ["train", "quick", "two.dataset", "--folds", "folds.csv", "--out", "runs", *FAST],
        ["predict", "runs", "two.dataset", "--out", "two.parquet"],
        # A model takes the channels that it needs from a dataset that has more.
        ["predict", "runs", "four.dataset", "--out", "four.parquet"],
        ["show", "two.dataset", "--out", "sheet.png"],
    ):
        done = cli(*words)
        assert done.code == 0, (words, done.err)

    model = cytoloc.load("runs")
    assert model.channels == two
    four = open_dataset("four.dataset")
    by_dataset = cytoloc.read_predictions("four.parquet").probabilities
    as_array = model.predict(four.read(range(len(four))), channels=four.channels).probabilities
    np.testing.assert_allclose(as_array, by_dataset, atol=1e-6)
    chosen = four.read(range(len(four)))[:, [1, 2]]
    np.testing.assert_allclose(model.predict(chosen).probabilities, by_dataset, atol=1e-6)

    # A model of four channels does not guess the two that are missing.
    refused = cli("predict", "builtin", "two.dataset", "--out", "builtin.parquet")
    assert refused.code == 1
    assert "--absent microtubules=zero" in refused.err


def test_missing_channels_are_substituted_only_where_it_is_said(cli: Cli, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 255, (2, 2, 128, 128), dtype=np.uint8)
    model = cytoloc.load("builtin")
    model.info = replace(model.info, caution="", inputs=None)
    four = np.zeros((2, 4, 128, 128), np.uint8)
    four[:, 1], four[:, 2], four[:, 3] = images[:, 0], images[:, 1], images[:, 0]
    substitutes = {"microtubules": "zero", "er": "protein"}
    found = model.predict(images, channels=("protein", "nucleus"), absent=substitutes)
    np.testing.assert_allclose(found.probabilities, model.predict(four).probabilities, atol=1e-6)
    with pytest.raises(
        cytoloc.CytolocError, match="The model needs the channels microtubules, protein, nucleus, er, but the array has"
    ):
        model.predict(images, channels=("protein", "nucleus"))
    with pytest.raises(cytoloc.CytolocError, match="no channel golgi"):
        model.predict(images, channels=("protein", "nucleus"), absent={"microtubules": "golgi", "er": "zero"})
    with pytest.raises(cytoloc.CytolocError, match="cannot have the name zero"):
        check_channels(["protein", "zero"])
    with pytest.raises(cytoloc.CytolocError, match="needs no substitute"):
        model.predict(four, absent={"er": "zero"})
    assert model.label_set.matches(LabelSet.hpa28())
