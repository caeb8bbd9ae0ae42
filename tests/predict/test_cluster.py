"""Prediction of parts on Ray: the same folder, and nothing is lost when a worker is killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cytoloc as cl
from cytoloc.choices import Resample
from cytoloc.dataset.store import Dataset
from cytoloc.errors import MissingExtraError, SettingsError, WorkerError
from cytoloc.predict import cluster
from cytoloc.predict.cluster import RayWorkers, run_on_ray
from cytoloc.predict.sources import DatasetSource, FieldBatch
from cytoloc.predict.streaming import StreamOptions, predict_parts
from tests.conftest import Cli
from tests.predict.test_streaming import model_of


class DeadlySource(DatasetSource):
    """A dataset that kills the process that reads its second part, unless another process was killed before."""

    def __init__(self, dataset: Dataset, killed: Path, rows: Any = None) -> None:
        super().__init__(dataset, rows)
        self.killed = killed

    def part(self, start: int, stop: int) -> DeadlySource:
        return DeadlySource(self.dataset, self.killed, self.rows[start:stop])

    def batches(self, size: int, length: int, resample: Resample = "area") -> Iterator[FieldBatch]:
        if self.rows[0] == 10 and not self.killed.exists():
            self.killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batches(size, length, resample)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray leaves files open
def test_a_killed_worker_loses_nothing(study: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    model = model_of()
    source = DeadlySource(study, tmp_path / "killed")
    options = StreamOptions(part_fields=10, tta=2)
    states: list[cl.StreamState] = []
    workers = RayWorkers(count=2, cpus=0.5)
    last = predict_parts(model, [source], tmp_path / "ray", options=options, workers=workers, report=states.append)
    assert source.killed.exists()
    assert (last.parts_done, last.done, last.failed) == (4, 40, 0)
    assert [state.parts_done for state in states] == [0, 1, 2, 3, 4]
    found = cl.read_predictions(tmp_path / "ray")
    predict_parts(model, [source], tmp_path / "here", options=options)
    expected = cl.read_predictions(tmp_path / "here")
    assert found.ids == expected.ids == study.ids
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    names = [{path.name for path in (tmp_path / each).iterdir()} for each in ("ray", "here")]
    assert names[0] == names[1]
    # The same command continues without Ray, and with it.
    (tmp_path / "ray" / "part-00003.parquet").unlink()
    predict_parts(model, [source], tmp_path / "ray", options=options)
    assert cl.read_predictions(tmp_path / "ray").ids == study.ids


class Reference(int):
    """A result that is not there yet."""


class FakeRay:
    """Ray in this process: a task of ``dying`` ends its actor."""

    class exceptions:  # noqa: N801
        class RayActorError(Exception): ...

        class ActorDiedError(RayActorError): ...

        class OutOfMemoryError(Exception): ...

        class RayTaskError(Exception):
            def __init__(self, cause: Exception) -> None:
                self.cause = cause

    def __init__(self, errors: dict[int, list[Exception]]) -> None:
        self.errors = errors
        self.results: dict[Reference, Any] = {}

    def wait(self, references: list[Reference], **_options: Any) -> tuple[list[Reference], list[Reference]]:
        return references[:1], references[1:]

    def get(self, reference: Reference) -> Any:
        result = self.results[reference]
        if isinstance(result, Exception):
            raise result
        return result

    def actor(self) -> Any:
        ray = self

        class Method:
            def __init__(self, made: Any) -> None:
                self.made = made

            def remote(self, *given: Any) -> Reference:
                reference = Reference(len(ray.results))
                ray.results[reference] = self.made(*given)
                return reference

        def run(task: int, _given: Any) -> Any:
            return ray.errors[task].pop() if ray.errors.get(task) else task * task

        class Actor:
            ready = Method(lambda: None)

        actor = Actor()
        actor.run = Method(run)  # type: ignore[attr-defined]
        return actor


def test_tasks_are_repeated_and_errors_come_back() -> None:
    errors = FakeRay.exceptions
    ray = FakeRay({1: [errors.RayActorError("killed")], 2: [errors.ActorDiedError("gone")]})
    done = dict(cluster._distribute(ray, [ray.actor(), ray.actor()], range(5), []))
    assert done == {task: task * task for task in range(5)}
    ray = FakeRay({1: [errors.RayActorError("killed") for _ in range(3)]})
    with pytest.raises(WorkerError, match="3 workers of Ray ended with the same task: 1"):
        list(cluster._distribute(ray, [ray.actor()], range(3), []))
    ray = FakeRay({0: [errors.ActorDiedError("gone")]})
    with pytest.raises(WorkerError, match=r"could not be started again\. 3 tasks are left"):
        list(cluster._distribute(ray, [ray.actor()], range(3), []))
    ray = FakeRay({0: [errors.RayTaskError(SettingsError("no int8"))]})
    with pytest.raises(SettingsError, match="no int8"):
        list(cluster._distribute(ray, [ray.actor()], range(3), []))


def test_workers_that_are_impossible_are_refused(
    cli: Cli, study: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match="`count` is 0"):
        RayWorkers(count=0)
    with pytest.raises(SettingsError, match="0 CPUs and 1 GPUs is impossible"):
        RayWorkers(count=1, cpus=0, gpus=1)
    said = cli("predict", "builtin", study.path, "--ray", 2, "--out", tmp_path / "p.parquet")
    assert (said.code, "--ray predicts parts into a folder" in said.err) == (2, True)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"cytoloc\[ray\]"):
        list(run_on_ray(lambda _model, task: task, model_of(), [1], RayWorkers(count=1)))
