"""Ensembles of predictions, correlations of their members, and the contribution of each member."""

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
"""Kinds of ensembles that are fitted to labels."""

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
    """Combine the predictions of several members, for all fields that at least one member predicts.

    Methods that are fitted to labels are cross-fitted: each labeled field is predicted by a fit on other fields. A
    decision can therefore be fitted to the result. Fields without labels are predicted by a fit on all labeled fields.

    Args:
        members: Predictions by member name. Members may lack some fields.
        method: ``mean`` of probabilities, ``logit`` (mean of logits), ``rank`` (mean of ranks), ``weighted``
            (nonnegative weights), ``class`` (nonnegative weights per location) or ``stack`` (a regression on all
            locations of all members). The last three are fitted to labels.
        labels: A dataset, a label list, or a mapping of ids to indices of locations.
        groups: Groups that cross-fitting never separates: a table with the columns ``id`` and ``group``, or an array
            in the order of the labeled fields.

    Returns:
        The combined predictions.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If the method is unknown, or needs labels.
        TableError: If members have no common fields, or no predicted field has labels.
        LabelSetError: If label sets differ.
    """
    refuse_unknown_word(method, get_args(EnsembleKind), what="ensemble method")
    given = _as_named(members)
    if method in NEEDS_LABELS:
        if labels is None:
            raise SettingsError(f"The ensemble method {method!r} needs labels.", hint="Give `labels`.")
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
    """The contribution of a member to an ensemble.

    Attributes:
        name: The name of the member.
        fields: The number of labeled fields that it predicts.
        log_loss: Cross-fitted log loss of the calibrated member, divided by the log loss of the class frequencies.
        contribution: Increase of the log loss of the weighted ensemble if the member is removed.
        weight: Weight of the member in the weighted ensemble, averaged over classes.
    """

    name: str
    fields: int
    log_loss: float
    contribution: float
    weight: float


def member_correlations(members: Mapping[str, Predictions]) -> Floats:
    """Return the correlations of the members' logits, averaged over classes.

    Args:
        members: Predictions by member name. Each pair is compared on its common fields.

    Returns:
        Shape ``(members, members)``; NaN if two members have fewer than three common fields, or one is constant.
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
    """Return the cross-fitted contribution of each member to the weighted ensemble.

    Args:
        members: Predictions by member name.
        labels: The labels; see :func:`ensemble`.
        groups: Groups; see :func:`ensemble`.

    Returns:
        One contribution per member.

    Raises:
        TableError: For the reasons of :func:`ensemble`, or if all labeled fields of a member are in one part of the
            cross-fit.
    """
    labeled, _ = _with_labels(_as_named(members), labels, groups)
    stack, truth = labeled.members.stack, labeled.truth
    parts = _parts(stack, labeled.groups)
    has = ~np.isnan(stack[:, :, 0])
    for name, predicted in zip(labeled.members.names, has, strict=True):
        if len(np.unique(parts[predicted])) < 2:
            raise TableError(
                f"The member {name!r} has {int(predicted.sum())} of the {len(truth)} labeled fields, all in one of"
                f" {int(parts.max()) + 1} cross-fitting parts, so it cannot be cross-fitted.",
                hint="Give predictions of more fields, or remove this member.",
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
            "`members` must be a mapping of names to Predictions.", hint='Give {"a": predictions, …}.'
        )
    return as_members(members)


def _with_labels(members: Members, labels: SomeLabels, groups: FieldGroups | None) -> tuple[LabeledMembers, Bools]:
    """Return the labeled fields, and a mask of them."""
    label_set: LabelSet = common_label_set(members.label_set, labels, None, columns=members.stack.shape[2])
    known, ids = label_indices(labels, label_set), members.ids or ()
    labeled = np.array([name in known for name in ids])
    if not labeled.any():
        raise TableError(
            f"`labels` has no labels of the {len(ids)} predicted fields.", hint="Check that the ids are the same."
        )
    some = members.of(labeled)
    truth = label_set.to_matrix(known[name] for name in some.ids or ())
    return LabeledMembers(some, truth, label_set, as_groups(groups, some.ids, len(truth))), labeled


def _parts(stack: Floats, groups: Ints | None) -> Ints:
    parts = assign_parts(row_keys(stack), groups)
    if parts.max() < 1:
        raise TableError(
            "Fitting an ensemble needs at least two groups of fields with different predictions, but found one.",
            hint="Give more fields with different predictions.",
        )
    return parts


def _log_loss(stack: Floats, truth: Bools, parts: Ints, start: ProbabilityModel | None = None) -> float:
    model = start or fit_probabilities(_WEIGHTED, stack, truth)
    return class_log_loss(out_of_fold_probabilities(_WEIGHTED, stack, truth, parts, start=model), truth)
