from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from cytoloc.curation.leak import labels_by_place, labels_of_copies, leak_schema
from cytoloc.curation.pairs import Pair, read_matches, tied_ids
from cytoloc.errors import TableError
from cytoloc.labels.label_set import LabelSet
from tests.conftest import DATA, Cli

METADATA = DATA / "metadata"
HPA28 = LabelSet.hpa28()
LABELS = {"1_2_A1_1": (0, 7), "1_2_A1_2": (0, 7), "1_2_A2_1": (25,), "1_2_A2_2": (0,)}


def bits(number: int) -> dict[str, float]:
    return dict.fromkeys(("microtubules", "protein", "nucleus"), number)


def test_labels_are_those_of_the_copy_or_of_its_well() -> None:
    pairs = [Pair("1_2_A1_1", "t1"), Pair("t2", "1_2_A1_9"), Pair("1_2_A2_2", "t3"), Pair("1_2_A2_9", "t4")]
    found = labels_of_copies(pairs, labels_by_place(LABELS), HPA28)
    assert found.table.schema == leak_schema([])
    assert found.table.select("Id", "Target", "source", "labels_of").rows() == [
        ("t1", "0 7", "1_2_A1_1", "field"),
        ("t2", "0 7", "1_2_A1_9", "well"),
        ("t3", "0", "1_2_A2_2", "field"),
    ]
    # The fields of well A2 contradict each other, so it says nothing of its third.
    assert (found.unlabeled, found.passed_over) == (1, 0)


def test_the_surest_copy_counts_and_others_are_counted() -> None:
    pairs = [
        Pair("1_2_A1_1", "t", bits(4), 0.91),
        Pair("1_2_A2_1", "t", bits(0), 0.85),
        Pair("1_2_A2_2", "t", bits(1), None),
        Pair("1_2_A1_2", "t", bits(9), 0.91),
    ]
    row = labels_of_copies(pairs, labels_by_place(LABELS), HPA28).table.row(0, named=True)
    assert (row["Target"], row["source"], row["contradicted"]) == ("0 7", "1_2_A1_1", 2)
    row = labels_of_copies(
        [pair._replace(correlation=None) for pair in pairs], labels_by_place(LABELS), HPA28
    ).table.row(0, named=True)
    assert (row["Target"], row["d_protein"]) == ("25", 0)


def test_what_is_no_leak_is_passed_over() -> None:
    pairs = [
        Pair("1_2_A1_1", "1_2_A1_2"),
        Pair("t1", "t2"),
        Pair("1_2_A1_1", "t3", verdict="different"),
        Pair("1_2_A1_1", "t4"),
    ]
    found = labels_of_copies(pairs, labels_by_place(LABELS), HPA28)
    assert (found.table["Id"].to_list(), found.passed_over) == (["t4"], 3)
    with pytest.raises(TableError, match="None of 3 pairs connects a test field with another field"):
        labels_of_copies(pairs[:3], labels_by_place(LABELS), HPA28)


def test_copies_without_labels_are_no_leak() -> None:
    with pytest.raises(TableError, match="none of these copies has labels"):
        labels_of_copies([Pair("u1", "t1"), Pair("u2", "t2")], labels_by_place(LABELS), HPA28, test={"t1", "t2"})
    found = labels_of_copies([], labels_by_place(LABELS), HPA28)
    assert (found.table.height, found.unlabeled, found.passed_over) == (0, 0, 0)


def test_labels_of_a_copy_are_written_by_their_keys() -> None:
    own = LabelSet.from_names(["Nuclear rim", "Cytoplasm"], name="own")
    found = labels_of_copies([Pair("k", "t", {"actin": 2, "protein": 1})], labels_by_place({"k": (0, 1)}), own)
    assert found.table["Target"].to_list() == ["nuclear_rim cytoplasm"]
    assert found.table.schema == leak_schema(["protein", "actin"])


