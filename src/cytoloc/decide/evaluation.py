"""Evaluation of decided locations against labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cytoloc.decide.inputs import (
    Bools,
    FieldGroups,
    FieldLabels,
    Floats,
    Ints,
    as_groups,
    as_members,
    as_truth,
    common_label_set,
    label_indices,
)
from cytoloc.decide.metrics import (
    chance_f1,
    class_table,
    macro_f1,
    macro_f1_interval,
    mean_interval,
    overall,
    resampled_average_precision,
    resampled_f1,
    weighted_average_precision,
)
from cytoloc.errors import ArgumentTypeError, SettingsError, TableError
from cytoloc.labels.ids import doubles_note, warn_ids
from cytoloc.labels.label_set import LabelSet, find_label_set
from cytoloc.predictions import Predictions, to_pandas

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LeakEffect:
    """The effect of leaked labels on the macro F1.

    Attributes:
        fields: The number of leaked fields.
        correct: The number of leaked fields whose leaked labels are correct.
        macro_f1_with: Macro F1 if leaked labels replace predictions.
        macro_f1_without: Macro F1 of the predictions.
        macro_f1_others: Macro F1 of the predictions of all other fields; None if all fields are leaked.
    """

    fields: int
    correct: int
    macro_f1_with: float
    macro_f1_without: float
    macro_f1_others: float | None


@dataclass(frozen=True, repr=False, eq=False)
class Evaluation:
    """Metrics of decided locations.

    Attributes:
        fields: The number of evaluated fields.
        fields_with_labels: The number of fields with labels, predicted or not.
        label_set: The locations.
        macro_f1: Mean F1 over all locations. The F1 of a location without positives is 0.
        interval: 95 % bootstrap interval of the macro F1, from resampling fields.
        interval_by_group: 95 % bootstrap interval of the macro F1, from resampling groups; None without groups.
        n_groups: The number of groups; None without groups.
        chance: Macro F1 after permuting the predictions across fields.
        overall: Micro and macro metrics. With probabilities also mean average precision, ROC AUC, coverage error and
            calibration error.
        blank: The number of fields without a predicted location.
        min_positives: The minimum number of positives of a common class.
        common: The number of common ``classes``, and means over these.
        classes: A table with one row per location: positives, predicted, precision, recall, F1 with its interval and
            chance level. With probabilities also average precision, ROC AUC and calibration error.
        leak: The effect of leaked labels; None without a leak.
    """

    fields: int
    fields_with_labels: int
    label_set: LabelSet
    macro_f1: float
    interval: tuple[float, float]
    interval_by_group: tuple[float, float] | None
    n_groups: int | None
    chance: float
    overall: dict[str, float | None]
    blank: int
    min_positives: int
    common: dict[str, Any]
    classes: pl.DataFrame
    leak: LeakEffect | None = None

    def __repr__(self) -> str:
        low, high = self.interval
        common = f", {self.common['classes']} of {self.classes.height} classes with {self.min_positives} or more fields"
        mean = f": {self.common['macro_f1']:.3f}" if self.common["classes"] else ""
        return f"Evaluation(macro F1 {self.macro_f1:.3f} ({low:.3f} to {high:.3f}){common}{mean})"

    @property
    def micro_f1(self) -> float:
        """Micro F1, over all pairs of a field and a location."""
        return float(self.overall["micro_f1"] or 0.0)

    @property
    def mean_average_precision(self) -> float | None:
        """Mean average precision over the locations with positives; None without probabilities."""
        return self.overall.get("mean_average_precision")

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as JSON values."""
        by_group = {"groups": self.n_groups, "macro_f1_interval_95_by_group": list(self.interval_by_group or ())}
        return {
            "fields": self.fields,
            "fields_with_labels": self.fields_with_labels,
            "label_set": self.label_set.name,
            "locations": len(self.label_set),
            "macro_f1": self.macro_f1,
            "macro_f1_interval_95": list(self.interval),
            **(by_group if self.n_groups is not None else {}),
            "chance_macro_f1": self.chance,
            "overall": self.overall,
            "blank": self.blank,
            "common_classes": {"min_positives": self.min_positives, **self.common},
            **({"leak": asdict(self.leak)} if self.leak else {}),
            "classes": self.classes.to_dicts(),
        }

    def to_polars(self) -> pl.DataFrame:
        """Return the table of classes, which is the attribute ``classes``."""
        return self.classes

    def to_pandas(self) -> pd.DataFrame:
        """Return the table of classes for pandas.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        return to_pandas(self.classes)


def evaluate(
    predictions: Predictions | Bools | Mapping[str, Iterable[int]],
    labels: FieldLabels,
    *,
    groups: FieldGroups | None = None,
    min_positives: int = 5,
    leak: Mapping[str, Iterable[int]] | None = None,
    label_set: LabelSet | str | None = None,
) -> Evaluation:
    """Evaluate decided locations against labels.

    Args:
        predictions: Predictions with ``decided``; a mapping of ids to indices of locations; or a bool array of shape
            ``(n, locations)``.
        labels: The true labels. If the predictions have ids: a dataset, a label list, or a mapping of ids to indices
            of locations. Otherwise a bool array of shape ``(n, locations)``.
        groups: A group per field, to compute the interval from resampled groups. An array or, if the predictions have
            ids, a table with the columns ``id`` and ``group``.
        min_positives: The minimum number of positives of common classes, over which additional means are computed.
        leak: Known labels of some fields, by id, whose effect on the macro F1 is computed.
        label_set: The label set of arrays and mappings. Default: the label set of the labels, or numbers.

    Returns:
        The metrics.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If the predictions have no decided locations, or the label set of a mapping is unknown.
        TableError: If shapes differ, or a field has no label.
        LabelSetError: If label sets differ.

    >>> truth = np.array([[True, False], [False, True], [False, True]])
    >>> evaluate(truth, truth, min_positives=2)
    Evaluation(macro F1 1.000 (0.500 to 1.000), 1 of 2 classes with 2 or more fields: 1.000)
    """
    if not isinstance(min_positives, int) or min_positives < 1:
        raise SettingsError(f"`min_positives` must be an integer of 1 or more, not {min_positives!r}.")
    ids, predicted, probabilities, locations = _as_decided(predictions, labels, label_set)
    if ids is not None:
        warn_ids(doubles_note(ids, where="the predictions"))
    truth = as_truth(labels, ids, locations, shape=predicted.shape)
    labeled = len(labels) if isinstance(labels, np.ndarray | Mapping) else int(labels.labeled.sum())
    numbers = as_groups(groups, ids, len(truth))
    chance = chance_f1(predicted, truth)
    low, high = np.quantile(resampled_f1(predicted, truth, groups=numbers), [0.025, 0.975], axis=0)
    classes = class_table(predicted, truth, locations, probabilities).with_columns(
        pl.Series("chance_f1", chance), pl.Series("f1_low", low, pl.Float64), pl.Series("f1_high", high, pl.Float64)
    )
    rows = classes.filter(pl.col("positives") >= min_positives)
    common: dict[str, Any] = {"classes": rows.height}
    if rows.height:
        common |= {"macro_f1": rows["f1"].mean(), "chance_macro_f1": rows["chance_f1"].mean()}
        if "average_precision" in rows.columns:
            common["mean_average_precision"] = rows["average_precision"].mean()
            common["share_of_positives"] = (rows["positives"] / len(truth)).mean()
            common["macro_roc_auc"] = rows["roc_auc"].mean()
    return Evaluation(
        fields=len(truth),
        fields_with_labels=labeled,
        label_set=locations,
        macro_f1=macro_f1(predicted, truth),
        interval=macro_f1_interval(predicted, truth),
        interval_by_group=None if numbers is None else macro_f1_interval(predicted, truth, groups=numbers),
        n_groups=None if numbers is None else len(np.unique(numbers)),
        chance=float(chance.mean()),
        overall=overall(predicted, truth, probabilities),
        blank=int((~predicted.any(axis=1)).sum()),
        min_positives=min_positives,
        common=common,
        classes=classes,
        leak=None if leak is None else _leak_effect(ids, predicted, truth, leak, locations),
    )


class _Decided(NamedTuple):
    """Decided locations as arrays, and the probabilities if they are known."""

    ids: tuple[str, ...] | None
    decided: Bools
    probabilities: NDArray[np.floating] | None
    label_set: LabelSet


def _as_decided(
    predictions: Predictions | Bools | Mapping[str, Iterable[int]],
    labels: FieldLabels,
    label_set: LabelSet | str | None,
) -> _Decided:
    """Return decided locations in any form as arrays."""
    if isinstance(predictions, Predictions):
        if predictions.decided is None:
            raise SettingsError(
                "`predictions` contains probabilities only, because no decision was applied.",
                hint="Apply a decision: cytoloc.fit_decision(…)(predictions).",
            )
        locations = common_label_set(predictions.label_set, labels, label_set, columns=predictions.decided.shape[1])
        return _Decided(predictions.ids, np.asarray(predictions.decided), predictions.probabilities, locations)
    if isinstance(predictions, Mapping):
        named = find_label_set(label_set) if isinstance(label_set, str) else label_set
        named = named or getattr(labels, "label_set", None)
        if named is None:
            raise SettingsError("The label set of `predictions` is unknown.", hint="Give `label_set`.")
        locations = common_label_set(named, labels, label_set, columns=len(named))
        decided = locations.to_matrix(label_indices(predictions, locations).values())
        return _Decided(tuple(predictions), decided, None, locations)
    if isinstance(predictions, np.ndarray) and predictions.dtype == np.bool_ and predictions.ndim == 2:
        locations = common_label_set(None, labels, label_set, columns=predictions.shape[1])
        return _Decided(None, predictions, None, locations)
    kind = getattr(predictions, "dtype", "")
    raise ArgumentTypeError(
        "`predictions` must be Predictions, a bool array (n, locations), or a mapping of ids to indices of"
        f" locations, not {type(predictions).__name__} {kind}".rstrip()
        + ".",
        hint="Apply a decision to probabilities first: cytoloc.fit_decision(…)(probabilities).",
    )


@dataclass(frozen=True, repr=False, eq=False)
class AveragePrecision:
    """Mean average precision of probabilities. No decision is needed.

    Attributes:
        rows: The number of evaluated fields or cells.
        label_set: The locations.
        mean: Mean average precision over the locations with positives.
        interval: Its 95 % bootstrap interval from resampling fields, or for single cells the fields of the cells. The
            resamples are shifted so that their mean is ``mean``. None if a resample has no positives.
        interval_by_group: The same from resampling groups; None without groups.
        share_of_positives: The mean share of positives over the locations with positives. Random probabilities have a
            higher mean average precision if a location has few positives. None for single cells with masks.
        classes: A table with a row per location: ``key``, ``location``, ``positives``, ``average_precision`` (null
            without positives), and its interval ``low`` and ``high``.
    """

    rows: int
    label_set: LabelSet
    mean: float
    interval: tuple[float, float] | None
    interval_by_group: tuple[float, float] | None
    share_of_positives: float | None
    classes: pl.DataFrame

    def __repr__(self) -> str:
        low, high = self.interval or (float("nan"), float("nan"))
        known = self.classes["average_precision"].count()
        return (
            f"AveragePrecision({self.mean:.3f} ({low:.3f} to {high:.3f}) over {known} of {self.classes.height} classes)"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the metrics as JSON values."""
        return {
            "metric": "mean_average_precision",
            "rows": self.rows,
            "label_set": self.label_set.name,
            "mean_average_precision": self.mean,
            "interval_95": list(self.interval or ()),
            "interval_95_by_group": list(self.interval_by_group or ()),
            "share_of_positives": self.share_of_positives,
            "classes": self.classes.to_dicts(),
        }


