"""Timing in turns: every way does the same work in every round, so that a slow minute slows all of them."""

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
    """How fast one way of doing the work is.

    Attributes:
        name: What it is.
        rate: Median over rounds, in units of work per second.
        ratio: Median over rounds of its rate by that of the way all are compared with, in the same round.
        least: Least of those ratios.
        most: Greatest of them.
    """

    name: str
    rate: float
    ratio: float
    least: float
    most: float


class Timed(NamedTuple):
    """Work that timed itself, since not all that it did is to be measured.

    Attributes:
        units: How many units of work were done in that time.
        seconds: How long they took.
    """

    units: float
    seconds: float


Rates = Mapping[str, list[float]]
"""Units of work per second by the name of the way, a value a round."""


def in_turns(
    ways: Mapping[str, Callable[[], float | Timed]],
    *,
    against: str,
    rounds: int,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Way]:
    """Return how fast each way is, measured in ``rounds`` rounds after one that does not count.

    Args:
        ways: Each does some work and returns how many units it did, or how many in which time.
        against: The way that the others are compared with.
        rounds: How often each is measured.
        advance: Told after each measurement how many of how many are done.
    """
    rates = rates_in_turns(ways, rounds=rounds, advance=advance)
    return [compared(rates, name, against=against) for name in ways]


def rates_in_turns(
    ways: Mapping[str, Callable[[], float | Timed]],
    *,
    rounds: int,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> Rates:
    """Return the rates of each way in ``rounds`` rounds after one that does not count.

    Args:
        ways: Each does some work and returns how many units it did, or how many in which time.
        rounds: How often each is measured.
        advance: Told after each measurement how many of how many are done.
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
    """Return how fast the way ``name`` is beside the way ``against``."""
    ratios = [mine / other for mine, other in zip(rates[name], rates[against], strict=True)]
    return Way(name, median(rates[name]), median(ratios), min(ratios), max(ratios))


def in_separate_process(work: Callable[..., Result], *given: Any) -> Result:
    """Return what ``work`` returns in a process of its own, whose peak memory is that of this work alone."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent) as pool:
        return pool.submit(work, *given).result()


def peak_mb() -> float:
    """Return the peak memory of this process, in megabytes; on Linux, of those that it started and that run, too.

    What processes share is counted for each of them. Linux hands the peak that ``getrusage`` gives from a process on to
    what it starts; that of ``/proc`` begins anew.
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
    """Return what the measurements ran on."""
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
