"""Validation of predictions, labels and groups, and their conversion to arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Annotated, Any, Final, NamedTuple, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import PlainSerializer, PlainValidator
from scipy.special import logit

from cytoloc._typing import Float32Array
from cytoloc.errors import ArgumentTypeError, LabelSetError, SettingsError, TableError
from cytoloc.labels.ids import alike_note, warn_about_ids
from cytoloc.labels.label_set import LabelSet, find_label_set
from cytoloc.labels.lists import group_numbers, truth_of
from cytoloc.predictions import ROUNDING, Predictions, refuse_different


def _finite(values: Any) -> NDArray[np.float64]:
    found = np.array(values, np.float64)
    if not np.isfinite(found).all():
        raise ValueError("must be finite numbers")
    return found


_AsList = PlainSerializer(lambda values: values.tolist())
Floats = Annotated[NDArray[np.float64], PlainValidator(_finite), _AsList]
Bools = Annotated[NDArray[np.bool_], PlainValidator(lambda values: np.array(values, np.bool_)), _AsList]
Ints = NDArray[np.int64]
"""Arrays that are lists of numbers in files."""

LEAST_PROBABILITY: Final = 1e-6
"""Distance of clipped probabilities from 0 and 1, so that one confident mistake does not dominate a fit."""

ONE_MEMBER: Final = "mean"
"""Name of the only member if predictions are given without names."""


class LabeledFields(Protocol):
    """Fields, some of them labeled, such as a :class:`~cytoloc.Dataset`."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the fields."""

    @property
    def labeled(self) -> Bools:
        """Whether each field is labeled, shape ``(n,)``."""

    @property
    def truth(self) -> Bools:
        """The labels of each field, shape ``(n, locations)``."""

    @property
    def label_set(self) -> LabelSet:
        """The label set of the labels."""


MemberPredictions = Predictions | Mapping[str, Predictions]
MemberArrays = NDArray[np.floating] | Mapping[str, NDArray[np.floating]]
FieldLabels = Bools | Mapping[str, Iterable[int]] | LabeledFields
FieldGroups = NDArray[np.integer] | pl.DataFrame


@dataclass(frozen=True)
class Members:
    """Predictions of the members of an ensemble for the same fields.

    Attributes:
        names: The names of the members.
        stack: Probabilities, float64 of shape ``(members, n, locations)``. A field that a member does not predict is a
            row of NaN.
        ids: The ids of the fields; None if arrays were given.
        label_set: The locations; None if arrays were given.
        tables: The given Predictions by member; None if arrays were given.
    """

    names: tuple[str, ...]
    stack: Floats
    ids: tuple[str, ...] | None = None
    label_set: LabelSet | None = None
    tables: Mapping[str, Predictions] | None = None

    def of(self, rows: NDArray[Any]) -> Members:
        """Return the predictions of some fields, given by a mask or row numbers."""
        ids = None if self.ids is None else tuple(self.ids[row] for row in np.arange(len(self.ids))[rows])
        return replace(self, stack=np.ascontiguousarray(self.stack[:, rows]), ids=ids)


@dataclass(frozen=True)
class LabeledMembers:
    """Predictions and labels, to which a decision is fitted.

    Attributes:
        members: The predictions.
        truth: The labels, bool of shape ``(n, locations)``.
        label_set: The locations.
        groups: The group of each field; None if each field is its own group.
    """

    members: Members
    truth: Bools
    label_set: LabelSet
    groups: Ints | None

    def of(self, rows: NDArray[Any]) -> LabeledMembers:
        """Return some of the fields, given by a mask or row numbers."""
        groups = None if self.groups is None else self.groups[rows]
        return LabeledMembers(self.members.of(rows), np.ascontiguousarray(self.truth[rows]), self.label_set, groups)


class Joined(NamedTuple):
    """Predictions of several ensemble members for the same fields.

    Attributes:
        ids: All fields that at least one member predicts.
        members: The probabilities of each member, float32 of shape ``(n, locations)``. Rows of fields that a member
            does not predict are NaN.
        label_set: The locations of the columns.
    """

    ids: tuple[str, ...]
    members: dict[str, Float32Array]
    label_set: LabelSet


