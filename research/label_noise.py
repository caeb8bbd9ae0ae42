"""What wrong labels cost, and what helps: ``python research/label_noise.py FOLDER --seeds 51 52 53``.

Each seed is a study of 1,000 simulated training fields and 500 test fields of 128 px (``--evenness 0.5``). In 15 % of
the training fields, one location is replaced by a wrong one. The recipe ``finetune``, which starts from the built-in
model, is trained on two folds with

- the true labels, which nobody has,
- the given labels,
- the given labels and the generalized cross-entropy instead of the loss of the recipe,
- the labels after every suspect of `cytoloc audit --predictions` is changed as it says,
- the labels after only the clear suspects are changed, with a score of 2 or more. This limit was chosen after looking
  at the suspects of the first two seeds.

The decision is fitted to the out-of-fold predictions and the same labels. The macro F1 is that of the mean of both
networks on the test fields and their true labels, over the locations with five or more test fields. An interrupted
script continues. The results are in FOLDER/results.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

import cytoloc as cl
from cytoloc.dataset.manifest import is_complete

FIELDS: Final = 1000
TESTS: Final = 500
SHARE: Final = 0.15
LEAST: Final = 5
CLEAR: Final = 2.0
"""Score from which suspects are clear: a wrong label is 100 times as likely as a right one, relative to the others."""

GENERALIZED: Final = {"loss.focal": 0, "loss.soft_f1": 0, "loss.generalized_cross_entropy": 1}

Truth = NDArray[np.bool_]


def simulated(path: Path, fields: int, *, seed: int) -> cl.Dataset:
    """Return a simulated dataset, which is made if it does not exist."""
    design = cl.Design(n_fields=fields, seed=seed, size=128, evenness=0.5)
    return cl.open_dataset(path) if is_complete(path) else cl.simulate_dataset(path, design)


def with_errors(truth: Truth, *, seed: int) -> Truth:
    """Return labels of which one is replaced by a wrong one in a share of the fields."""
    rng = np.random.default_rng(seed)
    labels = truth.copy()
    for row in np.flatnonzero(rng.random(len(truth)) < SHARE):
        labels[row, rng.choice(np.flatnonzero(truth[row]))] = False
        labels[row, rng.choice(np.flatnonzero(~truth[row]))] = True
    return labels


def labeled(dataset: cl.Dataset, labels: Truth, path: Path) -> cl.Dataset:
    """Return a dataset with the images of another one and other labels."""
    if is_complete(path):
        return cl.open_dataset(path)
    return cl.dataset_from_arrays(
        dataset[:],
        out=path,
        channels=dataset.channels,
        ids=dataset.ids,
        labels=labels,
        label_set=dataset.label_set,
        metadata={"well": dataset.fields["well"].to_list(), "plate": dataset.fields["plate"].to_list()},
    )


def corrected(suspects: pl.DataFrame, labels: Truth, dataset: cl.Dataset) -> Truth:
    """Return labels after every suspect is changed. A field that would lose all its labels keeps them."""
    rows = {name: row for row, name in enumerate(dataset.ids)}
    changed = labels.copy()
    for suspect in suspects.iter_rows(named=True):
        place = dataset.label_set.keys.index(suspect["key"])
        changed[rows[suspect["id"]], place] = suspect["problem"] == "missing"
    empty = ~changed.any(axis=1)
    changed[empty] = labels[empty]
    return changed


def macro_f1(decided: Truth, truth: Truth) -> float:
    """Return the macro F1 over the locations with five or more fields."""
    counted = truth.sum(axis=0) >= LEAST
    hits = (decided & truth).sum(axis=0)[counted]
    return float(np.mean(2 * hits / np.maximum((decided.sum(axis=0) + truth.sum(axis=0))[counted], 1)))


def trained(
    dataset: cl.Dataset, folds: pl.DataFrame, test: cl.Dataset, out: Path, overrides: dict[str, Any]
) -> tuple[float, cl.Predictions]:
    """Train two folds; return the macro F1 of their decision on the test fields, and the out-of-fold predictions."""
    options = cl.TrainOptions(resume=True, report=lambda _line: None)
    cl.train("finetune", dataset, folds, out=out, overrides=overrides, options=options)
    known = cl.read_predictions(out)
    decision = cl.fit_decision(known, dataset, groups=folds, intervals=False)
    found = cl.load(out).predict(test)
    return macro_f1(decision(found).decided, test.truth), known


def study(folder: Path, seed: int) -> dict[str, Any]:
    """Return the results of a study."""
    train = simulated(folder / "train.dataset", FIELDS, seed=seed)
    test = simulated(folder / "test.dataset", TESTS, seed=seed + 1000)
    folds = cl.make_folds(train, k=2)
    given = with_errors(train.truth, seed=seed)
    noisy = labeled(train, given, folder / "given.dataset")
    scores: dict[str, float] = {}
    scores["true labels"], _ = trained(train, folds, test, folder / "true", {})
    scores["given labels"], known = trained(noisy, folds, test, folder / "given", {})
    scores["generalized cross-entropy"], _ = trained(noisy, folds, test, folder / "generalized", GENERALIZED)
    wrong = given != train.truth
    result: dict[str, Any] = {"seed": seed, "wrong labels": int(wrong.sum())}
    every = cl.find_label_errors(known, noisy)
    for name, suspects in (("corrected", every), ("clear", every.filter(pl.col("score") >= CLEAR))):
        better = corrected(suspects, given, noisy)
        audited = labeled(train, better, folder / f"{name}.dataset")
        scores[name], _ = trained(audited, folds, test, folder / name, {})
        rows = {field: row for row, field in enumerate(train.ids)}
        hits = [
            wrong[rows[row["id"]], train.label_set.keys.index(row["key"])] for row in suspects.iter_rows(named=True)
        ]
        result[name] = {
            "suspects": len(hits),
            "found": int(np.sum(hits)),
            "found among the first, as many as there are wrong labels": int(np.sum(hits[: wrong.sum()])),
            "wrong labels after": int((better != train.truth).sum()),
        }
    return {**result, "macro F1": scores}


def main() -> None:
    """Run the studies, and print their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[51, 52, 53])
    words = parser.parse_args()
    results = []
    for seed in words.seeds:
        results.append(study(words.folder / str(seed), seed))
        print(json.dumps(results[-1]), flush=True)
    (words.folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
