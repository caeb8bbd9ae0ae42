from __future__ import annotations

import pytest

from cytoloc.labels.hpa_names import HpaId, count_unknown, hpa_names, locations_of, parse_hpa_id, shipped_name
from cytoloc.labels.label_set import SHIPPED, LabelSet, find_label_set


@pytest.mark.parametrize("name", SHIPPED)
def test_every_location_is_known_by_its_name_in_any_case(name: str) -> None:
    label_set = find_label_set(name)
    for index, location in enumerate(label_set):
        assert locations_of([location.name.upper()], label_set).indices == (index,)


@pytest.mark.parametrize("name", SHIPPED)
def test_names_stand_for_keys_of_the_shipped_sets(name: str) -> None:
    label_set = find_label_set(name)
    assert shipped_name(label_set) == name
    assert {each.keys[name] for each in hpa_names() if name in each.keys} == set(label_set.keys)
    names = {each.name for each in hpa_names()}
    assert all(not each.part_of or each.part_of in names for each in hpa_names())


def test_names_are_mapped_left_out_or_reported() -> None:
    named = locations_of(["Nucleus", "Midbody ring", "Vesicles", "Cell Junctions", "Atlantis"], LabelSet.hpa28())
    assert named.indices == (0, 16, 22)
    assert (named.without, named.unknown) == (("Vesicles",), ("Atlantis",))
    assert count_unknown([named, named]) == {"Atlantis": 2}
    assert locations_of(["Vesicles", "Midbody"], LabelSet.hpa19()).indices == (17,)


def test_of_an_own_label_set_its_own_names_count_alone() -> None:
    own = LabelSet.from_names(["Nucleoplasm", "Cytoplasm"], name="own")
    named = locations_of(["nucleoplasm", "Nucleus", "cytoplasm", "Atlantis"], own)
    assert named == ((0, 1), ("Nucleus",), ("Atlantis",))
    assert shipped_name(own) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("10580_1610_C1_1", HpaId("10580", "1610", "C1", "1")),
        ("10580_1610_C1_2_cr58f2a7", HpaId("10580", "1610", "C1", "2_cr58f2a7")),
        ("ENSG00000001497_44431_556_B9_1", HpaId("44431", "556", "B9", "1")),
        ("1639_A8_6_classes_25_5_0", HpaId(None, "1639", "A8", "6")),
        ("00070df0-bbc3-11e8-b2bc-ac1f6b6435d0", None),
    ],
)
def test_ids_say_where_a_field_was_imaged(name: str, said: HpaId | None) -> None:
    assert parse_hpa_id(name) == said
