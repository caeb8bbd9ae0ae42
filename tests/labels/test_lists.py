"""Lists of ids, labels and groups as people have them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from cytoloc.errors import CytolocError, TableError
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import read_groups, read_ids, read_labels, write_locations


def test_groups_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_text("Id,group\na,well 3\nb,well 1\nc,well 3\n")
    assert read_groups(path, ["c", "b", "a"]).tolist() == [1, 0, 1]
    path.write_text("id,group,fold\na,10,0\nb,9,0\nc,,0\n")
    assert read_groups(path, ["a", "b"]).tolist() == [1, 0]
    for ids in (["a", "c"], ["a", "d"]):
        with pytest.raises(TableError, match=rf"contains no group for 1 of the predicted fields, such as {ids[1]}"):
            read_groups(path, ids)
    path.write_text("id,well\na,7\n")
    with pytest.raises(TableError, match="lacks the column group"):
        read_groups(path, ["a"])


@pytest.mark.parametrize(
    "content",
    [
        "Id;Target\na;0 7\nb;25\n",
        "ID\tTarget\na\t0 7\nb\t25\n",
        "id|Target\na|0;7\nb|25\n",
        ",Id,Target\n0,a,0 7\n1,b,25\n",
        "Unnamed: 0;id;Target\n1;a;0,7\n2;b;25\n",
        "index,Id,Target\n0,a,0|7\n1,b,25\n",
        ",Target\na,0 7\nb,25\n",
        ",Id,0,7,25\n0,a,1,1,0\n1,b,0,0,1\n",
    ],
)
def test_files_of_other_programs_are_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(content)
    assert read_labels(path, LabelSet.hpa28()) == {"a": (0, 7), "b": (25,)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Id,Class\na,0\n", "lacks the column Target; it has Id, Class"),
        ("Target\n0\n", "lacks the column Id; it has Target"),
        ("Id,0,7,mean\na,0,1,1\n", "header: 'mean' is not a location of the label set hpa28"),
        ("Id,0,Nucleoli,Nuclear body\na,0,1,1\n", "Did you mean Nuclear bodies"),
        ("Id,7,Golgi apparatus\na,0,1\n", "7 and Golgi apparatus are the same location"),
        ("Id,0,7\na,0,2\n", "id a: the column 7 contains '2', which is neither 0 nor 1"),
        ("Id,0,7\na,0,\n", "id a: the column 7 contains None, which is neither 0 nor 1"),
        ("Id,0,7\na,1,0\nb,0,0\n", "id b: the label is empty"),
        ("image_id,Target\na,0\n", "Rename the column image_id to Id"),
        ("Id,Target\r\r\na,0\r\r\n", "line ends LF or CR LF"),
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
        read_labels(path, LabelSet.hpa28())
    assert message in str(caught.value)


def test_a_submission_may_be_blank(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("Id,Predicted\na,\nb,3 1\n")
    assert read_labels(path, LabelSet.hpa28(), column="Predicted", blank=True) == {"a": (), "b": (1, 3)}
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
    assert read_labels(tmp_path / "l.csv", LabelSet.hpa28()) == {"a": (1, 2), "b": (3,)}


def test_ids_may_be_long_and_of_any_script(tmp_path: Path) -> None:
    names = ["Zellkern \u00e4\u00f6\u00fc 1", "\u7d30\u80de", "x" * 5000]
    (tmp_path / "l.csv").write_text("Id,Target\n" + "".join(f"{name},1\n" for name in names), encoding="utf-8")
    assert list(read_labels(tmp_path / "l.csv", LabelSet.hpa28())) == names


def test_labels_of_another_encoding_are_refused(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("Id,Target\n\u00e4,1\n", encoding="latin-1")
    with pytest.raises(TableError, match=r"l\.csv cannot be read") as caught:
        read_labels(tmp_path / "l.csv", LabelSet.hpa28())
    assert "UTF-8" in caught.value.hint


def test_text_of_16_bits_is_told(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("Id,Target\na,1\n", encoding="utf-16")
    with pytest.raises(TableError, match=r"l\.csv is text in UTF-16"):
        read_labels(tmp_path / "l.csv", LabelSet.hpa28())


def test_ids_may_be_gzipped(tmp_path: Path) -> None:
    (tmp_path / "l.csv.gz").write_bytes(gzip.compress(b"Id,Predicted\na,1\nb,2\n"))
    assert read_ids(tmp_path / "l.csv.gz") == ("a", "b")


OWN = LabelSet.from_names(["Nuclear rim", "Cytoplasm", "Spots"], name="own")


@pytest.mark.parametrize("column", ["Target", "Labels", "labels", "Label", "Locations", "location"])
@pytest.mark.parametrize("ids", ["Id", "id", "ID"])
def test_labels_are_read_under_the_usual_columns(tmp_path: Path, column: str, ids: str) -> None:
    path = tmp_path / "l.csv"
    path.write_text(f"{column},note,{ids}\nspots;Nuclear Rim,x,a\nCytoplasm,y,b\n")
    assert read_labels(path, OWN) == {"a": (0, 2), "b": (1,)}
    assert read_ids(path) == ("a", "b")


@pytest.mark.parametrize("cell", ["0 16", "16|0", "Nucleoplasm; 16", "cytokinetic bridge, nucleoplasm"])
def test_labels_are_keys_or_names(tmp_path: Path, cell: str) -> None:
    (tmp_path / "l.csv").write_text(f'Id,Target\na,"{cell}"\n')
    assert read_labels(tmp_path / "l.csv", LabelSet.hpa28()) == {"a": (0, 16)}


def test_labels_of_the_2021_competition_are_read(tmp_path: Path) -> None:
    # It repeats some classes.
    (tmp_path / "l.csv").write_text("ID,Label\na,8|5|0\nb,13|13\n")
    assert read_labels(tmp_path / "l.csv", LabelSet.hpa19()) == {"a": (0, 5, 8), "b": (13,)}
    with pytest.raises(TableError, match="id a: '19' is not a location of the label set hpa19"):
        (tmp_path / "l.csv").write_text("ID,Label\na,8|19\n")
        read_labels(tmp_path / "l.csv", LabelSet.hpa19())


def test_a_column_for_each_location_will_do(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("id,Spots,nuclear_rim\na,1,0\nb,1.0,1\n")
    assert read_labels(path, OWN) == {"a": (2,), "b": (0, 2)}
    path.write_text("id,Spots,nuclear_rim\na,0,0\n")
    assert read_labels(path, OWN, column="Predicted", blank=True) == {"a": ()}


def test_labels_are_not_taken_for_predictions(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("Id,Target\na,spots\n")
    with pytest.raises(TableError, match="lacks the column Predicted; it has Id, Target"):
        read_labels(tmp_path / "l.csv", OWN, column="Predicted", blank=True)


def test_locations_are_written_by_their_keys(tmp_path: Path) -> None:
    predicted = np.array([[True, False, True], [False, False, False]])
    write_locations(["a", "b"], predicted, tmp_path / "p.csv", OWN)
    assert (tmp_path / "p.csv").read_text() == 'Id,Predicted\na,nuclear_rim spots\nb,""\n'
    assert read_labels(tmp_path / "p.csv", OWN, column="Predicted", blank=True) == {"a": (0, 2), "b": ()}
