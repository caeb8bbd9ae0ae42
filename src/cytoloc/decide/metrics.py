"""Metrics of locations and probabilities, per class and over classes, by scikit-learn's definitions.

The F1 of a class without positives counts as 0 in means over classes, as on Kaggle. Precision, recall, average
precision and ROC AUC are averaged over the classes in which they are defined.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    coverage_error,
    f1_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from cytoloc.decide.inputs import Bools, Floats, Ints
from cytoloc.labels.label_set import LabelSet

N_PERMUTATIONS: Final = 200
"""Permutations of the chance F1: the standard error of their mean is below 0.005 on a few dozen fields."""

N_RESAMPLES: Final = 2000
"""Bootstrap resamples of an interval."""

CALIBRATION_BINS: Final = 10
"""Bins of equal width of the calibration error."""


def macro_f1(predicted: Bools, truth: Bools) -> float:
    """Return the mean F1 over classes; it is 0 in a class that is neither true nor predicted, as on Kaggle.

    Args:
        predicted: bool ``(n, classes)``.
        truth: bool ``(n, classes)``.

    >>> macro_f1(np.array([[True, False]]), np.array([[True, False]]))
    0.5
    """
    return float(f1_score(truth, predicted, average="macro", zero_division=0))


def class_table(
    predicted: Bools,
    truth: Bools,
    label_set: LabelSet,
    probabilities: NDArray[np.floating] | None = None,
) -> pl.DataFrame:
    """Return one row per location: positives, predicted, precision, recall and F1.

    With probabilities, average precision, ROC AUC and calibration error are added. Metrics that are not defined, in a
    class without positives or without negatives, are null.
    """
    names = {"key": list(label_set.keys), "location": list(label_set.names)}
    return pl.DataFrame(names).hstack(class_measures(predicted, truth, probabilities))


def class_measures(predicted: Bools, truth: Bools, probabilities: NDArray[np.floating] | None = None) -> pl.DataFrame:
    """Return :func:`class_table` without the columns that name the locations."""
    precision, recall, f1, positives = precision_recall_fscore_support(truth, predicted, zero_division=0)
    known, found = positives > 0, predicted.any(axis=0)
    defined = {"precision": (precision, known & found), "recall": (recall, known), "f1": (f1, known | found)}
    columns = {
        "positives": positives.astype(int).tolist(),
        "predicted": predicted.sum(axis=0).tolist(),
        **{
            name: [float(value) if is_defined else None for value, is_defined in zip(*pair, strict=True)]
            for name, pair in defined.items()
        },
    }
    if probabilities is not None:
        both = known & ~truth.all(axis=0)
        for name, metric, where in (
            ("average_precision", average_precision_score, known),
            ("roc_auc", roc_auc_score, both),
        ):
            columns[name] = [
                float(metric(truth[:, i], probabilities[:, i])) if where[i] else None for i in range(len(known))
            ]
        columns["calibration_error"] = calibration_errors(probabilities, truth).tolist()
    return pl.DataFrame(columns, schema_overrides={"precision": pl.Float64, "recall": pl.Float64, "f1": pl.Float64})


def class_f1(predicted: Bools, truth: Bools) -> Floats:
    """Return the F1 of each class; 0 for a class that is neither true nor predicted."""
    return np.asarray(f1_score(truth, predicted, average=None, zero_division=0), np.float64)


def chance_f1(predicted: Bools, truth: Bools, *, seed: int = 0) -> Floats:
    """Return the F1 of each class after permuting predictions across fields: the mean of 200 permutations."""
    rng = np.random.default_rng(seed)
    hits = np.mean(
        [(predicted[rng.permutation(len(truth))] & truth).sum(axis=0) for _ in range(N_PERMUTATIONS)], axis=0
    )
    total = predicted.sum(axis=0) + truth.sum(axis=0)
    return np.asarray(np.divide(2 * hits, total, out=np.zeros(len(total)), where=total > 0), np.float64)


def overall(
    predicted: Bools, truth: Bools, probabilities: NDArray[np.floating] | None = None
) -> dict[str, float | None]:
    """Return metrics over all classes: micro and macro precision, recall and F1.

    With probabilities, also mean average precision, ROC AUC, calibration error, and ``coverage_error``: how many of a
    field's most probable locations include all true ones, on average.
    """
    precision, recall, f1, _ = precision_recall_fscore_support(truth, predicted, average="micro", zero_division=0)
    classes = class_measures(predicted, truth, probabilities)
    measures: dict[str, float | None] = {
        "micro_precision": float(precision),
        "micro_recall": float(recall),
        "micro_f1": float(f1),
        "macro_precision": mean_defined(classes["precision"]),
        "macro_recall": mean_defined(classes["recall"]),
        "macro_f1": macro_f1(predicted, truth),
    }
    if probabilities is not None:
        measures["mean_average_precision"] = mean_defined(classes["average_precision"])
        measures["macro_roc_auc"] = mean_defined(classes["roc_auc"])
        measures["coverage_error"] = float(coverage_error(truth, probabilities)) if len(truth) else None
        measures["mean_calibration_error"] = mean_defined(classes["calibration_error"])
    return measures


def calibration_errors(probabilities: NDArray[np.floating], truth: Bools) -> Floats:
    """Return the expected calibration error of each class; 0 is perfect.

    It is the difference between mean probability and share of positives in ten bins of equal width, averaged over
    fields.
    """
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    errors = np.empty(truth.shape[1])
    for i in range(truth.shape[1]):
        scores = np.asarray(probabilities[:, i], np.float64)
        bins = np.searchsorted(edges[1:-1], scores)
        surplus = np.bincount(bins, weights=scores - truth[:, i], minlength=CALIBRATION_BINS)
        errors[i] = np.abs(surplus).sum() / len(scores)
    return errors


def macro_f1_interval(
    predicted: Bools,
    truth: Bools,
    *,
    groups: Ints | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the macro F1, of 2,000 resamples.

    It is biased downwards if classes have few positives: in a resample without positives, their F1 is 0.

    Args:
        predicted: bool ``(n, classes)``.
        truth: bool ``(n, classes)``.
        groups: A group number per field, such as its well; groups are resampled instead of fields, because similar
            fields carry less information than independent ones.
        level: Share of the resamples in the interval.
        seed: Random seed.
    """
    scores = resampled_f1(predicted, truth, groups=groups, seed=seed).mean(axis=1)
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resampled_f1(predicted: Bools, truth: Bools, *, groups: Ints | None = None, seed: int = 0) -> NDArray[np.float32]:
    """Return the F1 of each class in each of 2,000 resamples of the fields, or of their groups, ``(2000, classes)``."""
    rng = np.random.default_rng(seed)
    group = np.arange(len(truth)) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(group.max()) + 1
    scores = np.empty((N_RESAMPLES, truth.shape[1]), np.float32)
    for start in range(0, N_RESAMPLES, 100):  # in blocks, to limit memory
        weights = rng.multinomial(count, np.full(count, 1 / count), size=100)
        scores[start : start + 100] = _weighted_f1(predicted, truth, weights if groups is None else weights[:, group])
    return scores


