"""What each member of an ensemble is worth: alone, beside the others, and how alike they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cytoloc.choices import EnsembleKind
from cytoloc.decide.inputs import Members, check_truth, logits_of, row_keys, stack_members
from cytoloc.decide.metrics import class_log_loss
from cytoloc.decide.plan import Evidence, Plan, deal, fit_evidence, unseen_probabilities
from cytoloc.errors import TableError

Floats = NDArray[np.float64]

PARTS: Final = 5


@dataclass(frozen=True)
class Worth:
    """A member of an ensemble.

    Attributes:
        name: Its name.
        fields: How many of the fields it has.
        log_loss: Cross-fitted and class-averaged, of the member alone, calibrated; 1 is to know the frequencies only.
        adds: By how much the log loss of all members' weighted ensemble rises when it is left out.
        weight: In that ensemble, averaged over classes.
    """

    name: str
    fields: int
    log_loss: float
    adds: float
    weight: float


def correlations(members: Members) -> Floats:
    """Return how alike the members are, ``(members, members)``: correlations of their logits, averaged over classes.

    Each pair is compared on the fields that both have; NaN where they share fewer than three, or where one is constant.
    """
    logits = logits_of(stack_members(members))
    count, _, classes = logits.shape
    alike = np.eye(count)
    for one in range(count):
        for other in range(one + 1, count):
            both = ~np.isnan(logits[one, :, 0]) & ~np.isnan(logits[other, :, 0])
            found = [_correlation(logits[one, both, i], logits[other, both, i]) for i in range(classes)]
            known = [value for value in found if value is not None]
            alike[one, other] = alike[other, one] = np.mean(known) if known else np.nan
    return alike


def member_worth(members: Members, truth: NDArray[np.bool_], *, groups: NDArray[np.int64] | None = None) -> list[Worth]:
    """Return what each member is worth on fields that neither its calibration nor its weight saw.

    Args:
        members: Probabilities ``(n, locations)`` by name.
        truth: bool ``(n, locations)``.
        groups: A group number per field, kept together.

    Raises:
        TableError: If all fields of a member have the same predictions, or are one group.
    """
    stack = stack_members(members)
    check_truth(truth, stack)
    parts = _parts(stack, groups)
    _refuse_few(stack, parts, list(members))
    everyone = fit_evidence(Plan("weighted", "platt"), stack, truth)
    whole = _loss(stack, truth, parts, everyone)
    weights = everyone.ensemble.weights
    rows = []
    for number, name in enumerate(members):
        has = ~np.isnan(stack[number, :, 0])
        rest = np.delete(stack, number, axis=0)
        still = ~np.isnan(rest[:, :, 0]).all(axis=0) if len(rest) else np.zeros(len(truth), bool)
        adds = _loss(rest[:, still], truth[still], parts[still]) - whole if still.any() else 1 - whole
        alone = _loss(stack[[number]][:, has], truth[has], parts[has])
        weight = 1.0 if weights is None else float(weights[number].mean())
        rows.append(Worth(name, int(has.sum()), alone, adds, weight))
    return rows


def unseen_ensemble(
    kind: EnsembleKind, members: Members, truth: NDArray[np.bool_], *, groups: NDArray[np.int64] | None = None
) -> tuple[Floats, Evidence]:
    """Return the ensemble's predictions of the fitted fields, each by a fit on others, and the fit on all of them.

    Args:
        kind: How members become one.
        members: Probabilities ``(n, locations)`` by name.
        truth: bool ``(n, locations)``.
        groups: A group number per field, kept together.

    Raises:
        TableError: If all fields have the same predictions, or are one group.
    """
    stack = stack_members(members)
    check_truth(truth, stack)
    plan = Plan(kind)
    evidence = fit_evidence(plan, stack, truth)
    return unseen_probabilities(plan, stack, truth, _parts(stack, groups), start=evidence), evidence


def _parts(stack: Floats, groups: NDArray[np.int64] | None) -> NDArray[np.int64]:
    parts = deal(row_keys(stack), groups, parts=PARTS)
    if parts.max() < 1:
        raise TableError(
            "An ensemble is judged on two groups of fields whose predictions differ, or more; here is one.",
            hint="Give more fields.",
        )
    return parts


def _refuse_few(stack: Floats, parts: NDArray[np.int64], names: list[str]) -> None:
    for name, values in zip(names, stack, strict=True):
        has = ~np.isnan(values[:, 0])
        if len(np.unique(parts[has])) < 2:
            raise TableError(
                f"The member {name!r} has {int(has.sum())} of the {len(has)} labeled fields, all in one part of"
                f" {int(parts.max()) + 1}, so nothing is left to judge it by.",
                hint="Give more of its fields, or leave it out.",
            )


def _loss(stack: Floats, truth: NDArray[np.bool_], parts: NDArray[np.int64], start: Evidence | None = None) -> float:
    plan = Plan("weighted", "platt")
    evidence = start or fit_evidence(plan, stack, truth)
    return class_log_loss(unseen_probabilities(plan, stack, truth, parts, start=evidence), truth)


def _correlation(one: Floats, other: Floats) -> float | None:
    if len(one) < 3 or one.min() == one.max() or other.min() == other.max():
        return None
    return float(np.corrcoef(one, other)[0, 1])
