"""How good locations and probabilities are, per class and over classes; scikit-learn's definitions.

A class that is in no field of the truth is *absent*. Its F1 is 0 in every mean over all classes, as on Kaggle, whether
it is predicted or not; precision, recall, average precision and ROC AUC are averaged over the classes that have them.
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

from cytoloc.labels import LabelSet

N_SHUFFLES: Final = 200
"""Random deals behind the chance of an F1: the mean's standard error is below 0.005 even on a few dozen fields."""

N_RESAMPLES: Final = 2000
"""Bootstrap resamples behind an interval."""

CALIBRATION_BINS: Final = 10
"""Bins of probabilities, of equal width, in which they are held against frequencies."""


def macro_f1(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Return the mean F1 over classes; a class that is neither true nor predicted counts 0, as on Kaggle.

    Args:
        predicted: bool ``(n, classes)``.
        truth: bool ``(n, classes)``.

    >>> macro_f1(np.array([[True, False]]), np.array([[True, False]]))
    0.5
    """
    return float(f1_score(truth, predicted, average="macro", zero_division=0))


def class_table(
    predicted: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    label_set: LabelSet,
    probabilities: NDArray[np.floating] | None = None,
) -> pl.DataFrame:
    """Return one row per location: positives, predicted, precision, recall, F1, and of probabilities AP, AUC and error.

    Measures that are not defined (a class without positives, or with only positives) are null.

    Args:
        predicted: bool ``(n, locations)``.
        truth: bool ``(n, locations)``.
        label_set: The locations; they give the columns ``key`` and ``location``.
        probabilities: float ``(n, locations)``.
    """
    names = {"key": list(label_set.keys), "location": list(label_set.names)}
    return pl.DataFrame(names).hstack(class_measures(predicted, truth, probabilities))


def class_measures(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], probabilities: NDArray[np.floating] | None = None
) -> pl.DataFrame:
    """Return :func:`class_table` without the columns that name the locations."""
    precision, recall, f1, positives = precision_recall_fscore_support(truth, predicted, zero_division=0)
    known = positives > 0
    columns = {
        "positives": positives.astype(int).tolist(),
        "predicted": predicted.sum(axis=0).tolist(),
        "precision": _null_unless(known & predicted.any(axis=0), precision),
        "recall": _null_unless(known, recall),
        "f1": _null_unless(known | predicted.any(axis=0), f1),
    }
    if probabilities is not None:
        classes, both = range(truth.shape[1]), known & ~truth.all(axis=0)
        columns["average_precision"] = [
            float(average_precision_score(truth[:, i], probabilities[:, i])) if known[i] else None for i in classes
        ]
        columns["roc_auc"] = [
            float(roc_auc_score(truth[:, i], probabilities[:, i])) if both[i] else None for i in classes
        ]
        columns["calibration_error"] = calibration_errors(probabilities, truth).tolist()
    return pl.DataFrame(columns, schema_overrides={"precision": pl.Float64, "recall": pl.Float64, "f1": pl.Float64})


def class_f1(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the F1 of each class; 0 for a class that is neither true nor predicted."""
    return np.asarray(f1_score(truth, predicted, average=None, zero_division=0), np.float64)


def chance_f1(predicted: NDArray[np.bool_], truth: NDArray[np.bool_], *, seed: int = 0) -> NDArray[np.float64]:
    """Return the F1 of each class when the same predictions are dealt to the fields at random: mean of 200 deals."""
    rng = np.random.default_rng(seed)
    hits = np.mean([(predicted[rng.permutation(len(truth))] & truth).sum(axis=0) for _ in range(N_SHUFFLES)], axis=0)
    total = predicted.sum(axis=0) + truth.sum(axis=0)
    return np.asarray(np.divide(2 * hits, total, out=np.zeros(len(total)), where=total > 0), np.float64)


def overall(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], probabilities: NDArray[np.floating] | None = None
) -> dict[str, float | None]:
    """Return measures over all classes: micro and macro precision, recall and F1, and what probabilities allow.

    ``coverage_error`` is how many of a field's most probable locations it takes, on average, to have all its true ones.
    Means over classes leave out those where a measure is not defined, but for F1, which is 0 there.
    """
    precision, recall, f1, _ = precision_recall_fscore_support(truth, predicted, average="micro", zero_division=0)
    classes = class_measures(predicted, truth, probabilities)
    measures: dict[str, float | None] = {
        "micro_precision": float(precision),
        "micro_recall": float(recall),
        "micro_f1": float(f1),
        "macro_precision": _mean_known(classes["precision"]),
        "macro_recall": _mean_known(classes["recall"]),
        "macro_f1": macro_f1(predicted, truth),
    }
    if probabilities is not None:
        measures["mean_average_precision"] = _mean_known(classes["average_precision"])
        measures["macro_roc_auc"] = _mean_known(classes["roc_auc"])
        measures["coverage_error"] = float(coverage_error(truth, probabilities)) if len(truth) else None
        measures["mean_calibration_error"] = _mean_known(classes["calibration_error"])
    return measures


