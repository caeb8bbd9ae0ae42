"""Epochs, learning rates and the time that is left."""

from __future__ import annotations

import copy
import math
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import SequentialLR

from cytoloc.training.schedule import FROZEN_WORK, Schedule, build_scheduler, expected_end, is_better, seconds_left

NOON = datetime(2018, 11, 26, 12, 0)
STARTING = Schedule(frozen_epochs=1, epochs=8, cycles=(1, 1, 1, 1, 1, 0.5), learning_rate=1e-3, swa_epochs=3)


class Step(NamedTuple):
    rate: float
    beta: float


def steps_by_torch(schedule: Schedule, steps_per_epoch: int, *, resume_at: int | None = None) -> list[Step]:
    """Return rate and first beta of each step; a resumed run has a new optimizer with the saved state."""

    def made() -> tuple[torch.optim.Optimizer, SequentialLR]:
        optimizer = torch.optim.AdamW(
            [torch.nn.Parameter(torch.zeros(1))], lr=schedule.learning_rate, betas=schedule.betas
        )
        return optimizer, build_scheduler(optimizer, schedule, steps_per_epoch=steps_per_epoch)

    optimizer, scheduler = made()
    taken = []
    for step in range(schedule.total_epochs * steps_per_epoch):
        if step == resume_at:
            states = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
            optimizer, scheduler = made()
            optimizer.load_state_dict(states[0])
            scheduler.load_state_dict(states[1])
        (group,) = optimizer.param_groups
        taken.append(Step(group["lr"], group["betas"][0]))
        assert group["betas"][1] == schedule.betas[1]
        optimizer.step()
        scheduler.step()
    return taken


def step_by_hand(schedule: Schedule, step: int, steps_per_epoch: int) -> Step:
    """Return rate and first beta of a step by the formula of Smith 2018 with cosines."""
    frozen, cycle = schedule.frozen_epochs * steps_per_epoch, schedule.epochs * steps_per_epoch
    if step < frozen:
        return Step(schedule.learning_rate, schedule.betas[0])
    number, place = divmod(step - frozen, cycle)
    progress = place / cycle
    if progress < 0.3:
        height = (1 - math.cos(math.pi * progress / 0.3)) / 2
        share = 1 / 25 + 24 / 25 * height
    else:
        share = height = (1 + math.cos(math.pi * (progress - 0.3) / 0.7)) / 2
    high, low = schedule.momentum or (schedule.betas[0], schedule.betas[0])
    return Step(schedule.learning_rate * schedule.cycles[number] * share, high + (low - high) * height)


@pytest.mark.parametrize("steps_per_epoch", [1, 10, 37])
@pytest.mark.parametrize(
    "schedule",
    [
        STARTING,
        Schedule(epochs=5, learning_rate=2e-3),
        Schedule(epochs=1, learning_rate=1.0, cycles=(0.5,), momentum=(0.95, 0.85)),
        Schedule(
            frozen_epochs=2, epochs=3, cycles=(1, 0.5), learning_rate=3e-3, betas=(0.8, 0.98), momentum=(0.95, 0.85)
        ),
    ],
)
def test_rates_and_momentum_are_those_of_the_formula(schedule: Schedule, steps_per_epoch: int) -> None:
    taken = steps_by_torch(schedule, steps_per_epoch)
    for number, step in enumerate(taken):
        expected = step_by_hand(schedule, number, steps_per_epoch)
        assert step.rate == pytest.approx(expected.rate, rel=1e-9, abs=1e-15), number
        assert step.beta == pytest.approx(expected.beta, rel=1e-9), number
    for resume_at in {0, 1, len(taken) // 2, len(taken) - 1}:
        assert steps_by_torch(schedule, steps_per_epoch, resume_at=resume_at) == taken


def test_the_baselines_cycles() -> None:
    assert STARTING.total_epochs == 49
    rates = [step.rate for step in steps_by_torch(STARTING, 10)]
    assert rates[:10] == [1e-3] * 10
    for number, share in enumerate(STARTING.cycles):
        cycle = rates[10 + 80 * number : 90 + 80 * number]
        assert max(cycle) == pytest.approx(1e-3 * share)
        assert int(np.argmax(cycle)) == 24
        assert cycle[0] == pytest.approx(4e-5 * share)
        assert cycle[-1] < 1e-5
    assert [STARTING.cycle_of(epoch) for epoch in (0, 1, 8, 9, 48)] == [0, 0, 0, 1, 5]
    assert [epoch for epoch in range(49) if STARTING.ends_cycle(epoch)] == [8, 16, 24, 32, 40, 48]
    assert [STARTING.swa_position(epoch) for epoch in range(1, 10)] == [0, 0, 0, 0, 0, 1, 2, 3, 0]


def test_epochs_are_shared_among_sizes() -> None:
    growing = Schedule(frozen_epochs=1, epochs=8, learning_rate=1, sizes=(128, 256, 512))
    assert [growing.size_at(epoch) for epoch in range(9)] == [128] * 3 + [256] * 3 + [512] * 3
    assert Schedule(epochs=4, learning_rate=1).size_at(3) == 0


def test_better_is_less_loss_and_more_f1() -> None:
    assert is_better(1.0, None, watch="loss")
    assert is_better(0.9, 1.0, watch="loss")
    assert not is_better(1.0, 1.0, watch="loss")
    assert is_better(0.5, 0.4, watch="macro_f1")
    assert not is_better(0.4, 0.4, watch="macro_f1")


@pytest.mark.parametrize("watch", ["loss", "macro_f1"])
def test_nan_is_never_the_best(watch: str) -> None:
    assert not is_better(math.nan, None, watch=watch)
    assert not is_better(math.nan, 1.0, watch=watch)


def test_epochs_of_one_kind_take_as_long_as_those_before() -> None:
    schedule = Schedule(epochs=10, learning_rate=1)
    assert seconds_left(schedule, [20.0] * 4) == pytest.approx(6 * 20)
    # A machine that is twice as busy now: what was long ago does not count.
    assert seconds_left(schedule, [20.0, 20.0, *[40.0] * 5]) == pytest.approx(3 * 40)
    assert seconds_left(schedule, [20.0] * 10) == 0


def test_frozen_epochs_and_small_images_are_less_work() -> None:
    schedule = Schedule(frozen_epochs=2, epochs=6, learning_rate=1, sizes=(64, 128))
    sizes = [schedule.size_at(epoch) for epoch in range(8)]
    expected = [(size / 128) ** 2 * (FROZEN_WORK if epoch < 2 else 1) for epoch, size in enumerate(sizes)]
    assert [schedule.work(epoch) for epoch in range(8)] == pytest.approx(expected)
    # Each epoch takes 80 s a unit of work, so the rest is known from the first.
    took = [80 * work for work in expected]
    for done in range(1, 8):
        assert seconds_left(schedule, took[:done]) == pytest.approx(sum(took[done:]))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "ends about 12:00 (0 s)"),
        (59, "ends about 12:00 (59 s)"),
        (7180, "ends about 13:59 (2 h 0 min)"),
        (12 * 3600, "ends about 27 Nov 00:00 (12 h 0 min)"),
        (6 * 86400 + 7200, "ends about 2 Dec 14:00 (6 d 2 h)"),
    ],
)
def test_an_end_has_two_units(seconds: float, said: str) -> None:
    assert expected_end(seconds, now=NOON) == said