def join_members(members: Mapping[str, Predictions]) -> Joined:
    """Align the predictions of several ensemble members.

    Args:
        members: The predictions of each member, by name.

    Returns:
        The aligned predictions for all fields that at least one member predicts.

    Raises:
        TableError: If there is no member, or a member shares no field with the others.
        LabelSetError: If members have different label sets.
    """
    if not members:
        raise TableError("No predictions were given.", hint="Give at least one table.")
    label_set = refuse_different({f"the member {name!r}": predictions for name, predictions in members.items()})
    ids = tuple(dict.fromkeys(name for predictions in members.values() for name in predictions.ids))
    position = {name: row for row, name in enumerate(ids)}
    joined = {}
    for member, predictions in members.items():
        elsewhere = [set(other.ids) for name, other in members.items() if name != member]
        if elsewhere and set(predictions.ids).isdisjoint(set().union(*elsewhere)):
            raise TableError(
                f"The member {member!r} shares no field with the {len(set().union(*elsewhere))} fields of the other"
                f" members; its ids look like {predictions.ids[0]}."
                f"{alike_note(predictions.ids, set().union(*elsewhere))}",
                hint="Give the predictions of every member for the same fields, with the same ids.",
            )
        rows = np.full((len(ids), len(label_set)), np.nan, np.float32)
        rows[[position[name] for name in predictions.ids]] = predictions.probabilities
        joined[member] = rows
    warn_about_ids({name: predictions.ids for name, predictions in members.items()})
    return Joined(ids, joined, label_set)


def as_members(predictions: MemberPredictions | MemberArrays, *, one_member: str = ONE_MEMBER) -> Members:
    """Return validated predictions of one or more members.

    Args:
        predictions: Predictions or arrays, or a mapping of member names to either.
        one_member: The name of a member that is given without a name.

    Returns:
        The predictions as arrays.

    Raises:
        ArgumentTypeError: If ``predictions`` has another type.
        TableError: If predictions are calibrated already, or arrays do not fit together.
    """
    named = predictions if isinstance(predictions, Mapping) else {one_member: predictions}
    for name, table in named.items():
        if isinstance(table, Predictions) and "calibrated_by" in table.provenance:
            raise TableError(
                f"The predictions of the member {name!r} were calibrated by a decision already.",
                hint="Predict with `model.without_decision()`, or with `cytoloc predict --uncalibrated`.",
            )
    tables = {name: table for name, table in named.items() if isinstance(table, Predictions)}
    if tables and len(tables) == len(named):
        ids, joined, label_set = join_members(tables)
        return Members(tuple(joined), stack_members(joined), ids, label_set, tables)
    arrays: dict[str, NDArray[np.floating]] = {}
    for name, values in named.items():
        given = np.asarray(values) if not isinstance(values, Predictions | str | Mapping) else np.empty(0, object)
        if given.dtype.kind not in "fiub" or not given.ndim or not isinstance(name, str):
            raise ArgumentTypeError(
                "`predictions` must be Predictions, an array of probabilities, or a mapping of member names to either;"
                f" it has {type(values).__name__} for {name!r}.",
                hint="Read a file with cytoloc.read_predictions(path), or give a NumPy array.",
            )
        arrays[name] = given
    return Members(tuple(arrays), stack_members(arrays))


def as_labeled_members(
    predictions: MemberPredictions | MemberArrays,
    labels: FieldLabels,
    *,
    groups: FieldGroups | None = None,
    label_set: LabelSet | str | None = None,
) -> LabeledMembers:
    """Return validated predictions and the labels of the same fields; see :func:`~cytoloc.fit_decision`."""
    members = as_members(predictions)
    if members.tables is not None:
        refuse_trained_on({f"the member {name!r}": table for name, table in members.tables.items()})
    locations = common_label_set(members.label_set, labels, label_set, columns=members.stack.shape[2])
    truth = as_truth(labels, members.ids, locations, shape=members.stack.shape[1:])
    return LabeledMembers(members, truth, locations, as_groups(groups, members.ids, len(truth)))


