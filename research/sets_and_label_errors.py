"""Prediction sets and label errors on real predictions: ``python research/sets_and_label_errors.py FOLDER``.

FOLDER has ``labels.csv`` and one ``.npz`` with ``probabilities`` per model. Prediction sets are fitted to the mean of
all models on one random half, and measured on the other. For label errors, a share of the labels is changed at random,
and the suspects are compared with these changes. Labels that were wrong before count as false suspects.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

import cytoloc as cl
from cytoloc.decide.coverage import fit_coverage

SPLITS = 20
SHARES = (0.02, 0.05, 0.1)


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean probabilities of all models, and the labels."""
    label_set = cl.LabelSet.hpa28()
    listed = pl.read_csv(folder / "labels.csv", infer_schema=False)
    truth = label_set.to_matrix([label_set.parse(text, where="labels") for text in listed[listed.columns[-1]]])
    models = [np.load(path)["probabilities"] for path in sorted(folder.glob("*.npz"))]
    return np.mean(models, axis=0), truth


def sets(probabilities: np.ndarray, truth: np.ndarray, coverage: float) -> str:
    """Return the coverage and the size of sets on unseen halves, as a row of a table."""
    rng = np.random.default_rng(0)
    covered, sizes = [], []
    for _ in range(SPLITS):
        order = rng.permutation(len(truth))
        half, rest = np.array_split(order, 2)
        found = fit_coverage(probabilities[half], truth[half], coverage=coverage).sets(probabilities[rest])
        covered.append((found | ~truth[rest]).all(axis=1).mean())
        sizes.append(found.sum(axis=1).mean())
    return (
        f"| {coverage:g} | {np.mean(covered):.3f} ({min(covered):.3f} to {max(covered):.3f}) | {np.mean(sizes):.2f} |"
    )


def label_errors(probabilities: np.ndarray, truth: np.ndarray, share: float, kind: str) -> str:
    """Return how many changed labels are found, as a row of a table."""
    rng = np.random.default_rng(1)
    labels = truth.copy()
    changed: set[tuple[str, str]] = set()
    for row in np.flatnonzero(rng.random(len(truth)) < share):
        have, lack = np.flatnonzero(truth[row]), np.flatnonzero(~truth[row])
        if kind == "missing" and len(have) < 2:
            continue
        if kind in ("missing", "exchanged"):
            out = int(rng.choice(have))
            labels[row, out] = False
            changed.add((str(row), str(out)))
        if kind in ("extra", "exchanged"):
            into = int(rng.choice(lack))
            labels[row, into] = True
            changed.add((str(row), str(into)))
    ids = tuple(map(str, range(len(truth))))
    predictions = cl.Predictions(ids, probabilities.astype(np.float32), cl.LabelSet.hpa28())
    listed = {name: tuple(np.flatnonzero(row).tolist()) for name, row in zip(ids, labels, strict=True)}
    suspects = [(row["id"], row["key"]) for row in cl.find_label_errors(predictions, listed).iter_rows(named=True)]
    hits = [pair in changed for pair in suspects]
    first = sum(hits[: len(changed)])
    return (
        f"| {share:.0%} of the fields, {kind} | {len(changed)} | {len(suspects)} | {sum(hits)} |"
        f" {first / max(len(changed), 1):.2f} |"
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    probabilities, truth = read(parser.parse_args().folder)
    print("| coverage asked for | coverage on unseen halves | locations per set |\n|---|---|---|")
    for coverage in (0.8, 0.9, 0.95):
        print(sets(probabilities, truth, coverage))
    print(
        "\n| changed labels | number | suspects | found | found among as many first suspects |\n|---|---|---|---|---|"
    )
    for kind in ("missing", "extra", "exchanged"):
        for share in SHARES:
            print(label_errors(probabilities, truth, share, kind))


if __name__ == "__main__":
    main()
