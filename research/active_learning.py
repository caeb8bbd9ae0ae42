"""Which fields should be labeled first? Ways to choose them, compared on a simulated study.

    cytoloc simulate --fields 2400 --seed 91 --size 128 --original 256 --out study.dataset
    python research/active_learning.py study.dataset --plot active-learning.png

A third of the fields are test fields. Of the others, 100 are labeled at random. A logistic regression of each location
is fitted to the labeled fields. Its inputs are features of the built-in model: 128 principal components of all fields,
which need no labels. Then 50 more fields are chosen by its probabilities or by the features, and so on up to 600
labels. After each round, the macro F1 of the test fields is computed at a threshold of 0.5, over the locations with
five or more test fields. Every way is repeated with five seeds, which draw the test fields and the first 100 labels.
The output is the mean macro F1, and the number of labels at which a way reaches the macro F1 that a random choice has
with 600 labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

import cytoloc as cl
from cytoloc.embed.novelty import comparable, farthest_first

FIRST: Final = 100
STEP: Final = 50
LAST: Final = 600
SEEDS: Final = 5
LEAST: Final = 5

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


class Round(NamedTuple):
    """What is known when the next fields are chosen: their features, probabilities, and what is labeled."""

    features: Floats
    probabilities: Floats
    labeled: Floats
    frequencies: Floats
    rng: np.random.Generator


def entropy(known: Round) -> Floats:
    """Return the sum of the entropies of all probabilities of each field."""
    p = known.probabilities.clip(1e-6, 1 - 1e-6)
    return np.asarray(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum(axis=1))


def top(scores: Floats) -> Rows:
    """Return the rows of the highest scores."""
    return np.argsort(-scores, kind="stable")[:STEP]


def at_random(known: Round) -> Rows:
    """Choose at random."""
    return known.rng.permutation(len(known.features))[:STEP]


def most_uncertain(known: Round) -> Rows:
    """Choose the highest sums of entropies."""
    return top(entropy(known))


def far_from_labeled(known: Round) -> Rows:
    """Choose one by one the field that is farthest from all labeled fields (k-center)."""
    places = np.concatenate([known.labeled, known.features]).astype(np.float32)
    labeled = np.arange(len(places)) < len(known.labeled)
    return farthest_first(places, labeled, most=STEP)[:STEP] - len(known.labeled)


def likely_rare(known: Round) -> Rows:
    """Choose the highest probability of a location, compared with how often it was labeled so far."""
    return top((known.probabilities / (known.frequencies + 0.01)).max(axis=1))


def uncertain_about_rare(known: Round) -> Rows:
    """Choose the highest sum of entropies, each divided by how often the location was labeled so far."""
    p = known.probabilities.clip(1e-6, 1 - 1e-6)
    bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    return top((bits / (known.frequencies + 0.01)).sum(axis=1))


def uncertain_and_diverse(known: Round) -> Rows:
    """Choose from clusters of the 250 most uncertain fields the most uncertain field each."""
    scores = entropy(known)
    candidates = np.argsort(-scores, kind="stable")[: 5 * STEP]
    clusters = KMeans(STEP, n_init=1, random_state=0).fit_predict(known.features[candidates])
    return np.array([candidates[clusters == i][0] for i in range(STEP) if (clusters == i).any()])


WAYS: Final[dict[str, Callable[[Round], Rows]]] = {
    "at random": at_random,
    "most uncertain": most_uncertain,
    "far from labeled fields": far_from_labeled,
    "likely rare": likely_rare,
    "uncertain about rare": uncertain_about_rare,
    "uncertain and diverse": uncertain_and_diverse,
}


def fitted(features: Floats, truth: NDArray[np.bool_], of: Floats) -> Floats:
    """Return the probabilities of fields by logistic regressions; 0 or 1 for a location that all or none have."""
    found = np.empty((len(of), truth.shape[1]))
    for i, labels in enumerate(truth.T):
        if labels.all() or not labels.any():
            found[:, i] = float(labels.all())
        else:
            model = LogisticRegression(C=0.05, max_iter=200, class_weight="balanced").fit(features, labels)
            found[:, i] = model.predict_proba(of)[:, 1]
    return found


def curve(way: Callable[[Round], Rows], features: Floats, truth: NDArray[np.bool_], *, seed: int) -> list[float]:
    """Return the macro F1 of the test fields after each round."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(features))
    test, pool = order[: len(order) // 3], order[len(order) // 3 :]
    counted = truth[test].sum(axis=0) >= LEAST
    labeled, pool = pool[:FIRST], pool[FIRST:]
    scores = []
    while True:
        probabilities = fitted(features[labeled], truth[labeled], features)
        scores.append(
            float(
                f1_score(
                    truth[test][:, counted], probabilities[test][:, counted] > 0.5, average="macro", zero_division=0
                )
            )
        )
        if len(labeled) >= LAST:
            return scores
        chosen = way(Round(features[pool], probabilities[pool], features[labeled], truth[labeled].mean(axis=0), rng))
        labeled = np.concatenate([labeled, pool[chosen]])
        pool = np.delete(pool, chosen)


def main() -> None:
    """Print one line per way, and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="labeled dataset of simulated fields that the model has not seen")
    parser.add_argument("--plot", type=Path, help="new figure")
    given = parser.parse_args()
    study = cl.open_dataset(given.study)
    embedded = cl.load("builtin").embed(study)
    features = comparable(embedded).astype(np.float64)
    features = features / features.std()
    labels = np.arange(FIRST, LAST + 1, STEP)
    found = {
        name: np.array([curve(way, features, study.truth, seed=seed) for seed in range(SEEDS)])
        for name, way in WAYS.items()
    }
    goal = found["at random"].mean(axis=0)[-1]
    print(f"{len(study)} fields; macro F1, mean of {SEEDS} seeds; goal {goal:.3f}")
    for name, scores in found.items():
        mean = scores.mean(axis=0)
        gain = (scores - found["at random"]).mean(axis=1)
        reached = np.flatnonzero(mean >= goal)
        needed = f"{labels[reached[0]]} labels" if len(reached) else "not reached"
        places = "  ".join(f"{n}: {mean[list(labels).index(n)]:.3f}" for n in (200, 300, 400, 600))
        over_all = f"{gain.mean():+.3f} ({gain.min():+.3f} to {gain.max():+.3f})"
        print(f"{name:<26} {places}   over all rounds {over_all}   {needed}")
        plt.plot(labels, mean, label=name)
    if given.plot:
        plt.xlabel("labeled fields")
        plt.ylabel("macro F1 of test fields")
        plt.legend()
        plt.savefig(given.plot, dpi=150)


if __name__ == "__main__":
    main()
