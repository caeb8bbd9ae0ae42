"""Compare decision methods that were tried, each fitted on one half of real fields and evaluated on the other.

    python research/decisions.py PREDICTIONS [--splits 20] [--models A,B,…] [--bench] [--out decisions.json]

PREDICTIONS contains labels.csv and one .npz of out-of-fold probabilities per model. No constant of the package is tuned
to these results: each method estimates or selects its parameters on the fitting half.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor

from benchmarks.decide import WAYS, Predict, Predictions, compare_on_halves, read_folder
from cytoloc.decide import Exact, ExpectedF1, GlobalGrid, Ratio, Shrunk, Smooth, Stack, fit_decision
from cytoloc.decide.cross_fitting import assign_parts, fit_probabilities, out_of_fold_probabilities
from cytoloc.decide.inputs import Bools, Floats, logits_of, row_keys, stack_members
from cytoloc.decide.methods import AnyMethod, Method
from cytoloc.decide.thresholds import exact_thresholds, expected_thresholds


def by_method(
    method: AnyMethod, here: Predictions, truth: Bools, there: Predictions, *, label_shift: bool = False
) -> Bools:
    """Return the decisions of a method of the package."""
    return fit_decision(here, truth, method=method, intervals=False)(there, label_shift=label_shift)


def without_rules(
    method: Method,
    thresholds: Callable[[Floats, Bools], Floats] | None,
    here: Predictions,
    truth: Bools,
    there: Predictions,
) -> Bools:
    """Return the decisions of a method without rules, or with other thresholds."""
    stack = stack_members(here)
    model = fit_probabilities(method, stack, truth)
    probabilities = out_of_fold_probabilities(method, stack, truth, assign_parts(row_keys(stack), None), start=model)
    return model(stack_members(there)) > (thresholds or method.thresholds)(probabilities, truth)


def blended(probabilities: Floats, truth: Bools) -> Floats:
    """Return the means of the thresholds with the best F1 and the thresholds with the best expected F1."""
    return (exact_thresholds(probabilities, truth) + expected_thresholds(probabilities)) / 2


def resampled(probabilities: Floats, _truth: Bools) -> Floats:
    """Return expected-F1 thresholds, averaged over 30 bootstrap resamples."""
    rng = np.random.default_rng(0)
    rows = (rng.integers(0, len(probabilities), len(probabilities)) for _ in range(30))
    return np.asarray(np.mean([expected_thresholds(probabilities[each]) for each in rows], axis=0), np.float64)


def by_trees(here: Predictions, truth: Bools, there: Predictions) -> Bools:
    """Return the decisions of extremely randomized trees on the logits of all members, with out-of-bag thresholds."""
    known, new = (np.concatenate(list(logits_of(stack_members(each))), axis=1) for each in (here, there))
    forest = ExtraTreesRegressor(
        200, min_samples_leaf=2, max_features="sqrt", n_jobs=2, random_state=0, bootstrap=True, oob_score=True
    )
    forest.fit(known, truth.astype(float))
    thresholds = expected_thresholds(np.nan_to_num(forest.oob_prediction_))
    return np.asarray(forest.predict(new) > thresholds, np.bool_)


STACK = Stack(precision=100.0)

TRIED: dict[str, Predict] = {
    **WAYS,
    **{
        f"method {method.word}": partial(by_method, method)
        for method in (GlobalGrid(), Smooth(), Ratio(), Shrunk(), Exact(), ExpectedF1(), Stack())
    },
    "method auto, label shift": partial(by_method, "auto", label_shift=True),
    **{
        f"{ensemble}, Platt, expected": partial(without_rules, ExpectedF1(ensemble=ensemble), None)
        for ensemble in ("logit", "rank", "weighted", "class")
    },
    **{
        f"weighted, {kind}, expected": partial(without_rules, ExpectedF1(ensemble="weighted", calibration=kind), None)
        for kind in ("temperature", "isotonic", "beta")
    },
    **{
        f"stack of precision {precision:g}, expected": partial(without_rules, Stack(precision=precision), None)
        for precision in (10.0, 30.0, 100.0, 300.0, 1000.0)
    },
    "stack of precision 100, best F1": partial(without_rules, STACK, exact_thresholds),
    "stack of precision 100, mean of both thresholds": partial(without_rules, STACK, blended),
    "stack of precision 100, expected, resampled": partial(without_rules, STACK, resampled),
    "extremely randomized trees, expected": by_trees,
}


def main() -> None:
    """Print one row per method, best first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path, help="folder of labels.csv and one .npz per model")
    parser.add_argument("--splits", type=int, default=20, help="number of random splits into halves (default: 20)")
    parser.add_argument("--models", help="names of the models to use, separated by commas (default: all)")
    parser.add_argument(
        "--bench", action="store_true", help="compare only the methods of `python -m benchmarks decide`"
    )
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    given = parser.parse_args()
    members, truth = read_folder(given.predictions)
    if given.models:
        members = {name: members[name] for name in given.models.split(",")}
    rows = compare_on_halves(members, truth, WAYS if given.bench else TRIED, splits=given.splits)
    print(f"{'macro F1 on the other half':<48} {'mean':>6} {'gain':>7} {'min':>7} {'wins':>6}")
    for row in sorted(rows, key=lambda row: -row.macro_f1):
        print(f"{row.name:<48} {row.macro_f1:>6.4f} {row.gain:>+7.4f} {row.least:>+7.4f} {row.wins:>6.1%}")
    if given.out:
        given.out.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
