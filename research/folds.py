"""Compare folds of the competition's training set by iterative stratification with the folds of `cytoloc folds`.

    python research/folds.py METADATA

METADATA contains train.csv.gz and the published lists of near-duplicates. For each method and five seeds, the output is
the worst imbalance of a class over folds, the difference in fold size, and the time. The imbalance is (most - fewest) /
mean of its fields and of its groups, if the numbers differ by more than one.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from numpy.typing import NDArray

from cytoloc.curation.fold_quality import FoldQuality, fold_quality
from cytoloc.curation.folds import class_counts, make_folds
from cytoloc.curation.folds import table_of as folds_table
from cytoloc.curation.groups import groups_of_fields, listed_fields
from cytoloc.curation.pairs import tied_ids
from cytoloc.labels.label_set import LabelSet

LISTS = (
    "external_train_duplicates.txt",
    "external_test_duplicates.txt",
    "train_duplicates.txt",
    "test_duplicates.txt",
    "train_near_duplicates_2021.csv.gz",
    "TestEtraMatchingUnder_259_R14_G12_B10.csv",
)


def spread(counts: NDArray[np.int64]) -> float:
    """Return the worst (most - fewest) / mean over folds, of classes with at least one group per fold."""
    apart = counts.max(axis=1) - counts.min(axis=1)
    could = counts.sum(axis=1) >= counts.shape[1]
    return float(np.where(could & (apart > 1), apart / np.maximum(counts.mean(axis=1), 1), 0.0).max())


def show(way: str, found: list[FoldQuality], seconds: float) -> None:
    """Print the worst result of all seeds."""
    fields, groups = max(spread(q.class_fields) for q in found), max(spread(q.class_groups) for q in found)
    size = max(int(q.fields.max() - q.fields.min()) for q in found)
    print(f"{way:<28} fields {fields:.3f}   groups {groups:.3f}   size {size:>3}   {seconds / len(found):.1f} s each")


def main() -> None:
    """Print one line per method."""
    metadata = Path(sys.argv[1])
    label_set = LabelSet.hpa28()
    fields = listed_fields(metadata / "train.csv.gz", label_set)
    pairs = [pair for name in LISTS for pair in tied_ids(metadata / name)]
    groups = groups_of_fields(fields, pairs=pairs)
    truth = label_set.to_matrix(fields["labels"].to_list())
    print(f"{fields.height} fields, {len(pairs)} pairs listed, {groups.max() + 1} groups")
    started, plain = time.perf_counter(), []
    for seed in range(5):
        present = class_counts(truth, groups)[0]
        fold = np.empty(len(present), np.int64)
        splitter = MultilabelStratifiedKFold(n_splits=5, shuffle=True, random_state=seed)
        for number, (_, held_out) in enumerate(splitter.split(present, present)):
            fold[held_out] = number
        made = folds_table(fields, groups, np.ones(len(groups), bool), fold[groups])
        plain.append(fold_quality(made, fields, label_set))
    show("iterative stratification", plain, time.perf_counter() - started)
    started = time.perf_counter()
    balanced = [fold_quality(make_folds(fields, pairs=pairs, seed=seed), fields, label_set) for seed in range(5)]
    show("balanced (cytoloc folds)", balanced, time.perf_counter() - started)
    print(f"A random split separates {balanced[0].cut_at_random} of {balanced[0].together} pairs.")


if __name__ == "__main__":
    main()
