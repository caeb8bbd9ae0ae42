"""Parallel work on all cores, with results in order."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection, parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from threading import Thread
from typing import Any, Final, TypeVar

from cytoloc.errors import WorkerError, first_line
from cytoloc.memory import keep_freed_memory

Item = TypeVar("Item")
Result = TypeVar("Result")

_STOPS: Final = (signal.SIGINT, signal.SIGTERM)
"""Signals that a shell or cluster sends to all processes of a command to stop it."""


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, pool: Executor | None = None
) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in order, computing a few items ahead.

    Unlike ``Executor.map``, items are taken one by one, so memory does not grow with their number. If the caller stops
    early, calls that have begun end in the background. If they write files, give a pool of :func:`pool_or_threads`.

    Args:
        function: The function, which is called in the pool.
        items: The arguments.
        pool: The executor. Default: one thread per core.

    Yields:
        The results.

    Raises:
        WorkerError: If a process of the pool has ended.
    """
    cores = usable_cores()
    executor = pool or ThreadPoolExecutor(cores)
    waiting: deque[Future[Result]] = deque()
    is_closed = False
    try:
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except GeneratorExit:
        # The garbage collector may close this generator at any moment, even while a thread that starts holds a lock
        # of the module threading. Waiting for other threads then takes the same lock, and never ends.
        is_closed = True
        raise
    except BrokenExecutor as error:
        raise WorkerError(
            "A worker process was ended from outside, or could not start.",
            hint="There may be too little memory. Close other programs and rerun the command; an import continues."
            ' A script that starts processes needs `if __name__ == "__main__":`.',
        ) from error
    finally:
        for future in waiting:
            future.cancel()
        if pool is None:
            executor.shutdown(wait=not is_closed)


@contextmanager
def pool_or_threads(pool: Executor | None) -> Iterator[Executor]:
    """Provide a pool, or one thread per core, whose calls have ended when the block ends."""
    if pool is not None:
        yield pool
        return
    threads = ThreadPoolExecutor(usable_cores())
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yield items in order, while the next item is made in another thread.

    If the caller stops early, an item that has begun ends in the background.

    Args:
        items: The items.

    Yields:
        The items.
    """
    end = object()
    pool = ThreadPoolExecutor(1)
    try:
        waiting: Future[Any] = pool.submit(next, items, end)
        while (item := waiting.result()) is not end:
            waiting = pool.submit(next, items, end)
            yield item
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # for the same reason as in `in_order`


def processes() -> ProcessPoolExecutor:
    """Return a pool with one process per core. The processes end when this process ends, even if it is killed.

    A script that calls this needs ``if __name__ == "__main__":``, as for all new processes in Python.

    Returns:
        The pool.

    Raises:
        WorkerError: If processes cannot be started, or there is no shared memory.
    """
    cores = usable_cores()
    try:
        pool = ProcessPoolExecutor(cores, mp_context=_Context(), initializer=_prepare_worker)
        # Processes that start while signals are blocked never receive these signals.
        mask = getattr(signal, "pthread_sigmask", None)
        before = mask(signal.SIG_BLOCK, _STOPS) if mask else None
        try:
            # The pool starts one process for each task that finds no idle process.
            for _ in range(cores):
                pool.submit(int)
        finally:
            if mask:
                mask(signal.SIG_SETMASK, before)
    except (OSError, ImportError, NotImplementedError) as error:
        raise WorkerError(
            f"Processes cannot be started: {first_line(error)}.", hint="Check that shared memory, /dev/shm, exists."
        ) from error
    return pool


class _Worker(SpawnProcess):
    """A process that ignores SIGTERM. A pool that lost another process ends it by SIGKILL."""

    def terminate(self) -> None:
        self.kill()


class _Context(SpawnContext):
    Process = _Worker


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    # On a cluster, a job often may use only some of the cores; not every system provides this number.
    ask = getattr(os, "sched_getaffinity", None)
    return len(ask(0)) if ask else os.cpu_count() or 1


def _prepare_worker() -> None:
    """Prepare a worker process: ignore stop signals, which the main process handles, and use one core."""
    for stop in _STOPS:
        signal.signal(stop, signal.SIG_IGN)
    import cv2

    cv2.setNumThreads(1)
    keep_freed_memory()
    end_with_parent()


def end_with_parent() -> None:
    """End this process when the process that started it ends; otherwise it would wait for work forever."""
    parent = parent_process()
    if parent is None:
        raise RuntimeError("This process was not started by another process.")

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()
