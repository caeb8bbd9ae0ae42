from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from cytoloc.errors import WorkerError
from cytoloc.parallel import in_order, one_ahead, pool_or_threads, processes


def test_results_keep_their_order() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * number

    assert list(in_order(slow_first, range(50))) == [number * number for number in range(50)]


def test_items_are_taken_only_a_little_ahead() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(10_000):
            taken += 1
            yield number

    results = in_order(str, items())
    assert next(results) == "0"
    assert taken < 1000
    results.close()  # type: ignore[attr-defined]


def test_an_error_comes_out_and_a_lent_pool_stays_open() -> None:
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ZeroDivisionError):
            list(in_order(lambda number: 1 // number, [1, 0, 1], pool=pool))
        assert pool.submit(int, "3").result() == 3


def test_nobody_waits_for_threads_whose_results_are_not_needed() -> None:
    # The garbage collector may close a generator, and must not wait then; see `in_order`.
    go, ended = Event(), []

    def slow(number: int) -> int:
        if number:
            go.wait(10)
            ended.append(number)
        return number

    for results in (in_order(slow, range(99)), one_ahead(map(slow, range(99)))):
        assert next(results) == 0
        results.close()  # type: ignore[attr-defined]
    assert ended == []
    go.set()


def test_calls_that_write_have_ended_when_the_caller_stops() -> None:
    began, ended = [], []

    def slow(number: int) -> int:
        began.append(number)
        time.sleep(0.05 * number)
        ended.append(number)
        return number

    with pytest.raises(KeyboardInterrupt), pool_or_threads(None) as pool:
        for _ in in_order(slow, range(9), pool=pool):
            raise KeyboardInterrupt
    assert len(began) > 1
    assert sorted(began) == sorted(ended)


def test_stopping_is_left_to_the_process_that_started_the_others() -> None:
    with processes() as pool:
        for stop in (signal.SIGINT, signal.SIGTERM):
            assert pool.submit(signal.getsignal, stop).result() == signal.SIG_IGN
        # From the first moment on, when nothing of theirs is imported yet, and in all of them.
        masks = [pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []) for _ in range(50)]
        assert all({signal.SIGINT, signal.SIGTERM} <= mask.result() for mask in masks)
    assert not {signal.SIGINT, signal.SIGTERM} & signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_pool_that_lost_a_process_ends_the_deaf_ones() -> None:
    with processes() as pool:
        # A process alone would leave nobody to be ended.
        others = {pool.submit(_pid_and_rest).result() for _ in range(40)}
        os.kill(others.pop(), signal.SIGKILL)
        with pytest.raises(WorkerError):
            list(in_order(_rest, [0.5] * 8, pool=pool))
    for other in others:
        with pytest.raises(ProcessLookupError):
            os.kill(other, 0)


def _pid_and_rest() -> int:
    time.sleep(0.01)
    return os.getpid()


def _rest(seconds: float) -> None:
    time.sleep(seconds)


ROOT = Path(__file__).parents[1]

KILLED = """
import os
import time

from cytoloc.parallel import processes

if __name__ == "__main__":
    with processes() as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""


KILLED_ALONE = """
import os
import time

from benchmarks.rounds import in_separate_process


def say_and_sleep():
    print(os.getpid(), flush=True)
    time.sleep(60)


if __name__ == "__main__":
    in_separate_process(say_and_sleep)
"""


@pytest.mark.parametrize("script", [KILLED, KILLED_ALONE], ids=["processes", "in_separate_process"])
def test_processes_end_with_one_that_is_killed(tmp_path: Path, script: str) -> None:
    (tmp_path / "killed.py").write_text(script)
    with subprocess.Popen(
        [sys.executable, tmp_path / "killed.py"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        os.kill(worker, 0)
        process.kill()
    ends = time.monotonic() + 30
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < ends:
            os.kill(worker, 0)
            time.sleep(0.02)
