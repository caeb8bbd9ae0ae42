"""A dataset that is added to is read in order, without its whole table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cytoloc.dataset import base
from cytoloc.dataset.base import Base
from cytoloc.dataset.kaggle import import_kaggle
from cytoloc.dataset.store import open_dataset
from cytoloc.errors import FormatError


@pytest.fixture
def path(pictures: Path, tmp_path: Path) -> Path:
    return import_kaggle(pictures, path=tmp_path / "a.dataset", labels=pictures / "labels.csv", size=32).path


def test_it_says_what_the_dataset_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_ROWS_AT_A_TIME", 2)
    dataset, same = open_dataset(path), Base(path)
    assert (len(same), same.size, same.header) == (3, 32, dataset.header)
    assert tuple(same.ids()) == dataset.ids
    for start in range(4):
        for stop in range(start, 4):
            assert list(same.rows(start, stop)) == dataset.fields[start:stop].to_dicts()
            np.testing.assert_array_equal(same.images(start, stop), dataset.read(list(range(start, stop))))


def test_a_table_of_another_dataset_is_damage(path: Path) -> None:
    table = pl.read_parquet(path / "fields.parquet")
    table.head(2).write_parquet(path / "fields.parquet")
    with pytest.raises(FormatError, match="not the table that was written"):
        Base(path)
    table.drop("sha256").write_parquet(path / "fields.parquet")
    with pytest.raises(FormatError, match="not the table that was written"):
        Base(path)
    (path / "fields.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(FormatError, match="damaged"):
        Base(path)


def test_any_changed_byte_of_a_table_is_damage(path: Path) -> None:
    # There are some by which polars ends the process.
    good, rng = (path / "fields.parquet").read_bytes(), np.random.default_rng(0)
    for place in rng.integers(len(good), size=100):
        changed = bytearray(good)
        changed[place] ^= 1 << int(rng.integers(8))
        (path / "fields.parquet").write_bytes(changed)
        for read in (open_dataset, Base):
            with pytest.raises(FormatError, match="not the table that was written"):
                read(path)


def test_damage_beside_the_table_is_found_before_anything_is_begun(path: Path, pictures: Path) -> None:
    def refused(said: str) -> None:
        with pytest.raises(FormatError, match=said):
            import_kaggle(pictures, path=path, labels=None, size=32, append=True)
        assert [each.name for each in path.parent.iterdir() if each.name.startswith(("a.dataset", ".a.dataset"))] == [
            "a.dataset"
        ]

    header = json.loads((path / "dataset.json").read_text())
    (path / "dataset.json").write_text(json.dumps({**header, "quarantined": 1}))
    refused(r"quarantine\.csv has 0 rows, 0 of them whole, for 1 fields")
    for content, said in (
        ("", "is damaged: empty CSV"),
        ("id,why\na,b\n", "is damaged: "),
        ("id,reason\n", "has 0 rows"),
        ("id,reason\na\n", "has 1 rows, 0 of them whole"),
        ("id,reason\na,b\nc,d\n", "has 2 rows"),
        ("id,reason\na,b\nc\n", "has 2 rows, 1 of them whole"),
    ):
        (path / "quarantine.csv").write_text(content)
        refused(rf"quarantine\.csv {said}")
    (path / "quarantine.csv").unlink()
    (path / "dataset.json").write_text(json.dumps({**header, "made_by": None}))
    refused("does not say what the dataset was made by")
    (path / "dataset.json").write_text(json.dumps(header))
    (path / "images.zarr" / "c" / "0" / "0" / "0" / "0").unlink()
    refused("damaged")


def test_damage_within_the_table_is_found_before_anything_is_begun(path: Path, pictures: Path) -> None:
    content = bytearray((path / "fields.parquet").read_bytes())
    content[10:60] = bytes(each ^ 255 for each in content[10:60])
    (path / "fields.parquet").write_bytes(content)
    with pytest.raises(FormatError, match="damaged"):
        import_kaggle(pictures, path=path, labels=None, size=32, append=True)
    assert [each.name for each in path.parent.iterdir() if each.name.startswith("a.dataset")] == ["a.dataset"]


def test_a_header_without_a_size_is_damage(path: Path) -> None:
    header = json.loads((path / "dataset.json").read_text())
    del header["size"]
    (path / "dataset.json").write_text(json.dumps(header))
    with pytest.raises(FormatError, match="do not agree"):
        Base(path)


def test_names_with_brackets_are_no_patterns(path: Path, pictures: Path) -> None:
    moved = path.rename(path.with_name("a[1]*.dataset"))
    assert len(import_kaggle(pictures, path=moved, labels=None, size=32, append=True, skip_known=True).dataset) == 3
