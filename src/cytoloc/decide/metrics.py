"""Metrics of locations and probabilities, per class and averaged over classes, as defined by scikit-learn.

The F1 of a class without positives counts as 0 in means over classes, as on Kaggle. Precision, recall, average
precision and ROC AUC are averaged over the classes for which they are defined.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cytoloc.decide.inputs import Bools, Floats, Ints
from cytoloc.labels.label_set import LabelSet

N_PERMUTATIONS: Final = 200
"""Number of permutations for the chance F1. The standard error of their mean is below 0.005 for a few dozen fields."""

N_RESAMPLES: Final = 2000
"""Number of bootstrap resamples for an interval."""

AP_RESAMPLES: Final = 200
"""Number of bootstrap resamples for an interval of the average precision, which is slower to compute."""

CALIBRATION_BINS: Final = 10
"""Number of bins of equal width for the calibration error."""


def macro_f1(predicted: Bools, truth: Bools) -> float:
    """Return the mean F1 over classes. A class that no field has, and that is never predicted, counts as 0.

    Args:
        predicted: bool of shape ``(n, classes)``.
        truth: bool of shape ``(n, classes)``.

    Returns:
        The macro F1.

    >>> macro_f1(np.array([[True, False]]), np.array([[True, False]]))
    0.5
    """
    # Imported late, because it takes long and few need it.
    from sklearn.metrics import f1_score

    return float(f1_score(truth, predicted, average="macro", zero_division=0))


def class_table(
    predicted: Bools,
    truth: Bools,
    label_set: LabelSet,
    probabilities: NDArray[np.floating] | None = None,
) -> pl.DataFrame:
    """Return a table with one row per location: positives, predicted, precision, recall and F1.

    Metrics that are undefined, because a class has no positives or no negatives, are null.

    Args:
        predicted: bool of shape ``(n, locations)``.
        truth: bool of shape ``(n, locations)``.
        label_set: The locations.
        probabilities: Shape ``(n, locations)``, to add average precision, ROC AUC and calibration error.

    Returns:
        The table.
    """
    names = {"key": list(label_set.keys), "location": list(label_set.names)}
    return pl.DataFrame(names).hstack(class_measures(predicted, truth, probabilities))


def class_measures(predicted: Bools, truth: Bools, probabilities: NDArray[np.floating] | None = None) -> pl.DataFrame:
    """Return the table of :func:`class_table` without the columns of names."""
    # Imported late, because it takes long and few need it.
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

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
    """Return the F1 of each class, 0 for a class that no field has, and that is never predicted."""
    # Imported late, because it takes long and few need it.
    from sklearn.metrics import f1_score

    return np.asarray(f1_score(truth, predicted, average=None, zero_division=0), np.float64)


def chance_f1(predicted: Bools, truth: Bools, *, seed: int = 0) -> Floats:
    """Return the F1 of each class after permuting predictions across fields, averaged over 200 permutations."""
    rng = np.random.default_rng(seed)
    hits = np.mean(
        [(predicted[rng.permutation(len(truth))] & truth).sum(axis=0) for _ in range(N_PERMUTATIONS)], axis=0
    )
    total = predicted.sum(axis=0) + truth.sum(axis=0)
    return np.asarray(np.divide(2 * hits, total, out=np.zeros(len(total)), where=total > 0), np.float64)


def overall(
    predicted: Bools, truth: Bools, probabilities: NDArray[np.floating] | None = None
) -> dict[str, float | None]:
    """Return metrics over all classes.

    Args:
        predicted: bool of shape ``(n, classes)``.
        truth: bool of shape ``(n, classes)``.
        probabilities: Shape ``(n, classes)``, to add metrics of probabilities.

    Returns:
        Micro and macro precision, recall and F1. With probabilities also mean average precision, ROC AUC, calibration
        error, and ``coverage_error``: the mean number of top-ranked locations that are needed to include all true ones.
    """
    # Imported late, because it takes long and few need it.
    from sklearn.metrics import coverage_error, precision_recall_fscore_support

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
    """Return the expected calibration error of each class.

    It is the absolute difference of mean probability and share of positives in ten bins of equal width, averaged over
    fields. 0 is perfect.

    Args:
        probabilities: Shape ``(n, classes)``.
        truth: bool of shape ``(n, classes)``.

    Returns:
        float64 of shape ``(classes,)``.
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
    """Return the percentile bootstrap interval of the macro F1, from 2,000 resamples.

    The interval is biased downwards if classes have few positives, because their F1 is 0 in resamples without
    positives.

    Args:
        predicted: bool of shape ``(n, classes)``.
        truth: bool of shape ``(n, classes)``.
        groups: A group number per field, such as its well. Groups are then resampled instead of fields, because
            similar fields carry less information than independent fields.
        level: The confidence level.
        seed: Random seed.

    Returns:
        The lower and the upper end.
    """
    scores = resampled_f1(predicted, truth, groups=groups, seed=seed).mean(axis=1)
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resampled_f1(predicted: Bools, truth: Bools, *, groups: Ints | None = None, seed: int = 0) -> NDArray[np.float32]:
    """Return the F1 of each class in 2,000 resamples of fields, or of groups, shape ``(2000, classes)``."""
    rng = np.random.default_rng(seed)
    group = np.arange(len(truth)) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(group.max()) + 1
    scores = np.empty((N_RESAMPLES, truth.shape[1]), np.float32)
    for start in range(0, N_RESAMPLES, 100):  # in blocks, to limit memory
        weights = rng.multinomial(count, np.full(count, 1 / count), size=100)
        scores[start : start + 100] = _weighted_f1(predicted, truth, weights if groups is None else weights[:, group])
    return scores


