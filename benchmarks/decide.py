"""Benchmark of decision methods: macro F1 on other fields than those they were fitted to, and speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score, precision_recall_curve

from benchmarks.rounds import Way, in_separate_process, in_turns, peak_mb
from cytoloc.decide import fit_decision, macro_f1
from cytoloc.decide.calibration import fit_calibration
from cytoloc.decide.metrics import class_f1
from cytoloc.decide.thresholds import (
    BASELINE_GRID,
    exact_thresholds,
    expected_thresholds,
    grid_thresholds,
    ratio_thresholds,
)
from cytoloc.errors import TableError
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import read_labels, truth_of
from cytoloc.prediction_files import read_predictions

Predictions = dict[str, NDArray[np.float64]]
Predict = Callable[[Predictions, NDArray[np.bool_], Predictions], NDArray[np.bool_]]

BASELINE: Final = "silver-medal baseline: plain mean, per-class grid"
AUTO: Final = "cytoloc, method auto"
LOOP: Final = "loop of 600 values of sklearn's f1_score"
COUNTING: Final = "cytoloc, the same grid by counting"

LOOP_CLASSES: Final = 2
"""Number of classes for timing the loop; its time for all classes is proportional."""

LARGE: Final = 1_000_000
"""Number of fields for timing exact thresholds."""

TRAINING_FIELDS: Final = 31_072
"""Number of fields of the 2018 training set, for timing the method ``auto``."""


@dataclass(frozen=True)
class Halves:
    """Macro F1 of a decision method on halves of the fields that it was not fitted to.

    Attributes:
        name: Name of the method.
        macro_f1: Mean macro F1 over halves.
        gain: Mean difference to the macro F1 of the baseline.
        least: Minimum difference to the baseline.
        wins: Share of halves on which the method is better than the baseline.
    """

    name: str
    macro_f1: float
    gain: float
    least: float
    wins: float


@dataclass(frozen=True)
class DecideBench:
    """Results of the benchmark.

    Attributes:
        fields: Number of real fields.
        members: Number of ensemble members.
        splits: Number of splits into halves. Each half is used for fitting once.
        halves: Macro F1 of each decision method.
        grid: The grid of thresholds by a loop and by counting, in sets of fields per second.
        same_f1: Whether both have the same F1 in the timed classes, and no grid value has a better F1 in any class
            according to scikit-learn.
        exact_s: Time of exact thresholds for a million fields, median over rounds in seconds.
        exact_mb: Peak memory of a process that computes them in megabytes.
        auto_s: Time of ``auto`` on as many fields as the 2018 training set, in seconds; None if not measured.
    """

    fields: int
    members: int
    splits: int
    halves: list[Halves] = field(default_factory=list)
    grid: list[Way] = field(default_factory=list)
    same_f1: bool = False
    exact_s: float = 0.0
    exact_mb: float = 0.0
    auto_s: float | None = None


def bench_decide(
    folder: Path,
    *,
    splits: int = 20,
    rounds: int = 5,
    large: int = LARGE,
    training_fields: int = TRAINING_FIELDS,
    advance: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> DecideBench:
    """Compare decision methods on out-of-fold probabilities.

    Args:
        folder: Folder of ``labels.csv`` (``Id,Target``) and one ``.npz`` of ``probabilities`` per member, with rows in
            the order of ``labels.csv``.
        splits: Number of random splits into halves. Each half is used for fitting once.
        rounds: Number of rounds for speed.
        large: Number of fields for timing exact thresholds.
        training_fields: Number of fields for timing ``auto``; 0 to skip it.
        advance: Called with a description and (done, total).

    Returns:
        The results.

    Raises:
        TableError: If the folder contains no predictions.
    """
    members, truth = read_folder(folder)
    halves = compare_on_halves(members, truth, WAYS, splits=splits, advance=lambda *done: advance("halves", *done))
    mean = _mean(members)
    some = slice(0, LOOP_CLASSES)
    grid = in_turns(
        {
            # Units of work are whole sets of classes, of which the loop does a part.
            LOOP: lambda: _counted(loop_thresholds(mean[:, some], truth[:, some])) / truth.shape[1],
            COUNTING: lambda: _counted(grid_thresholds(mean, truth)) / truth.shape[1],
        },
        against=LOOP,
        rounds=rounds,
        advance=lambda *done: advance("grid", *done),
    )
    counted = grid_thresholds(mean, truth)
    by_loop = class_f1(mean[:, some] > loop_thresholds(mean[:, some], truth[:, some]), truth[:, some])
    by_count = class_f1(mean[:, some] > counted[some], truth[:, some])
    exact = [in_separate_process(_time_exact, large, seed) for seed in range(rounds)]
    return DecideBench(
        len(truth),
        len(members),
        splits,
        halves,
        grid,
        bool((by_loop == by_count).all()) and has_best_f1(counted, mean, truth),
        median(seconds for seconds, _ in exact),
        max(megabytes for _, megabytes in exact),
        _time_auto(members, truth, training_fields) if training_fields else None,
    )


def read_folder(folder: Path) -> tuple[Predictions, NDArray[np.bool_]]:
    """Read the probabilities of members, by name, and the labels as a matrix.

    Raises:
        TableError: If the folder contains no ``.npz``.
    """
    labels = folder / "labels.csv"
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise TableError(f"{folder} contains no .npz of probabilities.", hint="Give a folder with one .npz per member.")
    members = {file.stem: read_predictions(file, ids=labels) for file in files}
    ids = next(iter(members.values())).ids
    label_set = next(iter(members.values())).label_set
    truth = truth_of(ids, read_labels(labels, label_set), label_set, where=str(labels))
    return {name: scores.probabilities.astype(np.float64) for name, scores in members.items()}, truth


def compare_on_halves(
    members: Predictions,
    truth: NDArray[np.bool_],
    ways: Mapping[str, Predict],
    *,
    splits: int,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Halves]:
    """Fit each decision method on one half of the fields and evaluate it on the other, in both directions.

    Args:
        members: Probabilities by name, shape ``(n, locations)``.
        truth: Labels, bool of shape ``(n, locations)``.
        ways: Decision methods by name; the first is the baseline. Each is called with the probabilities and labels of
            one half and the probabilities of the other, and returns the locations of the other.
        splits: Number of splits, with seeds from 0.
        advance: Called with (done, total) splits.

    Returns:
        The macro F1 of each method.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for seed in range(splits):
        first = np.zeros(len(truth), bool)
        first[np.random.default_rng(seed).permutation(len(truth))[: len(truth) // 2]] = True
        for fitted in (first, ~first):
            here = {name: values[fitted] for name, values in members.items()}
            there = {name: values[~fitted] for name, values in members.items()}
            for name, way in ways.items():
                found[name].append(macro_f1(way(here, truth[fitted], there), truth[~fitted]))
        advance(seed + 1, splits)
    baseline = np.array(next(iter(found.values())))
    rows = []
    for name, values in found.items():
        gains = np.array(values) - baseline
        rows.append(
            Halves(name, float(np.mean(values)), float(gains.mean()), float(gains.min()), float((gains > 0).mean()))
        )
    return rows


def loop_thresholds(probabilities: NDArray[np.float64], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return thresholds by the loop of the silver-medal baseline: scikit-learn's F1 at 600 values per class."""
    best = []
    for i in range(truth.shape[1]):
        scores = [f1_score(truth[:, i], probabilities[:, i] > value, zero_division=0) for value in BASELINE_GRID]
        best.append(BASELINE_GRID[int(np.argmax(scores))])
    return np.array(best)


def has_best_f1(thresholds: NDArray[np.float64], probabilities: NDArray[np.float64], truth: NDArray[np.bool_]) -> bool:
    """Return whether no grid value has a better F1 than the thresholds in any class, according to scikit-learn.

    F1 of thresholds is computed by ``f1_score``, and F1 of the grid from ``precision_recall_curve``.
    """
    for i in np.flatnonzero(truth.any(axis=0)):
        precision, recall, values = precision_recall_curve(truth[:, i], probabilities[:, i])
        # The curve counts values at or above a threshold; cytoloc's thresholds count values above.
        at = np.searchsorted(values, BASELINE_GRID, side="right")
        both = precision[at] + recall[at]
        best = np.max(2 * precision[at] * recall[at] / np.where(both > 0, both, 1))
        found = f1_score(truth[:, i], probabilities[:, i] > thresholds[i], zero_division=0)
        if not np.isclose(found, best, rtol=0, atol=1e-12):
            return False
    return True


def _mean(members: Predictions) -> NDArray[np.float64]:
    return np.asarray(np.mean(list(members.values()), axis=0), np.float64)


def _four_best(members: Predictions, truth: NDArray[np.bool_]) -> list[str]:
    """Return the names of the four members with the best macro F1 after fitting a grid of thresholds."""
    scores = {name: macro_f1(each > grid_thresholds(each, truth), truth) for name, each in members.items()}
    return sorted(scores, key=lambda name: -scores[name])[:4]


def _baseline(here: Predictions, truth: NDArray[np.bool_], there: Predictions) -> NDArray[np.bool_]:
    return fit_decision(here, truth, method="grid", intervals=False)(there)


def _ratio(_here: Predictions, truth: NDArray[np.bool_], there: Predictions) -> NDArray[np.bool_]:
    mean = _mean(there)
    return mean > ratio_thresholds(mean, truth.mean(axis=0))


def _single(here: Predictions, truth: NDArray[np.bool_], there: Predictions) -> NDArray[np.bool_]:
    name = _four_best(here, truth)[0]
    return there[name] > grid_thresholds(here[name], truth)


def _four(here: Predictions, truth: NDArray[np.bool_], there: Predictions) -> NDArray[np.bool_]:
    names = _four_best(here, truth)
    ours, theirs = (_mean({name: each[name] for name in names}) for each in (here, there))
    return theirs > grid_thresholds(ours, truth)


def _four_expected(here: Predictions, truth: NDArray[np.bool_], there: Predictions) -> NDArray[np.bool_]:
    names = _four_best(here, truth)
    ours, theirs = (_mean({name: each[name] for name in names}) for each in (here, there))
    platt = fit_calibration("platt", ours, truth)
    return platt(theirs) > expected_thresholds(platt(ours))


def _auto(here: Predictions, truth: NDArray[np.bool_], there: Predictions) -> NDArray[np.bool_]:
    return fit_decision(here, truth, method="auto", intervals=False)(there)


WAYS: Final[dict[str, Predict]] = {
    BASELINE: _baseline,
    "plain mean, class ratios": _ratio,
    "best single member, per-class grid": _single,
    "mean of the four best, per-class grid": _four,
    "mean of the four best, Platt, expected F1": _four_expected,
    AUTO: _auto,
}


def _counted(thresholds: NDArray[np.float64]) -> int:
    return len(thresholds)


def _time_exact(fields: int, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    probabilities = rng.random((fields, len(LabelSet.hpa28())), np.float32)
    truth = rng.random((fields, len(LabelSet.hpa28())), np.float32) < probabilities**3
    started = time.perf_counter()
    exact_thresholds(probabilities, truth)
    return time.perf_counter() - started, peak_mb()


def _time_auto(members: Predictions, truth: NDArray[np.bool_], fields: int) -> float:
    """Time ``auto`` on fields drawn with replacement, with noise in their logits so that no two are equal."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(truth), fields)
    drawn: dict[str, Any] = {}
    for name, values in members.items():
        logits = np.log(np.clip(values[rows], 1e-6, 1 - 1e-6)) - np.log1p(-np.clip(values[rows], 1e-6, 1 - 1e-6))
        drawn[name] = 1 / (1 + np.exp(-logits - rng.normal(0, 0.3, logits.shape)))
    started = time.perf_counter()
    fit_decision(drawn, truth[rows], method="auto")
    return time.perf_counter() - started