def common_label_set(
    predicted: LabelSet | None, labels: FieldLabels, argument: LabelSet | str | None, *, columns: int
) -> LabelSet:
    """Return the common label set of predictions, labels and an argument.

    Args:
        predicted: The label set of the predictions, if they have one.
        labels: The labels, which can have a label set.
        argument: The argument of the user.
        columns: The number of columns of the predictions.

    Returns:
        The label set; numbers if none is known.

    Raises:
        ArgumentTypeError: If a label set has another type.
        LabelSetError: If label sets differ, or have another number of locations.
    """
    of_labels = None if isinstance(labels, np.ndarray | Mapping) else getattr(labels, "label_set", None)
    found = {"the predictions": predicted, "the labels": of_labels, "the argument label_set": argument}
    known = {
        what: find_label_set(each) if isinstance(each, str) else each
        for what, each in found.items()
        if each is not None
    }
    for what, each in known.items():
        if not isinstance(each, LabelSet):
            raise ArgumentTypeError(f"The label set of {what} must be a LabelSet, not {type(each).__name__}.")
    if not known:
        return LabelSet.numbered(columns)
    (first, chosen), *others = known.items()
    if len(chosen) != columns:
        raise LabelSetError(
            f"The predictions have {columns} columns, but the label set is {chosen}.",
            hint="Give the label set of these columns.",
        )
    for what, other in others:
        chosen.refuse_other(other, what=what, than=first)
    return chosen


def as_truth(labels: FieldLabels, ids: tuple[str, ...] | None, label_set: LabelSet, *, shape: tuple[int, ...]) -> Bools:
    """Return the labels of the predicted fields, bool of shape ``(n, locations)``."""
    if isinstance(labels, np.ndarray):
        if ids is not None:
            raise ArgumentTypeError(
                "`labels` is an array without ids, but the predictions have ids.",
                hint="Give a dataset, a label list, or a mapping of ids to indices of locations; or arrays for both.",
            )
        if labels.shape != shape or labels.dtype != np.bool_:
            raise TableError(
                f"`labels` must be a bool array of shape {shape} like the predictions, not {labels.dtype} of shape"
                f" {labels.shape}.",
                hint="Give one row per field and one column per location.",
            )
        return labels
    if ids is None:
        raise ArgumentTypeError(
            f"`labels` must be a bool array (n, locations) like the predictions, not {type(labels).__name__}.",
            hint="Give arrays for both, or Predictions with a dataset.",
        )
    return truth_of(ids, label_indices(labels, label_set), label_set, where=str(getattr(labels, "path", "labels")))


def label_indices(labels: Mapping[str, Iterable[int]] | LabeledFields, label_set: LabelSet) -> dict[str, Any]:
    """Return the indices of the locations of each labeled field, by id."""
    if not isinstance(labels, Mapping):
        if not all(hasattr(labels, name) for name in ("ids", "labeled", "truth")):
            raise ArgumentTypeError(
                "`labels` must be a dataset, a label list, or a mapping of ids to indices of locations, not"
                f" {type(labels).__name__}.",
                hint="Open a dataset with cytoloc.open_dataset(path), or a CSV with cytoloc.read_label_list(path).",
            )
        rows = zip(labels.ids, labels.labeled, labels.truth, strict=True)
        return {name: np.flatnonzero(row) for name, known, row in rows if known}
    found = {name: tuple(indices) for name, indices in labels.items()}
    for name, indices in found.items():
        if not all(
            isinstance(i, int | np.integer) and type(i) is not bool and 0 <= i < len(label_set) for i in indices
        ):
            raise TableError(
                f"`labels` has {indices} for {name}, but the indices of the label set {label_set} are 0 to"
                f" {len(label_set) - 1}.",
                hint="Give indices of locations, or read a file with cytoloc.read_label_list(path).",
            )
    return found


def as_groups(groups: FieldGroups | None, ids: tuple[str, ...] | None, n_fields: int) -> Ints | None:
    """Return the group number of each field; None if there are no groups."""
    if groups is None:
        return None
    if isinstance(groups, pl.DataFrame) and ids is not None:
        return group_numbers(groups, ids, where="`groups`")
    numbers = np.asarray(groups)
    if numbers.dtype.kind not in "iuU" or isinstance(groups, pl.DataFrame):
        raise ArgumentTypeError(
            "`groups` must be an array of integers or names, or for Predictions a table with the columns id and group,"
            f" not {type(groups).__name__} of {numbers.dtype}.",
            hint="Give one group per field.",
        )
    if numbers.shape != (n_fields,):
        raise TableError(
            f"`groups` has the shape {numbers.shape}, but there are {n_fields} fields.",
            hint="Give one group per field.",
        )
    return np.unique(numbers, return_inverse=True)[1].astype(np.int64) if numbers.dtype.kind == "U" else numbers


