"""Lists of ids, labels and groups as people have them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cytoloc.errors import CytolocError, TableError
from cytoloc.lists import read_groups, read_ids, read_labels


def test_groups_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_text("Id,group\na,well 3\nb,well 1\nc,well 3\n")
    assert read_groups(path, ["c", "b", "a"]).tolist() == [1, 0, 1]
    path.write_text("id,group,fold\na,10,0\nb,9,0\nc,,0\n")
    assert read_groups(path, ["a", "b"]).tolist() == [1, 0]
    for ids in (["a", "c"], ["a", "d"]):
        with pytest.raises(TableError, match=rf"lacks the group of 1 of the scored fields, e\.g\. {ids[1]}"):
            read_groups(path, ids)
    path.write_text("id,well\na,7\n")
    with pytest.raises(TableError, match="lacks the column group"):
        read_groups(path, ["a"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Id,Label\na,0\n", "lacks the column Target; it has Id, Label"),
        ("Id;Target\na;0\n", "separated by semicolons"),
        ("Id\tTarget\na\t0\n", "separated by tabs"),
        ("ID,Label\na,0|3\n", "audit --classes 2021"),
        ("Id,Target\r\r\na,0\r\r\n", "lines do not end as"),
        ("PK\x03\x04 a workbook", "is a zip archive, perhaps an Excel workbook"),
        ("Id,Target\n", "has no rows"),
        ("Id,Target\na,0\na,1\n", "the id a occurs twice"),
        ("Id,Target\na,\n", "id a: the label is empty"),
        ("Id,Target\na,28\n", "'28' is not a location"),
        ("Id,Target\n,3\n", "has no id"),
        ("", "cannot be read as CSV"),
    ],
)
def test_bad_label_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(content)
    with pytest.raises(CytolocError, match=r"labels\.csv") as caught:
        read_labels(path)
    assert message in str(caught.value)


def test_a_submission_may_be_blank(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("Id,Predicted\na,\nb,3 1\n")
    assert read_labels(path, column="Predicted", blank=True) == {"a": (), "b": (1, 3)}
    assert read_ids(path) == ("a", "b")


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfId,Target\r\na,1 2\r\nb,3\r\n",
        b"Id,Target\r\na,1 2\r\nb,3",
        b"\xef\xbb\xbfId,Target\na,1 2\nb,3\n",
    ],
)
def test_labels_of_spreadsheets_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "l.csv").write_bytes(content)
    assert read_labels(tmp_path / "l.csv") == {"a": (1, 2), "b": (3,)}


def test_ids_may_be_long_and_of_any_script(tmp_path: Path) -> None:
    names = ["Zellkern \u00e4\u00f6\u00fc 1", "\u7d30\u80de", "x" * 5000]
    (tmp_path / "l.csv").write_text("Id,Target\n" + "".join(f"{name},1\n" for name in names), encoding="utf-8")
    assert list(read_labels(tmp_path / "l.csv")) == names


def test_labels_of_another_encoding_are_refused(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("Id,Target\n\u00e4,1\n", encoding="latin-1")
    with pytest.raises(TableError, match=r"l\.csv cannot be read") as caught:
        read_labels(tmp_path / "l.csv")
    assert "UTF-8" in caught.value.way_out


def test_text_of_16_bits_is_told(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("Id,Target\na,1\n", encoding="utf-16")
    with pytest.raises(TableError, match=r"l\.csv is text in UTF-16"):
        read_labels(tmp_path / "l.csv")


def test_ids_may_be_gzipped(tmp_path: Path) -> None:
    (tmp_path / "l.csv.gz").write_bytes(gzip.compress(b"Id,Predicted\na,1\nb,2\n"))
    assert read_ids(tmp_path / "l.csv.gz") == ("a", "b")