def mean_average_precision(
    predictions: Predictions | NDArray[np.floating],
    labels: FieldLabels,
    *,
    groups: FieldGroups | None = None,
    label_set: LabelSet | str | None = None,
) -> AveragePrecision:
    """Return the mean average precision of probabilities, with its interval.

    Average precision is computed per location, as scikit-learn defines it, and averaged over the locations that any
    field has.

    Args:
        predictions: Predictions, or probabilities of shape ``(n, locations)``.
        labels: The true labels; see :func:`evaluate`.
        groups: A group per field, to compute a second interval from resampled groups; see :func:`evaluate`.
        label_set: The label set of arrays. Default: the label set of the labels, or numbers.

    Returns:
        The metrics.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        TableError: If shapes differ, values are not probabilities, a field has no label, or no field has a location.
        LabelSetError: If label sets differ.

    >>> truth = np.array([[True, False], [False, True], [True, True]])
    >>> mean_average_precision(np.array([[0.9, 0.2], [0.8, 0.3], [0.7, 0.4]]), truth).mean
    0.9166666666666666
    """
    if isinstance(predictions, Predictions):
        ids, own, probabilities = (
            predictions.ids,
            predictions.label_set,
            np.asarray(predictions.probabilities, np.float64),
        )
    else:
        ids, own, probabilities = None, None, as_members(predictions).stack[0]
    locations = common_label_set(own, labels, label_set, columns=probabilities.shape[1])
    truth = as_truth(labels, ids, locations, shape=probabilities.shape)
    if not truth.any():
        raise TableError("No field has a location, so average precision is undefined.", hint="Check the labels.")
    numbers = as_groups(groups, ids, len(truth))
    once = np.ones((1, len(truth)), np.int64)
    values = np.array(
        [weighted_average_precision(probabilities[:, i], truth[:, i], once)[0] for i in range(len(locations))]
    )
    resampled = resampled_average_precision(probabilities, truth)
    by_group = None if numbers is None else resampled_average_precision(probabilities, truth, groups=numbers)
    return AveragePrecision(
        rows=len(truth),
        label_set=locations,
        mean=float(np.nanmean(values)),
        interval=mean_interval(resampled, values),
        interval_by_group=None if by_group is None else mean_interval(by_group, values),
        share_of_positives=float(truth.mean(axis=0)[truth.any(axis=0)].mean()),
        classes=precision_table(locations, truth.sum(axis=0), values, resampled),
    )


