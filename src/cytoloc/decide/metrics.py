"""How good locations and probabilities are, per class and over classes; scikit-learn's definitions."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, precision_recall_fscore_support, roc_auc_score

from cytoloc.labels import LOCATIONS

N_SHUFFLES: Final = 200
"""Random deals behind the chance of an F1: the mean's standard error is below .005 even on a few dozen fields."""

N_RESAMPLES: Final = 2000
"""Bootstrap resamples behind an interval."""


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
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], probabilities: NDArray[np.floating] | None = None
) -> pl.DataFrame:
    """Return one row per location: positives, predicted, precision, recall, F1, and with probabilities AP and ROC AUC.

    Measures that are not defined (a class without positives, or with only positives) are null.
    """
    precision, recall, f1, positives = precision_recall_fscore_support(truth, predicted, zero_division=0)
    known = positives > 0
    columns = {
        "id": [location.id for location in LOCATIONS],
        "location": [location.name for location in LOCATIONS],
        "positives": positives.astype(int).tolist(),
        "predicted": predicted.sum(axis=0).tolist(),
        "precision": _null_unless(known & predicted.any(axis=0), precision),
        "recall": _null_unless(known, recall),
        "f1": _null_unless(known | predicted.any(axis=0), f1),
    }
    if probabilities is not None:
        both = known & ~truth.all(axis=0)
        columns["average_precision"] = [
            float(average_precision_score(truth[:, i], probabilities[:, i])) if known[i] else None
            for i in range(len(LOCATIONS))
        ]
        columns["roc_auc"] = [
            float(roc_auc_score(truth[:, i], probabilities[:, i])) if both[i] else None for i in range(len(LOCATIONS))
        ]
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


def macro_f1_interval(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], *, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the macro F1, fields drawn with replacement (2,000 times).

    On few fields it is wide, and it lies low when classes have a handful of positives: a resample that misses them all
    scores them 0.
    """
    rng = np.random.default_rng(seed)
    count = len(truth)
    hit, marked = (predicted & truth).astype(np.float32), predicted.astype(np.float32) + truth
    scores = np.empty(N_RESAMPLES)
    for start in range(0, N_RESAMPLES, 100):  # in blocks, so that memory stays small at any number of fields
        weights = rng.multinomial(count, np.full(count, 1 / count), size=100).astype(np.float32)
        hits, total = weights @ hit, weights @ marked
        f1 = np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0)
        scores[start : start + 100] = f1.mean(axis=1)
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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
    scores = [_resampled_macro_f1(predicted, truth, weights) for predicted in (one, other)]
    return macro_f1(one, truth) - macro_f1(other, truth), float(np.std(scores[0] - scores[1]))


def _resampled_macro_f1(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], weights: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return the macro F1 of each resample; ``weights`` says how often it drew each field, ``(resamples, n)``."""
    counts = weights.astype(np.float32)
    hits = counts @ (predicted & truth).astype(np.float32)
    total = counts @ (predicted.astype(np.float32) + truth)
    f1 = np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0)
    return np.asarray(f1.mean(axis=1), np.float64)


def _null_unless(condition: NDArray[np.bool_], values: NDArray[np.floating]) -> list[float | None]:
    return [float(value) if holds else None for holds, value in zip(condition, values, strict=True)]
