"""What files hold, and outputs that cannot be written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cytoloc
from cytoloc.dataset.store import Dataset
from cytoloc.errors import ArgumentTypeError, FormatError
from cytoloc.labels.label_list import LabelList
from cytoloc.labels.label_set import LabelSet
from cytoloc.recipes.recipe import load_recipe, to_toml
from tests.conftest import Cli

VERDICTS = {"copy": 1, "doubtful": 1, "different": 0, "unknown": 0}


@pytest.fixture
def files(study: Dataset, tmp_path: Path) -> dict[str, tuple[str | Path, dict[str, Any]]]:
    """Return a file of each kind, with some of what is to be said about it."""
    folds = cytoloc.make_folds(study, k=2)
    cytoloc.write_folds(folds, tmp_path / "folds.csv")
    (tmp_path / "pairs.csv").write_text("a,b,verdict\nx1,y1,copy\nx2,y2,doubtful\n")
    (tmp_path / "labels.csv").write_text("Id,Target\na,0\nb,0 16\n")
    (tmp_path / "mine.toml").write_text(to_toml(load_recipe("quick")))
    values = np.full((2, 28), 0.25, np.float32)
    predictions = cytoloc.Predictions(("a", "b"), values, LabelSet.hpa28(), {"source": "here"})
    cytoloc.write_predictions(predictions, tmp_path / "p.parquet")
    return {
        "dataset": (study.path, {"fields": 40, "channels": list(study.channels)}),
        "folds": (tmp_path / "folds.csv", {"folds": 2, "left_out": 0}),
        "pairs": (
            tmp_path / "pairs.csv",
            {"pairs": 2, "verdicts": VERDICTS},
        ),
        "labels": (tmp_path / "labels.csv", {"fields": 2, "labels": {"0": 2, "16": 1}}),
        "recipe": (tmp_path / "mine.toml", {"name": "quick"}),
        "predictions": (tmp_path / "p.parquet", {"fields": 2, "decided": False}),
        "bundle": ("builtin", {"tta": 8, "channels": list(cytoloc.CHANNELS)}),
    }


def test_every_kind_of_file_is_described(cli: Cli, files: dict[str, tuple[str | Path, dict[str, Any]]]) -> None:
    for kind, (path, expected) in files.items():
        found = cytoloc.describe(path)
        assert found["kind"] == kind
        assert {name: found[name] for name in expected} == expected, kind
        printed = cli("info", path, "--json")
        assert json.loads(printed.out) == json.loads(json.dumps(found)), kind
        lines = cli("info", path).out
        assert lines
        if kind != "bundle":  # a bundle prints its card
            assert not re.search(r"\b(True|False|None)\b|\{\}|[0-9a-f]{64}", lines), kind


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="does not exist"):
        cytoloc.describe(tmp_path / "nothing.csv")
    with pytest.raises(ArgumentTypeError, match="not list"):
        cytoloc.describe([1])  # type: ignore[arg-type]
    (tmp_path / "a.docx").write_bytes(b"x")
    with pytest.raises(FormatError, match="is not a kind of file that cytoloc can describe"):
        cytoloc.describe(tmp_path / "a.docx")


@pytest.mark.parametrize(
    "call",
    [
        "simulate --fields 2 --size 64 --out s3://bucket/x.dataset",
        "import kaggle {images} --size 32 --out http://host/x.dataset",
        "folds {study} --out gs://bucket/folds.csv",
        "show {study} --out https://host/sheet.png",
        "predict builtin {study} --out s3://bucket/p.parquet",
        "duplicates {study} --out s3://bucket/pairs.csv",
    ],
)
def test_outputs_at_urls_are_refused_before_any_work(
    cli: Cli, study: Dataset, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    failed = cli(*call.format(study=study.path, images=images).split())
    assert failed.code == 2, failed.err
    assert "is a URL" in failed.err
    assert not list(place.iterdir())


def test_label_lists_are_labels_of_fields(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("Id,Target\n1_2_A3_4,0\nb,16 0\n")
    labels = cytoloc.read_label_list(tmp_path / "labels.csv")
    assert (labels.ids, len(labels), repr(labels)) == (("1_2_A3_4", "b"), 2, "LabelList(2 fields, hpa28)")
    assert labels.truth[1].nonzero()[0].tolist() == [0, 16]
    assert labels.fields["well"].to_list() == ["A3", None]
    with pytest.raises(ArgumentTypeError, match="must be a string or a Path"):
        cytoloc.read_label_list(3)  # type: ignore[arg-type]
    assert LabelList({}, LabelSet.hpa28()).labeled.size == 0


def test_folders_that_hold_no_dataset_yet_say_so(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"it has no dataset\.json"):
        cytoloc.describe(tmp_path)
