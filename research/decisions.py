"""What was tried on the way from probabilities to locations, each on halves of real scores that it was not fitted to.

    python research/decisions.py PREDICTIONS [--splits 20] [--models A,B,…] [--bench] [--out decisions.json]

PREDICTIONS holds an .npz of held-out probabilities per model, and labels.csv. No number in the package is tuned to
these figures: what could be is estimated or chosen inside each fit. They are the record of what helps and what does
not. --models takes some of the models only, --bench only the ways that `python -m benchmarks decide` compares.
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
    """Return the decisions of a method without rules after the thresholds, or with thresholds found in another way."""
    stack = stack_members(here)
    model = fit_probabilities(method, stack, truth)
    probabilities = out_of_fold_probabilities(method, stack, truth, assign_parts(row_keys(stack), None), start=model)
    return model(stack_members(there)) > (thresholds or method.thresholds)(probabilities, truth)


def blended(probabilities: Floats, truth: Bools) -> Floats:
    """Return thresholds halfway between those of the best F1 and of the best expected F1."""
    return (exact_thresholds(probabilities, truth) + expected_thresholds(probabilities)) / 2


def resampled(probabilities: Floats, _truth: Bools) -> Floats:
    """Return expected thresholds averaged over 30 bootstrap resamples."""
    rng = np.random.default_rng(0)
    rows = (rng.integers(0, len(probabilities), len(probabilities)) for _ in range(30))
    return np.asarray(np.mean([expected_thresholds(probabilities[each]) for each in rows], axis=0), np.float64)


def by_trees(here: Predictions, truth: Bools, there: Predictions) -> Bools:
    """Return what extremely randomized trees on all members' logits decide; thresholds are of fields out of the bag."""
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
    "stack of precision 100, best F1 seen": partial(without_rules, STACK, exact_thresholds),
    "stack of precision 100, halfway between both": partial(without_rules, STACK, blended),
    "stack of precision 100, expected, resampled": partial(without_rules, STACK, resampled),
    "extremely randomized trees, expected": by_trees,
}


def main() -> None:
    """Print a row per way, the best first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--models")
    parser.add_argument("--bench", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    members, truth = read_folder(given.predictions)
    if given.models:
        members = {name: members[name] for name in given.models.split(",")}
    rows = compare_on_halves(members, truth, WAYS if given.bench else TRIED, splits=given.splits)
    print(f"{'macro F1 on the half that was not seen':<48} {'mean':>6} {'gain':>7} {'least':>7} {'wins':>6}")
    for row in sorted(rows, key=lambda row: -row.macro_f1):
        print(f"{row.name:<48} {row.macro_f1:>6.4f} {row.gain:>+7.4f} {row.least:>+7.4f} {row.wins:>6.1%}")
    if given.out:
        given.out.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
