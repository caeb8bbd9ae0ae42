"""Work spread over the cores of this machine, handed back in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import TypeVar

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
    finally:
        for future in waiting:
            future.cancel()
        if pool is None:
            executor.shutdown()


def processes() -> ProcessPoolExecutor:
    """Return a process for each core; they end when this one does, be it killed."""
    return ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """Watch over the process that started this one: its work waits for more of it, and would do so for ever."""
    parent = parent_process()
    if parent is None:
        raise RuntimeError("nobody started this process")

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()
