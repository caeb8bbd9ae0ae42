"""The schedule of a run: epochs, learning rates, weight averages, and the remaining time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Self

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, SequentialLR

from cytoloc.recipes.recipe import Recipe

FROZEN_WORK: Final = 1 / 3
"""Time of a frozen epoch relative to a normal one; a forward pass takes about a third of the time of a step."""

RECENT_EPOCHS: Final = 5
"""Number of last epochs from which the remaining time is estimated."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Frozen epochs, then one-cycles; for most attributes see :class:`cytoloc.recipes.sections.ScheduleSection`."""

    frozen_epochs: int = 0
    epochs: int
    cycles: tuple[float, ...] = (1.0,)
    batch_size: int = 8
    accumulate: int = 1
    learning_rate: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: tuple[float, ...] = ()
    clip: float = 0.0
    patience: int = 0
    ema: float = 0.0
    swa_epochs: int = 0
    sizes: tuple[int, ...] = ()
    """Edge lengths of the images, in pixels; the epochs are divided among them. Empty: images are not resized."""

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        """Return the schedule of a recipe."""
        image = recipe.image
        return cls(**recipe.schedule.model_dump(), sizes=(*image.progressive, image.size) if image.progressive else ())

    @property
    def total_epochs(self) -> int:
        """The number of epochs, including frozen epochs."""
        return self.frozen_epochs + self.epochs * len(self.cycles)

    def cycle_of(self, epoch: int) -> int:
        """Return the number of the cycle of an epoch, from 0. Frozen epochs belong to the first cycle."""
        return min(max(0, epoch - self.frozen_epochs) // self.epochs, len(self.cycles) - 1)

    def ends_cycle(self, epoch: int) -> bool:
        """Return whether an epoch is the last of its cycle."""
        return epoch >= self.frozen_epochs and (epoch - self.frozen_epochs + 1) % self.epochs == 0

    def swa_position(self, epoch: int) -> int:
        """Return the position of an epoch among the averaged epochs of its cycle, from 1; 0 if it is not averaged.

        >>> s = Schedule(frozen_epochs=1, epochs=3, cycles=(1, 0.5), learning_rate=1, swa_epochs=2)
        >>> [s.swa_position(epoch) for epoch in range(s.total_epochs)]
        [0, 0, 1, 2, 0, 1, 2]
        """
        if epoch < self.frozen_epochs:
            return 0
        return max(0, (epoch - self.frozen_epochs) % self.epochs + 1 - (self.epochs - self.swa_epochs))

    def size_at(self, epoch: int) -> int:
        """Return the edge length of the images in an epoch, in pixels; 0 if images are not resized."""
        if not self.sizes:
            return 0
        return self.sizes[min(epoch * len(self.sizes) // self.total_epochs, len(self.sizes) - 1)]

    def work(self, epoch: int) -> float:
        """Return the time of an epoch, relative to an epoch that trains all weights on images of full size.

        >>> growing = Schedule(frozen_epochs=1, epochs=3, learning_rate=1, sizes=(64, 128))
        >>> [round(growing.work(epoch), 3) for epoch in range(4)]
        [0.083, 0.25, 1.0, 1.0]
        """
        pixels = (self.size_at(epoch) / self.sizes[-1]) ** 2 if self.sizes else 1.0
        return pixels * (FROZEN_WORK if epoch < self.frozen_epochs else 1.0)


class CycleLR(OneCycleLR):
    """A one-cycle schedule (Smith 2018) whose learning rates are multiplied by a share.

    In the first 30 % of the steps, the learning rate rises along a cosine from 1/25 of the highest rate to the highest
    rate. Then it falls, and would reach 0 one step after the last one. The first beta of AdamW changes in the opposite
    direction, from ``momentum[0]`` to ``momentum[1]`` and back.
    """

    def __init__(self, optimizer: Optimizer, *, schedule: Schedule, steps: int, share: float) -> None:
        self.share = share
        high, low = schedule.momentum or (0.0, 0.0)
        super().__init__(
            optimizer,
            max_lr=schedule.learning_rate,
            # OneCycleLR counts to total_steps - 1, and to pct_start * total_steps - 1 in its rising part.
            total_steps=steps + 1,
            pct_start=(0.3 * steps + 1) / (steps + 1),
            div_factor=25,
            final_div_factor=math.inf,
            cycle_momentum=bool(schedule.momentum),
            max_momentum=high,
            base_momentum=low,
        )

    def get_lr(self) -> list[Any]:
        """Return the learning rate of each group of parameters."""
        return [self.share * rate for rate in super().get_lr()]


def build_scheduler(optimizer: Optimizer, schedule: Schedule, *, steps_per_epoch: int) -> SequentialLR:
    """Return the scheduler of a run: the full learning rate in frozen epochs, then one cycle after another.

    Args:
        optimizer: The optimizer.
        schedule: The schedule.
        steps_per_epoch: Number of optimizer steps per epoch.

    Returns:
        The scheduler, which is stepped after each optimizer step.
    """
    frozen, steps = schedule.frozen_epochs * steps_per_epoch, schedule.epochs * steps_per_epoch
    schedulers: list[LRScheduler] = [LambdaLR(optimizer, lambda _step: 1.0)] if frozen else []
    schedulers += [CycleLR(optimizer, schedule=schedule, steps=steps, share=share) for share in schedule.cycles]
    starts = [frozen + number * steps for number in range(len(schedule.cycles))]
    scheduler = SequentialLR(optimizer, schedulers, milestones=starts if frozen else starts[1:])
    if frozen:
        # OneCycleLR changes the first beta when it is constructed.
        for group in optimizer.param_groups:
            group["betas"] = schedule.betas
    return scheduler


def is_better(value: float, best: float | None, *, watch: str) -> bool:
    """Return whether a value is better than the best one so far: a lower loss, or a higher macro F1.

    NaN is never better. Any other value is better than None.

    Args:
        value: The new value.
        best: The best value so far; None if there is none.
        watch: ``loss`` or ``macro_f1``.

    Returns:
        Whether the value is better.
    """
    if math.isnan(value):
        return False
    return best is None or (value < best if watch == "loss" else value > best)


def seconds_left(schedule: Schedule, took: Sequence[float]) -> float:
    """Return the estimated remaining time of a run in seconds, from the time that each finished epoch took.

    >>> round(seconds_left(Schedule(frozen_epochs=1, epochs=3, learning_rate=1), [10.0, 30.0]))
    60
    """
    done = len(took)
    recent = range(max(0, done - RECENT_EPOCHS), done)
    pace = sum(took[epoch] for epoch in recent) / sum(schedule.work(epoch) for epoch in recent)
    return pace * sum(schedule.work(epoch) for epoch in range(done, schedule.total_epochs))


def expected_end(seconds: float, *, now: datetime) -> str:
    """Return when a run will end, with the remaining time in its two largest units.

    >>> noon = datetime(2018, 11, 26, 12, 0)
    >>> expected_end(7800, now=noon)
    'ends about 14:10 (2 h 10 min)'
    >>> expected_end(20, now=noon)
    'ends about 12:00 (20 s)'
    >>> expected_end(100_000, now=noon)
    'ends about 27 Nov 15:46 (1 d 3 h)'
    """
    end = now + timedelta(seconds=seconds)
    day = "" if end.date() == now.date() else f"{end.day} {end:%b} "
    minutes = round(seconds / 60)
    hours, days = minutes // 60, minutes // (24 * 60)
    if seconds < 60:
        duration = f"{seconds:.0f} s"
    elif days:
        duration = f"{days} d {hours % 24} h"
    else:
        duration = f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
    return f"ends about {day}{end:%H:%M} ({duration})"