def precision_table(label_set: LabelSet, positives: Ints, values: Floats, resampled: Floats) -> pl.DataFrame:
    """Return the table of :attr:`AveragePrecision.classes`.

    Args:
        label_set: The locations.
        positives: The number of positives of each location.
        values: The average precision of each location, NaN if it is undefined.
        resampled: The average precision of each resample and location, NaN if it is undefined.

    Returns:
        The table.
    """
    ends: list[list[float | None]] = []
    for known, column in zip(np.isfinite(values), resampled.T, strict=True):
        ends.append(
            np.nanquantile(column, [0.025, 0.975]).tolist() if known and np.isfinite(column).any() else [None] * 2
        )
    columns = {
        "key": list(label_set.keys),
        "location": list(label_set.names),
        "positives": positives.tolist(),
        "average_precision": [float(value) if np.isfinite(value) else None for value in values],
        "low": [low for low, _ in ends],
        "high": [high for _, high in ends],
    }
    return pl.DataFrame(columns, schema_overrides=dict.fromkeys(("average_precision", "low", "high"), pl.Float64))


def _leak_effect(
    ids: tuple[str, ...] | None,
    predicted: Bools,
    truth: Bools,
    leak: Mapping[str, Iterable[int]],
    label_set: LabelSet,
) -> LeakEffect:
    if ids is None:
        raise ArgumentTypeError(
            "`leak` contains ids, but the predictions are an array without ids.", hint="Give Predictions."
        )
    known = label_indices(leak, label_set)
    leaked = np.array([name in known for name in ids])
    given = predicted.copy()
    given[leaked] = label_set.to_matrix([known[name] for name in ids if name in known])
    return LeakEffect(
        fields=int(leaked.sum()),
        correct=int((given[leaked] == truth[leaked]).all(axis=1).sum()),
        macro_f1_with=macro_f1(given, truth),
        macro_f1_without=macro_f1(predicted, truth),
        macro_f1_others=None if leaked.all() else macro_f1(predicted[~leaked], truth[~leaked]),
    )
