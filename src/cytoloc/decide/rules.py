"""What a field's answer must look like whatever the thresholds say: never blank, never more than a few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cytoloc.choices import Blank
from cytoloc.errors import TableError

EXPECTED_TOGETHER: Final = 5.0
"""Two locations exclude each other if chance would have put them together in so many fields and none has both: under
independence that has a probability below .7 %."""


@dataclass(frozen=True)
class Rules:
    """What is done after the thresholds; each rule can be switched off.

    Attributes:
        most: A field keeps at most this many locations, those furthest above their thresholds.
        blank: What a field above no threshold gets: the location of the greatest ``probability``, that with the best
            ``margin`` to its threshold, that with the best ``ratio`` to it, or ``none``.
        shrink: Thresholds are multiplied by the first number; where a field is blank, by the next ones in turn.
        exclusive: Pairs of locations of which a field keeps only that with the better margin.
    """

    most: int = 5
    blank: Blank = "probability"
    shrink: tuple[float, ...] = ()
    exclusive: tuple[tuple[int, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the rules as JSON values."""
        return {
            "most": self.most,
            "blank": self.blank,
            "shrink": list(self.shrink),
            "exclusive": [list(pair) for pair in self.exclusive],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Rules:
        """Return what :meth:`to_json` gave."""
        whole = [content["most"], *(each for pair in content["exclusive"] for each in pair)]
        if not all(type(each) is int for each in whole):
            raise TypeError("the cap and exclusive locations must be whole numbers")
        pairs = tuple((a, b) for a, b in content["exclusive"])
        return cls(content["most"], content["blank"], tuple(float(each) for each in content["shrink"]), pairs)


def decide(
    probabilities: NDArray[np.floating], thresholds: NDArray[np.float64], rules: Rules, *, never: float
) -> NDArray[np.bool_]:
    """Return the locations of each field, bool ``(n, classes)``.

    Args:
        probabilities: ``(n, classes)``.
        thresholds: One per class.
        rules: What is done with fields above no threshold, or above many.
        never: The threshold of classes that no rule may add.
    """
    possible = thresholds < never
    shrunk = [np.where(possible, thresholds * factor, thresholds) for factor in rules.shrink or (1.0,)]
    predicted = probabilities > shrunk[0]
    for lower in shrunk[1:]:
        blank = ~predicted.any(axis=1)
        predicted[blank] = probabilities[blank] > lower
    if rules.exclusive:
        predicted = keep_apart(predicted, probabilities, shrunk[0], rules.exclusive)
    if rules.blank != "none":
        predicted = fill_blanks(predicted, preference(probabilities, shrunk[0], rules.blank), possible=possible)
    return cap_labels(predicted, probabilities, shrunk[0], most=rules.most)


def preference(
    probabilities: NDArray[np.floating], thresholds: NDArray[np.float64], blank: Blank
) -> NDArray[np.floating]:
    """Return by what a blank field's location is chosen, ``(n, classes)``; more is better."""
    if blank == "margin":
        return probabilities - thresholds
    if blank == "ratio":
        return probabilities / np.maximum(thresholds, 1e-12)
    return probabilities


def fill_blanks(
    predicted: NDArray[np.bool_], probabilities: NDArray[np.floating], *, possible: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return ``predicted`` with the most probable of the ``possible`` locations given to each field that has none.

    If none is possible, the most probable of all is given.
    """
    filled = predicted.copy()
    blank = np.flatnonzero(~predicted.any(axis=1))
    eligible = np.where(possible | ~possible.any(), probabilities[blank], -np.inf)
    filled[blank, np.argmax(eligible, axis=1)] = True
    return filled


def cap_labels(
    predicted: NDArray[np.bool_],
    probabilities: NDArray[np.floating],
    thresholds: NDArray[np.float64],
    *,
    most: int,
) -> NDArray[np.bool_]:
    """Return ``predicted`` with at most ``most`` locations a field: those furthest above their thresholds."""
    capped = predicted.copy()
    margin = np.where(predicted, probabilities - thresholds, -np.inf)
    for row in np.flatnonzero(predicted.sum(axis=1) > most):
        capped[row, np.argsort(-margin[row], kind="stable")[most:]] = False
    return capped


def keep_apart(
    predicted: NDArray[np.bool_],
    probabilities: NDArray[np.floating],
    thresholds: NDArray[np.float64],
    pairs: Sequence[tuple[int, int]],
) -> NDArray[np.bool_]:
    """Return ``predicted`` with only the better by margin of two locations that exclude each other."""
    kept = predicted.copy()
    margin = probabilities - thresholds
    for one, other in pairs:
        both = kept[:, one] & kept[:, other]
        worse = margin[:, one] < margin[:, other]
        kept[both & worse, one] = False
        kept[both & ~worse, other] = False
    return kept


def exclusive_pairs(truth: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """Return the pairs of locations that no field has both of, though chance would have put them together in five."""
    counts = truth.sum(axis=0, dtype=np.int64)
    together = truth.T.astype(np.int64) @ truth
    expected = np.outer(counts, counts) / max(len(truth), 1)
    ones, others = np.nonzero(np.triu((together == 0) & (expected >= EXPECTED_TOGETHER), k=1))
    return tuple((int(a), int(b)) for a, b in zip(ones, others, strict=True))


def share_evidence(probabilities: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each field's probabilities averaged over the fields of its group: duplicates, or fields of one well.

    Args:
        probabilities: ``(n, classes)``.
        groups: A group number per field.

    Raises:
        TableError: If there is not one number per field.
    """
    if np.shape(groups) != (len(probabilities),):
        raise TableError(
            f"There are {len(probabilities)} fields, and groups of shape {np.shape(groups)}.",
            hint="Give one group number per field.",
        )
    _, group = np.unique(groups, return_inverse=True)
    sums = np.zeros((int(group.max()) + 1, probabilities.shape[1]))
    np.add.at(sums, group, probabilities)
    return np.asarray((sums / np.bincount(group)[:, None])[group], np.float64)
