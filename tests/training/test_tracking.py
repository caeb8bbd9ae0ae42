from __future__ import annotations

import importlib.util
import json
import shutil
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import polars as pl
import pytest
import pytorch_lightning as lightning

from cytoloc.curation.folds_file import write_folds
from cytoloc.dataset.store import Dataset
from cytoloc.errors import MissingExtraError, TrainingError
from cytoloc.training.callbacks import LOG_COLUMNS, EpochLog
from cytoloc.training.tracking import NEEDED, MlflowRun, open_tracking, require_mlflow, tracking, tracking_uri
from tests.conftest import Cli
from tests.training.conftest import TINY, power_cut, tiny, train_fold

SETTINGS = [*TINY, "schedule.epochs=3"]

needs_mlflow = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="cytoloc[mlflow] is not installed",
)


@pytest.fixture(scope="module")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an MLflow database without runs, to be copied: MLflow takes seconds to make one."""
    path = tmp_path_factory.mktemp("mlflow") / "new.db"
    open_tracking(path)
    return path


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
    changes = [word for setting in SETTINGS for word in ("--set", setting)]
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
    for column in LOG_COLUMNS[1:]:
        history = client.get_metric_history(run.info.run_id, column)
        assert [metric.step for metric in history] == [1, 2, 3]
        assert [metric.value for metric in history] == log[column].to_list()
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"recipe.toml", "log.csv", "quick-curve.png"}


@needs_mlflow
def test_a_resumed_run_continues_the_same_run(
    study: Dataset, folds: pl.DataFrame, new_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, other = (Path(shutil.copy(new_database, tmp_path / name)) for name in ("mlflow.db", "other.db"))
    end = EpochLog.on_train_epoch_end

    def stop(log: EpochLog, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        end(log, trainer, module)
        # After the epoch was tracked and before its checkpoint was written: it will be trained once more.
        if trainer.current_epoch == 1:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(EpochLog, "on_train_epoch_end", stop)
        train_fold(tiny("schedule.epochs=3"), study, folds, 1, out=tmp_path, mlflow=database)
    (run,) = runs_in(database)
    assert run.info.status == "FAILED"
    assert json.loads((tmp_path / "quick-fold1" / "mlflow.json").read_text())["run_id"] == run.info.run_id
    with pytest.raises(TrainingError, match="has no MLflow run"):
        train_fold(tiny("schedule.epochs=3"), study, folds, 1, out=tmp_path, resume=True, mlflow=other)
    train_fold(tiny("schedule.epochs=3"), study, folds, 1, out=tmp_path, resume=True, mlflow=database)
    (again,) = runs_in(database)
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    history = client_of(database).get_metric_history(run.info.run_id, "val_loss")
    assert [metric.step for metric in history] == [1, 2, 3]


class Server(ThreadingHTTPServer):
    """As much of the REST interface of an MLflow server as a run uses; keeps everything in memory."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.experiment = False
        self.run: dict[str, Any] = {"params": {}, "metrics": [], "status": "", "files": {}}
        self.uri = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.answer({key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()})

    def do_POST(self) -> None:
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def do_PUT(self) -> None:
        self.server.run["files"][self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(200, {})

    def answer(self, given: dict[str, Any]) -> None:
        kept, call = self.server.run, urlsplit(self.path).path.partition("/mlflow/")[2]
        info = {"run_id": "r1", "run_uuid": "r1", "experiment_id": "7", "status": kept["status"] or "RUNNING"}
        info |= {"artifact_uri": "mlflow-artifacts:/7/r1/artifacts", "lifecycle_stage": "active", "start_time": 1}
        if call == "experiments/get-by-name":
            experiment = {"experiment_id": "7", "name": "cytoloc", "lifecycle_stage": "active"}
            missing = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"}
            self.reply(*((200, {"experiment": experiment}) if self.server.experiment else (404, missing)))
        elif call == "experiments/create":
            self.server.experiment = True
            self.reply(200, {"experiment_id": "7"})
        elif call == "metrics/get-history":
            history = [metric for metric in kept["metrics"] if metric["key"] == given["metric_key"]]
            self.reply(200, {"metrics": history})
        elif call == "runs/log-batch":
            kept["params"] |= {param["key"]: param["value"] for param in given.get("params", [])}
            kept["metrics"] += given.get("metrics", [])
            self.reply(200, {})
        elif call in {"runs/create", "runs/get"}:
            self.reply(200, {"run": {"info": info, "data": {}}})
        elif call == "runs/update":
            kept["status"] = given.get("status", kept["status"])
            self.reply(200, {"run_info": info})
        else:
            self.reply(404, {"error_code": "ENDPOINT_NOT_FOUND", "message": call})

    def reply(self, code: int, content: dict[str, Any]) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_words: object) -> None:
        pass


