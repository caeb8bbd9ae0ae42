"""The commands ``cytoloc labels …``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cytoloc import read_predictions
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import read_labels
from cytoloc.prediction_files import write_predictions
from cytoloc.predictions import Predictions
from tests.conftest import Cli


def test_label_sets_are_listed_and_shown(cli: Cli, tmp_path: Path) -> None:
    said = cli("labels")
    assert said.code == 0
    assert [line.split()[:2] for line in said.out.splitlines()] == [
        ["hpa28", "28"], ["hpa19", "19"], ["subcell31", "31"], ["hpa", "49"],
    ]  # fmt: skip
    assert json.loads(cli("labels", "--json").out)[1] == {"name": "hpa19", "locations": 19}
    shown = cli("labels", "hpa19")
    assert shown.out == cli("labels", "show", "hpa19").out
    assert "8    Intermediate filaments                    GO:0045111" in shown.out
    assert LabelSet.from_json(json.loads(cli("labels", "hpa", "--json").out)) == LabelSet.hpa()
    (tmp_path / "own.toml").write_text('locations = ["Nuclear rim", "Cytoplasm"]\n')
    assert "nuclear_rim  Nuclear rim" in cli("labels", tmp_path / "own.toml").out


@pytest.mark.parametrize(
    ("word", "said"),
    [("hpa29", "Did you mean hpa28"), ("none.csv", "none.csv does not exist"), ("one.csv", "has 1 location")],
)
def test_what_is_no_label_set_is_refused(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.csv").write_text("name\nCytosol\n")
    refused = cli("labels", word)
    assert (refused.code, said in refused.err) == (1, True)


def test_help_has_examples(cli: Cli) -> None:
    for words in ([], ["show"], ["convert"]):
        assert "Example: cytoloc labels" in " ".join(cli("labels", *words, "--help").out.split())


def test_label_lists_are_converted(cli: Cli, tmp_path: Path) -> None:
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    old.write_text("Id,Target\na,8 10 0\nb,15 27\nc,16 25\n")
    said = cli("labels", "convert", old, "--from", "hpa28", "--to", "hpa19", "--out", new)
    assert said.code == 0, said.err
    assert "2 fields. 1 field lost all labels." in said.out
    assert "Lost, because hpa19 has no such location: Microtubule ends, Cytokinetic bridge, Rods & rings." in said.out
    assert read_labels(new, LabelSet.hpa19()) == {"a": (0, 17), "c": (16,)}
    again = cli("labels", "convert", old, "--from", "hpa28", "--to", "hpa19", "--out", new)
    assert (again.code, "already exists" in again.err) == (1, True)
    call = ["labels", "convert", old, "--from", "hpa28", "--to", "hpa19", "--out", tmp_path / "j.csv", "--json"]
    facts = json.loads(cli(*call).out)
    assert (facts["fields"], facts["fields_without_labels"], facts["lost"]) == (2, 1, ["15", "16", "27"])


def test_a_submission_keeps_its_fields(cli: Cli, tmp_path: Path) -> None:
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    old.write_text("Id,Predicted\na,27\nb,\nc,7\n")
    said = cli("labels", "convert", old, "--from", "hpa28", "--to", "hpa", "--out", new)
    assert said.code == 0, said.err
    assert pl.read_csv(new).rows() == [("a", "rods_rings"), ("b", ""), ("c", "golgi_apparatus")]
    said = cli("labels", "convert", old, "--from", "hpa28", "--to", "hpa19", "--out", tmp_path / "n.csv")
    assert "3 fields. 1 field lost all labels." in said.out
    assert pl.read_csv(tmp_path / "n.csv", infer_schema=False).rows() == [("a", ""), ("b", ""), ("c", "7")]


def test_predictions_are_converted(cli: Cli, tmp_path: Path) -> None:
    subcell = LabelSet.subcell31()
    values = np.random.default_rng(0).random((3, 31), dtype=np.float32)
    write_predictions(Predictions(("a", "b", "c"), values, subcell), tmp_path / "s.parquet")
    columns = dict(zip(subcell.names, values.T, strict=True))
    pl.DataFrame({"id": ["a", "b", "c"], **columns}).write_csv(tmp_path / "s.csv")
    for name in ("s.parquet", "s.csv"):
        out = tmp_path / f"{name}.parquet"
        said = cli("labels", "convert", tmp_path / name, "--from", "subcell31", "--to", "hpa28", "--out", out)
        assert said.code == 0, said.err
        assert "Never in the result: Microtubule ends, Microtubule organizing center, Rods & rings." in said.out
        found = read_predictions(out)
        assert found.label_set == LabelSet.hpa28()
        np.testing.assert_allclose(found.probabilities[:, 2], values[:, [23, 25]].max(axis=1), rtol=1e-6)
    refused = cli(
        "labels", "convert", tmp_path / "s.parquet", "--from", "hpa28", "--to", "hpa19", "--out", tmp_path / "x.parquet"
    )
    assert (refused.code, "The label sets differ: subcell31" in refused.err) == (1, True)
    refused = cli(
        "labels", "convert", tmp_path / "s.csv", "--from", "subcell31", "--to", "hpa28", "--out", tmp_path / "x.csv"
    )
    assert (refused.code, "written as Parquet" in refused.err) == (2, True)
