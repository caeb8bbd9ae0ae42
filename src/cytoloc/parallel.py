"""Work spread over the cores of this machine, handed back in order."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import TypeVar

from cytoloc.errors import WorkerError
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
        pool: Where it runs; by default a thread per core, which is what decoding wants.

    Raises:
        WorkerError: If a process of the pool is gone.
    """
    cores = os.cpu_count() or 1
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
            "A process that did a share of the work was ended from outside; perhaps there was too little memory.",
            way_out="Start the same command again, with less beside it; what goes on where it was stopped does.",
        ) from error
    finally:
        for future in waiting:
            future.cancel()
        if pool is None:
            executor.shutdown()


def processes() -> ProcessPoolExecutor:
    """Return a process for each core; they end when this one does, be it killed.

    As with all new processes of Python, a script that is to start them begins with ``if __name__ == "__main__":``.
    """
    return ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=_begin)


def _begin() -> None:
    """Make this process one of several: it leaves Ctrl-C to the one that started it, and the other cores alone."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    keep_freed_memory()
    _end_with_parent()


def _end_with_parent() -> None:
    """Watch over the process that started this one: its work waits for more of it, and would do so for ever."""
    parent = parent_process()
    if parent is None:
        raise RuntimeError("nobody started this process")

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()
