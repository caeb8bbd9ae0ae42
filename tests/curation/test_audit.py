from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import f1_score

from cytoloc._typing import LabelIndices
from cytoloc.curation.audit import Audit, Matched, compare_labels, match_fields, match_wells
from cytoloc.curation.pairs import tied_ids
from cytoloc.dataset.store import Dataset
from cytoloc.errors import TableError
from cytoloc.labels.hpa_names import HpaId
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import read_labels
from tests.conftest import DATA, Cli

METADATA = DATA / "metadata"
needs_lists = pytest.mark.skipif(not METADATA.exists(), reason=f"{METADATA} is not there")

HPA28 = LabelSet.hpa28()
LISTED = {"1_10_A1_1": (0, 25), "1_10_A1_2": (0, 25), "1_10_A2_1": (7,), "2_11_B1_1": (2,)}
TRUE = {"x": (0,), "y": (7,), "z": (2, 0)}
PAIRS = [("1_10_A1_1", "x"), ("1_10_A2_1", "y"), ("2_11_B1_1", "z"), ("9_9_C1_1", "x")]


def audit_of(
    matched: Sequence[Matched], listed: LabelIndices | None = None, origins: Mapping[str, HpaId] | None = None
) -> Audit:
    return replace(compare_labels(matched, label_set=HPA28), listed=listed or {}, origins=origins or {})


def test_agreement_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    sets = [[tuple(map(int, np.flatnonzero(row))) for row in rng.random((60, 28)) < 0.1] for _ in range(2)]
    listed = {f"a{row}": labels for row, labels in enumerate(sets[0])}
    true = {f"b{row}": labels for row, labels in enumerate(sets[1])}
    result = compare_labels(*match_fields(listed, true, [(f"a{row}", f"b{row}") for row in range(60)]), label_set=HPA28)
    a, b = HPA28.to_matrix(sets[0]), HPA28.to_matrix(sets[1])
    present = (a | b).any(axis=0)
    assert result.micro_f1 == pytest.approx(f1_score(b, a, average="micro"))
    assert result.macro_f1 == pytest.approx(f1_score(b[:, present], a[:, present], average="macro", zero_division=0))
    assert result.equal == int((a == b).all(axis=1).sum())
    assert (result.classes["both"] + result.classes["only_listed"]).to_list() == a.sum(axis=0).tolist()


def test_fields_and_wells_are_matched() -> None:
    matched, unmatched = match_fields(LISTED, TRUE, PAIRS)
    assert (len(matched), unmatched) == (3, 1)
    result = compare_labels(matched, unmatched, label_set=HPA28)
    assert result.equal == 1
    row = result.classes.row(25, named=True)
    assert (row["both"], row["only_listed"], row["wrong"]) == (0, 1, 1.0)
    others, alone = match_wells(LISTED, TRUE, PAIRS)
    assert [(each.a, each.b) for each in others] == [("1_10_A1_2", "x")]
    assert alone == 3
    assert audit_of(matched).by("antibody").rows() == [("1", 2, 1, 1), ("2", 1, 0, 1)]
    with pytest.raises(TableError, match="None of 1 pairs is in both label lists"):
        compare_labels(*match_fields(LISTED, TRUE, PAIRS[3:]), label_set=HPA28)


def test_wells_may_be_known_from_elsewhere() -> None:
    plain = {"a": (0, 25), "b": (0, 25), "c": (7,)}
    origins = {"a": HpaId("1", "10", "A1", "1"), "b": HpaId("1", "10", "A1", "2"), "c": HpaId("1", "10", "A2", "1")}
    matched, _ = match_fields(plain, TRUE, [("a", "x"), ("c", "y")])
    assert audit_of(matched, plain).corrections() == {"a": (0,)}
    assert audit_of(matched, plain, origins).corrections() == {"a": (0,), "b": (0,)}
    assert audit_of(matched).by("well").is_empty()
    assert audit_of(matched, origins=origins).by("well")["well"].to_list() == ["10_A1", "10_A2"]
    assert [each.a for each in match_wells(plain, TRUE, [("a", "x")], origins=origins)[0]] == ["b"]


def test_a_correction_holds_for_the_whole_well() -> None:
    matched, _ = match_fields(LISTED, TRUE, PAIRS)
    assert audit_of(matched, LISTED).corrections() == {"1_10_A1_1": (0,), "1_10_A1_2": (0,), "2_11_B1_1": (0, 2)}
    contradicted, _ = match_fields(LISTED, TRUE, [("1_10_A1_1", "x"), ("1_10_A1_2", "y")])
    assert audit_of(contradicted, LISTED).corrections() == {}


@needs_lists
def test_published_lists_agree_as_far_as_was_measured(cli: Cli, tmp_path: Path) -> None:
    truth, pairs = METADATA / "train.csv.gz", METADATA / "external_train_duplicates.txt"
    per_antibody = json.loads(
        cli("audit", METADATA / "HPAv18RBGY_wodpl.csv.gz", "--truth", truth, "--pairs", pairs, "--json").out
    )
    assert (per_antibody["matched"], round(per_antibody["equal"] / 4052, 3)) == (4052, 0.604)
    assert per_antibody["classes"][0]["only_true"] == 639
    per_well = cli("audit", METADATA / "per_well_labels.csv.gz", "--truth", truth, "--pairs", pairs, "--match", "well")
    assert "1925 pairs compared" in per_well.out
    assert "99.5%" in per_well.out
    anew = cli("audit", truth, "--truth", METADATA / "train_2021.csv.gz", "--truth-label-set", "hpa19")
    assert "Lost, because hpa19 has no such location: Microtubule ends, Cytokinetic bridge, Rods & rings." in anew.out
    assert "28 fields of" in anew.out
    assert "21806 pairs compared: the locations are equal in 21234 (97.4%)" in anew.out


