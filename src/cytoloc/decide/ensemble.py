"""Several members' probabilities made into one, and what each member is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cytoloc.choices import EnsembleKind
from cytoloc.decide.inputs import logits_of
from cytoloc.decide.logistic import fit_shared, fit_shrunk
from cytoloc.decide.stacking import Stack, fit_stack

Floats = NDArray[np.float64]

LEVELS: Final = expit(np.linspace(-9, 9, 181))
"""Shares of fields at which a rank is known: dense at both ends, where rare classes are decided."""


@dataclass(frozen=True)
class Ensemble:
    """How members become one; call it with ``(members, n, classes)`` to get ``(n, classes)``, from 0 to 1.

    Attributes:
        kind: ``mean`` of probabilities, ``logit`` for the mean of logits, ``rank`` for the mean rank among the fitted
            fields, ``weighted`` for weights that are not negative, ``class`` for such weights class by class, or
            ``stack``.
        center: Mean logit of each member and class, to fill in for fields that a member lacks, ``(members, classes)``.
        spread: Its standard deviation.
        heard: Which members had fields to be fitted to, bool ``(members,)``. A member without any has the others' mean
            center and spread, and is heard only of fields that no other member has.
        weights: Of the members, each class's sum to 1, ``(members, classes)``; for ``weighted`` and ``class``.
        quantiles: Each member's probabilities at :data:`LEVELS`, ``(members, classes, levels)``; for ``rank``.
        stack: For ``stack``.
    """

    kind: EnsembleKind
    center: Floats
    spread: Floats
    heard: NDArray[np.bool_]
    weights: Floats | None = None
    quantiles: Floats | None = None
    stack: Stack | None = None

    def __call__(self, stack: Floats) -> Floats:
        """Return one score per field and class, float64 ``(n, classes)``."""
        if self.kind == "mean":
            stack = _as_heard(stack, self.heard)
            # Without absent fields this is the plain mean to the last bit.
            return np.asarray(np.nanmean(stack, axis=0) if np.isnan(stack).any() else stack.mean(axis=0), np.float64)
        whole = filled(stack, self.center, self.spread, heard=self.heard)
        if self.stack is not None:
            return self.stack(whole)
        if self.quantiles is not None:
            return _mean_rank(whole, self.quantiles)
        weights = np.full(whole.shape[::2], 1 / len(whole)) if self.weights is None else self.weights[self.heard]
        return np.asarray(expit(np.einsum("mc,mnc->nc", weights, logits_of(whole))), np.float64)

    def to_json(self) -> dict[str, Any]:
        """Return the ensemble as JSON values."""
        return {
            "kind": self.kind,
            "center": self.center.tolist(),
            "spread": self.spread.tolist(),
            "heard": self.heard.tolist(),
            "weights": None if self.weights is None else self.weights.tolist(),
            "quantiles": None if self.quantiles is None else self.quantiles.tolist(),
            "stack": None if self.stack is None else self.stack.to_json(),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Ensemble:
        """Return what :meth:`to_json` gave."""
        weights, quantiles = content["weights"], content["quantiles"]
        return cls(
            content["kind"],
            np.array(content["center"], np.float64),
            np.array(content["spread"], np.float64),
            np.array(content["heard"], np.bool_),
            None if weights is None else np.array(weights, np.float64),
            None if quantiles is None else np.array(quantiles, np.float64),
            None if content["stack"] is None else Stack.from_json(content["stack"]),
        )


def fit_ensemble(
    kind: EnsembleKind,
    stack: Floats,
    truth: NDArray[np.bool_],
    *,
    precision: float | None = None,
    start: Ensemble | None = None,
) -> Ensemble:
    """Return the ensemble of a kind that fits the members to the truth.

    Args:
        kind: See :class:`Ensemble`.
        stack: ``(members, n, classes)``; a row of NaN is a field that a member lacks.
        truth: bool ``(n, classes)``.
        precision: For ``stack`` and ``class``: how strongly classes are held to what they share; estimated by default.
        start: An ensemble of the same members fitted to similar fields; it saves time.
    """
    heard = np.asarray(~np.isnan(stack[:, :, 0]).all(axis=1), np.bool_)
    logits = logits_of(stack[heard])
    center, spread = np.empty(stack.shape[::2]), np.empty(stack.shape[::2])
    center[heard], spread[heard] = np.nanmean(logits, axis=1), np.nanstd(logits, axis=1)
    center[~heard], spread[~heard] = center[heard].mean(axis=0), spread[heard].mean(axis=0)
    if kind in ("mean", "logit"):
        return Ensemble(kind, center, spread, heard)
    whole = filled(stack, center, spread, heard=heard)
    if kind == "rank":
        quantiles = np.quantile(whole, LEVELS, axis=1, method="higher").transpose(1, 2, 0)
        return Ensemble(kind, center, spread, heard, quantiles=quantiles)
    if kind == "stack":
        before = start.stack if start is not None and (start.heard == heard).all() else None
        stacked = fit_stack(whole, truth, precision=precision, start=before)
        return Ensemble(kind, center, spread, heard, stack=stacked)
    weights = np.zeros(stack.shape[::2])
    weights[heard] = _fit_weights(whole, truth, by_class=kind == "class")
    return Ensemble(kind, center, spread, heard, weights=weights)


def filled(stack: Floats, center: Floats, spread: Floats, *, heard: NDArray[np.bool_]) -> Floats:
    """Return the heard members' predictions, with the fields that one lacks filled in from the members that have them.

    Their logits, each by how far it is from its member's mean, are averaged and given the absent member's mean and
    spread.

    Args:
        stack: ``(members, n, classes)``.
        center: Mean logit of each member and class.
        spread: Its standard deviation.
        heard: Which members count; the others do for fields that only they have.
    """
    stack = _as_heard(stack, heard)
    absent = np.isnan(stack)
    if not absent.any():
        return stack[heard]
    scale = np.where(spread > 0, spread, 1.0)[:, None]
    usual = np.nanmean((logits_of(stack) - center[:, None]) / scale, axis=0)
    return np.asarray(np.where(absent, expit(center[:, None] + usual * scale), stack)[heard])


def _as_heard(stack: Floats, heard: NDArray[np.bool_]) -> Floats:
    """Return the members' predictions without those of unheard members for fields that a heard one has."""
    if heard.all():
        return stack
    elsewhere = ~np.isnan(stack[heard]).all(axis=0)
    return np.where(~heard[:, None, None] & elsewhere, np.nan, stack)


