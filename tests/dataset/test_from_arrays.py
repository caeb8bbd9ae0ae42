"""Datasets from arrays, and how datasets are indexed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

import cytoloc
from cytoloc.dataset.from_arrays import dataset_from_arrays
from cytoloc.dataset.store import Dataset
from cytoloc.errors import ArgumentTypeError, ImageError, OutputExistsError, SettingsError, TableError, UnknownIdError
from cytoloc.labels.label_set import LabelSet

PIXELS = np.random.default_rng(0).integers(0, 255, (3, 2, 64, 64), np.uint8)


def made(tmp_path: Path, images: Any = PIXELS, **changes: Any) -> Dataset:
    return dataset_from_arrays(images, **{"out": tmp_path / "a.dataset", "channels": ["nucleus", "protein"], **changes})


def test_arrays_become_a_dataset(tmp_path: Path) -> None:
    labels = [["Cytosol"], None, ["Nucleoli", "Cytosol"]]
    dataset = made(tmp_path, ids=["a", "b", "c"], labels=labels, metadata={"well": ["A1", None, "A2"]})
    assert dataset.channels == ("protein", "nucleus")
    assert_array_equal(dataset.read([0, 1, 2]), PIXELS[:, ::-1])
    assert dataset.label_set.names == ("Cytosol", "Nucleoli")
    assert [each and [x.name for x in each] for each in dataset.labels] == [["Cytosol"], None, ["Cytosol", "Nucleoli"]]
    assert dataset.fields["well"].to_list() == ["A1", None, "A2"]
    assert dataset.to_pandas().loc["c", "well"] == "A2"


def test_tensors_matrices_and_16_bits_are_taken(tmp_path: Path) -> None:
    truth = np.array([[True, False], [False, False], [True, True]])
    deep = made(
        tmp_path,
        torch.from_numpy(PIXELS.astype(np.float32)),
        labels=truth,
        label_set=LabelSet.from_names("ab", name="t"),
    )
    assert_array_equal(deep.truth, truth)
    assert deep.fields["white"].list.len().to_list() == [2, 2, 2]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": PIXELS[0]}, ImageError, "`images` must have the shape"),
        ({"images": PIXELS.astype(np.complex64)}, ImageError, "`images` has complex64"),
        ({"ids": ["a"]}, TableError, "`ids` has 1 values for 3"),
        ({"ids": ["a", "a", "b"]}, TableError, "occurs twice"),
        ({"labels": ["Cytosol"] * 3}, ArgumentTypeError, r"`labels\[0\]` must be"),
        ({"labels": [[0], [1], [2]]}, SettingsError, "`labels` contains no names, and `label_set` is missing"),
        (
            {"labels": [[0], [1], [99]], "label_set": "hpa28"},
            TableError,
            "field 2 contains an index that is out of range",
        ),
        ({"labels": np.ones((3, 2), bool)}, SettingsError, "`labels` is a matrix, and `label_set` is missing"),
        ({"labels": np.ones((3, 2), bool), "label_set": "hpa28"}, TableError, "28 columns"),
        ({"labels": [[True, False], [False, True], []], "label_set": "hpa28"}, ArgumentTypeError, r"`labels\[0\]`"),
        ({"labels": [[1.9], [], []], "label_set": "hpa28"}, ArgumentTypeError, r"`labels\[0\]`"),
        ({"ids": ["a\n", "b", "c"]}, ImageError, "or contains a line break"),
        ({"metadata": {"plate": [1, 2, 3]}}, ArgumentTypeError, "`metadata` must be"),
        ({"metadata": {"mood": ["x"] * 3}}, SettingsError, "'mood'"),
        ({"out": "s3://bucket/a.dataset"}, SettingsError, "is a URL"),
    ],
)
def test_what_is_not_valid_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        made(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    made(tmp_path)
    with pytest.raises(OutputExistsError) as caught:
        made(tmp_path)
    assert isinstance(caught.value, FileExistsError)


def test_datasets_are_indexed_like_arrays_and_by_id(study: Dataset) -> None:
    every = study.read(range(len(study)))
    assert_array_equal(study[-1], every[-1])
    assert_array_equal(study[study.ids[5]], every[5])
    assert_array_equal(study[2:9:3], every[2:9:3])
    assert_array_equal(study[[study.ids[4], study.ids[1]]], every[[4, 1]])
    assert_array_equal(study[np.arange(len(study)) < 2], every[:2])
    with pytest.raises(UnknownIdError, match="has no field 'nobody'") as caught:
        study["nobody"]
    assert isinstance(caught.value, KeyError)
    with pytest.raises(IndexError):
        study[len(study)]
    assert "40 fields of 64 px" in repr(study)


def test_paths_of_other_types_are_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="`path` must be a string or a Path, not int"):
        cytoloc.open_dataset(3)  # type: ignore[arg-type]
