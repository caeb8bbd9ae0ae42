"""Fit the decision of the built-in model to real fields, of which few are labeled, and to known frequencies.

    python research/builtin_decision.py adjusted.cytoloc simulated.parquet simulated.dataset real128.dataset train.csv
                                        --out decision.json

Simulated fields say how probabilities of the network become frequencies on simulated fields, but real fields look
different: too many locations are predicted for them. So the probability of each location is

    sigmoid(slope * logit + intercept of the location)

The intercept is set so that the mean probability of all real fields, which needs no labels, is the frequency of the
location in the training labels of the 2018 competition. Labels of the real fields are used for one number only: the
slope, the same for all locations, is the one of 0.5, 1, 1.5, 2, 2.5 and 3 with the smallest log loss. The thresholds
are those of the method ``expected``.

First, the same is done with one half of the real fields, and the other half is evaluated, in five divisions. The
decision that was fitted to simulated fields is evaluated on the same halves.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.metrics import f1_score, precision_score

import cytoloc as cl
from cytoloc.decide.calibration import Calibration
from cytoloc.decide.decision import Decision, write_decision
from cytoloc.decide.thresholds import expected_thresholds
from cytoloc.labels.lists import read_labels

SLOPES: Final = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
SPLITS: Final = 5

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def matched(decision: Decision, scores: Floats, truth: Bools, frequencies: Floats) -> Decision:
    """Return a decision that is calibrated to frequencies of locations, with one slope that is fitted to labels."""
    logits = logit(scores.astype(np.float64).clip(1e-6, 1 - 1e-6))

    def curves(slope: float) -> Floats:
        def excess(intercept: float, column: int) -> float:
            return float(expit(slope * logits[:, column] + intercept).mean() - frequencies[column])

        intercepts = [brentq(excess, -60, 60, args=(column,)) for column in range(logits.shape[1])]
        return np.column_stack([intercepts, np.full((len(intercepts), 2), slope)])

    def loss(curve: Floats) -> float:
        p = expit(curve[:, 0] + curve[:, 1] * logits)
        return float(-np.where(truth, np.log(p), np.log1p(-p)).mean())

    best = min((curves(slope) for slope in SLOPES), key=loss)
    calibration = Calibration("platt", best)
    probabilities = calibration(scores)
    return replace(
        decision,
        probability_model=replace(decision.probability_model, calibration=calibration),
        thresholds=expected_thresholds(probabilities),
        frequencies=frequencies,
        intervals=None,
        fitted_on={"fields": len(scores), "slope": float(best[0, 1]), "frequencies": "labels of the 2018 competition"},
    )


def decided(decision: Decision, scores: Floats) -> Bools:
    """Return the locations that a decision gives fields with these scores, which are not calibrated."""
    return decision.decide_calibrated(decision.probabilities(scores))


def figures(found: Bools, truth: Bools) -> list[float]:
    """Return the macro F1, the micro F1, the micro precision, and the number of locations per field."""
    return [
        float(f1_score(truth, found, average="macro", zero_division=0)),
        float(f1_score(truth, found, average="micro", zero_division=0)),
        float(precision_score(truth, found, average="micro", zero_division=0)),
        float(found.sum(axis=1).mean()),
    ]


def main() -> None:
    """Print the figures of both decisions, and write the matched one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the adjusted bundle")
    parser.add_argument("predictions", type=Path, help="predictions of simulated fields that took no part in training")
    parser.add_argument("simulated", type=Path, help="dataset with the labels of these fields")
    parser.add_argument("real", type=Path, help="labeled dataset of real fields")
    parser.add_argument("labels", type=Path, help="training labels of the 2018 competition")
    parser.add_argument("--out", type=Path, required=True, help="new decision file")
    given = parser.parse_args()
    of_simulated = cl.fit_decision(
        cl.read_predictions(given.predictions), cl.open_dataset(given.simulated), method="expected", intervals=False
    )
    real = cl.open_dataset(given.real)
    labels = read_labels(given.labels, real.label_set)
    frequencies = real.label_set.to_matrix(list(labels.values())).mean(axis=0)
    model = cl.load(given.model, unusual="decide").without_decision()
    scores, truth = model.predict(real).probabilities, real.truth
    rng = np.random.default_rng(0)
    results = []
    for _ in range(SPLITS):
        order = rng.permutation(len(real))
        half = len(order) // 2
        for tuning, reporting in ((order[:half], order[half:]), (order[half:], order[:half])):
            fitted = matched(of_simulated, scores[tuning], truth[tuning], frequencies)
            results.append(
                [figures(decided(one, scores[reporting]), truth[reporting]) for one in (of_simulated, fitted)]
            )
    print("reporting halves: macro F1, micro F1, micro precision, locations per field")
    for name, row in zip(("fitted to simulated fields", "matched"), np.mean(results, axis=0), strict=True):
        print(f"{name:<28}" + "  ".join(f"{value:.3f}" for value in row))
    decision = matched(of_simulated, scores, truth, frequencies)
    print("all real fields, which the decision was fitted to:", figures(decided(decision, scores), truth))
    print("slope", decision.fitted_on["slope"], "locations per simulated field", of_simulated.frequencies.sum())
    write_decision(decision, given.out)


if __name__ == "__main__":
    main()
