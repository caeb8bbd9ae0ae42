"""Which fields an epoch is made of, and in which order: arithmetic on the truth, bool ``(n, classes)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

Truth = NDArray[np.bool_]
Order = Callable[[Truth, np.random.Generator], NDArray[np.int64]]
"""From the truth of the fields to learn from to the rows of an epoch, in order."""


def epoch_order(kind: str, *, mu: float, oversample: Mapping[int, int], batch_size: int) -> Order:
    """Return how the rows of an epoch are chosen.

    Args:
        kind: ``shuffled``, ``balanced`` or ``stratified``.
        mu: See :func:`field_weights`.
        oversample: See :func:`repeated`.
        batch_size: See :func:`stratified`.
    """
    return partial(_order, kind=kind, mu=mu, oversample=dict(oversample), batch_size=batch_size)


def shuffled(truth: Truth, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return every row once."""
    return rng.permutation(np.arange(len(truth)))


def _order(
    truth: Truth, rng: np.random.Generator, *, kind: str, mu: float, oversample: dict[int, int], batch_size: int
) -> NDArray[np.int64]:
    rows = repeated(truth, oversample) if oversample else np.arange(len(truth))
    if kind == "balanced":
        weights = field_weights(truth, mu=mu)[rows]
        return rng.choice(rows, size=len(rows), p=weights / weights.sum())
    if kind == "stratified":
        return rows[stratified(rarest_label(truth)[rows], batch_size=batch_size, rng=rng)]
    return rng.permutation(rows)


def field_weights(truth: Truth, *, mu: float) -> NDArray[np.float64]:
    """Return how often each field is to be drawn, relative to others (the starter code's rule).

    A class's chance in the data is its share of all labels; an even chance is the same for every class that occurs.
    The wanted chance is a mix of both, ``mu`` of the even one. A field's weight is the greatest of wanted / given over
    its labels; of a field without labels it is the least that any class has.

    >>> field_weights(np.array([[1, 0], [1, 0], [1, 0], [1, 1]], bool), mu=1).round(3).tolist()
    [0.625, 0.625, 0.625, 2.5]
    """
    counts = truth.sum(axis=0)
    given = counts / max(counts.sum(), 1)
    occurs = counts > 0
    if not occurs.any():
        return np.ones(len(truth))
    wanted = mu * occurs / occurs.sum() + (1 - mu) * given
    ratio = np.divide(wanted, given, out=np.zeros_like(given), where=occurs)
    weights = np.where(truth, ratio, 0.0).max(axis=1)
    return np.asarray(np.where(truth.any(axis=1), weights, ratio[occurs].min()))


def repeated(truth: Truth, oversample: Mapping[int, int]) -> NDArray[np.int64]:
    """Return the rows, each as often as the most repeated of its locations asks for, at least once.

    >>> repeated(np.array([[1, 0], [0, 1], [1, 1]], bool), {1: 2}).tolist()
    [0, 1, 1, 2, 2]
    """
    times = np.array([oversample.get(location, 1) for location in range(truth.shape[1])])
    return np.repeat(np.arange(len(truth)), np.maximum(np.where(truth, times, 1).max(axis=1), 1))


def rarest_label(truth: Truth) -> NDArray[np.int64]:
    """Return the label of each field that the fewest fields have; -1 of a field without labels.

    >>> rarest_label(np.array([[1, 0], [1, 1], [0, 0]], bool)).tolist()
    [0, 1, -1]
    """
    counts = truth.sum(axis=0)
    rarest = np.where(truth, counts, len(truth) + 1).argmin(axis=1)
    return np.where(truth.any(axis=1), rarest, -1)


def stratified(strata: NDArray[np.int64], *, batch_size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return an order in which every batch has its share of each stratum: as many as any other batch, give or take one.

    The fields that fill no batch, chosen at random, are left out; fewer fields than a batch all come.

    Args:
        strata: The stratum of each field.
        batch_size: Fields in a batch.
        rng: Source of randomness.
    """
    batches = max(1, len(strata) // batch_size)
    kept = rng.permutation(len(strata))[: batches * batch_size]
    # Dealt like cards, a stratum after the other, each of them shuffled.
    dealt = kept[np.argsort(strata[kept], kind="stable")]
    return np.concatenate([rng.permutation(dealt[number::batches]) for number in range(batches)])
