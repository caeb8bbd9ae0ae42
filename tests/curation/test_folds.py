from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cytoloc.curation.folds import make_folds
from cytoloc.curation.folds_file import read_folds, write_folds
from cytoloc.dataset.store import Dataset
from cytoloc.errors import TableError


def test_every_field_has_one_fold_and_wells_stay_together(study: Dataset) -> None:
    folds = make_folds(study.fields, k=3)
    assert folds["id"].to_list() == list(study.ids)
    assert sorted(folds["fold"].unique().to_list()) == [0, 1, 2]
    joined = folds.join(study.fields, on="id")
    wells = joined.group_by("antibody", "plate", "well").agg(pl.col("fold").n_unique(), pl.col("group").n_unique())
    assert wells["fold"].max() == wells["group"].max() == 1
    assert joined["group"].n_unique() == wells.height < len(study)


def test_pairs_join_groups_and_strange_ids_are_passed_over(study: Dataset) -> None:
    chain = [(study.ids[i], study.ids[i + 7]) for i in range(0, 28, 7)]
    folds = make_folds(study.fields, k=2, group_by="field", pairs=[*chain, ("elsewhere", study.ids[0])])
    group = dict(folds.select("id", "group").iter_rows())
    assert len({group[study.ids[i]] for i in range(0, 35, 7)}) == 1
    assert folds["group"].n_unique() == len(study) - 4
    assert folds.group_by("group").agg(pl.col("fold").n_unique())["fold"].max() == 1


def test_locations_are_shared_out(study: Dataset) -> None:
    folds = make_folds(study.fields, k=2, group_by="field")
    in_first = folds["fold"].to_numpy() == 0
    total = study.truth.sum(axis=0)
    share = study.truth[in_first].sum(axis=0)
    common = total >= 6
    assert common.any()
    assert (np.abs(share - total / 2)[common] <= np.maximum(1, 0.2 * total[common])).all()


def test_the_seed_decides(study: Dataset) -> None:
    assert make_folds(study.fields, k=3, seed=1).equals(make_folds(study.fields, k=3, seed=1))
    assert not make_folds(study.fields, k=3, seed=1).equals(make_folds(study.fields, k=3, seed=2))


@pytest.mark.parametrize("k", [1, 0, 1000])
def test_impossible_numbers_of_folds_are_refused(study: Dataset, k: int) -> None:
    with pytest.raises(TableError, match=f"cannot be split into {k} folds"):
        make_folds(study.fields, k=k)


def test_flagged_fields_are_left_out_and_stay_in_the_file(study: Dataset, tmp_path: Path) -> None:
    flags = [["er blurred"], ["er empty", "nucleus swapped"], *[[]] * (len(study) - 2)]
    marked = Dataset(study.path, study.manifest, study.fields.with_columns(pl.Series("flags", flags)), None)
    for without, expected in ((["blurred"], 1), (["er blurred", "swapped"], 2), (["protein blurred"], 0), ([], 0)):
        folds = make_folds(marked.fields, k=2, without=without)
        assert folds["id"].to_list() == list(study.ids)
        assert folds["fold"].null_count() == expected
    path = tmp_path / f"{expected}.csv"
    folds = make_folds(marked.fields, k=2, without=["blurred", "empty"])
    write_folds(folds, path)
    assert read_folds(path).equals(folds)
    assert folds.filter(pl.col("fold").is_null())["id"].to_list() == list(study.ids[:2])


@pytest.mark.parametrize("flag", ["blurry", "cytosol blurred"])
def test_a_flag_that_there_is_not_is_refused(study: Dataset, flag: str) -> None:
    with pytest.raises(TableError, match=f"'{flag}' is not a quality flag"):
        make_folds(study.fields, k=2, without=[flag])


def test_wells_stay_together_where_the_antibody_is_not_known(study: Dataset) -> None:
    wells = pl.Series("well", [f"A{row // 4:02d}" for row in range(len(study))])
    plain = study.fields.with_columns(pl.lit(None, pl.String).alias("antibody"), pl.lit("P1").alias("plate"), wells)
    folds = make_folds(plain, k=2)
    joined = folds.join(plain, on="id").group_by("well").agg(pl.col("fold").n_unique(), pl.col("group").n_unique())
    assert joined["fold"].max() == joined["group"].max() == 1
    assert folds["group"].n_unique() == joined.height == -(-len(study) // 4)


def test_folds_are_evened_in_fields_too() -> None:
    # Twelve groups of one field and four of ten: by groups alone a fold may get none of the large ones.
    rng = np.random.default_rng(0)
    wells = [f"A{number}" for number in [*range(12), *np.repeat(np.arange(12, 16), 10)]]
    labels = [[int(rng.integers(0, 2))] for _ in wells]
    fields = pl.DataFrame(
        {"id": [str(row) for row in range(len(wells))], "labels": labels, "plate": "1", "well": wells},
    ).with_columns(antibody=pl.lit(None, pl.String))
    for seed in range(5):
        folds = make_folds(fields, k=4, seed=seed)
        assert folds["fold"].value_counts()["count"].to_list() == [13] * 4


def test_a_label_list_has_no_flags() -> None:
    fields = pl.DataFrame({"id": ["a"], "labels": [[0]], "antibody": ["1"], "plate": ["1"], "well": ["1"]})
    with pytest.raises(TableError, match="contains no quality flags"):
        make_folds(fields, without=["blurred"])