def calibration_errors(probabilities: NDArray[np.floating], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the expected calibration error of each class, 0 for probabilities that come true as often as they say.

    In ten bins of equal width, the mean probability is held against the share of positives; the differences are
    averaged, each by how many fields its bin has.
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
    predicted: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    *,
    groups: NDArray[np.int64] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the macro F1, fields drawn with replacement (2,000 times).

    On few fields it is wide, and it lies low when classes have a handful of positives: a resample that misses them all
    scores them 0.

    Args:
        predicted: bool ``(n, classes)``.
        truth: bool ``(n, classes)``.
        groups: A group number per field, of its well or antibody; then groups are drawn, not fields, because fields
            that are alike tell less than as many that are not.
        level: Share of resamples within.
        seed: Of the draws.
    """
    scores = resampled_f1(predicted, truth, groups=groups, seed=seed).mean(axis=1)
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resampled_f1(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], *, groups: NDArray[np.int64] | None = None, seed: int = 0
) -> NDArray[np.float32]:
    """Return the F1 of each class in each of 2,000 resamples of the fields, or of their groups, ``(2000, classes)``."""
    rng = np.random.default_rng(seed)
    group = np.arange(len(truth)) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(group.max()) + 1
    scores = np.empty((N_RESAMPLES, truth.shape[1]), np.float32)
    for start in range(0, N_RESAMPLES, 100):  # in blocks, so that memory stays small at any number of fields
        weights = rng.multinomial(count, np.full(count, 1 / count), size=100)
        scores[start : start + 100] = _weighted_f1(predicted, truth, weights if groups is None else weights[:, group])
    return scores


def class_log_loss(probabilities: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """Return the log loss averaged over classes, each by that of knowing its frequency alone: 1 is to know no more.

    Classes without positives, or with only positives, do not count.
    """
    known = truth.any(axis=0) & ~truth.all(axis=0)
    clipped = np.clip(probabilities[:, known], 1e-15, 1 - 1e-15)
    loss = -np.where(truth[:, known], np.log(clipped), np.log1p(-clipped)).mean(axis=0)
    rate = truth[:, known].mean(axis=0)
    ignorant = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    return float((loss / ignorant).mean()) if known.any() else 0.0


def paired_difference(
    one: NDArray[np.bool_], other: NDArray[np.bool_], truth: NDArray[np.bool_], *, resamples: int = 200, seed: int = 0
) -> tuple[float, float]:
    """Return how much higher the macro F1 of ``one`` is than that of ``other``, and the standard error of that.

    The error is that of the bootstrap, the same fields being drawn for both.
    """
    weights = np.random.default_rng(seed).multinomial(len(truth), np.full(len(truth), 1 / len(truth)), size=resamples)
    scores = [_weighted_f1(predicted, truth, weights).mean(axis=1) for predicted in (one, other)]
    return macro_f1(one, truth) - macro_f1(other, truth), float(np.std(scores[0] - scores[1]))


def _weighted_f1(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], weights: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Return F1 by resample and class; ``weights`` says how often each resample has each field, ``(resamples, n)``."""
    counts = weights.astype(np.float32)
    hits = counts @ (predicted & truth).astype(np.float32)
    total = counts @ (predicted.astype(np.float32) + truth)
    return np.asarray(np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0), np.float32)


def _mean_known(values: pl.Series) -> float | None:
    known = [float(value) for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _null_unless(condition: NDArray[np.bool_], values: NDArray[np.floating]) -> list[float | None]:
    return [float(value) if holds else None for holds, value in zip(condition, values, strict=True)]
