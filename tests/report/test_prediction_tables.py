from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import cytoloc as cl
from cytoloc.errors import OutputExistsError, SettingsError
from tests.conftest import Cli

THREE = cl.LabelSet.from_names(["Cytosol", "Nucleoli", "Golgi apparatus"], name="three")
FOUND = cl.Predictions(
    ("a", "b"),
    np.array([[0.91234, 0.2, 0.7], [0.1, 0.3, 0.05]], np.float32),
    THREE,
    {"thresholds": dict(zip(THREE.keys, (0.4, 0.5, 0.6), strict=True)), "knowledge": {THREE.keys[0]: "transfers"}},
    np.array([[True, False, True], [False, False, False]]),
    cautions=("", "protein is blank"),
)


def test_a_row_per_field(tmp_path: Path) -> None:
    table = pl.read_csv(cl.write_table(FOUND, tmp_path / "t.csv", files={"a": "one.dataset"}))
    assert table.rows(named=True)[0] == {
        "id": "a",
        "locations": "Cytosol; Golgi apparatus",
        "knowledge": "Cytosol: transfers",
        "caution": "",
        "Cytosol": 0.9123,
        "Nucleoli": 0.2,
        "Golgi apparatus": 0.7,
        "file": "one.dataset",
    }
    assert table["caution"][1] == "protein is blank"


def test_a_row_per_field_and_location(tmp_path: Path) -> None:
    table = pl.read_csv(cl.write_table(FOUND, tmp_path / "t.csv", layout="locations"))
    assert len(table) == 6
    assert table.columns == [
        "id", "location", "go_id", "probability", "threshold", "decided", "knowledge", "caution",
    ]  # fmt: skip
    row = table.row(2, named=True)
    assert (row["id"], row["location"], row["threshold"], row["decided"]) == ("a", "Golgi apparatus", 0.6, True)


def test_an_excel_file(tmp_path: Path) -> None:
    path = cl.write_table(FOUND, tmp_path / "t.xlsx")
    import zipfile

    with zipfile.ZipFile(path) as archive:
        text = archive.read("xl/sharedStrings.xml").decode()
    assert "Cytosol; Golgi apparatus" in text


def test_wrong_names_and_layouts_are_refused(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"the ending \.tsv is unknown"):
        cl.write_table(FOUND, tmp_path / "t.tsv")
    with pytest.raises(SettingsError, match="`layout` has the unknown value 'long'"):
        cl.write_table(FOUND, tmp_path / "t.csv", layout="long")  # type: ignore[arg-type]
    (tmp_path / "there.csv").touch()
    with pytest.raises(OutputExistsError):
        cl.write_table(FOUND, tmp_path / "there.csv")
    monkeypatch.setattr("cytoloc.report.prediction_tables.MOST_EXCEL_ROWS", 1)
    with pytest.raises(SettingsError, match="2 rows, but an Excel sheet has at most 1"):
        cl.write_table(FOUND, tmp_path / "t.xlsx")
    done = cli("predict", "builtin", tmp_path, "--out", tmp_path / "p.parquet", "--table", tmp_path / "t.pdf")
    assert done.code == 2
    assert "--table" in done.err or "not a valid name for a table" in done.err
