"""Ensembles of predictions: combined probabilities, correlations of members, and what each member contributes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, get_args

import numpy as np

from cytoloc.choices import EnsembleKind
from cytoloc.decide.cross_fitting import ProbabilityModel, assign_parts, fit_probabilities, out_of_fold_probabilities
from cytoloc.decide.ensembles import fit_ensemble
from cytoloc.decide.inputs import (
    Bools,
    FieldGroups,
    Floats,
    Ints,
    LabeledFields,
    LabeledMembers,
    Members,
    as_groups,
    as_members,
    common_label_set,
    label_indices,
    logits_of,
    refuse_unknown_word,
    row_keys,
)
from cytoloc.decide.methods import Grid
from cytoloc.decide.metrics import class_log_loss
from cytoloc.errors import ArgumentTypeError, SettingsError, TableError
from cytoloc.labels.label_set import LabelSet
from cytoloc.predictions import Predictions, warnings_of

NEEDS_LABELS: Final = ("weighted", "class", "stack")
"""Ensembles that are fitted to labels."""

_WEIGHTED: Final = Grid(ensemble="weighted", calibration="platt")

SomeLabels = Mapping[str, Iterable[int]] | LabeledFields
"""Labels of some or all fields, by id."""


def ensemble(
    members: Mapping[str, Predictions],
    *,
    method: EnsembleKind = "mean",
    labels: SomeLabels | None = None,
    groups: FieldGroups | None = None,
) -> Predictions:
    """Return the predictions of several members combined, for all fields that any of them has.

    Methods that are fitted to labels predict each labeled field by a fit on other fields, so that a decision may be
    fitted to the result. Fields without labels are predicted by the fit on all labeled ones.

    Args:
        members: Predictions by member name. Members may lack fields.
        method: ``mean`` of probabilities, ``logit`` (mean of logits), ``rank`` (mean rank), ``weighted`` (nonnegative
            weights), ``class`` (weights per location) or ``stack`` (locations inform each other). The last three are
            fitted to labels.
        labels: A mapping of ids to indices of locations, or a dataset.
        groups: Groups that cross-fitting keeps together: a table with the columns ``id`` and ``group``, or an array in
            the order of the labeled fields.

    Raises:
        ArgumentTypeError: If an argument has another type.
        SettingsError: If there is no such method, or it needs labels.
        TableError: If members have no common fields, or no predicted field has labels.
        LabelSetError: If label sets differ.
    """
    refuse_unknown_word(method, get_args(EnsembleKind), what="method of an ensemble")
    given = _as_named(members)
    if method in NEEDS_LABELS:
        if labels is None:
            raise SettingsError(f"The method {method!r} is fitted to labels.", hint="Give labels.")
        labeled, known = _with_labels(given, labels, groups)
        how = Grid(ensemble=method)
        model = fit_probabilities(how, labeled.members.stack, labeled.truth)
        values = model(given.stack)
        values[known] = out_of_fold_probabilities(
            how, labeled.members.stack, labeled.truth, _parts(labeled.members.stack, labeled.groups), start=model
        )
    else:
        values = fit_ensemble(method, given.stack, np.zeros(given.stack.shape[1:], bool))(given.stack)
    each = {name: table.provenance for name, table in members.items()}
    provenance = {"ensemble": method, "members": each, **warnings_of(members.values())}
    narrow = np.clip(values, 0, 1).astype(np.float32)
    return Predictions(given.ids or (), narrow, next(iter(members.values())).label_set, provenance)


@dataclass(frozen=True)
class MemberContribution:
    """What a member contributes to an ensemble.

    Attributes:
        name: Its name.
        fields: How many of the labeled fields it predicts.
        log_loss: Cross-fitted and class-averaged log loss of the calibrated member; 1 is that of the frequencies.
        contribution: Increase of the log loss of the weighted ensemble without the member.
        weight: Its weight in that ensemble, averaged over classes.
    """

    name: str
    fields: int
    log_loss: float
    contribution: float
    weight: float


def member_correlations(members: Mapping[str, Predictions]) -> Floats:
    """Return the correlations of the members' logits, averaged over classes, ``(members, members)``.

    Each pair is compared on the fields of both; NaN if there are fewer than three, or one member is constant.
    """
    logits = logits_of(_as_named(members).stack)
    count, _, classes = logits.shape
    found = np.eye(count)
    for one in range(count):
        for other in range(one + 1, count):
            both = ~np.isnan(logits[one, :, 0]) & ~np.isnan(logits[other, :, 0])
            pairs = [(logits[one, both, i], logits[other, both, i]) for i in range(classes)]
            varied = [(x, y) for x, y in pairs if len(x) > 2 and x.min() < x.max() and y.min() < y.max()]
            values = [float(np.corrcoef(x, y)[0, 1]) for x, y in varied]
            found[one, other] = found[other, one] = np.mean(values) if values else np.nan
    return found


def member_contributions(
    members: Mapping[str, Predictions], labels: SomeLabels, *, groups: FieldGroups | None = None
) -> list[MemberContribution]:
    """Return what each member contributes, on fields that neither its calibration nor its weight was fitted to.

    Args:
        members: Predictions by member name.
        labels: As for :func:`ensemble`.
        groups: As for :func:`ensemble`.

    Raises:
        TableError: As :func:`ensemble`, and if all labeled fields of a member are in one part of the cross-fit.
    """
    labeled, _ = _with_labels(_as_named(members), labels, groups)
    stack, truth = labeled.members.stack, labeled.truth
    parts = _parts(stack, labeled.groups)
    has = ~np.isnan(stack[:, :, 0])
    for name, predicted in zip(labeled.members.names, has, strict=True):
        if len(np.unique(parts[predicted])) < 2:
            raise TableError(
                f"The member {name!r} has {int(predicted.sum())} of the {len(truth)} labeled fields, all in one part of"
                f" {int(parts.max()) + 1}, so it cannot be evaluated on other fields.",
                hint="Give more of its fields, or leave it out.",
            )
    model = fit_probabilities(_WEIGHTED, stack, truth)
    weights = model.ensemble.weights
    everyone = _log_loss(stack, truth, parts, model)
    rows = []
    for number, (name, predicted) in enumerate(zip(labeled.members.names, has, strict=True)):
        rest = np.delete(stack, number, axis=0)
        left = np.delete(has, number, axis=0).any(axis=0)
        without = _log_loss(rest[:, left], truth[left], parts[left]) if left.any() else 1.0
        alone = _log_loss(stack[[number]][:, predicted], truth[predicted], parts[predicted])
        weight = 1.0 if weights is None else float(weights[number].mean())
        rows.append(MemberContribution(name, int(predicted.sum()), alone, without - everyone, weight))
    return rows


def _as_named(members: Mapping[str, Predictions]) -> Members:
    if not isinstance(members, Mapping) or not all(isinstance(each, Predictions) for each in members.values()):
        raise ArgumentTypeError(
            "members must be a mapping of names to Predictions.", hint='Give {"a": predictions, …}.'
        )
    return as_members(members)


def _with_labels(members: Members, labels: SomeLabels, groups: FieldGroups | None) -> tuple[LabeledMembers, Bools]:
    """Return the labeled ones of the fields, and which they are."""
    label_set: LabelSet = common_label_set(members.label_set, labels, None, columns=members.stack.shape[2])
    known, ids = label_indices(labels, label_set), members.ids or ()
    labeled = np.array([name in known for name in ids])
    if not labeled.any():
        raise TableError(
            f"labels has labels of none of the {len(ids)} predicted fields.", hint="Check that the ids match."
        )
    some = members.of(labeled)
    truth = label_set.to_matrix(known[name] for name in some.ids or ())
    return LabeledMembers(some, truth, label_set, as_groups(groups, some.ids, len(truth))), labeled


def _parts(stack: Floats, groups: Ints | None) -> Ints:
    parts = assign_parts(row_keys(stack), groups)
    if parts.max() < 1:
        raise TableError(
            "Fitting an ensemble needs at least two groups of fields whose predictions differ; there is one.",
            hint="Give more fields.",
        )
    return parts


def _log_loss(stack: Floats, truth: Bools, parts: Ints, start: ProbabilityModel | None = None) -> float:
    model = start or fit_probabilities(_WEIGHTED, stack, truth)
    return class_log_loss(out_of_fold_probabilities(_WEIGHTED, stack, truth, parts, start=model), truth)
