from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import cytoloc as cl
from cytoloc.errors import IdWarning, TableError
from cytoloc.labels.ids import alike, coverage_notes, doubles_note
from cytoloc.labels.label_set import LabelSet
from cytoloc.predictions import Predictions
from tests.conftest import DATA, Cli

TWO = LabelSet.from_names(["Cytosol", "Nucleoli"], name="two")
TABLES = DATA / "awkward" / "tables"


def predictions(ids: list[str], seed: int = 0) -> Predictions:
    values = np.random.default_rng(seed).random((len(ids), 2)).astype(np.float32)
    return Predictions(tuple(ids), values, TWO)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("980", "0980"),
        ("1.0", "1"),
        (" a", "a"),
        ("a  b", "a b"),
        ("Field_A", "field_a"),
        ("P1_A01_1", "P1_A1_1"),
        ("a.png", "a"),
        (unicodedata.normalize("NFC", "größe"), unicodedata.normalize("NFD", "größe")),
    ],
)
def test_ids_that_look_the_same_are_found(one: str, other: str) -> None:
    assert one != other
    assert alike([one, "x"], [other, "y"]) == {one: other}
    assert alike([one], [one, other]) == {}
    assert doubles_note([one, other, "z"], where="here").startswith("here: 1 id occur")
    assert alike(["abc"], ["abd"]) == {}


def test_every_member_says_what_it_lacks() -> None:
    notes = coverage_notes({"a": ["1", "2", "03"], "b": ["1", "2", "3"], "c": ["1"]})
    assert notes[0].startswith("'a' lacks 1 of 4 fields, such as 3, and alone has 1, such as 03. 1 of them looks like")
    assert notes[2] == "'c' lacks 3 of 4 fields, such as 2."
    assert coverage_notes({"a": ["1"], "b": ["1"]}) == []


def test_ensembles_decisions_and_metrics_name_the_ids() -> None:
    members = {"a": predictions(["01", "02", "x", "y"]), "b": predictions(["1", "2", "x", "y"], seed=1)}
    with pytest.warns(IdWarning) as caught:
        cl.ensemble(members)
    assert "'b' lacks 2 of 6 fields, such as 01, and alone has 2, such as 1. 2 of them look like" in str(
        caught[-1].message
    )
    with pytest.raises(TableError, match=r"2 of 4 fields have no label.* 2 of them look like other ids: 01 like 1"):
        cl.fit_decision(members["a"], {"1": [0], "2": [1], "x": [0], "y": [1]}, method=cl.Fixed())
    with pytest.raises(TableError, match=r"shares no field.* looks like another id: 07 like 7"):
        cl.ensemble({"a": predictions(["07"]), "b": predictions(["7"])})
    decided = {"01": [0], "1": [0], "2": [1]}
    with pytest.warns(IdWarning, match="the predictions: 1 id occur in several spellings: 01 and 1"):
        cl.evaluate(decided, decided, label_set=TWO)


def test_folds_and_leaks_name_the_ids(tmp_path: Path) -> None:
    names = [f"{number:02d}" for number in range(8)]
    (tmp_path / "labels.csv").write_text("Id,Target\n" + "".join(f"{name},{int(name) % 2}\n" for name in names))
    labels = cl.read_label_list(tmp_path / "labels.csv")
    with pytest.warns(IdWarning, match="1 of them looks like another id: 3 like 03"):
        folds = cl.make_folds(labels, k=2, pairs=[("3", "04"), ("01", "02")])
    renamed = folds.with_columns(pl.col("id").str.strip_prefix("0"))
    with pytest.raises(TableError, match=r"no row for 8 of 8 fields.* 8 of them look like other ids: 00 like 0,"):
        cl.check_folds(renamed, labels)
    with pytest.warns(IdWarning, match=r"neither labeled nor test fields\. 1 of them looks like another id: 5 like 05"):
        cl.find_leak([("t", "01"), ("u", "5")], labels, test={"t", "u"})


@pytest.mark.skipif(not TABLES.is_dir(), reason="the test data are absent; set CYTOLOC_TEST_DATA")
def test_the_command_prints_what_the_members_lack(tmp_path: Path, cli: Cli) -> None:
    done = cli("ensemble", str(TABLES / "a.csv"), str(TABLES / "b.csv"), "--out", str(tmp_path / "e.parquet"))
    assert "'b' lacks 20 of 60 fields, such as 0980, and alone has 20, such as 980." in done.err
    assert "20 of them look like other ids: 980 like 0980" in done.err
    assert done.err.count("'b' lacks") == 1
