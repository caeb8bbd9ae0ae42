"""Runs in MLflow: parameters, measures and files of each run of cytoloc, in a database that is one SQLite file.

MLflow comes with ``cytoloc[mlflow]``; it is imported when a run is to be tracked, and its usage reports stay off.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from cytoloc.errors import MissingExtraError, TrainingError, first_line, installing
from cytoloc.files import FileFormat, read_json, write_json

NEEDED: Final = ("mlflow", "sqlalchemy", "alembic")
EXPERIMENT: Final = "cytoloc"
MARK: Final = "mlflow.json"
"""In a run's folder: which run of MLflow it is."""
MLFLOW_FORMAT: Final = FileFormat("cytoloc-mlflow-run", 1)


def require_mlflow() -> None:
    """Raise :class:`MissingExtraError` unless MLflow and what it needs for SQLite are installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"Tracking needs {', '.join(missing)}.", hint=installing("mlflow"))


def check_database(database: Path) -> None:
    """Raise what tracking in a database would raise before anything is kept; it is made if it is not there.

    Raises:
        MissingExtraError: If MLflow is not installed.
        TrainingError: If the file is something else.
    """
    require_mlflow()
    _import_mlflow()
    with _quiet_mlflow():
        _client(database)


class Tracked:
    """A run of MLflow that goes along with a run of cytoloc, and goes on when that is resumed.

    Args:
        database: The SQLite file; made if it is not there, with the folder of the files beside it.
        run: Folder of the run of cytoloc.

    Raises:
        TrainingError: If the run was tracked before, in another database.
    """

    def __init__(self, database: Path, run: Path) -> None:
        self.database = database
        self.run = run
        _import_mlflow()
        with _quiet_mlflow():
            self._client = _client(database)
            self._id = self._known_id() or self._begun_id()
            seen = self._client.get_metric_history(self._id, "train_loss")
        self._epochs = {metric.step for metric in seen}

    def _known_id(self) -> str | None:
        if not (self.run / MARK).exists():
            return None
        known: str = read_json(self.run / MARK, MLFLOW_FORMAT)["run_id"]
        try:
            self._client.update_run(known, status="RUNNING")
        except import_module("mlflow.exceptions").MlflowException as error:
            raise TrainingError(
                f"{self.database} does not know the run {known} of MLflow, as which {self.run} was tracked: {error}",
                hint="Go on with the database that it was begun with.",
            ) from error
        return known

    def _begun_id(self) -> str:
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        files = self.database.resolve().with_name(f"{self.database.stem}-files")
        number = experiment.experiment_id if experiment else self._client.create_experiment(EXPERIMENT, files.as_uri())
        begun: str = self._client.create_run(number, run_name=self.run.name).info.run_id
        write_json(self.run / MARK, {"run_id": begun}, MLFLOW_FORMAT)
        return begun

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Keep what the run is made from; nested tables become ``section.key``. The same again changes nothing."""
        param = import_module("mlflow.entities").Param
        with self._keeping():
            self._client.log_batch(self._id, params=[param(key, str(value)) for key, value in _flat(values)])

    def epochs(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Keep the rows of ``log.csv`` whose epochs are not kept yet, under their columns' names."""
        metric = import_module("mlflow.entities").Metric
        now = round(1000 * time.time())
        new = [row for row in rows if row["epoch"] not in self._epochs]
        measures = [
            metric(key, value, now, int(row["epoch"])) for row in new for key, value in row.items() if key != "epoch"
        ]
        with self._keeping():
            self._client.log_batch(self._id, metrics=measures)
        self._epochs |= {int(row["epoch"]) for row in new}

    def files(self, paths: Sequence[Path]) -> None:
        """Keep copies of files; those of the same names are written anew."""
        with self._keeping():
            for path in paths:
                self._client.log_artifact(self._id, str(path))

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """Say so if the database takes no more: it is full, or another program has locked it."""
        try:
            with _quiet_mlflow():
                yield
        except import_module("mlflow.exceptions").MlflowException as error:
            raise TrainingError(
                f"MLflow cannot keep {self.run.name} in {self.database}: {first_line(error)}",
                hint="Mend that, and go on with the run by --resume.",
            ) from error

    def end(self, status: str = "FINISHED") -> None:
        """Say how the run ended: ``FINISHED``, ``FAILED`` or ``KILLED``."""
        with _quiet_mlflow():
            self._client.set_terminated(self._id, status=status)


@contextmanager
def tracking(database: Path | None, run: Path) -> Iterator[Tracked | None]:
    """Lend a run of MLflow, and end it as the block ends; None without a database."""
    if database is None:
        yield None
        return
    tracked = Tracked(database, run)
    try:
        yield tracked
    except BaseException as error:
        tracked.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracked.end()


def add_files(database: Path, run: Path, paths: Sequence[Path]) -> None:
    """Keep copies of files beside a run that was tracked; of one that was not, nothing."""
    if (run / MARK).exists():
        with tracking(database, run) as tracked:
            if tracked:
                tracked.files(paths)


def _import_mlflow() -> None:
    """Import what sets the levels of loggers, so that they can be changed, with usage reports off."""
    require_mlflow()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import_module("mlflow.tracking")


def _client(database: Path) -> Any:
    database.parent.mkdir(parents=True, exist_ok=True)
    try:
        return import_module("mlflow.tracking").MlflowClient(tracking_uri=f"sqlite:///{database.resolve()}")
    # A file that is none of SQLite surfaces as any of several exceptions of MLflow, SQLAlchemy and Alembic.
    except Exception as error:
        raise TrainingError(
            f"MLflow cannot use {database}: {first_line(error)}",
            hint="Give the path of its SQLite database, or of one to be made.",
        ) from error


def _flat(values: Mapping[str, Any], *, above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, above=f"{above}{key}.")
        else:
            yield f"{above}{key}", value


@contextmanager
def _quiet_mlflow() -> Iterator[None]:
    """Keep off the terminal how MLflow makes its tables, and what it uses that will be gone one day."""
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
