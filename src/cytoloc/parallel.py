"""Work spread over the cores of this machine, handed back in order."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import TypeVar

from cytoloc.errors import WorkerError, first_line
from cytoloc.memory import keep_freed_memory

Item = TypeVar("Item")
Result = TypeVar("Result")


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
            "A process that did a share of the work was ended from outside, or could not start.",
            way_out="Perhaps there was too little memory: start again with less beside it; an import goes on where it"
            ' was stopped. A script that starts processes needs `if __name__ == "__main__":`.',
        ) from error
    finally:
        for future in waiting:
            future.cancel()
        if pool is None:
            executor.shutdown()


def processes() -> ProcessPoolExecutor:
    """Return a process for each core; they end when this one does, be it killed.

    As with all new processes of Python, a script that is to start them begins with ``if __name__ == "__main__":``.

    Raises:
        WorkerError: If the system lets no process start, or has no shared memory for them to talk by.
    """
    cores = usable_cores()
    try:
        pool = ProcessPoolExecutor(cores, mp_context=get_context("spawn"), initializer=_begin)
        with _without_interrupts():
            # One starts with each task that finds none idle.
            for _ in range(cores):
                pool.submit(int)
    except (OSError, ImportError, NotImplementedError) as error:
        raise WorkerError(
            f"Processes cannot be started here: {first_line(error)}.", way_out="They need shared memory, /dev/shm."
        ) from error
    return pool


def usable_cores() -> int:
    """Return how many cores this process may use."""
    # Not everywhere is there a way to ask; a job of a cluster often has a few of many.
    ask = getattr(os, "sched_getaffinity", None)
    return len(ask(0)) if ask else os.cpu_count() or 1


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let Ctrl-C wait while the block runs; processes that start in it do not hear of it before they ignore it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    """Make this process one of several: it leaves Ctrl-C to the one that started it, and the other cores alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import cv2

    cv2.setNumThreads(1)
    keep_freed_memory()
    end_with_parent()


def end_with_parent() -> None:
    """Watch over the process that started this one, and end when it does: this one would wait for work for ever."""
    parent = parent_process()
    if parent is None:
        raise RuntimeError("nobody started this process")

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()
