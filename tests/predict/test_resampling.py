from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import cytoloc as cl
from cytoloc.channels import CHANNELS, COLORS
from cytoloc.choices import Resample
from cytoloc.errors import ModelCaution, SettingsError
from cytoloc.images.scale import resize
from cytoloc.labels.label_set import LabelSet
from cytoloc.models.network import build_network
from cytoloc.predict.bundle import read_bundle, write_bundle
from cytoloc.predict.model import Model
from cytoloc.predict.model_info import ModelInfo
from cytoloc.predict.runs import read_runs
from tests.models.nets import spec_of
from tests.training.conftest import tiny, train_fold

# The images are noise or flat, which imports warn about.
pytestmark = pytest.mark.filterwarnings("ignore::cytoloc.errors.DatasetWarning")


def model_of(resample: Resample | None, size: int = 256, *, chosen: Resample | None = None) -> Model:
    torch.manual_seed(0)
    network = build_network(spec_of("resnet18", dropout=0.0, mean=(0.2,) * 4, std=(0.2,) * 4, size=size))
    info = ModelInfo(size=size, channels=CHANNELS, label_set=LabelSet.hpa28(), resample=resample)
    model = Model([network], info, device="cpu")
    model.resample = chosen
    return model


def write_field(folder: Path, edge: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    folder.mkdir(exist_ok=True)
    field = np.random.default_rng(0).integers(0, 256, (4, edge, edge), dtype=np.uint8)
    for color, plane in zip(COLORS, field, strict=True):
        cv2.imwrite(str(folder / f"a_{color}.png"), plane)
    return field


def test_images_are_scaled_as_those_that_the_model_was_trained_on(tmp_path: Path) -> None:
    field = write_field(tmp_path / "full", 512)
    small = {way: resize(field, 256, 256, resample=way) for way in ("area", "nearest")}
    for way, image in small.items():
        model = model_of("area" if way == "area" else "nearest")
        wanted = model.predict(image)
        assert "resample" not in wanted.provenance
        for given in (field, tmp_path / "full"):
            found = model.predict(given)
            np.testing.assert_array_equal(found.probabilities, wanted.probabilities)
            assert found.provenance["resample"] == way
    explicit = model_of("area", chosen="nearest").predict(field)
    np.testing.assert_array_equal(explicit.probabilities, model_of("area").predict(small["nearest"]).probabilities)
    with pytest.raises(SettingsError, match="`resample`"):
        cl.load("builtin", device="cpu", resample="cubic")  # type: ignore[arg-type]


def test_unknown_or_other_resampling_is_warned_about(tmp_path: Path) -> None:
    field = write_field(tmp_path / "full", 512)
    unknown = model_of(None)
    with pytest.warns(ModelCaution, match=r"unknown how the training images .* give `resample='nearest'`"):
        assert "unknown" in unknown.predict(field).caution
    assert not model_of(None, chosen="area").predict(field).caution
    assert not unknown.predict(field[:, ::2, ::2]).caution
    assert not model_of(None, size=128).predict(field).caution
    options = cl.ImportOptions(resample="nearest")
    nearest = cl.import_kaggle(tmp_path / "full", out=tmp_path / "n.dataset", size=256, options=options)
    assert not model_of("nearest").predict(nearest).caution
    with pytest.warns(ModelCaution, match="were scaled down by nearest, but the training images of the model by area"):
        model_of("area").predict(nearest)


def test_runs_and_bundles_remember_it(tmp_path: Path) -> None:
    for number in range(16):
        rng = np.random.default_rng(number)
        for color in COLORS:
            (tmp_path / "images").mkdir(exist_ok=True)
            cv2.imwrite(
                str(tmp_path / "images" / f"{number:02d}_{color}.png"), rng.integers(0, 256, (128, 128), dtype=np.uint8)
            )
    (tmp_path / "labels.csv").write_text("Id,Target\n" + "".join(f"{n:02d},{n % 2}\n" for n in range(16)))
    dataset = cl.import_kaggle(
        tmp_path / "images",
        out=tmp_path / "x.dataset",
        labels=tmp_path / "labels.csv",
        size=64,
        options=cl.ImportOptions(resample="nearest"),
    )
    folds = cl.make_folds(dataset, k=2)
    run = train_fold(tiny(), dataset, folds, 0, out=tmp_path / "runs")
    assert read_runs(run)[0].resample == "nearest"
    write_bundle(run, tmp_path / "m.cytoloc")
    assert read_bundle(tmp_path / "m.cytoloc")[0].resample == "nearest"
