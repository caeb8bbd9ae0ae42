"""Work spread over the cores of this machine, handed back in order."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import connection, parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from threading import Thread
from typing import Final, TypeVar

from cytoloc.errors import WorkerError, first_line
from cytoloc.memory import keep_freed_memory

Item = TypeVar("Item")
Result = TypeVar("Result")

_STOPS: Final = (signal.SIGINT, signal.SIGTERM)
"""The signals that a shell or a cluster sends to all processes of a command at once, to stop it."""


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, pool: Executor | None = None
) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in order, a few items ahead of what was asked for.

    Unlike ``Executor.map`` it takes items as it goes, so memory does not grow with their number.

    Args:
        function: Called in the pool.
        items: Its arguments.
        pool: Where it runs; by default a thread per core.

    Raises:
        WorkerError: If a process of the pool is gone.
    """
    cores = usable_cores()
    executor = pool or ThreadPoolExecutor(cores)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenExecutor as error:
        raise WorkerError(
            "A worker process was ended from outside, or could not start.",
            hint="There may have been too little memory. Rerun the command with less beside it; an import continues."
            ' A script that starts processes needs `if __name__ == "__main__":`.',
        ) from error
    finally:
        for future in waiting:
            future.cancel()
        if pool is None:
            executor.shutdown()


def processes() -> ProcessPoolExecutor:
    """Return a pool with a process for each core; they end when this process ends, even if it is killed.

    As with all new processes of Python, a script that starts them begins with ``if __name__ == "__main__":``.

    Raises:
        WorkerError: If the system lets no process start, or has no shared memory for them.
    """
    cores = usable_cores()
    try:
        pool = ProcessPoolExecutor(cores, mp_context=_Context(), initializer=_prepare_worker)
        # Processes that start while the signals that stop a command are blocked never receive them.
        mask = getattr(signal, "pthread_sigmask", None)
        before = mask(signal.SIG_BLOCK, _STOPS) if mask else None
        try:
            # One starts with each task that finds none idle.
            for _ in range(cores):
                pool.submit(int)
        finally:
            if mask:
                mask(signal.SIG_SETMASK, before)
    except (OSError, ImportError, NotImplementedError) as error:
        raise WorkerError(
            f"Processes cannot be started here: {first_line(error)}.", hint="They need shared memory, /dev/shm."
        ) from error
    return pool


class _Worker(SpawnProcess):
    """A process that ignores SIGTERM, so a pool that lost another process ends it by SIGKILL."""

    def terminate(self) -> None:
        self.kill()


class _Context(SpawnContext):
    Process = _Worker


def usable_cores() -> int:
    """Return how many cores this process may use."""
    # Not every system can be asked; a job of a cluster often has a few of many.
    ask = getattr(os, "sched_getaffinity", None)
    return len(ask(0)) if ask else os.cpu_count() or 1


def _prepare_worker() -> None:
    """Prepare a worker: the process that started it decides when to stop, and it uses one core."""
    for stop in _STOPS:
        signal.signal(stop, signal.SIG_IGN)
    import cv2

    cv2.setNumThreads(1)
    keep_freed_memory()
    end_with_parent()


def end_with_parent() -> None:
    """End this process when the process that started it ends; otherwise it would wait for work for ever."""
    parent = parent_process()
    if parent is None:
        raise RuntimeError("no process started this one")

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()
