from __future__ import annotations

import numpy as np
import polars as pl

from cytoloc.curation.fold_quality import fold_quality
from cytoloc.labels.label_set import LabelSet


def test_counts_are_those_of_fields_and_groups() -> None:
    folds = pl.DataFrame(
        {"id": list("abcdefg"), "group": [0, 0, 1, 2, 2, 2, 3], "fold": [0, 0, 1, 1, 1, 1, None]},
    )
    fields = pl.DataFrame({"id": list("gfedcba"), "labels": [[9], [7], [7], [0, 7], [0], [0], [0]]})
    found = fold_quality(folds, fields, LabelSet.hpa28())
    assert found.fields.tolist() == [2, 4]
    assert found.groups.tolist() == [1, 2]
    assert found.class_fields[0].tolist() == [2, 2]
    assert found.class_groups[0].tolist() == [1, 2]
    assert found.class_fields[7].tolist() == [0, 3]
    assert found.class_fields[9].tolist() == [0, 0]  # its only field is left out
    assert found.together == 1 + 3
    assert found.scarce == (7,)
    # Nucleoplasm has two fields in each fold; Golgi has one group and cannot be spread.
    assert found.worst == (0, 0.0)
    assert found.table().filter(pl.col("key") == "7").select("fields", "groups", "fields_1").row(0) == (3, 1, 3)


def test_a_random_split_tears_apart_what_it_can() -> None:
    # All pairs of two: half of them are torn apart by halves, all of them by folds of one field.
    group = np.repeat(np.arange(500), 2)
    fields = pl.DataFrame({"id": [str(row) for row in range(1000)], "labels": [[0]] * 1000})
    halves = fields.select("id", group=pl.Series(group), fold=pl.Series(group % 2))
    found = fold_quality(halves, fields, LabelSet.hpa28())
    assert found.together == 500
    assert 200 < found.cut_at_random < 300