def class_log_loss(probabilities: NDArray[np.floating], truth: Bools) -> float:
    """Return the log loss of each class, divided by that of its frequency, averaged over classes.

    1 is the loss of the frequencies; lower is better. Classes without positives or without negatives are left out.
    """
    known = truth.any(axis=0) & ~truth.all(axis=0)
    clipped = np.clip(probabilities[:, known], 1e-15, 1 - 1e-15)
    loss = -np.where(truth[:, known], np.log(clipped), np.log1p(-clipped)).mean(axis=0)
    rate = truth[:, known].mean(axis=0)
    ignorant = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    return float((loss / ignorant).mean()) if known.any() else 0.0


def paired_difference(
    one: Bools, other: Bools, truth: Bools, *, resamples: int = 200, seed: int = 0
) -> tuple[float, float]:
    """Return the difference in macro F1 of ``one`` and ``other``, and its standard error by a paired bootstrap."""
    weights = np.random.default_rng(seed).multinomial(len(truth), np.full(len(truth), 1 / len(truth)), size=resamples)
    scores = [_weighted_f1(predicted, truth, weights).mean(axis=1) for predicted in (one, other)]
    return macro_f1(one, truth) - macro_f1(other, truth), float(np.std(scores[0] - scores[1]))


def _weighted_f1(predicted: Bools, truth: Bools, weights: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return F1 by resample and class; ``weights`` counts each field in each resample, ``(resamples, n)``."""
    counts = weights.astype(np.float32)
    hits = counts @ (predicted & truth).astype(np.float32)
    total = counts @ (predicted.astype(np.float32) + truth)
    return np.asarray(np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0), np.float32)


def mean_defined(values: pl.Series) -> float | None:
    """Return the mean of the values that are not null; None if all are."""
    known = values.drop_nulls().to_list()
    return float(np.mean(known)) if known else None
