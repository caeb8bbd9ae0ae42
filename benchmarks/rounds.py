"""Interleaved timing: every round runs each method once, so that changes in load affect all methods."""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

from cytoloc.parallel import end_with_parent

Result = TypeVar("Result")


@dataclass(frozen=True)
class Way:
    """Speed of a method.

    Attributes:
        name: Name of the method.
        rate: Units of work per second, median over rounds.
        ratio: Rate divided by the rate of the reference method in the same round, median over rounds.
        least: Minimum ratio.
        most: Maximum ratio.
    """

    name: str
    rate: float
    ratio: float
    least: float
    most: float


class Timed(NamedTuple):
    """The result of a method that measures its own time, because only a part of its work counts.

    Attributes:
        units: Units of work.
        seconds: Time of this work in seconds.
    """

    units: float
    seconds: float


Rates = Mapping[str, list[float]]
"""Units of work per second in each round, by name of the method."""


def in_turns(
    ways: Mapping[str, Callable[[], float | Timed]],
    *,
    against: str,
    rounds: int,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Way]:
    """Time methods in interleaved rounds, after one warm-up round.

    Args:
        ways: Methods by name. Each does some work, and returns its units of work or a :class:`Timed`.
        against: Name of the reference method for ratios.
        rounds: Number of rounds.
        advance: Called with (done, total) after each measurement.

    Returns:
        The speed of each method.
    """
    rates = rates_in_turns(ways, rounds=rounds, advance=advance)
    return [compared(rates, name, against=against) for name in ways]


def rates_in_turns(
    ways: Mapping[str, Callable[[], float | Timed]],
    *,
    rounds: int,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> Rates:
    """Return the rates of methods in interleaved rounds, after one warm-up round.

    Args:
        ways: Methods by name. Each does some work, and returns its units of work or a :class:`Timed`.
        rounds: Number of rounds.
        advance: Called with (done, total) after each measurement.

    Returns:
        The rate of each method in each round.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for position, (name, work) in enumerate(ways.items()):
            started = time.perf_counter()
            done = work()
            timed = done if isinstance(done, Timed) else Timed(done, time.perf_counter() - started)
            rates[name].append(timed.units / timed.seconds)
            advance(turn * len(ways) + position + 1, (rounds + 1) * len(ways))
    return {name: values[1:] for name, values in rates.items()}


def compared(rates: Rates, name: str, *, against: str) -> Way:
    """Return the speed of a method relative to a reference method."""
    ratios = [mine / other for mine, other in zip(rates[name], rates[against], strict=True)]
    return Way(name, median(rates[name]), median(ratios), min(ratios), max(ratios))


def in_separate_process(work: Callable[..., Result], *given: Any) -> Result:
    """Run a function in a new process, so that its peak memory can be measured."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent) as pool:
        return pool.submit(work, *given).result()


def peak_mb() -> float:
    """Return the peak memory of this process in megabytes; on Linux, including its running child processes.

    Shared memory is counted for each process. On Linux, ``/proc`` is read because a child process inherits the peak of
    its parent in ``getrusage``.
    """
    if Path("/proc/self/status").exists():
        running = ["self", *(str(child.pid) for child in multiprocessing.active_children())]
        return sum(_peak_kb(Path("/proc") / each / "status") for each in running) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _peak_kb(status: Path) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def machine() -> dict[str, Any]:
    """Return the CPU, its number of cores, and the Python version."""
    names = [
        line.partition(":")[2].strip()
        for line in (Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else [])
        if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
