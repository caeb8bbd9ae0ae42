from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import pytorch_lightning as lightning

from cytoloc.curation.folds_file import write_folds
from cytoloc.dataset.store import Dataset
from cytoloc.errors import MissingExtraError, TrainingError
from cytoloc.recipe import Recipe, load_recipe
from cytoloc.training.callbacks import COLUMNS, EpochLog
from cytoloc.training.tracking import NEEDED, Tracked, require_mlflow, tracking
from tests.conftest import Cli
from tests.training.conftest import train_fold

TINY = [
    "image.size=64",
    "model.backbone=test_resnet",
    "model.weights=none",
    "select.tta=1",
    "schedule.epochs=2",
    "schedule.batch_size=8",
]

needs_mlflow = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="cytoloc[mlflow] is not installed",
)


def tiny() -> Recipe:
    return load_recipe("quick", overrides=TINY)


def client_of(database: Path) -> Any:
    """Return MLflow's client, by which the database is read as anyone would read it."""
    tracked = pytest.importorskip("mlflow.tracking")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        return tracked.MlflowClient(tracking_uri=f"sqlite:///{database}")


def runs_in(database: Path) -> list[Any]:
    client = client_of(database)
    return list(client.search_runs([client.get_experiment_by_name("cytoloc").experiment_id]))


@needs_mlflow
def test_a_run_is_tracked_with_its_parameters_measures_and_files(
    cli: Cli, study: Dataset, folds: pl.DataFrame, tmp_path: Path
) -> None:
    database, table = tmp_path / "runs" / "mlflow.db", tmp_path / "folds.csv"
    write_folds(folds, table)
    changes = [word for setting in TINY for word in ("--set", setting)]
    words = ["train", "quick", study.path, "--folds", table, "--fold", 1, "--out", tmp_path / "runs", *changes]
    said = cli(*words, "--mlflow", database)
    assert said.code == 0, said.err
    assert "INFO" not in said.err
    (run,) = runs_in(database)
    assert (run.info.run_name, run.info.status) == ("quick-fold1", "FINISHED")
    assert run.data.params["schedule.batch_size"] == "8"
    assert run.data.params["dataset.fingerprint"] == study.fingerprint
    assert run.data.params["fold"] == "1"
    log = pl.read_csv(tmp_path / "runs" / "quick-fold1" / "log.csv")
    client = client_of(database)
    for column in COLUMNS[1:]:
        history = client.get_metric_history(run.info.run_id, column)
        assert [metric.step for metric in history] == [1, 2, 3]
        assert [metric.value for metric in history] == log[column].to_list()
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"recipe.toml", "log.csv", "quick-curve.png"}


@needs_mlflow
def test_a_resumed_run_goes_on_as_the_same_run(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "mlflow.db"
    end = EpochLog.on_train_epoch_end

    def stop(log: EpochLog, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        end(log, trainer, module)
        # After the epoch was tracked and before its checkpoint was written: it will be learnt once more.
        if trainer.current_epoch == 1:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(EpochLog, "on_train_epoch_end", stop)
        train_fold(tiny(), study, folds, 1, out=tmp_path, database=database)
    (run,) = runs_in(database)
    assert run.info.status == "FAILED"
    assert json.loads((tmp_path / "quick-fold1" / "mlflow.json").read_text())["run_id"] == run.info.run_id
    with pytest.raises(TrainingError, match="does not know the run"):
        train_fold(tiny(), study, folds, 1, out=tmp_path, resume=True, database=tmp_path / "other.db")
    train_fold(tiny(), study, folds, 1, out=tmp_path, resume=True, database=database)
    (again,) = runs_in(database)
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    history = client_of(database).get_metric_history(run.info.run_id, "val_loss")
    assert [metric.step for metric in history] == [1, 2, 3]


@needs_mlflow
def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious " * 2000)
    with pytest.raises(TrainingError, match=r"MLflow cannot use .*notes\.txt"):
        Tracked(tmp_path / "notes.txt", tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "precious " * 2000


@needs_mlflow
def test_what_is_no_database_is_refused_before_a_run_begins(
    cli: Cli, study: Dataset, folds: pl.DataFrame, tmp_path: Path
) -> None:
    write_folds(folds, tmp_path / "folds.csv")
    (tmp_path / "notes.txt").write_text("precious " * 2000)
    settings = [word for setting in TINY for word in ("--set", setting)]
    call = ["train", "quick", study.path, "--folds", tmp_path / "folds.csv", "--out", tmp_path / "runs", *settings]
    said = cli(*call, "--mlflow", tmp_path / "notes.txt")
    assert (said.code, "MLflow cannot use" in said.err) == (1, True)
    assert not (tmp_path / "runs").exists()


@needs_mlflow
def test_a_database_that_takes_no_more_is_named(tmp_path: Path) -> None:
    tracked = Tracked(tmp_path / "mlflow.db", tmp_path)
    (tmp_path / "mlflow.db").write_bytes(b"gone" * 4096)
    with pytest.raises(TrainingError, match=r"MLflow cannot keep .* in .*mlflow\.db") as caught:
        tracked.epochs([{"epoch": 1.0, "train_loss": 0.5}])
    assert "--resume" in caught.value.hint


def test_without_a_database_nothing_is_tracked(tmp_path: Path) -> None:
    with tracking(None, tmp_path) as tracked:
        assert tracked is None
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cytoloc.training.tracking.NEEDED", ("json", "no_such_library"))
    with pytest.raises(MissingExtraError, match="Tracking needs no_such_library") as caught:
        require_mlflow()
    assert "pip install 'cytoloc[mlflow]'" in caught.value.hint
