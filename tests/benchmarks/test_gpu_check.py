from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_check import Check, main, print_table
from benchmarks.rounds import Timed

TINY = Check(
    device="cpu",
    networks=(("resnet10t", "average-max"), ("resnet10t", "multi-stage")),
    size=64,
    fields=12,
    predicted=6,
    trained=4,
    steps=2,
    rounds=1,
)


def test_without_a_gpu_nothing_is_checked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main() == 0
    assert "has no GPU" in capsys.readouterr().out


@pytest.mark.slow
def test_the_table_has_parity_and_speed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def one_turn(ways: Mapping[str, Callable[[], Timed]], *, rounds: int) -> dict[str, list[float]]:
        return {name: [timed.units / timed.seconds for timed in (work(),)] for name, work in ways.items()}

    monkeypatch.setattr(gpu_check, "rates_in_turns", one_turn)  # each run of cytoloc takes seconds
    monkeypatch.setattr(torch, "compile", lambda module, **_options: module)  # a compiler takes a minute
    assert print_table(TINY)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("device")
    parity = [line for line in lines if line.startswith("parity")]
    assert [line.endswith("ok") for line in parity] == [True, True, False] * 2
    assert "not supported" in parity[2]
    assert sum("multi-stage, PyTorch, float32, compiled" in line for line in lines) == 1
    training = [line for line in lines if line.startswith("training")]
    assert len(training) == 8
    assert all("fields/s" in line and line.endswith("x") for line in training)


def test_other_probabilities_fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def rows(_check: Check) -> Any:
        yield gpu_check.Row("parity", "0.3", "DIFFERS", failed=True)

    monkeypatch.setattr(gpu_check, "check_rows", rows)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert main() == 1