def refuse_trained_on(tables: Mapping[str, Predictions]) -> None:
    """Raise a TableError if a model was trained on fields that it predicted.

    Args:
        tables: Predictions, by a name for the message.
    """
    for name, table in tables.items():
        seen = table.provenance.get("fields_trained_on", 0)
        if seen:
            raise TableError(
                f"{name}: the model was trained on {seen} of these {len(table)} fields, so a fit would be biased.",
                hint="Fit on out-of-fold predictions, such as a folder of runs, or on other fields.",
            )


def refuse_unknown_word(word: object, known: Iterable[str], *, what: str) -> None:
    """Raise an ArgumentTypeError or SettingsError unless a word is known; the message suggests similar words."""
    words = list(known)
    if not isinstance(word, str):
        raise ArgumentTypeError(f"The {what} must be one of {', '.join(words)}, not {type(word).__name__}.")
    if word not in words:
        near = " or ".join(get_close_matches(word, words, n=2, cutoff=0.5))
        raise SettingsError(
            f"There is no {what} {word!r}.{f' Did you mean {near}?' if near else ''}",
            hint=f"Choose one of {', '.join(words)}.",
        )


def stack_members(members: Mapping[str, NDArray[np.floating]]) -> Floats:
    """Return the probabilities of all members as one array.

    Args:
        members: Probabilities by member, shape ``(n, locations)``. A field that a member does not predict is a row of
            NaN. At least one member must predict each field.

    Returns:
        float64 of shape ``(members, n, locations)``.

    Raises:
        TableError: If shapes differ, or values are not probabilities.
    """
    if not members:
        raise TableError("No predictions were given.", hint="Give predictions of at least one member.")
    shapes = {name: np.shape(values) for name, values in members.items()}
    first = next(iter(shapes.values()))
    if len(set(shapes.values())) > 1 or len(first) != 2 or 0 in first:
        raise TableError(
            f"Members have the shapes {shapes}, but need one shape (n, locations) with n > 0.",
            hint="Give predictions of the same fields and locations.",
        )
    names = list(members)
    stack = np.stack([np.asarray(values, np.float64) for values in members.values()])
    missing = np.isnan(stack)
    partly = missing.any(axis=2) & ~missing.all(axis=2)
    if partly.any():
        member, row = (int(i) for i in np.argwhere(partly)[0])
        raise TableError(
            f"Row {row} of {names[member]!r} is NaN for location {int(np.argmax(missing[member, row]))} but not for all"
            f" locations ({int(partly.sum())} such rows).",
            hint="Give all probabilities of a field, or a row of NaN if a member does not predict it.",
        )
    nowhere = missing.all(axis=(0, 2))
    if nowhere.any():
        raise TableError(
            f"Row {int(np.argmax(nowhere))} is NaN for all members ({int(nowhere.sum())} such rows).",
            hint="Remove fields that no member predicted.",
        )
    low, high = float(np.nanmin(stack)), float(np.nanmax(stack))
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        np.clip(stack, 0, 1, out=stack)
    else:
        name = names[int(np.argmax(((stack < 0) | (stack > 1)).any(axis=(1, 2))))]
        logits = "; they look like logits" if low < 0 and np.isfinite([low, high]).all() else ""
        raise TableError(
            f"{name!r} has values that are not probabilities: they range from {low:g} to {high:g}{logits}.",
            hint="Give values from 0 to 1. Convert logits with a sigmoid first: 1 / (1 + exp(-logit)).",
        )
    return stack


def logits_of(probabilities: NDArray[np.floating]) -> Floats:
    """Return the logits of probabilities, which are clipped to 1e-6 from 0 and 1."""
    clipped = np.clip(np.asarray(probabilities, np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.asarray(logit(clipped), np.float64)


def row_keys(stack: Floats) -> Ints:
    """Return a hash of the probabilities of each field. It does not depend on the order of fields and classes.

    Args:
        stack: Probabilities, shape ``(members, n, classes)``.

    Returns:
        int64 of shape ``(n,)``.
    """
    # 0.0 and -0.0 are the same value, and the order of classes must not matter.
    ordered = np.sort(stack, axis=2).transpose(1, 0, 2) + 0.0
    digests = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in np.ascontiguousarray(ordered)]
    return np.frombuffer(b"".join(digests), np.int64)