def weighted_average_precision(scores: Floats, truth: Bools, weights: NDArray[np.integer]) -> Floats:
    """Return the average precision of one class for several weightings of the fields, as scikit-learn defines it.

    Args:
        scores: Shape ``(n,)``.
        truth: bool of shape ``(n,)``.
        weights: How often each field counts in each weighting, shape ``(weightings, n)``.

    Returns:
        float64 of shape ``(weightings,)``; NaN where no positive counts.

    >>> weighted_average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), np.ones((1, 3), int))
    array([0.83333333])
    """
    order = np.argsort(-scores, kind="stable")
    # Fields with equal scores are one step of the curve.
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    counts = weights[:, order].astype(np.float64)
    hits = np.cumsum(counts * truth[order], axis=1)[:, ends]
    total = np.cumsum(counts, axis=1)[:, ends]
    precision = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
    gained = np.diff(hits, axis=1, prepend=0)
    known = hits[:, -1]
    area = (gained * precision).sum(axis=1)
    return np.asarray(np.divide(area, known, out=np.full(len(weights), np.nan), where=known > 0), np.float64)


def resampled_average_precision(
    probabilities: NDArray[np.floating], truth: Bools, *, groups: Ints | None = None, seed: int = 0
) -> Floats:
    """Return the average precision of each class in 200 resamples of fields, or of groups.

    Args:
        probabilities: Shape ``(n, classes)``.
        truth: bool of shape ``(n, classes)``.
        groups: A group number per field, such as its well. Groups are then resampled instead of fields.
        seed: Random seed.

    Returns:
        float64 of shape ``(200, classes)``; NaN for a class without positives in the resample.
    """
    rng = np.random.default_rng(seed)
    group = np.arange(len(truth)) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(group.max()) + 1
    found = np.empty((AP_RESAMPLES, truth.shape[1]))
    for start in range(0, AP_RESAMPLES, 50):  # in blocks, to limit memory
        weights = rng.multinomial(count, np.full(count, 1 / count), size=50)[:, group]
        for i in range(truth.shape[1]):
            scores = np.asarray(probabilities[:, i], np.float64)
            found[start : start + 50, i] = weighted_average_precision(scores, truth[:, i], weights)
    return found


def mean_interval(resampled: Floats, values: Floats) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval of the mean over classes; None if a resample has no class with positives.

    The mean is too high in most resamples, because repeated positives raise the average precision and classes without
    positives are left out. The resamples are therefore shifted so that their mean is the mean of ``values``.

    Args:
        resampled: A metric from 0 to 1 of each resample and class, NaN if it is undefined, shape ``(resamples,
            classes)``.
        values: The metric of each class in the sample, NaN if it is undefined, shape ``(classes,)``.

    Returns:
        The lower and the upper end.
    """
    if np.isnan(resampled).all(axis=1).any():
        return None
    means = np.nanmean(resampled, axis=1)
    low, high = np.quantile(means, [0.025, 0.975]) - means.mean() + np.nanmean(values)
    return max(0.0, float(low)), min(1.0, float(high))


def class_log_loss(probabilities: NDArray[np.floating], truth: Bools) -> float:
    """Return the log loss of each class, divided by the log loss of its frequency, averaged over classes.

    Values below 1 are better than predicting the frequencies. Classes without positives or negatives are left out.

    Args:
        probabilities: Shape ``(n, classes)``.
        truth: bool of shape ``(n, classes)``.

    Returns:
        The normalized log loss.
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
    """Return the difference of two macro F1 values, and its standard error from a paired bootstrap.

    Args:
        one: The first predictions, bool of shape ``(n, classes)``.
        other: The second predictions, bool of shape ``(n, classes)``.
        truth: bool of shape ``(n, classes)``.
        resamples: The number of bootstrap resamples.
        seed: Random seed.

    Returns:
        The macro F1 of ``one`` minus the macro F1 of ``other``, and the standard error.
    """
    weights = np.random.default_rng(seed).multinomial(len(truth), np.full(len(truth), 1 / len(truth)), size=resamples)
    scores = [_weighted_f1(predicted, truth, weights).mean(axis=1) for predicted in (one, other)]
    return macro_f1(one, truth) - macro_f1(other, truth), float(np.std(scores[0] - scores[1]))


def _weighted_f1(predicted: Bools, truth: Bools, weights: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return the F1 of each resample and class; ``weights`` counts each field in each resample, ``(resamples, n)``."""
    counts = weights.astype(np.float32)
    hits = counts @ (predicted & truth).astype(np.float32)
    total = counts @ (predicted.astype(np.float32) + truth)
    return np.asarray(np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0), np.float32)


def mean_defined(values: pl.Series) -> float | None:
    """Return the mean of all values that are not null; None if all are null."""
    known = values.drop_nulls().to_list()
    return float(np.mean(known)) if known else None
