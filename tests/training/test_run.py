"""Runs: what they keep, how they resume, and the public function."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from cytoloc.curation.folds import make_folds
from cytoloc.dataset.store import Dataset
from cytoloc.errors import FormatError, OutputExistsError, RecipeError, TrainingError, WeightsError
from cytoloc.models.backbones import create_backbone
from cytoloc.predict.loading import load
from cytoloc.predict.sources import DatasetSource
from cytoloc.prediction_files import read_predictions
from cytoloc.recipes.recipe import Recipe, load_recipe, read_resolved, recipe_names
from cytoloc.training.module import Learner
from cytoloc.training.resolve import resolve_recipe
from tests.training.conftest import EVERYTHING, network_of, power_cut, same, state_of, stop_in, tiny, train_fold

SMALL = ["image.size=64", "model.backbone=test_resnet", "model.weights=none", "select.tta=2", "schedule.batch_size=8"]


def small(*overrides: str) -> Recipe:
    return load_recipe("quick", overrides=[*SMALL, "schedule.epochs=2", *overrides])


@pytest.fixture(scope="module")
def run(study: Dataset, folds: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_fold(small(), study, folds, 1, out=tmp_path_factory.mktemp("runs"))


def test_a_run_keeps_what_it_was_made_from_and_what_it_learned(run: Path, study: Dataset, folds: pl.DataFrame) -> None:
    assert run.name == "quick-fold1"
    assert {file.name for file in run.iterdir()} == {
        "best.ckpt",
        "last.ckpt",
        "log.csv",
        "recipe.toml",
        "run.json",
        "predictions.parquet",
    }
    assert read_resolved(run / "recipe.toml") == resolve_recipe(small(), study)
    header = json.loads((run / "run.json").read_text())
    assert header["dataset"]["fingerprint"] == study.fingerprint
    assert set(header["environment"]["packages"]) >= {"torch", "timm", "cytoloc"}
    assert header["environment"]["processes"] == 1
    log = pl.read_csv(run / "log.csv")
    assert log["epoch"].to_list() == [1, 2, 3]
    assert log.null_count().sum_horizontal().item() == 0
    predictions = read_predictions(run / "predictions.parquet")
    assert set(predictions.ids) == set(folds.filter(pl.col("fold") == 1)["id"])


def test_the_model_of_a_run_gives_its_held_out_scores_again(run: Path, study: Dataset) -> None:
    predictions = read_predictions(run / "predictions.parquet")
    rows = np.array([study.ids.index(name) for name in predictions.ids])
    again = load(run).predict_sources([DatasetSource(study, rows)])
    np.testing.assert_allclose(again.probabilities, predictions.probabilities, atol=1e-6)
    # One field or many, and whatever lies beside it: the same numbers.
    one = load(run).predict_sources([DatasetSource(study, rows[:1])])
    np.testing.assert_allclose(one.probabilities, predictions.probabilities[:1], atol=1e-5)


def test_a_damaged_run_is_refused(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    header = json.loads((copy / "run.json").read_text())
    del header["trained_on"]
    (copy / "run.json").write_text(json.dumps(header))
    with pytest.raises(FormatError, match="has no valid trained_on"):
        load(copy)
    shutil.copy(run / "run.json", copy)
    (copy / "last.ckpt").write_bytes(b"PK nonsense")
    with pytest.raises(FormatError, match="cannot be loaded"):
        load(copy)


def test_a_stopped_run_resumes_to_the_weights_of_an_undisturbed_one(
    run: Path, study: Dataset, folds: pl.DataFrame, tmp_path: Path
) -> None:
    with power_cut(2):
        train_fold(small(), study, folds, 1, out=tmp_path)
    stopped = tmp_path / "quick-fold1"
    assert not (stopped / "predictions.parquet").exists()
    with pytest.raises(FormatError, match="not finished"):
        load(stopped)
    with pytest.raises(OutputExistsError):
        train_fold(small(), study, folds, 1, out=tmp_path)
    with pytest.raises(TrainingError, match="another recipe"):
        train_fold(small("seed=1"), study, folds, 1, out=tmp_path, resume=True)
    with pytest.raises(TrainingError, match="other fields or folds"):
        train_fold(small(), study, make_folds(study.fields, k=3, seed=7), 1, out=tmp_path, resume=True)

    fewer = folds.with_columns(pl.when(pl.col("id") != folds.filter(pl.col("fold") == 0)["id"][0]).then("fold"))
    with pytest.raises(TrainingError, match="other fields or folds"):
        train_fold(small(), study, fewer, 1, out=tmp_path, resume=True)

    train_fold(small(), study, folds, 1, out=tmp_path, resume=True)
    undisturbed, resumed = state_of(run / "last.ckpt"), state_of(stopped / "last.ckpt")
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)
    assert pl.read_csv(stopped / "log.csv")["epoch"].to_list() == [1, 2, 3]
    np.testing.assert_array_equal(
        read_predictions(stopped / "predictions.parquet").probabilities,
        read_predictions(run / "predictions.parquet").probabilities,
    )
    said: list[str] = []
    train_fold(small(), study, folds, 1, out=tmp_path, resume=True, report=said.append)
    assert said == ["quick-fold1 is finished already."]


@pytest.mark.slow
def test_held_out_scores_are_of_the_last_epoch_even_when_the_held_out_loss_worsens(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Learner.log

    def worsen(learner: Learner, name: str, value: Any, **rest: Any) -> None:
        log(learner, name, float(learner.current_epoch) if name == "val_loss" else value, **rest)

    monkeypatch.setattr(Learner, "log", worsen)
    run = train_fold(small(), study, folds, 1, out=tmp_path / "undisturbed")
    with power_cut(2):
        train_fold(small(), study, folds, 1, out=tmp_path)
    resumed = train_fold(small(), study, folds, 1, out=tmp_path, resume=True)

    epochs = {name: torch.load(run / name, weights_only=True)["epoch"] for name in ("best.ckpt", "last.ckpt")}
    assert epochs == {"best.ckpt": 0, "last.ckpt": 2}
    for name in ("best.ckpt", "last.ckpt"):
        one, other = state_of(run / name), state_of(resumed / name)
        assert all(torch.equal(one[key], other[key]) for key in one)
    predictions = read_predictions(resumed / "predictions.parquet").probabilities
    np.testing.assert_array_equal(predictions, read_predictions(run / "predictions.parquet").probabilities)
    best = train_fold(small("select.checkpoint=best"), study, folds, 1, out=tmp_path / "best")
    assert not np.array_equal(predictions, read_predictions(best / "predictions.parquet").probabilities)


@pytest.mark.slow
def test_it_learns(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    log = pl.read_csv(train_fold(small("schedule.epochs=6"), study, folds, 0, out=tmp_path) / "log.csv")
    assert log["train_loss"][-1] < 0.8 * log["train_loss"][0]


def test_a_run_that_cannot_start_leaves_nothing(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="needs images of 96 px"):
        train_fold(small("image.size=96"), study, folds, 0, out=tmp_path)
    with pytest.raises(WeightsError):
        train_fold(small("model.weights=file:missing.pt"), study, folds, 0, out=tmp_path)
    with pytest.raises(RecipeError, match="The backbone inception_v3 does not accept images of 64 px"):
        train_fold(small("model.backbone=inception_v3"), study, folds, 0, out=tmp_path)
    with pytest.raises(TrainingError, match="no fold 8"):
        train_fold(small(), study, folds, 8, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_shipped_recipe_trains_a_step(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    names = recipe_names()
    assert len(names) == 17
    few = folds.with_columns(pl.when(pl.col("fold") < 2).then("fold"))
    for name in names:
        recipe = load_recipe(name)
        small = ["schedule.cycles=[1.0]", "schedule.patience=0", "schedule.swa_epochs=1", "schedule.accumulate=1"]
        # Larger fields stay larger; the recipes' own networks are built in tests/models.
        small += ["image.size=48", "image.field_size=64"] if recipe.image.field_size else []
        # The network of the tests has no weights to inherit from.
        small += ["model.inherit=false"] if recipe.model.inherit else []
        run = train_fold(tiny(*small, base=name), study, few, 0, out=tmp_path)
        assert run.name == f"{name}-fold0"
        assert len(read_predictions(run / "predictions.parquet")) > 0


def test_a_run_that_uses_everything_resumes_bitwise(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    whole = train_fold(tiny(*EVERYTHING), study, folds, 1, out=tmp_path / "whole")
    with power_cut(3):
        train_fold(tiny(*EVERYTHING), study, folds, 1, out=tmp_path)
    resumed = train_fold(tiny(*EVERYTHING), study, folds, 1, out=tmp_path, resume=True)

    assert {path.name for path in resumed.glob("*.ckpt")} == {
        "best.ckpt",
        "best-cycle1.ckpt",
        "best-cycle2.ckpt",
        "last.ckpt",
    }
    for name in ("last.ckpt", "best-cycle1.ckpt", "best-cycle2.ckpt", "best.ckpt"):
        one, other = (torch.load(run / name, weights_only=True) for run in (whole, resumed))
        assert one["epoch"] == other["epoch"]
        assert same(one["state_dict"], other["state_dict"]), name
        assert same(one["averages"]["ema"], other["averages"]["ema"]), name
        assert same(one["averages"]["swa"] or {}, other["averages"]["swa"] or {}), name
    assert torch.load(whole / "last.ckpt", weights_only=True)["averages"]["steps"] == 4 * 2
    np.testing.assert_array_equal(
        read_predictions(resumed / "predictions.parquet").probabilities,
        read_predictions(whole / "predictions.parquet").probabilities,
    )


def test_a_run_resumes_without_its_first_weights(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "first.pt"
    torch.save(create_backbone("test_resnet", in_channels=4).state_dict(), path)
    recipe = tiny(f"model.weights=file:{path}", "schedule.epochs=2")
    stop_in(1, recipe, study, folds, tmp_path)
    whole = train_fold(recipe, study, folds, 1, out=tmp_path / "whole")
    path.unlink()
    run = train_fold(recipe, study, folds, 1, out=tmp_path, resume=True)
    assert same(network_of(run / "last.ckpt"), network_of(whole / "last.ckpt"))


def test_a_damaged_checkpoint_is_a_clear_error(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    recipe = tiny("schedule.epochs=2")
    stop_in(1, recipe, study, folds, tmp_path)
    last = tmp_path / "quick-fold1" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.raises(FormatError, match=r"last\.ckpt cannot be loaded"):
        train_fold(recipe, study, folds, 1, out=tmp_path, resume=True)
    last.unlink()
    train_fold(recipe, study, folds, 1, out=tmp_path, resume=True)


def test_locations_that_only_held_out_fields_show_are_named(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path
) -> None:
    truth = study.truth
    held = np.isin(study.ids, folds.filter(pl.col("fold") == 1)["id"].to_numpy())
    lost = truth[held].any(axis=0) & ~truth[~held].any(axis=0)
    assert lost.any()
    said: list[str] = []
    train_fold(tiny(), study, folds, 1, out=tmp_path, report=said.append)
    names = ", ".join(study.label_set[int(number)].name for number in np.flatnonzero(lost))
    assert said[0].startswith(f"quick-fold1: no training field has {names}, but validation fields do.")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.focal=0", "loss.soft_f1=0"], "every weight is 0"),
        (["image.field_size=48"], "which is smaller than size, 64"),
        (["image.progressive=[64, 32]"], "sizes must rise from at least 32 to 64"),
        (["sampling.oversample={hpa28 = {28 = 2}}"], "is not a location of the label set hpa28"),
        (["schedule.swa_epochs=2"], "a cycle has only 1 epochs"),
        (["schedule.cycles=[]"], "at least one share"),
        (["select.weights=ema"], "but schedule.ema is 0"),
        (["select.weights=swa", "schedule.swa_epochs=1", "select.checkpoint=best"], "which is an average over epochs"),
        (["augment.zoom_crop=[1.2, 0.8]"], "the first value must not exceed the second"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        tiny(*overrides)
    assert message in str(caught.value)
