"""What a decision may be made of: members' probabilities and the truth, checked at the door."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from cytoloc.errors import TableError

Members = Mapping[str, NDArray[np.floating]]
"""Probabilities ``(n, locations)`` by the name of the model that gave them; a row of NaN is a field that it lacks."""

LEAST_PROBABILITY: Final = 1e-6
"""Probabilities nearer to 0 or 1 count as this far from them, so that one sure mistake does not outweigh the rest."""


def stack_members(members: Members) -> NDArray[np.float64]:
    """Return the members' probabilities as one array, float64 ``(members, n, locations)``.

    A field that a member lacks is a row of NaN there, and some other member must have it.

    Raises:
        TableError: If there is no member, shapes differ, or values are no probabilities.
    """
    if not members:
        raise TableError("There are no predictions to decide on.", hint="Give at least one member.")
    shapes = {name: np.shape(values) for name, values in members.items()}
    first = next(iter(shapes.values()))
    if len(set(shapes.values())) > 1 or len(first) != 2 or 0 in first:
        raise TableError(f"Members must have one shape (n, locations) with n > 0; these have {shapes}.")
    stack = np.stack([np.asarray(values, np.float64) for values in members.values()])
    missing = np.isnan(stack)
    if missing.any():
        _refuse_holes(missing, list(members))
    low, high = float(np.nanmin(stack)), float(np.nanmax(stack))
    if low < 0 or high > 1:
        name = list(members)[int(np.argmax(((stack < 0) | (stack > 1)).any(axis=(1, 2))))]
        kind = "they look like logits" if low < 0 and np.isfinite([low, high]).all() else "a probability cannot be that"
        raise TableError(
            f"Some values of {name!r} are not probabilities: they lie between {low:g} and {high:g}; {kind}.",
            hint="Give values from 0 to 1; logits need a sigmoid first: 1 / (1 + exp(-logit)).",
        )
    return stack


def check_truth(truth: NDArray[np.bool_], stack: NDArray[np.float64]) -> None:
    """Raise :class:`~cytoloc.errors.TableError` unless ``truth`` is bool ``(n, locations)``, as a stack of members."""
    if truth.shape != stack.shape[1:] or truth.dtype != np.bool_:
        raise TableError(f"The truth must be bool {stack.shape[1:]}; it is {truth.dtype} {truth.shape}.")


def logits_of(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return ``log(p / (1 - p))``; probabilities count as at least 1e-6 from 0 and from 1."""
    clipped = np.clip(np.asarray(probabilities, np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.asarray(logit(clipped), np.float64)


def row_keys(stack: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return a number per field that follows from its probabilities alone, whatever the order of fields and classes.

    Fields with the same key have the same probabilities, so a deal by keys keeps copies together.

    Args:
        stack: ``(members, n, classes)``.
    """
    # 0.0 and -0.0 are one value, and the classes' order must not show.
    ordered = np.sort(stack, axis=2).transpose(1, 0, 2) + 0.0
    digests = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in np.ascontiguousarray(ordered)]
    return np.frombuffer(b"".join(digests), np.int64)


def _refuse_holes(missing: NDArray[np.bool_], names: list[str]) -> None:
    partly = missing.any(axis=2) & ~missing.all(axis=2)
    if partly.any():
        member, row = (int(i) for i in np.argwhere(partly)[0])
        column = int(np.argmax(missing[member, row]))
        raise TableError(
            f"Row {row} of {names[member]!r} has no number (NaN) for location {column}"
            f" ({int(partly.sum())} such rows).",
            hint="Give every probability of a field; a field that a member lacks is a row of NaN.",
        )
    nowhere = missing.all(axis=(0, 2))
    if nowhere.any():
        raise TableError(
            f"Row {int(np.argmax(nowhere))} has no probabilities (NaN) from any member"
            f" ({int(nowhere.sum())} such rows).",
            hint="Leave out fields that no member predicted.",
        )
