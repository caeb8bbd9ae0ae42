"""Conversion between label sets, held against what is known of the published ones."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from cytoloc.errors import LabelSetError
from cytoloc.label_conversion import Conversion, conversion, convert_labels, convert_predictions
from cytoloc.labels.label_set import SHIPPED, LabelSet, find_label_set
from cytoloc.labels.lists import read_labels
from cytoloc.predictions import CELL_COLUMNS, Predictions
from tests.conftest import DATA

CILIA_AND_SPERM = {
    "basal_body", "primary_cilium", "primary_cilium_tip", "primary_cilium_transition_zone", "acrosome",
    "perinuclear_theca", "calyx", "annulus", "connecting_piece", "mid_piece", "principal_piece", "end_piece",
    "equatorial_segment", "flagellar_centriole",
}  # fmt: skip

OWN = LabelSet.from_names(["Cytosol", "nucleoli", "Spots"], name="own")


def between(source: str, target: str) -> Conversion:
    return conversion(find_label_set(source), find_label_set(target))


@pytest.mark.parametrize(
    ("source", "target", "merged", "lost", "ambiguous", "never"),
    [
        (
            "hpa28", "hpa19",
            {"17": ["8", "9", "10", "20", "26"], "9": ["12", "13"], "12": ["18", "19"], "13": ["21", "22"]},
            {"15", "16", "27"}, set(), {"18"},
        ),
        (
            "hpa19", "hpa28", {}, {"18"}, {"9", "12", "13", "17"},
            {"8", "9", "10", "12", "13", "15", "16", "18", "19", "20", "21", "22", "26", "27"},
        ),
        (
            "subcell31", "hpa28", {"19": ["3", "4"], "16": ["5", "16"], "2": ["23", "25"]},
            {"29", "18", "30"}, set(), {"15", "18", "27"},
        ),
        (
            "subcell31", "hpa19",
            {
                "2": ["23", "25"], "9": ["0", "10"], "12": ["3", "4"], "13": ["2", "28"],
                "17": ["6", "9", "13", "14", "27", "29"],
            },
            {"5", "16", "18"}, set(), set(),
        ),
        (
            "hpa", "hpa28",
            {
                "2": ["nucleoli", "nucleoli_rim"], "19": ["centrosome", "centriolar_satellite"],
                "16": ["cytokinetic_bridge", "midbody", "midbody_ring", "cleavage_furrow"],
            },
            {"vesicles", "kinetochore", "mitotic_chromosome"} | CILIA_AND_SPERM, set(), {"18"},
        ),
        (
            "hpa28", "subcell31", {}, {"15", "18", "27"}, set(), {"3", "16", "18", "25", "29", "30"},
        ),
    ],
)  # fmt: skip
def test_shipped_label_sets_convert_as_is_known(
    source: str, target: str, merged: dict[str, list[str]], lost: set[str], ambiguous: set[str], never: set[str]
) -> None:
    found = between(source, target).to_json()
    assert found["merged"] == merged
    assert (set(found["lost"]), set(found["ambiguous"]), set(found["never"])) == (lost, ambiguous, never)


@pytest.mark.parametrize("target", SHIPPED)
@pytest.mark.parametrize("source", SHIPPED)
def test_locations_of_one_name_stay_themselves(source: str, target: str) -> None:
    by = between(source, target)
    for index, location in enumerate(by.source):
        found = by[index]
        if location.name in by.target.names and not by.candidates[index][1:]:
            assert found == by.target.names.index(location.name)
    counted = len(by.kept) + sum(map(len, by.merged.values())) + len(by.lost) + len(by.ambiguous)
    assert counted == len(by.source)
    assert len(by.sources) + len(by.never) == len(by.target)
    if source == target:
        assert by.kept == {index: index for index in range(len(by.source))}


def test_own_label_sets_convert_by_name() -> None:
    by = conversion(OWN, LabelSet.hpa28())
    assert by.kept == {0: 25, 1: 2}
    assert by.lost == (2,)
    assert len(by.never) == 26
    with pytest.raises(LabelSetError, match="no location in common"):
        conversion(LabelSet.from_names(["Here", "There"], name="mine"), LabelSet.hpa28())


def test_the_summary_names_what_is_merged_lost_and_ambiguous() -> None:
    lines = between("hpa19", "hpa28").summary()
    assert "Lost, because hpa28 has no such location: Negative." in lines
    assert any("Actin filaments (Actin filaments or Focal adhesion sites)" in line for line in lines)
    lines = between("hpa28", "hpa19").summary()
    assert lines[0] == "14 of 28 locations of hpa28 have a location of hpa19 to themselves."
    assert any("Plasma membrane and Cell junctions become Plasma membrane" in line for line in lines)
    assert "Never in the result: Negative." in lines


def test_labels_are_joined_and_fields_without_any_left_out() -> None:
    converted = convert_labels({"a": (8, 10, 0), "b": (15, 27), "c": (16, 25)}, between("hpa28", "hpa19"))
    assert converted.labels == {"a": (0, 17), "c": (16,)}
    assert converted.emptied == ("b",)


def test_of_merged_locations_the_highest_probability_counts() -> None:
    values = np.random.default_rng(0).random((5, 31), dtype=np.float32)
    predictions = Predictions(tuple("abcde"), values, LabelSet.subcell31(), {"fields_trained_on": 3})
    found = convert_predictions(predictions, between("subcell31", "hpa28"))
    assert (found.ids, found.label_set) == (predictions.ids, LabelSet.hpa28())
    np.testing.assert_array_equal(found.probabilities[:, 19], values[:, [3, 4]].max(axis=1))
    np.testing.assert_array_equal(found.probabilities[:, 25], values[:, 7])
    assert not found.probabilities[:, [15, 18, 27]].any()
    assert found.provenance["fields_trained_on"] == 3
    assert found.provenance["converted"]["never"] == ["15", "18", "27"]
    with pytest.raises(LabelSetError, match=r"label sets differ: hpa28 .* in the predictions"):
        convert_predictions(found, between("subcell31", "hpa28"))


def test_fields_of_both_competitions_have_the_converted_classes() -> None:
    folder = DATA / "metadata"
    if not folder.is_dir():
        pytest.skip(f"label lists are not at {folder}; set CYTOLOC_TEST_DATA")
    before = read_labels(folder / "train.csv.gz", LabelSet.hpa28())
    after = read_labels(folder / "train_2021.csv.gz", LabelSet.hpa19())
    by = between("hpa28", "hpa19")
    shared = [name for name in before if name in after]
    assert len(shared) == 21806
    for index in range(28):
        fields = [name for name in shared if index in before[name]]
        target = by[index]
        if target is not None:
            assert np.mean([target in after[name] for name in fields]) >= 0.9


def test_converted_predictions_keep_cells_and_cautions() -> None:
    cells = pl.DataFrame(
        {"field": ["a"], "cell": [1], "x": [0.0], "y": [0.0], "area": [9]}, schema=pl.Schema(CELL_COLUMNS)
    )
    found = Predictions(("a_1",), np.full((1, 28), 0.5, np.float32), LabelSet.hpa28(), cautions=("dark",), cells=cells)
    converted = convert_predictions(found, between("hpa28", "hpa19"))
    assert converted.cells is not None
    assert converted.cells.equals(cells)
    assert converted.cautions == ("dark",)
    assert len(converted.label_set) == 19
