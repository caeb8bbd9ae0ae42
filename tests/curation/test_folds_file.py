from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cytoloc.curation.folds import make_folds
from cytoloc.curation.folds_file import read_folds, refuse_crossing, write_folds
from cytoloc.dataset.store import Dataset
from cytoloc.errors import TableError


def test_csv_round_trip(study: Dataset, tmp_path: Path) -> None:
    folds = make_folds(study.fields, k=3)
    write_folds(folds, tmp_path / "folds.csv")
    assert read_folds(tmp_path / "folds.csv").equals(folds)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,group,fold\na,0,0\nb,0,1\n", "1 groups are in several folds, such as group 0"),
        ("id,group,fold\na,0,0\na,0,0\n", "a occurs twice"),
        ("id,fold\na,0\n", "lacks the column group"),
        ("id,group,fold\na,0,x\n", "not a folds file"),
        ("id,group,fold\na,0,\n", "empty cells"),
        ("id,group,fold\n", "empty"),
        ("id,group,fold\na,0,1\nb,1,2\n", "numbered 1, 2"),
        ("id,group,fold\na,0,-1\nb,1,0\n", "numbered -1, 0"),
        ("id,group,fold\na,0,0\nb,1,400000000000\n", "numbered 0, 400000000000"),
        ("id,group,fold\na,0,0\nb,1,0\n", "only one fold"),
        ("id, group, fold\na,0,0\nb,1,1\n", "spaces next to the commas"),
        ("Id,Fold\na,0\nb,1\n", "Make a folds file with `cytoloc folds`"),
        ("", "cannot be read as CSV"),
    ],
)
def test_bad_folds_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "folds.csv"
    path.write_text(content)
    with pytest.raises(TableError, match=r"folds\.csv") as caught:
        read_folds(path)
    assert message in str(caught.value)


def test_what_belongs_together_must_not_cross_whatever_the_file_says() -> None:
    folds = pl.DataFrame({"id": ["a", "b", "c", "d"], "group": [0, 1, 2, 3], "fold": [0, 1, 1, None]})
    where = Path("folds.csv")
    refuse_crossing(folds, ["a", "b", "c"], np.array([0, 1, 1]), where=where)
    refuse_crossing(folds, ["a", "d"], np.array([0, 0]), where=where)
    with pytest.raises(
        TableError, match=r"fields of the same group are in different folds, in 1 groups, such as a and c"
    ):
        refuse_crossing(folds, ["a", "b", "c"], np.array([0, 1, 0]), where=where)
    with pytest.raises(TableError, match=r"has no row for 1 of 2 fields, such as e"):
        refuse_crossing(folds, ["a", "e"], np.array([0, 1]), where=where)


def test_anybodys_folds_may_lack_groups(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("Id,Fold\na,0\nb,1\nc,\n")
    folds = read_folds(tmp_path / "f.csv", grouped=False)
    assert folds.rows() == [("a", 0, 0), ("b", 1, 1), ("c", 2, None)]
    # As pandas writes whole numbers beside an empty cell.
    (tmp_path / "f.csv").write_text("Id,Fold\na,0.0\nb,1.0\nc,\n")
    assert read_folds(tmp_path / "f.csv", grouped=False).equals(folds)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id;group\na;0\n", r"lacks the column fold; it has id, group\."),
        ("id,fold\na,half\n", "not a folds file: folds must be integers"),
    ],
)
def test_anybodys_folds_are_refused_by_what_they_say(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "f.csv").write_text(content)
    with pytest.raises(TableError, match=message):
        read_folds(tmp_path / "f.csv", grouped=False)
