"""Label sets: what is valid, how they are read and written, and how labels are parsed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytoloc.errors import LabelSetError, TableError
from cytoloc.labels.label_set import SHIPPED, LabelSet, Location, find_label_set, from_matrix

OWN = LabelSet("own", 2, (Location("rim", "Nuclear rim", "GO:1"), Location("c", "Cytoplasm"), Location("7", "Spots")))
HPA28 = LabelSet.hpa28()


@pytest.mark.parametrize(("name", "count"), [("hpa28", 28), ("hpa19", 19), ("subcell31", 31), ("hpa", 49)])
def test_shipped_label_sets(name: str, count: int) -> None:
    label_set = find_label_set(name)
    assert (label_set.name, label_set.version, len(label_set)) == (name, 1, count)
    assert label_set is find_label_set(name)
    if name != "hpa":
        assert label_set.keys == tuple(map(str, range(count)))


def test_locations_without_a_go_id_are_those_that_have_none() -> None:
    assert [each.name for each in HPA28 if not each.go_id] == ["Rods & rings"]
    assert [each.name for each in LabelSet.subcell31() if not each.go_id] == ["Negative"]


@pytest.mark.parametrize(
    ("locations", "message"),
    [
        ((), "has 0 locations"),
        ((Location("a", "A"),), "has 1 location"),
        ((Location("a", "A"), Location("a", "B")), "two locations with the key or name 'a'"),
        ((Location("a", "A"), Location("b", "a")), "two locations with the key or name 'a'"),
        ((Location("a", "One"), Location("b", "ONE")), "two locations with the key or name 'one'"),
        ((Location("a b", "A"), Location("c", "C")), "has the invalid key 'a b'"),
        ((Location("", "A"), Location("c", "C")), "has the invalid key ''"),
        ((Location("a", "A, B"), Location("c", "C")), "has the invalid name 'A, B'"),
        ((Location("a", " A"), Location("c", "C")), "has the invalid name ' A'"),
        ((Location("a", "A\n"), Location("c", "C")), "has the invalid name"),
        ((Location("id", "A"), Location("c", "C")), "key or name 'id'"),
        ((Location("a", "Id"), Location("c", "C")), "key or name 'id'"),
    ],
)
def test_what_is_no_label_set_is_refused(locations: tuple[Location, ...], message: str) -> None:
    with pytest.raises(LabelSetError, match=message):
        LabelSet("own", 1, locations)


@pytest.mark.parametrize(("name", "version"), [("", 1), ("a b", 1), ("own", 0), ("own", True), ("-x", 1)])
def test_a_name_and_a_version_are_needed(name: str, version: int) -> None:
    with pytest.raises(LabelSetError, match="are not valid for a label set"):
        LabelSet(name, version, OWN.locations)


def test_keys_are_made_of_names() -> None:
    assert LabelSet.from_names(["Nuclear rim", "Rods & rings"], name="own").keys == ("nuclear_rim", "rods_rings")
    assert LabelSet.numbered(3).keys == ("0", "1", "2")
    with pytest.raises(LabelSetError, match="has 1 location"):
        LabelSet.numbered(1)


def test_json_round_trip() -> None:
    for label_set in (OWN, *map(find_label_set, SHIPPED)):
        assert LabelSet.from_json(json.loads(json.dumps(label_set.to_json()))) == label_set


@pytest.mark.parametrize(
    "content",
    [
        None, [], {}, {"locations": {}}, {"name": "a", "version": 1, "locations": []},
        {"name": 3, "version": 1, "locations": OWN.to_json()["locations"]},
        {"name": "a", "version": 1, "locations": [{"key": "a"}, {"name": "b"}]},
        {"name": "a", "version": 1, "locations": [{"name": 3}, {"name": "b"}]},
        {"name": "a", "version": 1, "locations": ["a", "b"]},
    ],
)  # fmt: skip
def test_json_that_is_no_label_set_is_refused(content: Any) -> None:
    with pytest.raises(LabelSetError):
        LabelSet.from_json(content)


def test_csv_files(tmp_path: Path) -> None:
    path = tmp_path / "My labels.csv"
    path.write_text("key,name,go_id\nrim,Nuclear rim,GO:1\nc,Cytoplasm,\n7,Spots,\n")
    found = find_label_set(str(path))
    assert (found.name, found.version, found.locations) == ("my_labels", 1, OWN.locations)
    path.write_bytes(b"\xef\xbb\xbfname\r\nNuclear rim\r\nCytoplasm\r\n")
    assert LabelSet.from_csv(path, name="other").keys == ("nuclear_rim", "cytoplasm")
    for content, message in (
        ("label\nA\nB\n", "'label' is not a key of a label set"),
        ("key\nA\nB\n", "is not a label set: it has the columns key"),
        ("", "it has no rows"),
        ("name\nA\n", "has 1 location"),
        ("name\nA\nA\n", "two locations"),
        ("name,key\nA,a\n,b\n", "location 2 has no name"),
        ("name,Key\nA,a\nB,b\n", "'Key' is not a key of a label set"),
    ):
        path.write_text(content)
        with pytest.raises(LabelSetError, match=message):
            LabelSet.from_csv(path)
    with pytest.raises(LabelSetError, match="does not exist"):
        LabelSet.from_csv(tmp_path / "none.csv")


def test_toml_files(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        'name = "own"\nversion = 2\nlocations = [{key = "rim", name = "Nuclear rim", go_id = "GO:1"},'
        ' {key = "c", name = "Cytoplasm"}, {key = "7", name = "Spots"}]\n'
    )
    assert find_label_set(str(path)) == OWN
    path.write_text('locations = ["Nuclear rim", "Cytoplasm"]\n')
    assert LabelSet.from_toml(path) == LabelSet.from_names(["Nuclear rim", "Cytoplasm"], name="own")
    for content, message in (
        ("locations = [", "cannot be read as TOML"),
        ('name = "a"', "has no list of locations"),
        ("locations = [1, 2]", "has no list of locations"),
        ('locations = ["A"]', "has 1 location"),
        ('name = 3\nlocations = ["A", "B"]', "has no name"),
        ('verison = 2\nlocations = ["A", "B"]', "'verison' is not a key of a label set"),
        ('locations = [{name = "A", keey = "a"}, "B"]', "location A: 'keey' is not a key of a label set"),
    ):
        path.write_text(content)
        with pytest.raises(LabelSetError, match=message):
            LabelSet.from_toml(path)


def test_a_label_set_that_there_is_not() -> None:
    with pytest.raises(LabelSetError, match=r"no label set 'hpa29'\. Did you mean hpa28") as caught:
        find_label_set("hpa29")
    assert ".csv or .toml" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("rim 7", (0, 2)),
        ("Nuclear rim", (0,)),
        ("nuclear RIM;spots", (0, 2)),
        ("7|rim|c", (0, 1, 2)),
        ("Cytoplasm, Nuclear rim", (0, 1)),
        (" c ", (1,)),
        ("c|c|rim", (0, 1)),
    ],
)
def test_separators(text: str, indices: tuple[int, ...]) -> None:
    assert OWN.parse(text, where="here") == indices


@pytest.mark.parametrize("text", ["", "  ", ";", "28", "9" * 5000, "-1", "1.5", "a", "3 3", "\u00b2"])
def test_bad_labels_are_refused_with_their_place(text: str) -> None:
    with pytest.raises(TableError, match="row 5"):
        HPA28.parse(text, where="row 5")


@pytest.mark.parametrize(
    ("word", "hint"),
    [("Nucleolus", "Nucleoli"), ("golgi aparatus", "Golgi apparatus"), ("Plasma-membrane", "Plasma membrane")],
)
def test_near_names_are_suggested(word: str, hint: str) -> None:
    with pytest.raises(TableError, match="is not a location of the label set hpa28") as caught:
        HPA28.parse(word, where="labels.csv, id 7")
    assert hint in caught.value.hint


def test_without_a_near_name_all_are_shown() -> None:
    with pytest.raises(TableError) as caught:
        OWN.index("xyz")
    assert caught.value.hint == "Its locations are: Nuclear rim, Cytoplasm, 7 (Spots)."


@given(
    names=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters=";|,", exclude_categories=["C", "Z"]), min_size=1),
        min_size=2,
        max_size=8,
        unique_by=lambda name: name.casefold(),
    ),
    seed=st.integers(0, 99),
)
def test_what_is_formatted_is_parsed(names: list[str], seed: int) -> None:
    locations = tuple(Location(f"k{number}", f"the {name}") for number, name in enumerate(names))
    label_set = LabelSet("any", 1, locations)
    rng = np.random.default_rng(seed)
    indices = tuple(sorted(rng.choice(len(names), rng.integers(1, len(names) + 1), replace=False).tolist()))
    assert label_set.parse(label_set.format(indices), where="") == indices
    for sign in ";|,":
        assert label_set.parse(sign.join(label_set.names[index] for index in indices), where="") == indices


def test_matrix_round_trip() -> None:
    labels = [(0, 2), (), (1,)]
    matrix = OWN.to_matrix(labels)
    assert matrix.shape == (3, 3)
    assert matrix.dtype == np.bool_
    assert from_matrix(matrix) == labels


def test_label_sets_of_other_locations_are_refused() -> None:
    renamed = LabelSet("renamed", 5, OWN.locations)
    OWN.refuse_other(renamed, what="predictions.parquet", than="the decision")
    other = LabelSet("own", 2, OWN.locations[::-1])
    assert not OWN.matches(other)
    with pytest.raises(
        LabelSetError, match=r"differ: hpa28 \(.*\) in predictions\.parquet, own \(.*\) in the decision"
    ):
        OWN.refuse_other(HPA28, what="predictions.parquet", than="the decision")
    swapped = LabelSet("own", 1, (OWN[0]._replace(name=OWN[1].name), OWN[1]._replace(name=OWN[0].name), OWN[2]))
    first = f"position 0: {OWN[0].key} ({OWN[1].name}) against {OWN[0].key} ({OWN[0].name})"
    with pytest.raises(LabelSetError, match=re.escape(first)):
        OWN.refuse_other(swapped, what="one", than="the other")
    with pytest.raises(LabelSetError, match="against none"):
        LabelSet("own", 1, OWN.locations[:2]).refuse_other(OWN, what="one", than="the other")
