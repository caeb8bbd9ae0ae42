"""Tracking with MLflow: parameters, metrics and files of each run, on a server or in a SQLite file.

MLflow is in the extra ``cytoloc[mlflow]``. It is imported when a run is tracked, with its telemetry turned off.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from cytoloc.errors import MissingExtraError, TrainingError, first_line, installing
from cytoloc.files import FileFormat, read_json, write_json
from cytoloc.recipes.recipe import flat

NEEDED: Final = ("mlflow", "sqlalchemy", "alembic")
EXPERIMENT: Final = "cytoloc"
MLFLOW_FILE: Final = "mlflow.json"
"""The file in the folder of a run that contains the id of its MLflow run."""
MLFLOW_FORMAT: Final = FileFormat("cytoloc-mlflow-run", 1)
SQLITE: Final = "sqlite:///"


def require_mlflow() -> None:
    """Raise :class:`MissingExtraError` if MLflow or its libraries for SQLite are not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"Tracking with MLflow needs {', '.join(missing)}.", hint=installing("mlflow"))


def tracking_uri(mlflow: str | Path) -> str:
    """Return the tracking URI for an option; a path means a SQLite file.

    >>> tracking_uri("http://127.0.0.1:5000"), tracking_uri("/data/runs.db")
    ('http://127.0.0.1:5000', 'sqlite:////data/runs.db')
    """
    text = str(mlflow)
    # A URI scheme has at least two letters; a single letter is a Windows drive.
    return text if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text) else f"{SQLITE}{Path(text).resolve()}"


def open_tracking(mlflow: str | Path) -> Any:
    """Return MLflow's client after a test request. A SQLite file is created if it does not exist.

    Args:
        mlflow: A tracking URI, or the path of a SQLite file.

    Returns:
        The client.

    Raises:
        MissingExtraError: If MLflow is not installed.
        TrainingError: If the URI is invalid, its server does not respond, or the file is not a SQLite file.
    """
    require_mlflow()
    uri = tracking_uri(mlflow)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # By default MLflow refuses folders, because it prefers databases.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    # By default MLflow retries for minutes.
    retries = os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    try:
        tracking = import_module("mlflow.tracking")
        with _quiet_mlflow():
            if uri.startswith(SQLITE):
                Path(uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
            client = tracking.MlflowClient(tracking_uri=uri)
            client.get_experiment_by_name(EXPERIMENT)
    # A wrong URI or file raises different exceptions of MLflow, SQLAlchemy, Alembic and requests.
    except Exception as error:
        raise TrainingError(
            f"MLflow cannot use {mlflow}: {first_line(error)}.",
            hint="Give a tracking URI, such as http://127.0.0.1:5000, or the path of a SQLite file.",
        ) from error
    finally:
        if retries is None:
            del os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
        else:
            os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = retries
    return client


class MlflowRun:
    """The MLflow run for a run of cytoloc. A resumed run continues its MLflow run.

    Args:
        mlflow: A tracking URI, or the path of a SQLite file, which is created if it does not exist.
        folder: The folder of the run.

    Raises:
        TrainingError: If MLflow cannot use the URI, or the run was tracked elsewhere before.
    """

    def __init__(self, mlflow: str | Path, folder: Path) -> None:
        self.mlflow = mlflow
        self.folder = folder
        self._client = open_tracking(mlflow)
        with self._errors():
            if (folder / MLFLOW_FILE).exists():
                self._id = read_json(folder / MLFLOW_FILE, MLFLOW_FORMAT)["run_id"]
                try:
                    self._client.update_run(self._id, status="RUNNING")
                except import_module("mlflow.exceptions").MlflowException as error:
                    raise TrainingError(
                        f"{mlflow} has no MLflow run {self._id}, with which {folder} was tracked: {first_line(error)}.",
                        hint="Resume with the tracking URI that the run was started with.",
                    ) from error
            else:
                experiment = self._client.get_experiment_by_name(EXPERIMENT)
                if experiment is None:
                    number = self._client.create_experiment(EXPERIMENT, artifact_folder(mlflow))
                else:
                    number = experiment.experiment_id
                self._id = self._client.create_run(number, run_name=folder.name).info.run_id
                write_json(folder / MLFLOW_FILE, {"run_id": self._id}, MLFLOW_FORMAT)
            self._epochs = {metric.step for metric in self._client.get_metric_history(self._id, "train_loss")}

    def log_parameters(self, values: Mapping[str, Any]) -> None:
        """Log the parameters of the run; nested tables become ``section.key``. Repeated logging changes nothing."""
        param = import_module("mlflow.entities").Param
        with self._errors():
            self._client.log_batch(self._id, params=[param(key, str(value)) for key, value in flat(values)])

    def log_rows(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Log the rows of ``log.csv`` whose epochs are not logged yet."""
        metric = import_module("mlflow.entities").Metric
        now = round(1000 * time.time())
        new = [row for row in rows if row["epoch"] not in self._epochs]
        metrics = [
            metric(key, value, now, int(row["epoch"])) for row in new for key, value in row.items() if key != "epoch"
        ]
        with self._errors():
            self._client.log_batch(self._id, metrics=metrics)
        self._epochs |= {int(row["epoch"]) for row in new}

    def log_files(self, paths: Sequence[Path]) -> None:
        """Copy files to MLflow, replacing files with the same names."""
        with self._errors():
            for path in paths:
                self._client.log_artifact(self._id, str(path))

    def end(self, status: str) -> None:
        """Set the final status of the run: ``FINISHED``, ``FAILED`` or ``KILLED``."""
        with self._errors():
            self._client.set_terminated(self._id, status=status)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of MLflow, such as a lost connection or a full disk, into :class:`TrainingError`."""
        try:
            with _quiet_mlflow():
                yield
        except import_module("mlflow.exceptions").MlflowException as error:
            raise TrainingError(
                f"MLflow cannot record {self.folder.name} in {self.mlflow}: {first_line(error)}.",
                hint="Fix the problem, and continue the run with `resume`.",
            ) from error


def artifact_folder(mlflow: str | Path) -> str | None:
    """Return the URI of the folder for files next to a SQLite file; None if a server decides."""
    uri = tracking_uri(mlflow)
    if not uri.startswith(SQLITE):
        return None
    database = Path(uri.removeprefix(SQLITE)).resolve()
    return database.with_name(f"{database.stem}-files").as_uri()


@contextmanager
def tracking(mlflow: str | Path | None, folder: Path) -> Iterator[MlflowRun | None]:
    """Provide the MLflow run of a run, and set its status at the end of the block; None without a URI."""
    if mlflow is None:
        yield None
        return
    tracked = MlflowRun(mlflow, folder)
    try:
        yield tracked
    except BaseException as error:
        try:
            tracked.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        except TrainingError as untracked:
            error.add_note(untracked.message)
        raise
    tracked.end("FINISHED")


def log_files(mlflow: str | Path, folder: Path, paths: Sequence[Path]) -> None:
    """Copy files to the MLflow run of a run, if the run was tracked."""
    if (folder / MLFLOW_FILE).exists():
        with tracking(mlflow, folder) as tracked:
            if tracked:
                tracked.log_files(paths)


@contextmanager
def _quiet_mlflow() -> Iterator[None]:
    """Silence messages about MLflow's database tables, and deprecation warnings in its own code."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
