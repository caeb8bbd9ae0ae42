"""A decision: everything between the probabilities of one or more members and the locations of a field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cytoloc.decide.rules import cap_labels, fill_blanks
from cytoloc.decide.thresholds import NEVER, grid_thresholds
from cytoloc.errors import FormatError, TableError
from cytoloc.files import read_json, write_json
from cytoloc.labels import N_LOCATIONS

KIND: Final = "cytoloc-decision"
VERSION: Final = 1

Method = Literal["seed"]
Members = Mapping[str, NDArray[np.floating]]

CROSS_FIT_PARTS: Final = 5
"""Parts that the fields are dealt into to judge a decision: each is decided by a fit on the other four."""


@dataclass(frozen=True)
class Decision:
    """A fitted rule; call it with the probabilities of each member to get bool ``(n, 28)``.

    Attributes:
        method: How the thresholds were found.
        members: Names of the members whose probabilities are averaged.
        thresholds: Per location; it is predicted where the mean probability is above.
        most: A field keeps at most this many locations, those furthest above their thresholds.
        fill_blank: Whether a field above no threshold gets its most probable location.
        fitted_on: What it was fitted on; JSON values only.
    """

    method: Method
    members: tuple[str, ...]
    thresholds: NDArray[np.float64]
    most: int = 5
    fill_blank: bool = True
    fitted_on: dict[str, Any] = field(default_factory=dict)

    def __call__(self, members: Members) -> NDArray[np.bool_]:
        """Return the locations of each field, bool ``(n, 28)``.

        Args:
            members: Probabilities ``(n, 28)`` of every member the decision was fitted with.

        Raises:
            TableError: If a member is missing, unknown, or of another shape.
        """
        if set(members) != set(self.members):
            raise TableError(
                f"The decision was fitted with the members {', '.join(self.members)}; these are {', '.join(members)}.",
                way_out="Give the scores of the same members.",
            )
        mean = mean_of(members)
        predicted = mean > self.thresholds
        if self.fill_blank:
            predicted = fill_blanks(predicted, mean, possible=self.thresholds < NEVER)
        return cap_labels(predicted, mean, self.thresholds, most=self.most)


def fit_decision(
    members: Members,
    truth: NDArray[np.bool_],
    *,
    method: Method = "seed",
    most: int = 5,
    fill_blank: bool = True,
) -> Decision:
    """Return the decision that fits held-out probabilities to their truth.

    Args:
        members: Probabilities ``(n, 28)`` per member, of fields that the member was not trained on.
        truth: bool ``(n, 28)``.
        method: ``seed`` is the starting system's: plain mean, then per class the best F1 on a grid.
        most: The cap on locations a field.
        fill_blank: Whether no field may be left without location.

    Raises:
        TableError: If shapes differ, there is no field, or values are no probabilities.

    >>> truth = np.zeros((4, 28), bool); truth[:2, 7] = True; truth[2:, 0] = True
    >>> probabilities = np.where(truth, 0.9, 0.2)
    >>> fit_decision({"a": probabilities}, truth)({"a": probabilities})[:, 7]
    array([ True,  True, False, False])
    """
    if method not in ("seed",):
        raise TableError(f"There is no method {method!r}.", way_out="Choose 'seed'.")
    if most < 1:
        raise TableError(f"A field cannot keep at most {most} locations.", way_out="Choose at least 1.")
    mean = mean_of(members)
    if truth.shape != mean.shape or truth.dtype != np.bool_:
        raise TableError(f"The truth must be bool {mean.shape}; it is {truth.dtype} {truth.shape}.")
    thresholds = grid_thresholds(mean, truth)
    fitted_on = {"fields": len(truth), "positives": truth.sum(axis=0).tolist()}
    return Decision(method, tuple(members), thresholds, most=most, fill_blank=fill_blank, fitted_on=fitted_on)


def cross_fit(
    members: Members,
    truth: NDArray[np.bool_],
    *,
    groups: NDArray[np.int64] | None = None,
    seed: int = 0,
    method: Method = "seed",
    most: int = 5,
    fill_blank: bool = True,
) -> NDArray[np.bool_]:
    """Return each field's locations, decided by a fit that saw neither the field nor its group.

    This is what a decision may be judged by: thresholds judged on the fields that they were fitted to look far better
    than they are.

    Args:
        members: Probabilities ``(n, 28)`` per member.
        truth: bool ``(n, 28)``.
        groups: A group number per field; by default each field is its own.
        seed: Of the deal into parts.
        method: As for :func:`fit_decision`.
        most: Likewise.
        fill_blank: Likewise.

    Raises:
        TableError: If there are fewer than two groups.
    """
    groups = np.arange(len(truth)) if groups is None else groups
    _, group = np.unique(groups, return_inverse=True)
    count = int(group.max()) + 1 if len(group) else 0
    if count < 2:
        raise TableError("A decision can be judged on two groups of fields or more.", way_out="Score more fields.")
    parts = np.random.default_rng(seed).permutation(np.arange(count) % min(CROSS_FIT_PARTS, count))[group]
    predicted = np.zeros_like(truth)
    for part in range(int(parts.max()) + 1):
        held_out = parts == part
        decision = fit_decision(
            _rows(members, ~held_out), truth[~held_out], method=method, most=most, fill_blank=fill_blank
        )
        predicted[held_out] = decision(_rows(members, held_out))
    return predicted


def mean_of(members: Members) -> NDArray[np.float64]:
    """Return the plain mean of the members' probabilities, float64 ``(n, 28)``.

    Raises:
        TableError: If there is no member, shapes differ, or values are no probabilities.
    """
    if not members:
        raise TableError("There are no scores to decide on.", way_out="Give at least one member.")
    shapes = {name: np.shape(values) for name, values in members.items()}
    first = next(iter(shapes.values()))
    if len(set(shapes.values())) > 1 or len(first) != 2 or first[1] != N_LOCATIONS or first[0] == 0:
        raise TableError(f"Members must have one shape (n, {N_LOCATIONS}) with n > 0; these have {shapes}.")
    stack = np.stack([np.asarray(values, np.float64) for values in members.values()])
    if not ((stack >= 0) & (stack <= 1)).all():
        raise TableError(
            "Some values are not probabilities.",
            way_out="Give values from 0 to 1; logits need a sigmoid first.",
        )
    mean: NDArray[np.float64] = stack.mean(axis=0)
    return mean


def write_decision(decision: Decision, path: Path) -> None:
    """Write a decision as JSON to a path that must be free."""
    content = {
        "method": decision.method,
        "members": list(decision.members),
        "thresholds": decision.thresholds.tolist(),
        "most": decision.most,
        "fill_blank": decision.fill_blank,
        "fitted_on": decision.fitted_on,
    }
    write_json(path, content, kind=KIND, version=VERSION)


def read_decision(path: Path) -> Decision:
    """Return what :func:`write_decision` wrote.

    Raises:
        FormatError: If the file is not a decision of this version, or lacks a part.
    """
    content = read_json(path, kind=KIND, version=VERSION)
    try:
        thresholds = np.array(content["thresholds"], np.float64)
        decision = Decision(
            content["method"],
            tuple(content["members"]),
            thresholds,
            most=int(content["most"]),
            fill_blank=bool(content["fill_blank"]),
            fitted_on=dict(content["fitted_on"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} is damaged: {error!r}.", way_out="Fit the decision again.") from error
    sound = (
        thresholds.shape == (N_LOCATIONS,)
        and bool(np.isfinite(thresholds).all())
        and decision.method in get_args(Method)
        and 1 <= decision.most <= N_LOCATIONS
        and isinstance(content["fill_blank"], bool)
    )
    if not sound:
        raise FormatError(
            f"{path} is damaged: it needs {N_LOCATIONS} numbers as thresholds, a known method, a cap from 1 to"
            f" {N_LOCATIONS}, and fill_blank true or false.",
            way_out="Fit the decision again.",
        )
    return decision


def with_provenance(decision: Decision, **facts: Any) -> Decision:
    """Return the decision with more said about what it was fitted on."""
    return replace(decision, fitted_on={**decision.fitted_on, **facts})


def _rows(members: Members, rows: NDArray[np.bool_]) -> dict[str, NDArray[np.floating]]:
    return {name: values[rows] for name, values in members.items()}