def test_test_fields_may_be_named() -> None:
    # Training and test ids of the competition look alike, and a training field may be listed as a copy of another.
    known = labels_by_place({"k1": (3,), "k2": (4,)})
    pairs = [Pair("k1", "k2"), Pair("k1", "t"), Pair("k2", "u")]
    assert labels_of_copies(pairs, known, HPA28, test={"t"}).table["Id"].to_list() == ["t"]
    assert labels_of_copies(pairs, known, HPA28).table["Id"].to_list() == ["t", "u"]


def test_a_copy_may_have_the_id_of_the_test_field() -> None:
    known = labels_by_place({"k1": (3,), "k2": (4,)})
    found = labels_of_copies([Pair("k1", "k1"), Pair("k2", "k2")], known, HPA28, test={"k1"})
    assert found.table.select("Id", "Target").rows() == [("k1", "3")]
    assert found.passed_over == 1


def test_wells_of_an_dataset_are_those_of_its_table() -> None:
    known = labels_by_place({"x": (5,)}, places={"x": ("2", "A1")})
    assert labels_of_copies([Pair("1_2_A1_4", "t")], known, HPA28).table.select("Target", "labels_of").rows() == [
        ("5", "well")
    ]


def test_numbers_of_the_published_list_are_read(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("Extra,Test,SimR,SimG,SimB\nENSG1_1_2_A1_1,t,10,6,2\n")
    assert read_matches(path) == [Pair("ENSG1_1_2_A1_1", "t", {"microtubules": 10, "protein": 6, "nucleus": 2})]
    path.write_text("a,b,d_microtubules,correlation,verdict\nx,y,3,0.93,copy\nu,v,,,\n")
    assert read_matches(path) == [Pair("x", "y", {"microtubules": 3}, 0.93, "copy"), Pair("u", "v")]
    for cell in ("high", "nan", "inf"):
        path.write_text(f"a,b,correlation\nx,y,{cell}\n")
        with pytest.raises(TableError, match=f"line 2: '{cell}' is not a number"):
            read_matches(path)


def test_verdicts_are_heard(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text('"a","b","verdict"\nx,y,copy\nx,y,copy\nu,v,Doubtful\nr,s,Different\n')
    assert tied_ids(path) == [("x", "y"), ("u", "v")]
    assert tied_ids(path, doubtful=False) == [("x", "y")]
    path.write_text("a,b,verdict\nx,y,maybe\n")
    with pytest.raises(TableError, match="'maybe' is not a verdict"):
        tied_ids(path)


@pytest.mark.parametrize("header", ["Id,Target", "id,group,fold", "Id,Predicted", "ID,Label"])
def test_other_lists_are_not_taken_for_pairs(tmp_path: Path, header: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(f"{header}\nx,0\nu,0\n")
    with pytest.raises(TableError, match="looks like the columns"):
        tied_ids(path)


@pytest.mark.parametrize("header", ["", "first,second,score\n"])
def test_scores_are_not_taken_for_ids(tmp_path: Path, header: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(f"{header}x,y,0.98\nu,v,0.75\n")
    with pytest.raises(TableError, match="not a pair of ids"):
        tied_ids(path)


@pytest.mark.skipif(not METADATA.exists(), reason=f"{METADATA} is not there")
def test_the_list_of_259_is_worth_little(cli: Cli, tmp_path: Path) -> None:
    pairs = METADATA / "TestEtraMatchingUnder_259_R14_G12_B10.csv"
    for name, labels in (("antibody", "HPAv18RBGY_wodpl"), ("well", "per_well_labels")):
        said = cli("leak", pairs, "--labels", METADATA / f"{labels}.csv.gz", "--out", tmp_path / f"{name}.csv")
        assert said.code == 0, said.err
    assert pl.read_csv(tmp_path / "antibody.csv").height == 257  # two of the 259 are listed twice
    assert "19 test fields whose copies have no labels" in said.out
    audited = json.loads(cli("audit", tmp_path / "antibody.csv", "--truth", tmp_path / "well.csv", "--json").out)
    assert (audited["matched"], audited["equal"]) == (238, 97)