@needs_mlflow
def test_a_run_is_tracked_on_a_server(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        out = tmp_path / "runs"
        with power_cut(1):
            train_fold(tiny("schedule.epochs=2"), study, folds, 1, out=out, mlflow=server.uri)
        assert server.run["status"] == "FAILED"
        train_fold(tiny("schedule.epochs=2"), study, folds, 1, out=out, mlflow=server.uri, resume=True)
        server.shutdown()
    assert server.run["status"] == "FINISHED"
    assert server.run["params"]["schedule.batch_size"] == "8"
    losses = [(metric["step"], metric["value"]) for metric in server.run["metrics"] if metric["key"] == "train_loss"]
    log = pl.read_csv(out / "quick-fold1" / "log.csv")
    assert [step for step, _ in losses] == [1, 2]
    assert [value for _, value in losses] == log["train_loss"].to_list()
    assert server.run["files"].keys() == {"recipe.toml", "log.csv"}
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@needs_mlflow
@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "http:/127.0.0.1", "nonsense://127.0.0.1", "http://"])
def test_a_server_that_cannot_be_reached_is_refused_before_a_run_begins(
    uri: str, study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingError, match=f"MLflow cannot use {uri}: ") as caught:
        train_fold(tiny(), study, folds, 1, out=tmp_path / "runs", mlflow=uri)
    assert "tracking URI" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@needs_mlflow
def test_a_sqlite_uri_and_a_path_are_the_same_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking_uri("mlflow.db") == tracking_uri(Path("mlflow.db")) == f"sqlite:///{tmp_path}/mlflow.db"
    open_tracking(f"sqlite:///{tmp_path}/mlflow.db")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    with tracking(f"sqlite:///{tmp_path}/mlflow.db", tmp_path) as tracked:
        assert tracked
        tracked.log_files([tmp_path / "mlflow.json"])
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.json", "mlflow-files"}
    assert len(runs_in(tmp_path / "mlflow.db")) == 1


@needs_mlflow
def test_a_run_is_tracked_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    (tmp_path / "run").mkdir()
    with tracking(f"file://{tmp_path}/store", tmp_path / "run") as tracked:
        assert tracked
        tracked.log_rows([{"epoch": 1.0, "train_loss": 0.5}])
    assert {path.name for path in tmp_path.iterdir()} == {"store", "run"}
    assert list((tmp_path / "store").rglob("train_loss"))


@needs_mlflow
def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious " * 2000)
    with pytest.raises(TrainingError, match=r"MLflow cannot use .*notes\.txt"):
        MlflowRun(tmp_path / "notes.txt", tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "precious " * 2000


@needs_mlflow
def test_a_file_that_is_no_database_is_refused_before_a_run_begins(
    cli: Cli, study: Dataset, folds: pl.DataFrame, tmp_path: Path
) -> None:
    write_folds(folds, tmp_path / "folds.csv")
    (tmp_path / "notes.txt").write_text("precious " * 2000)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    call = ["train", "quick", study.path, "--folds", tmp_path / "folds.csv", "--out", tmp_path / "runs", *settings]
    said = cli(*call, "--mlflow", tmp_path / "notes.txt")
    assert (said.code, "MLflow cannot use" in said.err) == (1, True)
    assert not (tmp_path / "runs").exists()


@needs_mlflow
def test_a_database_that_takes_no_more_is_named(new_database: Path, tmp_path: Path) -> None:
    shutil.copy(new_database, tmp_path / "mlflow.db")
    tracked = MlflowRun(tmp_path / "mlflow.db", tmp_path)
    (tmp_path / "mlflow.db").write_bytes(b"gone" * 4096)
    with pytest.raises(TrainingError, match=r"MLflow cannot record .* in .*mlflow\.db") as caught:
        tracked.log_rows([{"epoch": 1.0, "train_loss": 0.5}])
    assert "`resume`" in caught.value.hint


def test_without_a_database_nothing_is_tracked(tmp_path: Path) -> None:
    with tracking(None, tmp_path) as tracked:
        assert tracked is None
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cytoloc.training.tracking.NEEDED", ("json", "no_such_library"))
    with pytest.raises(MissingExtraError, match="Tracking with MLflow needs no_such_library") as caught:
        require_mlflow()
    assert "pip install 'cytoloc[mlflow]'" in caught.value.hint
