"""Exact search for pairs of fields with similar perceptual hashes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoloc._typing import BoolArray, IntArray, UInt8Array
from cytoloc.channels import MICROTUBULES, NUCLEUS, PROTEIN
from cytoloc.errors import MissingExtraError, installing

DEFAULT_LIMITS: Final = {MICROTUBULES: 14, PROTEIN: 12, NUCLEUS: 10}
"""Maximum Hamming distance per channel, of 64 bits. The list of 259 leaks of 2018 was made with these limits."""

OTHER_LIMIT: Final = 12
"""Maximum Hamming distance in other channels, if datasets have fewer than two of the channels above."""

LEAST_CHANNELS: Final = 2
"""Number of channels that must be known for both fields; one channel alone is not reliable."""

BLOCK: Final = 4096
"""Number of fields that are searched at once, which limits memory."""


class Hashes(NamedTuple):
    """Perceptual hashes of fields.

    Attributes:
        bits: The hashes, uint64 of shape ``(n, channels)``.
        known: bool of shape ``(n, channels)``; false if a channel was not imaged or is empty.
        channels: The names of the channels.
    """

    bits: NDArray[np.uint64]
    known: BoolArray
    channels: tuple[str, ...]


class Near(NamedTuple):
    """Pairs of rows with similar hashes.

    Attributes:
        a: Rows of the first table, shape ``(m,)``.
        b: Rows of the second table, shape ``(m,)``.
        distances: Hamming distance per channel, int16 of shape ``(m, channels)``; -1 if unknown.
    """

    a: IntArray
    b: IntArray
    distances: NDArray[np.int16]


def near_pairs(a: Hashes, b: Hashes, *, limits: Mapping[str, int] = DEFAULT_LIMITS) -> Near:
    """Find all pairs of rows whose Hamming distances are within the limits in all channels that both rows have.

    Rows are grouped by their known channels. In each group, faiss searches all pairs in the channel with the smallest
    limit. The other channels are compared for these pairs only.

    Args:
        a: The hashes to search for.
        b: The hashes to search in, with the same channels.
        limits: The maximum Hamming distance per channel. Channels without a limit are ignored. Pairs with fewer than
            two known channels are not returned.

    Returns:
        The pairs.

    Raises:
        MissingExtraError: If faiss is not installed.
    """
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise MissingExtraError("The search for near-duplicates needs faiss.", hint=installing("duplicates")) from error
    used = sorted((channel for channel in limits if channel in a.channels), key=lambda channel: limits[channel])
    columns = [a.channels.index(channel) for channel in used]
    most = {a.channels.index(channel): limits[channel] for channel in used}
    found = [Near(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, len(a.channels)), np.int16))]
    for (kind_a, rows_a), (kind_b, rows_b) in product(_by_known(a, columns), _by_known(b, columns)):
        common = [column for column, one, other in zip(columns, kind_a, kind_b, strict=True) if one and other]
        if not common or len(common) < min(LEAST_CHANNELS, len(columns)):
            continue
        first, *others = common
        looked_up = _bytes(a.bits[rows_a, first])
        index: Any = faiss.IndexBinaryFlat(64)
        index.add(_bytes(b.bits[rows_b, first]))
        for start in range(0, len(looked_up), BLOCK):
            # faiss returns hashes with a distance below the radius.
            ends, _, places = index.range_search(looked_up[start : start + BLOCK], most[first] + 1)
            some_a = rows_a[start + np.repeat(np.arange(len(ends) - 1), np.diff(ends.astype(np.int64)))]
            some_b = rows_b[places]
            keep = np.ones(len(some_a), bool)
            for column in others:
                keep &= _differ(a.bits[some_a, column], b.bits[some_b, column]) <= most[column]
            some_a, some_b = some_a[keep], some_b[keep]
            distances = _differ(a.bits[some_a], b.bits[some_b]).astype(np.int16)
            distances[~(a.known[some_a] & b.known[some_b])] = -1
            found.append(Near(some_a, some_b, distances))
    return Near(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _differ(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> UInt8Array:
    return np.asarray(np.bitwise_count(a ^ b), np.uint8)


def _by_known(hashes: Hashes, columns: list[int]) -> Iterator[tuple[tuple[bool, ...], IntArray]]:
    """Yield each combination of known channels, with the rows that have it."""
    kinds, of_row = np.unique(hashes.known[:, columns], axis=0, return_inverse=True)
    for number, kind in enumerate(kinds):
        yield tuple(map(bool, kind)), np.flatnonzero(of_row.ravel() == number)


def _bytes(hashes: NDArray[np.uint64]) -> UInt8Array:
    return np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, 8)
