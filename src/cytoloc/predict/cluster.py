"""Work of one model on the actors of a Ray cluster. Work of an actor that dies is given to another one."""

from __future__ import annotations

import copy
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Final, TypeVar

import torch

from cytoloc.choices import Resample
from cytoloc.errors import CytolocError, MissingExtraError, SettingsError, WorkerError, installing
from cytoloc.models.network import Network
from cytoloc.predict.model import Model
from cytoloc.predict.model_info import ModelInfo

Result = TypeVar("Result")

MOST_DEATHS: Final = 3
"""Number of workers that may die with the same task. A task that always ends its worker then stops."""


@dataclass(frozen=True, kw_only=True)
class RayWorkers:
    """Workers of a Ray cluster, each of which loads the model once.

    The environment variable ``RAY_ADDRESS`` gives the address of a running cluster. Without it, Ray starts a cluster on
    this machine.

    Attributes:
        count: Number of workers. Workers wait until the cluster has free cores and GPUs.
        cpus: Number of CPU cores of each worker. It can be a fraction.
        gpus: Number of GPUs of each worker. With a fraction, such as 0.25, workers share a GPU. 0: compute on the CPU.
    """

    count: int
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if type(self.count) is not int or self.count < 1:
            raise SettingsError(f"`count` is {self.count!r}, but must be a positive integer.")
        if not (self.cpus > 0 and self.gpus >= 0):
            raise SettingsError(
                f"A worker with {self.cpus:g} CPUs and {self.gpus:g} GPUs is impossible.",
                hint="`cpus` must be greater than 0, and `gpus` at least 0.",
            )


class _Worker:
    """An actor. It builds the model for its first task, so that errors of the model are errors of the task."""

    def __init__(self, workers: RayWorkers) -> None:
        self._workers = workers
        self._model: Model | None = None

    def ready(self) -> None:
        """Return when the actor runs."""

    def run(self, task: int, given: Sequence[Any]) -> Any:
        """Return the result of a task, given references to how the model is built and to the work."""
        if self._model is None:
            import ray

            build, self._work = ray.get(list(given))
            torch.set_num_threads(max(1, int(self._workers.cpus)))
            self._model = build(device="cuda" if self._workers.gpus else "cpu")
        return self._work(self._model, task)


def run_on_ray(
    work: Callable[[Model, int], Result], model: Model, tasks: Sequence[int], workers: RayWorkers
) -> Iterator[tuple[int, Result]]:
    """Run tasks of a model on the actors of a Ray cluster.

    Args:
        work: The function of the model and a task. It is run again if a worker dies, so that it must be repeatable.
        model: The model, which is sent to each worker.
        tasks: The tasks.
        workers: The workers.

    Yields:
        Each task and its result, in the order in which they end.

    Raises:
        MissingExtraError: If Ray is not installed.
        SettingsError: If this machine lacks the CPUs or GPUs of a worker.
        WorkerError: If a task ends three workers, or no worker can be started again.
    """
    with _cluster(workers) as ray:
        build = partial(
            _model,
            [copy.deepcopy(network).cpu() for network in model.networks],
            model.info,
            model.resample,
            decision=model.decision,
            engine=model.engine_choice,
            unusual=model.unusual,
            precision=model.precision,
        )
        # Ray starts a dead actor again, but it is this function that repeats the task, so that any actor can take it.
        worker = ray.remote(_Worker).options(num_cpus=workers.cpus, num_gpus=workers.gpus, max_restarts=-1)
        given = [ray.put(build), ray.put(work)]
        actors = [worker.remote(workers) for _ in range(min(workers.count, len(tasks)))]
        try:
            yield from _distribute(ray, actors, tasks, given)
        finally:
            for actor in actors:
                ray.kill(actor)


def _distribute(
    ray: Any, actors: Sequence[Any], tasks: Sequence[int], given: Sequence[Any]
) -> Iterator[tuple[int, Any]]:
    """Give tasks to idle actors until all are done; yield each task and its result."""
    waiting, deaths = deque(tasks), Counter[int]()
    busy: dict[Any, tuple[Any, int | None]] = {actor.ready.remote(): (actor, None) for actor in actors}
    idle: list[Any] = []
    while waiting or any(task is not None for _, task in busy.values()):
        while waiting and idle:
            actor, task = idle.pop(), waiting.popleft()
            busy[actor.run.remote(task, given)] = (actor, task)
        if not busy:
            raise WorkerError(
                f"All workers of Ray ended, and could not be started again. {len(waiting)} tasks are left.",
                hint="Check the cluster with `ray status`. Rerun the command to continue.",
            )
        for reference in ray.wait(list(busy), num_returns=1, timeout=1)[0]:
            actor, ended = busy.pop(reference)
            try:
                result = ray.get(reference)
            except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
                if ended is not None:
                    waiting.appendleft(ended)
                    deaths[ended] += 1
                    if deaths[ended] >= MOST_DEATHS:
                        raise WorkerError(
                            f"{MOST_DEATHS} workers of Ray ended with the same task: {ended}.",
                            hint="A worker may need more memory. Rerun the command with fewer workers to continue.",
                        ) from error
                if not isinstance(error, ray.exceptions.ActorDiedError):
                    busy[actor.ready.remote()] = (actor, None)
                continue
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, CytolocError):
                    raise error.cause from None
                raise
            idle.append(actor)
            if ended is not None:
                yield ended, result


def _model(networks: Sequence[Network], info: ModelInfo, resample: Resample | None, **options: Any) -> Model:
    """Return a model on a worker."""
    model = Model(networks, info, **options)
    model.resample = resample
    return model


@contextmanager
def _cluster(workers: RayWorkers) -> Iterator[Any]:
    """Connect to a cluster, or start one on this machine that ends with the work; yield the module of Ray."""
    try:
        ray: Any = import_module("ray")
    except ModuleNotFoundError as error:
        raise MissingExtraError("Workers of Ray need the library ray.", hint=installing("ray")) from error
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    ray.init(address=address or "local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    if in_main_thread:
        signal.signal(signal.SIGTERM, before)  # Ray replaces it
    try:
        here = ray.cluster_resources()
        lacking = [name for name, need in (("CPU", workers.cpus), ("GPU", workers.gpus)) if need > here.get(name, 0)]
        if lacking and not address:
            raise SettingsError(
                f"A worker needs {workers.cpus:g} CPUs and {workers.gpus:g} GPUs, but this machine has"
                f" {here.get('CPU', 0):g} and {here.get('GPU', 0):g}.",
                hint="Ask for less, or set RAY_ADDRESS to the address of a cluster.",
            )
        yield ray
    finally:
        ray.shutdown()
