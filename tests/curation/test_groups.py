from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from cytoloc.curation.groups import groups_of_fields
from cytoloc.errors import TableError
from cytoloc.labels.label_list import read_label_list


def fields_of(tmp_path: Path, *ids: str) -> pl.DataFrame:
    path = tmp_path / "labels.csv"
    path.write_text("Id,Target\n" + "".join(f"{name},0\n" for name in ids))
    return read_label_list(path).fields


def test_a_list_says_what_its_ids_say(tmp_path: Path) -> None:
    fields = fields_of(tmp_path, "10580_1610_C1_1", "1639_A8_6_classes_25_5_0", "fad37608-bbad-11e8-b2ba-ac1f6b6435d0")
    assert fields.select("antibody", "plate", "well").rows() == [
        ("10580", "1610", "C1"),
        (None, "1639", "A8"),
        (None, None, None),
    ]
    assert fields["labels"].to_list() == [[0]] * 3


def test_pairs_tie_by_way_of_wells_of_another_source(tmp_path: Path) -> None:
    fields = fields_of(tmp_path, "a", "b", "c", "d", "e")
    # a and b are copies of two fields of one well, c of another well of the same antibody; d and e of one field.
    pairs = [("1_2_A1_1", "a"), ("1_2_A1_2", "b"), ("1_2_A2_1", "c"), ("elsewhere", "d"), ("e", "elsewhere")]
    assert groups_of_fields(fields, pairs=pairs).tolist() == [0, 0, 1, 2, 2]
    assert groups_of_fields(fields, pairs=pairs, group_by="antibody").tolist() == [0, 0, 0, 1, 1]
    assert groups_of_fields(fields, pairs=pairs, group_by="field").tolist() == [0, 1, 2, 3, 3]


def test_a_well_is_one_whether_its_antibody_is_named_or_not(tmp_path: Path) -> None:
    fields = fields_of(tmp_path, "u1", "u2", "928_A1_3")
    pairs = [("53668_928_A1_1", "u1"), ("928_A1_2_classes_0", "u2")]
    assert groups_of_fields(fields, pairs=pairs).tolist() == [0, 0, 0]


def test_groups_do_not_depend_on_the_order_of_pairs(tmp_path: Path) -> None:
    fields = fields_of(tmp_path, *"abcdefgh")
    pairs = [("a", "c"), ("c", "x"), ("x", "h"), ("d", "e")]
    expected = [0, 1, 0, 2, 2, 3, 4, 0]
    assert groups_of_fields(fields, pairs=pairs).tolist() == expected
    assert groups_of_fields(fields, pairs=[(b, a) for a, b in reversed(pairs)]).tolist() == expected


def test_pairs_of_other_fields_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="None of 1 pairs contains one of these 2 fields; the first pair is one, two"):
        groups_of_fields(fields_of(tmp_path, "a", "b"), pairs=[("one", "two")])


def test_no_fields_have_no_groups() -> None:
    empty = pl.DataFrame(schema=dict.fromkeys(("id", "antibody", "plate", "well"), pl.String))
    assert groups_of_fields(empty).tolist() == []
