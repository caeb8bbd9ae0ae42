from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cytoloc.curation.target_fold import looks_in_list, looks_of_dataset, pick_like
from cytoloc.dataset.store import Dataset
from cytoloc.errors import TableError


def a_study(n: int = 600) -> tuple[pl.DataFrame, pl.DataFrame]:
    rng = np.random.default_rng(0)
    ids = [str(row) for row in range(n)]
    fields = pl.DataFrame(
        {
            "id": ids,
            "labels": [[int(i)] for i in rng.integers(0, 3, n)],
            "plate": "1",
            "well": [f"A{row // 2}" for row in range(n)],
        }
    ).with_columns(antibody=pl.lit(None, pl.String))
    looks = pl.DataFrame(
        {"id": ids, "original_px": rng.choice([2048.0, 3072.0], n, p=[0.8, 0.2]), "mean_protein": rng.normal(15, 4, n)}
    )
    return fields, looks


def test_the_picked_fold_looks_like_the_target_and_keeps_groups_and_classes() -> None:
    fields, looks = a_study()
    rng = np.random.default_rng(1)
    target = pl.DataFrame(
        {
            "id": [f"t{row}" for row in range(400)],
            "original_px": rng.choice([2048.0, 3072.0], 400, p=[0.5, 0.5]),
            "mean_protein": rng.normal(13, 3, 400),
        }
    )
    folds, alike = pick_like(fields, looks, target, k=5)
    assert [each.look for each in alike] == ["original_px", "mean_protein"]
    assert all(each.after < 0.05 < each.before for each in alike)
    picked = folds["fold"] == 0
    assert abs(int(picked.sum()) - 120) <= 2
    large = (looks.filter(picked)["original_px"] == 3072).to_numpy().mean()
    assert abs(large - (target["original_px"] == 3072).to_numpy().mean()) < 0.05
    assert folds.group_by("group").agg(pl.col("fold").n_unique())["fold"].max() == 1
    classes = fields.with_columns(label=pl.col("labels").list.first())
    for label in range(3):
        of_class = classes["label"] == label
        assert abs(int((picked & of_class).sum()) - int(of_class.sum()) / 5) <= 3


def test_the_looks_of_an_dataset_are_its_means(study: Dataset) -> None:
    looks = looks_of_dataset(study)
    assert looks.columns == ["id", "original_px", *(f"mean_{channel}" for channel in study.channels)]
    assert looks["original_px"].to_list() == study.fields["original_px"].to_list()
    assert looks.row(3)[2:] == pytest.approx(study[3].reshape(4, -1).astype(float).mean(axis=1))


def test_sizes_are_read_off_the_published_lists(tmp_path: Path) -> None:
    path = tmp_path / "sizes.csv"
    path.write_text("Id,Target,file_size\na,16 0,9438800\nb,7,4195920\n")
    assert looks_in_list(path).rows() == [("a", 3072.0), ("b", 2048.0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Id,Target\na,0\n", "contains no features of its fields"),
        ("Id,original_px\na,large\n", "id a: original_px is 'large', which is not a number"),
        ("Id,original_px\na,\n", "not a number"),
        ("Id,original_px\na,nan\n", "not a number"),
        ("Id,original_px\na,1\na,1\n", "occurs twice"),
        ("Id,original_px\n", "has no rows"),
        ("Id,file_size\na,-5\n", "not a number from 0"),
    ],
)
def test_bad_lists_of_looks_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "looks.csv"
    path.write_text(content)
    with pytest.raises(TableError, match=message):
        looks_in_list(path)


def test_what_cannot_be_compared_is_refused() -> None:
    fields, looks = a_study(20)
    with pytest.raises(TableError, match="have the features original_px"):
        pick_like(fields, looks.select("id", "original_px"), looks.select("id", "mean_protein"))
    with pytest.raises(TableError, match="5 of 20 fields have no original_px"):
        pick_like(fields, looks.head(15), looks)
    with pytest.raises(TableError, match="form 10 groups, too few to select 1/11 of them"):
        pick_like(fields, looks, looks, k=11)


def test_the_looks_of_any_channel_are_read(tmp_path: Path) -> None:
    path = tmp_path / "looks.csv"
    path.write_text("Id,mean_actin,file_size,note\na,3.5,9437313,x\n")
    assert looks_in_list(path).rows(named=True) == [{"id": "a", "original_px": 3072.0, "mean_actin": 3.5}]
