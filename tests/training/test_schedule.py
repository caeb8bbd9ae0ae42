from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cytoloc.training.averaging import blended, ema_share
from cytoloc.training.schedule import Schedule, is_better, rate_factor

STARTING = Schedule(frozen_epochs=1, epochs=8, cycles=(1, 1, 1, 1, 1, 0.5), learning_rate=1e-3, swa_epochs=3)


def test_the_starting_systems_cycles() -> None:
    assert STARTING.total_epochs == 49
    rates = [1e-3 * rate_factor(step, frozen=10, cycle=80, cycles=STARTING.cycles) for step in range(490)]
    assert rates[:10] == [1e-3] * 10
    for number, share in enumerate(STARTING.cycles):
        cycle = rates[10 + 80 * number : 90 + 80 * number]
        assert max(cycle) == pytest.approx(1e-3 * share)
        assert int(np.argmax(cycle)) == 24
        assert cycle[0] == pytest.approx(4e-5 * share)
        assert cycle[-1] < 1e-5
    assert [STARTING.cycle_of(epoch) for epoch in (0, 1, 8, 9, 48)] == [0, 0, 0, 1, 5]
    assert [epoch for epoch in range(49) if STARTING.ends_cycle(epoch)] == [8, 16, 24, 32, 40, 48]
    assert [STARTING.place_among_last(epoch) for epoch in range(1, 10)] == [0, 0, 0, 0, 0, 1, 2, 3, 0]


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
def test_what_is_no_number_is_never_the_best(watch: str) -> None:
    assert not is_better(math.nan, None, watch=watch)
    assert not is_better(math.nan, 1.0, watch=watch)


def states(count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {"w": torch.randn(3, generator=generator, dtype=torch.float64), "batches": torch.tensor(number)}
        for number in range(count)
    ]


def test_running_means_are_means() -> None:
    mean = None
    for place, state in enumerate(states(5), start=1):
        mean = blended(None if place == 1 else mean, state, share=1 / place)
    assert mean is not None
    assert torch.allclose(mean["w"], torch.stack([state["w"] for state in states(5)]).mean(dim=0))
    assert mean["batches"] == 4


def test_an_average_is_a_copy() -> None:
    state = states(1)[0]
    average = blended(None, state, share=1)
    state["w"] += 1
    assert torch.equal(average["w"], states(1)[0]["w"])


def test_moving_averages_forget_by_their_decay() -> None:
    assert ema_share(0.9, 10_000) == pytest.approx(0.1)
    assert ema_share(0.999, 1) == pytest.approx(1 - 2 / 11)
    average, by_hand = None, states(1)[0]["w"]
    for step, state in enumerate(states(30), start=1):
        share = ema_share(0.9, step)
        average = blended(average, state, share=share)
        by_hand = by_hand if step == 1 else (1 - share) * by_hand + share * state["w"]
    assert average is not None
    assert torch.allclose(average["w"], by_hand)


def test_the_rate_rises_once_and_falls_to_nearly_nothing() -> None:
    rates = [rate_factor(step, frozen=5, cycle=50) for step in range(56)]
    assert rates[:5] == [1.0] * 5
    top = int(np.argmax(rates[5:]))
    assert top == 15
    assert rates[5] == pytest.approx(1 / 25)
    assert all(np.diff(rates[5 : 5 + top]) > 0)
    assert all(np.diff(rates[5 + top :]) < 0)
    assert math.isclose(rates[-1], 0, abs_tol=1e-12)
