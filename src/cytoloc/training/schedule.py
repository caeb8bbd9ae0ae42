"""How long and how fast a network learns: arithmetic on numbers of epochs and steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Frozen epochs, then one-cycles; the keys are those of :class:`cytoloc.recipe_sections.ScheduleSection`."""

    frozen_epochs: int = 0
    epochs: int
    cycles: tuple[float, ...] = (1.0,)
    learning_rate: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: tuple[float, ...] = ()
    accumulate: int = 1
    ema: float = 0.0
    swa_epochs: int = 0
    sizes: tuple[int, ...] = ()
    """Edges of the images, in pixels, that the epochs are shared among; empty: as they are."""

    @property
    def total_epochs(self) -> int:
        """Of all cycles and the frozen ones."""
        return self.frozen_epochs + self.epochs * len(self.cycles)

    def cycle_of(self, epoch: int) -> int:
        """Return the number of the cycle that an epoch belongs to; the frozen epochs belong to the first."""
        return min(max(0, epoch - self.frozen_epochs) // self.epochs, len(self.cycles) - 1)

    def ends_cycle(self, epoch: int) -> bool:
        """Return whether an epoch is the last of its cycle."""
        return epoch >= self.frozen_epochs and (epoch - self.frozen_epochs + 1) % self.epochs == 0

    def place_among_last(self, epoch: int) -> int:
        """Return which of the cycle's epochs that are averaged this is, from 1; 0 if it is none of them.

        >>> s = Schedule(frozen_epochs=1, epochs=3, cycles=(1, 0.5), learning_rate=1, swa_epochs=2)
        >>> [s.place_among_last(epoch) for epoch in range(s.total_epochs)]
        [0, 0, 1, 2, 0, 1, 2]
        """
        if epoch < self.frozen_epochs:
            return 0
        return max(0, (epoch - self.frozen_epochs) % self.epochs + 1 - (self.epochs - self.swa_epochs))

    def size_at(self, epoch: int) -> int:
        """Return the edge of the images in an epoch, in pixels; 0: as they are."""
        if not self.sizes:
            return 0
        return self.sizes[min(epoch * len(self.sizes) // self.total_epochs, len(self.sizes) - 1)]


def rate_factor(
    step: int, *, frozen: int, cycle: int, cycles: Sequence[float] = (1.0,), rise: float = 0.3, start: float = 1 / 25
) -> float:
    """Return what the highest learning rate is multiplied by at a step.

    While the backbone is frozen it is 1; then comes one cycle (Smith 2018) after the other: along cosines it rises from
    ``start`` to 1 in the first ``rise`` of the steps and falls to nearly 0 at the last, times the cycle's own share.

    >>> [round(rate_factor(step, frozen=2, cycle=10), 3) for step in (0, 2, 5, 11)]
    [1.0, 0.04, 1.0, 0.05]
    >>> rate_factor(15, frozen=2, cycle=10, cycles=(1.0, 0.5))
    0.5
    """
    if step < frozen:
        return 1.0
    number, progress = _place(step, frozen=frozen, cycle=cycle, cycles=len(cycles))
    height = _height(progress, rise=rise)
    return cycles[number] * (start + (1 - start) * height if progress < rise else height)


def momentum_at(
    step: int, *, frozen: int, cycle: int, cycles: int = 1, ends: tuple[float, ...], plain: float, rise: float = 0.3
) -> float:
    """Return the first beta of AdamW at a step: in each cycle lowest where the rate is highest (Smith 2018).

    Args:
        step: Counted from 0.
        frozen: Steps at first for which the backbone is frozen.
        cycle: Steps of a cycle.
        cycles: How many there are.
        ends: What it is at a cycle's ends and at its top; if empty, ``plain`` throughout.
        plain: What it is while the backbone is frozen.
        rise: The share of a cycle in which the rate rises.

    >>> [round(momentum_at(step, frozen=2, cycle=10, ends=(0.95, 0.85), plain=0.9), 3) for step in (0, 2, 5, 11)]
    [0.9, 0.95, 0.85, 0.945]
    """
    if not ends or step < frozen:
        return plain
    _, progress = _place(step, frozen=frozen, cycle=cycle, cycles=cycles)
    return ends[0] + (ends[1] - ends[0]) * _height(progress, rise=rise)


def _place(step: int, *, frozen: int, cycle: int, cycles: int) -> tuple[int, float]:
    """Return in which cycle a step is, and which share of it is over."""
    number = min((step - frozen) // cycle, cycles - 1)
    return number, min(1.0, (step - frozen - number * cycle) / cycle)


def _height(progress: float, *, rise: float) -> float:
    """Return how far a cycle has come up: 0 at its ends and 1 at its top, along cosines."""
    turn = progress / rise - 1 if progress < rise else (progress - rise) / (1 - rise)
    return (1 + math.cos(math.pi * turn)) / 2


def is_better(value: float, best: float | None, *, watch: str) -> bool:
    """Return whether a measured value is better than the best before: a lower loss, a higher macro F1.

    What is no number is never better, and anything else is better than none.
    """
    if math.isnan(value):
        return False
    return best is None or (value < best if watch == "loss" else value > best)
