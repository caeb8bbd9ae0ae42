from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cytoloc.bench.duplicates import PLANTED, competition_hashes
from cytoloc.bench.rounds import in_turns
from tests.conftest import Cli


def test_every_way_works_in_every_round_and_the_first_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([float(tick) for tick in (0, 9, 9, 90, 100, 101, 101, 103, 200, 204, 204, 205)])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    calls: list[str] = []

    def work(name: str) -> int:
        calls.append(name)
        return 8

    ways = {name: partial(work, name) for name in ("peer", "ours")}
    peer, ours = in_turns(ways, against="peer", rounds=2)
    assert calls == ["peer", "ours"] * 3
    assert (peer.rate, ours.rate) == (5.0, 6.0)  # medians of 8 / 1 and 8 / 4, of 8 / 2 and 8 / 1
    assert (peer.ratio, ours.ratio, ours.least, ours.most) == (1.0, 2.25, 0.5, 4.0)


@pytest.mark.slow
def test_the_atlas_is_measured_against_files(tmp_path: Path, cli: Cli) -> None:
    call = ["bench", "atlas", "--fields", 64, "--size", 64, "--rounds", 1, "--workshop", tmp_path]
    measured = json.loads(cli(*call, "--json").out)["atlas"]
    assert [len(measured[kind]) for kind in ("uint8", "float32", "importing")] == [4, 4, 2]
    assert all(way["rate"] > 0 for kind in ("uint8", "float32", "importing") for way in measured[kind])
    assert 0 < measured["disk"] < 1.2
    assert measured["import_mb"] > 20
    assert list(tmp_path.iterdir()) == []
    text = cli(*call).out
    assert "four cv2.imread" in text
    assert "of raw pixels" in text


@pytest.mark.slow
def test_duplicates_are_measured_against_imagehash(tmp_path: Path, cli: Cli) -> None:
    call = ["bench", "duplicates", "--size", 64, "--rounds", 1, "--workshop", tmp_path]
    measured = json.loads(cli(*call, "--json").out)["duplicates"]
    assert (measured["fields"], measured["found"]) == (64, 1.0)
    assert measured["close"] >= 0.95
    assert [way["name"] for way in measured["hashing"]] == ["ImageHash", "cytoloc"]
    assert "of planted copies found" in cli(*call).out


def test_planted_copies_are_within_the_limits() -> None:
    test, external = competition_hashes()
    off = np.bitwise_count(test.bits[:PLANTED] ^ external.bits[:PLANTED])
    assert off.max(axis=0).tolist() == [14, 12, 10, 0]
    assert off[:, :3].min() == 0
