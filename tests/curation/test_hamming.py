from __future__ import annotations

import sys

import numpy as np
import pytest

from cytoloc.channels import CHANNELS
from cytoloc.curation.hamming import DEFAULT_LIMITS, Hashes, near_pairs
from cytoloc.errors import MissingExtraError


def random_hashes(count: int, seed: int, *, bits: int = 64) -> Hashes:
    rng = np.random.default_rng(seed)
    known = rng.random((count, 4)) < 0.8
    return Hashes(rng.integers(0, 2**bits, (count, 4), dtype=np.uint64), known, CHANNELS)


def by_definition(a: Hashes, b: Hashes) -> set[tuple[int, int]]:
    limits = {CHANNELS.index(role): limit for role, limit in DEFAULT_LIMITS.items()}
    pairs = set()
    for i in range(len(a.bits)):
        for j in range(len(b.bits)):
            common = [c for c in limits if a.known[i, c] and b.known[j, c]]
            near = all(int(a.bits[i, c] ^ b.bits[j, c]).bit_count() <= limits[c] for c in common)
            if len(common) >= 2 and near:
                pairs.add((i, j))
    return pairs


def test_all_pairs_within_the_limits_are_found_and_no_others() -> None:
    # Of twenty bits, so that many of the pairs are near the limits.
    a, b = random_hashes(120, 0, bits=20), random_hashes(150, 1, bits=20)
    near = near_pairs(a, b)
    found = set(zip(near.a.tolist(), near.b.tolist(), strict=True))
    assert found == by_definition(a, b)
    assert 100 < len(found) < 120 * 150 / 2
    for i, j, distances in zip(near.a, near.b, near.distances, strict=True):
        for channel, distance in enumerate(distances):
            both = a.known[i, channel] and b.known[j, channel]
            assert distance == (int(a.bits[i, channel] ^ b.bits[j, channel]).bit_count() if both else -1)


def test_planted_pairs_are_found_among_many() -> None:
    rng = np.random.default_rng(2)
    known = np.ones((20_000, 4), bool)
    a, b = (Hashes(rng.integers(0, 2**64, (20_000, 4), dtype=np.uint64), known, CHANNELS) for _ in range(2))
    rows = rng.choice(20_000, (2, 300), replace=False)
    for i, j in rows.T:
        for channel, limit in enumerate((14, 12, 10)):
            flipped = sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, limit + 1), replace=False))
            b.bits[j, channel] = a.bits[i, channel] ^ np.uint64(flipped)
    near = near_pairs(a, b)
    assert set(zip(near.a.tolist(), near.b.tolist(), strict=True)) == set(map(tuple, rows.T.tolist()))


def test_one_channel_proves_nothing_unless_it_is_all_that_is_asked_for() -> None:
    known = np.zeros((3, 4), bool)
    known[:, 2] = True
    same = Hashes(np.zeros((3, 4), np.uint64), known, CHANNELS)
    assert len(near_pairs(same, same).a) == 0
    assert len(near_pairs(same, same, limits={"nucleus": 0}).a) == 9


def test_nothing_is_near_to_nothing() -> None:
    empty = Hashes(np.empty((0, 4), np.uint64), np.empty((0, 4), bool), CHANNELS)
    assert near_pairs(empty, random_hashes(3, 0)).distances.shape == (0, 4)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError) as caught:
        near_pairs(random_hashes(3, 0), random_hashes(3, 1))
    assert "cytoloc[duplicates]" in caught.value.hint
