"""The log, early stopping, the best of each cycle, and the check of losses."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import pytorch_lightning as lightning
import torch

from cytoloc.dataset.store import Dataset
from cytoloc.errors import (
    TrainingError,
)
from cytoloc.recipes.recipe import load_recipe
from cytoloc.training.callbacks import EpochLog, SameStartCheck
from cytoloc.training.options import TrainOptions
from cytoloc.training.resolve import location_loss
from cytoloc.training.run import train
from tests.training.conftest import power_cut, run_with_losses, same, state_of, stop_in, tiny, train_fold


def test_the_log_has_the_rate_and_the_images_of_its_own_epoch(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A second passes whenever the clock is looked at: once at the end of an epoch.
    monkeypatch.setattr("cytoloc.training.callbacks.time", SimpleNamespace(perf_counter=iter(range(1000)).__next__))
    recipe = tiny("schedule.frozen_epochs=1", "schedule.epochs=2", "schedule.batch_size=64")
    run = train_fold(recipe, study, folds, 1, out=tmp_path)
    log = pl.read_csv(run / "log.csv")
    # One step an epoch: the frozen one at the full rate, then the first and the middle of a cycle.
    # The middle of a cycle is 2/7 down the cosine.
    shares = [1, 1 / 25, (1 + math.cos(math.pi * 2 / 7)) / 2]
    expected = [recipe.schedule.learning_rate * share for share in shares]
    assert log["learning_rate"].to_list() == pytest.approx(expected)
    # A lone batch that is not full counts what it holds.
    header = json.loads((run / "run.json").read_text())
    assert log["images_per_second"].to_list() == [len(header["trained_on"])] * 3


@pytest.mark.parametrize("watch", ["loss", "macro_f1"])
def test_a_run_stops_after_two_cycles_without_progress(
    watch: str, study: Dataset, folds: pl.DataFrame, tmp_path: Path
) -> None:
    recipe = tiny("schedule.cycles=[1.0, 1.0, 1.0, 1.0, 0.5]", "schedule.patience=2", f"select.watch={watch}")
    sign = 1 if watch == "loss" else -1
    losses = [1 + sign * change for change in (0.2, 0.1, 0.15, 0.1, 0.0)]
    said: list[str] = []
    run = run_with_losses(losses, recipe, study, folds, tmp_path, said)
    # The second cycle is the best; the third and the fourth, which only equals it, are not better.
    assert pl.read_csv(run / "log.csv")["epoch"].to_list() == [1, 2, 3, 4]
    assert torch.load(run / "best.ckpt", weights_only=True)["epoch"] == 1
    cycles = [torch.load(run / f"best-cycle{number}.ckpt", weights_only=True)["epoch"] for number in (1, 2, 3, 4)]
    assert cycles == [0, 1, 2, 3]
    assert f"no better {watch.replace('_', ' ')} for 2 cycles" in said[-1]

    (run / "predictions.parquet").unlink()
    run_with_losses(losses, recipe, study, folds, tmp_path, said, resume=True)
    assert pl.read_csv(run / "log.csv")["epoch"].to_list() == [1, 2, 3, 4]
    assert (run / "predictions.parquet").exists()


def test_a_resumed_run_remembers_its_best_cycle(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    recipe = tiny("schedule.cycles=[1.0, 1.0, 1.0, 1.0]", "schedule.patience=2")
    losses = [0.1, 0.5, 0.4, 0.3]
    stop_in(1, recipe, study, folds, tmp_path, losses=losses)
    run = run_with_losses(losses, recipe, study, folds, tmp_path, [], resume=True)
    assert pl.read_csv(run / "log.csv")["epoch"].to_list() == [1, 2, 3]


def test_a_copied_run_resumes_with_its_best_epoch(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    recipe = tiny("schedule.cycles=[1.0, 1.0]", "schedule.epochs=2")
    stop_in(3, recipe, study, folds, tmp_path / "a", losses=[0.5, 0.4, 0.9, 0.8])
    (tmp_path / "a").rename(tmp_path / "b")
    run = run_with_losses([0.5, 0.4, 0.9, 0.8], recipe, study, folds, tmp_path / "b", [], resume=True)
    epochs = {path.name: torch.load(path, weights_only=True)["epoch"] for path in run.glob("*.ckpt")}
    assert epochs == {"best.ckpt": 1, "best-cycle1.ckpt": 1, "best-cycle2.ckpt": 3, "last.ckpt": 3}


NOON = datetime(2018, 11, 26, 12, 0)


def test_each_epoch_but_the_last_says_when_the_run_ends(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EpochLog.__init__.__kwdefaults__ or {}, "now", lambda: NOON)
    monkeypatch.setattr("cytoloc.training.callbacks.seconds_left", lambda _schedule, took: 3600.0 * len(took))
    said: list[str] = []
    recipe, options = tiny("schedule.epochs=3"), TrainOptions(report=said.append)
    train(recipe, study, folds, fold=[0, 1], out=tmp_path, options=options)
    lines = [line for line in said if line.startswith("quick-fold1 (2 of 2)  epoch")]
    assert [line.partition("ends ")[2] for line in lines] == ["about 13:00 (1 h 0 min)", "about 14:00 (2 h 0 min)", ""]


def test_processes_that_do_not_start_alike_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    start = {"run": "quick-fold1", "recipe": "a", "checkpoint": True}
    said = [start, {**start, "checkpoint": False}]
    monkeypatch.setattr("cytoloc.training.callbacks.all_gather_object", lambda own: [own, *said[1:]])
    trainer, module = lightning.Trainer(logger=False, enable_checkpointing=False), lightning.LightningModule()
    with pytest.raises(TrainingError, match="Processes 0 and 1 start differently: checkpoint") as caught:
        SameStartCheck(start).setup(trainer, module, "fit")
    assert "a folder that all machines share" in caught.value.hint
    SameStartCheck(said[1]).setup(trainer, module, "fit")


def test_the_bar_is_gone_when_a_run_ends_or_stops(
    study: Dataset,
    folds: pl.DataFrame,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with power_cut(2):
        train_fold(tiny("schedule.epochs=3"), study, folds, 1, out=tmp_path, progress_bar=True)
    stopped = capsys.readouterr().err
    train_fold(tiny("schedule.epochs=3"), study, folds, 1, out=tmp_path, resume=True, progress_bar=True)
    finished = capsys.readouterr().err
    assert "epoch 2/3, validation loss" in stopped
    assert "training quick-fold1" in finished
    assert "epoch 3/3, validation loss" in finished
    for shown in (stopped, finished):
        assert shown.endswith("\r")
        assert shown.split("\r")[-2].isspace()


def test_a_loss_that_is_nan_stops_the_run_at_the_end_of_its_epoch(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, loss = tiny("schedule.epochs=3"), location_loss(load_recipe("quick").loss)
    undisturbed = train_fold(recipe, study, folds, 0, out=tmp_path / "undisturbed")
    calls = 0

    def broken(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += logits.requires_grad
        # The second of three batches of the second epoch.
        return loss(logits, targets) * (float("nan") if calls == 5 else 1.0)

    with (
        monkeypatch.context() as patch,
        pytest.raises(TrainingError, match="The loss is nan in epoch 2, batch 2") as caught,
    ):
        patch.setattr("cytoloc.training.resolve.location_loss", lambda _section: broken)
        train_fold(recipe, study, folds, 0, out=tmp_path)
    assert "Lower schedule.learning_rate" in caught.value.hint
    # The whole epoch was trained, and nothing of it was kept.
    assert calls == 6
    run = tmp_path / "quick-fold0"
    assert pl.read_csv(run / "log.csv")["epoch"].to_list() == [1]
    assert all(value.isfinite().all() for value in state_of(run / "last.ckpt").values())
    train_fold(recipe, study, folds, 0, out=tmp_path, resume=True)
    assert same(state_of(run / "last.ckpt"), state_of(undisturbed / "last.ckpt"))


def test_weights_that_are_nan_stop_the_run(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    # One step an epoch: its loss is a number, but the weights are none after it.
    recipe = tiny("schedule.learning_rate=1e38", "schedule.frozen_epochs=1", "schedule.batch_size=64")
    with pytest.raises(
        TrainingError, match=r"(A weight is NaN or infinite after epoch 1)|(The loss is (nan|inf) in epoch)"
    ):
        train_fold(recipe, study, folds, 0, out=tmp_path)
    assert all(value.isfinite().all() for path in tmp_path.rglob("*.ckpt") for value in state_of(path).values())
