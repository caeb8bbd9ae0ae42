from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from cytoloc.dataset.store import Dataset
from cytoloc.recipe import load_recipe
from cytoloc.training.ending import FROZEN_WORK, ending, epoch_work, seconds_left
from cytoloc.training.progress import EpochLog
from cytoloc.training.run import train_fold
from cytoloc.training.schedule import Schedule

NOON = datetime(2018, 11, 26, 12, 0)


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
    assert [epoch_work(schedule, epoch) for epoch in range(8)] == pytest.approx(expected)
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
def test_an_end_is_said_in_two_units(seconds: float, said: str) -> None:
    assert ending(seconds, now=NOON) == said


def test_each_epoch_but_the_last_says_when_the_run_ends(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EpochLog.__init__, "__kwdefaults__", {"now": lambda: NOON})
    monkeypatch.setattr("cytoloc.training.progress.seconds_left", lambda _schedule, took: 3600.0 * len(took))
    tiny = ["image.size=64", "model.backbone=test_resnet", "model.weights=none", "select.tta=1", "schedule.epochs=2"]
    said: list[str] = []
    train_fold(load_recipe("quick", overrides=tiny), study, folds, 1, out=tmp_path, place="2 of 6", report=said.append)
    lines = [line for line in said if "epoch" in line]
    assert all(line.startswith("quick-fold1 (2 of 6)  epoch") for line in lines)
    assert [line.partition("ends ")[2] for line in lines] == ["about 13:00 (1 h 0 min)", "about 14:00 (2 h 0 min)", ""]