@needs_lists
def test_published_lists_of_pairs_are_read() -> None:
    counts = {
        "external_train_duplicates.txt": 4052,
        "TestEtraMatchingUnder_259_R14_G12_B10.csv": 259,
        "train_near_duplicates_2021.csv.gz": 1414,
        "test_duplicates.txt": 9,
    }
    assert {name: len(tied_ids(METADATA / name)) for name in counts} == counts


def test_the_command_corrects_a_list(cli: Cli, tmp_path: Path) -> None:
    for name, labels in (("list.csv", LISTED), ("truth.csv", TRUE)):
        rows = [f"{key},{' '.join(map(str, ids))}" for key, ids in labels.items()]
        (tmp_path / name).write_text("\n".join(["Id,Target", *rows]) + "\n")
    (tmp_path / "pairs.csv").write_text("\n".join(["a,b", *(",".join(pair) for pair in PAIRS)]) + "\n")
    call = ["audit", tmp_path / "list.csv", "--truth", tmp_path / "truth.csv", "--pairs", tmp_path / "pairs.csv"]
    said = cli(*call, "--by", "well", "--write", tmp_path / "mended.csv")
    assert said.code == 0, said.err
    assert "3 of 4 fields corrected" in said.out
    assert read_labels(tmp_path / "mended.csv", HPA28)["1_10_A1_2"] == (0,)
    assert pl.read_csv(tmp_path / "mended.csv")["Was"].to_list() == ["0 25", "0 25", None, "2"]
    assert cli(*call, "--match", "well", "--write", tmp_path / "no.csv").code == 2


def test_a_list_is_converted_to_the_label_set_of_the_truth(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("name\nCytosol\nSpots\n")
    (tmp_path / "list.csv").write_text("Id,Target\na,Cytosol\nb,Spots\nc,Cytosol Spots\n".replace(" S", "; S"))
    (tmp_path / "truth.csv").write_text("Id,Target\na,25\nb,25\nc,25\n")
    call = ["audit", tmp_path / "list.csv", "--label-set", tmp_path / "own.csv", "--truth", tmp_path / "truth.csv"]
    said = cli(*call, "--truth-label-set", "hpa28")
    assert said.code == 0, said.err
    assert "Lost, because hpa28 has no such location: Spots." in said.out
    assert "1 field of" in said.out
    assert "3 pairs compared: the locations are equal in 2" in said.out
    facts = json.loads(cli(*call, "--truth-label-set", "hpa28", "--json").out)
    assert [row["location"] for row in facts["classes"] if row["both"]] == ["Cytosol"]
    refused = cli(*call, "--truth-label-set", "hpa28", "--write", tmp_path / "no.csv")
    assert (refused.code, "--truth-label-set" in refused.err) == (2, True)
    refused = cli(*call)
    assert (refused.code, "'25' is not a location of the label set own" in refused.err) == (1, True)


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    for content, said in ((b"", "contains no pairs"), (b"a,b\nx\n", "line 2"), (b"\xff\xfe\x00", "not a pairs file")):
        path.write_bytes(content)
        with pytest.raises(TableError, match=said):
            tied_ids(path)
    packed = gzip.compress(b"a,b\nx,y\n")
    for damaged in (packed[:-6], packed[:10] + b"\xff" * 9):
        path.write_bytes(damaged)
        with pytest.raises(TableError, match="not a pairs file"):
            tied_ids(path)


def test_a_stray_quote_swallows_no_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text('a,b\n\nf1,"g1\nf2,g2\n')
    with pytest.raises(TableError, match="line 3: a quotation mark is not closed"):
        tied_ids(path)
    path.write_text('a,b\n\n"f1",g1\nf2\n')
    with pytest.raises(TableError, match="line 4"):
        tied_ids(path)


def test_an_unknown_header_is_no_pair(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("one,other\nf1,g1\nf2,g2\n")
    with pytest.raises(TableError, match="looks like the columns one, other"):
        tied_ids(path)
    path.write_text('a,b,label\nf1,g1,"so ""so"""\n"f2" ,g2,a 5" pipe\n')
    assert tied_ids(path) == [("f1", "g1"), ("f2", "g2")]
    path.write_text("one,other\nthis,that\n")
    assert tied_ids(path) == [("one", "other"), ("this", "that")]


def test_an_dataset_says_which_fields_share_a_well(cli: Cli, study: Dataset) -> None:
    said = cli("audit", study.path, "--truth", study.path, "--by", "well")
    assert said.code == 0, said.err
    assert "No field says" not in said.out
    assert cli("audit", study.path, "--truth", study.path, "--match", "well").code == 0


def test_wells_of_the_truth_are_asked_if_the_list_does_not_know_them(cli: Cli, study: Dataset, tmp_path: Path) -> None:
    rows = "".join(f"{name},0\n" for name in study.ids)
    (tmp_path / "list.csv").write_text(f"Id,Target\n{rows}")
    said = cli("audit", tmp_path / "list.csv", "--truth", study.path, "--by", "well", "--json")
    assert said.code == 0, said.err
    wells = json.loads(said.out)["well"]
    assert sum(row["fields"] for row in wells) == len(study)
    assert len(wells) > 1
