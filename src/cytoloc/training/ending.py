"""When a run will have ended: arithmetic on how long its epochs took, and how that is said."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from cytoloc.training.schedule import Schedule

FROZEN_WORK: Final = 1 / 3
"""Work of an epoch in which only the head learns, by that of another: the pass forward is about a third of a step."""

RECENT: Final = 5
"""How many of the last epochs say how fast a run is now."""


def epoch_work(schedule: Schedule, epoch: int) -> float:
    """Return how much work an epoch is, in units of an epoch that learns everything on images of full size.

    >>> growing = Schedule(frozen_epochs=1, epochs=3, learning_rate=1, sizes=(64, 128))
    >>> [round(epoch_work(growing, epoch), 3) for epoch in range(4)]
    [0.083, 0.25, 1.0, 1.0]
    """
    pixels = (schedule.size_at(epoch) / schedule.sizes[-1]) ** 2 if schedule.sizes else 1.0
    return pixels * (FROZEN_WORK if epoch < schedule.frozen_epochs else 1.0)


def seconds_left(schedule: Schedule, took: Sequence[float]) -> float:
    """Return how many seconds a run still learns, if it goes on as fast as in its last epochs.

    Args:
        schedule: Of the run.
        took: Seconds of each epoch so far, at least one.

    >>> round(seconds_left(Schedule(frozen_epochs=1, epochs=3, learning_rate=1), [10.0, 30.0]))
    60
    """
    done, all_of_them = len(took), schedule.total_epochs
    recent = range(max(0, done - RECENT), done)
    pace = sum(took[epoch] for epoch in recent) / sum(epoch_work(schedule, epoch) for epoch in recent)
    return pace * sum(epoch_work(schedule, epoch) for epoch in range(done, all_of_them))


def ending(seconds: float, *, now: datetime) -> str:
    """Return when something ends that takes ``seconds`` from ``now`` on, and how long that is.

    >>> noon = datetime(2018, 11, 26, 12, 0)
    >>> ending(7800, now=noon)
    'ends about 14:10 (2 h 10 min)'
    >>> ending(20, now=noon)
    'ends about 12:00 (20 s)'
    >>> ending(100_000, now=noon)
    'ends about 27 Nov 15:46 (1 d 3 h)'
    """
    end = now + timedelta(seconds=seconds)
    day = "" if end.date() == now.date() else f"{end.day} {end:%b} "
    return f"ends about {day}{end:%H:%M} ({_duration(seconds)})"


def _duration(seconds: float) -> str:
    """Return a time in its two largest units, the smaller ones left out."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, days = minutes // 60, minutes // (24 * 60)
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