def _fit_weights(stack: Floats, truth: NDArray[np.bool_], *, by_class: bool) -> Floats:
    """Return weights that are not negative and sum to 1 in each class, ``(members, classes)``."""
    logits = logits_of(stack)
    center, scale = logits.mean(axis=(1, 2)), np.maximum(logits.std(axis=(1, 2)), 1e-9)
    features = np.ascontiguousarray(((logits - center[:, None, None]) / scale[:, None, None]).transpose(2, 1, 0))
    shared = fit_shared(features.__getitem__, truth, least=0.0)
    weights = np.repeat((shared.weights / scale)[:, None], truth.shape[1], axis=1)
    if by_class:
        offsets = (features @ shared.weights).T + shared.intercepts
        kinds = np.repeat([0, 1], [1, len(stack)])
        designs = [np.hstack([np.ones((len(truth), 1)), features[i]]) for i in range(truth.shape[1])]
        shrunk = fit_shrunk(designs.__getitem__, offsets, truth, kinds)
        weights = np.maximum(weights + (shrunk.coefficients[:, 1:] / scale).T, 0)
    total = weights.sum(axis=0)
    # A class that no member tells anything about leaves all weights at 0: there the members count the same.
    return np.asarray(np.where(total > 0, weights / np.where(total > 0, total, 1), 1 / len(stack)), np.float64)


def _mean_rank(stack: Floats, quantiles: Floats) -> Floats:
    ranks = np.empty_like(stack)
    steps = np.concatenate([[0.0], LEVELS, [1.0]])
    for member in range(stack.shape[0]):
        for i in range(stack.shape[2]):
            known, values = quantiles[member, i], stack[member, :, i]
            # Halfway through the levels that have just this value, so that only the order of values counts.
            below = np.searchsorted(known, values, side="left")
            above = np.searchsorted(known, values, side="right")
            ranks[member, :, i] = (steps[below] + steps[above + 1]) / 2
    return np.asarray(ranks.mean(axis=0), np.float64)
