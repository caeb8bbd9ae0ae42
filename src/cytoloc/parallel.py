"""Work spread over the cores of this machine, handed back in order."""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import connection, parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.queues import SimpleQueue
from threading import Thread
from typing import Any, Final, TypeVar

from cytoloc.errors import WorkerError, first_line
from cytoloc.memory import keep_freed_memory

Item = TypeVar("Item")
Result = TypeVar("Result")

_PIPE_BYTES: Final = 2**20
"""The most that Linux lets anyone have, unless it is told otherwise."""

_STOPS: Final = (signal.SIGINT, signal.SIGTERM)
"""What a shell or a cluster sends to all processes of a command at once, to stop it."""


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
        pool = ProcessPoolExecutor(cores, mp_context=_Context(), initializer=_begin)
        with _without_interrupts():
            # One starts with each task that finds none idle.
            for _ in range(cores):
                pool.submit(int)
    except (OSError, ImportError, NotImplementedError) as error:
        raise WorkerError(
            f"Processes cannot be started here: {first_line(error)}.", way_out="They need shared memory, /dev/shm."
        ) from error
    return pool


class _Worker(SpawnProcess):
    """A process that is deaf to requests to stop, so that none of its answers is cut off in the middle."""

    def terminate(self) -> None:
        """End it at once, as a pool does with what is left of it when another process is gone."""
        self.kill()


class _Answers(SimpleQueue[Any]):
    """What answers come back through: a pipe that holds more than the usual 64 KiB, since fields take megabytes."""

    _reader: connection.Connection

    def __init__(self, *, ctx: Any) -> None:
        super().__init__(ctx=ctx)
        if sys.platform == "linux":
            from fcntl import F_SETPIPE_SZ, fcntl

            # The system refuses it to one who has many; a usual pipe is slower, not worse.
            with suppress(OSError):
                fcntl(self._reader.fileno(), F_SETPIPE_SZ, _PIPE_BYTES)


class _Context(SpawnContext):
    Process = _Worker

    def SimpleQueue(self) -> _Answers:  # noqa: N802
        """Return the queue that a pool asks for once, for its answers."""
        return _Answers(ctx=self)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    # Not everywhere is there a way to ask; a job of a cluster often has a few of many.
    ask = getattr(os, "sched_getaffinity", None)
    return len(ask(0)) if ask else os.cpu_count() or 1


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let requests to stop wait while the block runs; processes that start in it never hear of any."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    """Make this process one of several: it leaves stopping to the one that started it, and the other cores alone."""
    for stop in _STOPS:
        signal.signal(stop, signal.SIG_IGN)
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
