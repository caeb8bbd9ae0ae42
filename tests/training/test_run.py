from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch

from cytoloc.curation.folds import make_folds
from cytoloc.dataset.store import Dataset
from cytoloc.errors import FormatError, OutputExistsError, RecipeError, TrainingError, WeightsError
from cytoloc.predict.loading import load
from cytoloc.predict.sources import DatasetSource
from cytoloc.prediction_files import read_predictions
from cytoloc.recipe import Recipe, load_recipe, read_resolved
from cytoloc.training.module import Learner
from cytoloc.training.progress import EpochLog
from cytoloc.training.resolve import resolve_recipe
from cytoloc.training.run import train_fold
from tests.training.conftest import power_cut, quiet, state_of

SMALL = ["image.size=64", "model.backbone=resnet10t", "model.weights=none", "select.tta=2", "schedule.batch_size=8"]


def small(*overrides: str) -> Recipe:
    return load_recipe("quick", overrides=[*SMALL, "schedule.epochs=2", *overrides])


@pytest.fixture(scope="module")
def run(study: Dataset, folds: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_fold(small(), study, folds, 1, out=tmp_path_factory.mktemp("runs"), report=quiet)


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
    with pytest.raises(FormatError, match="lacks trained_on"):
        load(copy)
    shutil.copy(run / "run.json", copy)
    (copy / "last.ckpt").write_bytes(b"PK nonsense")
    with pytest.raises(FormatError, match="cannot be loaded"):
        load(copy)


def test_a_stopped_run_resumes_to_the_weights_of_an_undisturbed_one(
    run: Path, study: Dataset, folds: pl.DataFrame, tmp_path: Path
) -> None:
    with power_cut(2):
        train_fold(small(), study, folds, 1, out=tmp_path, report=quiet)
    stopped = tmp_path / "quick-fold1"
    assert not (stopped / "predictions.parquet").exists()
    with pytest.raises(FormatError, match="not finished"):
        load(stopped)
    with pytest.raises(OutputExistsError):
        train_fold(small(), study, folds, 1, out=tmp_path, report=quiet)
    with pytest.raises(TrainingError, match="another recipe"):
        train_fold(small("seed=1"), study, folds, 1, out=tmp_path, resume=True, report=quiet)
    with pytest.raises(TrainingError, match="other fields or folds"):
        train_fold(small(), study, make_folds(study.fields, k=3, seed=7), 1, out=tmp_path, resume=True, report=quiet)

    fewer = folds.with_columns(pl.when(pl.col("id") != folds.filter(pl.col("fold") == 0)["id"][0]).then("fold"))
    with pytest.raises(TrainingError, match="other fields or folds"):
        train_fold(small(), study, fewer, 1, out=tmp_path, resume=True, report=quiet)

    train_fold(small(), study, folds, 1, out=tmp_path, resume=True, report=quiet)
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
    run = train_fold(small(), study, folds, 1, out=tmp_path / "undisturbed", report=quiet)
    with power_cut(2):
        train_fold(small(), study, folds, 1, out=tmp_path, report=quiet)
    resumed = train_fold(small(), study, folds, 1, out=tmp_path, resume=True, report=quiet)

    epochs = {name: torch.load(run / name, weights_only=True)["epoch"] for name in ("best.ckpt", "last.ckpt")}
    assert epochs == {"best.ckpt": 0, "last.ckpt": 2}
    for name in ("best.ckpt", "last.ckpt"):
        one, other = state_of(run / name), state_of(resumed / name)
        assert all(torch.equal(one[key], other[key]) for key in one)
    predictions = read_predictions(resumed / "predictions.parquet").probabilities
    np.testing.assert_array_equal(predictions, read_predictions(run / "predictions.parquet").probabilities)
    best = train_fold(small("select.checkpoint=best"), study, folds, 1, out=tmp_path / "best", report=quiet)
    assert not np.array_equal(predictions, read_predictions(best / "predictions.parquet").probabilities)


def test_the_bar_is_gone_when_a_run_ends_or_stops(
    study: Dataset,
    folds: pl.DataFrame,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with power_cut(2):
        train_fold(small(), study, folds, 1, out=tmp_path, progress_bar=True, report=quiet)
    stopped = capsys.readouterr().out
    train_fold(small(), study, folds, 1, out=tmp_path, resume=True, progress_bar=True, report=quiet)
    finished = capsys.readouterr().out
    assert "epoch 2/3" in stopped
    assert "epoch 3/3" in finished
    for shown in (stopped, finished):
        assert shown.endswith("\r")
        assert shown.split("\r")[-2].isspace()


def test_the_frozen_epoch_changes_the_head_alone(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    recipe = small("schedule.epochs=1", "schedule.frozen_epochs=1")
    seen: list[dict[str, torch.Tensor]] = []
    keep = EpochLog.on_train_epoch_end

    def snapshot(log: EpochLog, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        keep(log, trainer, pl_module)
        seen.append(
            {name: value.clone() for name, value in [*pl_module.named_parameters(), *pl_module.named_buffers()]}
        )

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochLog, "on_train_epoch_end", snapshot)
        train_fold(recipe, study, folds, 0, out=tmp_path, report=quiet)
        # The same first weights, from the same seed, before any step.
        before: list[dict[str, torch.Tensor]] = []
        measured: list[tuple[str, torch.Tensor]] = []

        def first(log: EpochLog, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
            before.append({name: value.clone() for name, value in pl_module.named_parameters()})
            measured.extend((name, value.clone()) for name, value in pl_module.named_buffers())
            raise RuntimeError("enough")

        patch.setattr(EpochLog, "on_train_epoch_start", first)
        with pytest.raises(RuntimeError, match="enough"):
            train_fold(recipe, study, folds, 0, out=tmp_path / "again", report=quiet)
    body = [name for name in before[0] if name.startswith("network.backbone")]
    head = [name for name in before[0] if name.startswith("network.head")]
    assert all(torch.equal(before[0][name], seen[0][name]) for name in body)
    assert all(not torch.equal(before[0][name], seen[0][name]) for name in head)
    assert any(not torch.equal(seen[0][name], seen[1][name]) for name in body)
    # What frozen batch norms measure goes on adapting.
    norms = [(name, value) for name, value in measured if "backbone" in name and name.endswith("running_mean")]
    assert norms
    assert all(not torch.equal(value, seen[0][name]) for name, value in norms)


@pytest.mark.slow
def test_it_learns(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    log = pl.read_csv(train_fold(small("schedule.epochs=6"), study, folds, 0, out=tmp_path, report=quiet) / "log.csv")
    assert log["train_loss"][-1] < 0.8 * log["train_loss"][0]


def test_a_run_that_cannot_start_leaves_nothing(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="sees 96 px"):
        train_fold(small("image.size=96"), study, folds, 0, out=tmp_path, report=quiet)
    with pytest.raises(WeightsError):
        train_fold(small("model.weights=file:missing.pt"), study, folds, 0, out=tmp_path, report=quiet)
    with pytest.raises(RecipeError, match="cannot take images of 64 px"):
        train_fold(small("model.backbone=inception_v3"), study, folds, 0, out=tmp_path, report=quiet)
    with pytest.raises(TrainingError, match="no fold 8"):
        train_fold(small(), study, folds, 8, out=tmp_path, report=quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_no_number_stops_the_run(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="The loss is nan"):
        train_fold(small("schedule.learning_rate=1e30"), study, folds, 0, out=tmp_path, report=quiet)
