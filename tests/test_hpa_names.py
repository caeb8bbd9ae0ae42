from __future__ import annotations

import pytest

from cytoloc.hpa_names import HpaId, count_unknown, locations_of, parse_hpa_id
from cytoloc.labels import LOCATIONS, LOCATIONS_2021, TO_2021


def test_every_location_is_known_by_its_name_in_any_case() -> None:
    for location in LOCATIONS:
        assert locations_of([location.name.upper()]).ids == (int(location.key),)


def test_names_outside_the_28_are_mapped_left_out_or_reported() -> None:
    named = locations_of(["Nucleus", "Midbody ring", "Vesicles", "Cell Junctions", "Atlantis"])
    assert named.ids == (0, 16, 22)
    assert (named.without, named.unknown) == (("Vesicles",), ("Atlantis",))
    assert count_unknown([named, named]) == {"Atlantis": 2}


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


def test_the_map_to_2021_keeps_names_that_both_have() -> None:
    for location, new in zip(LOCATIONS, TO_2021, strict=True):
        if location.name in LOCATIONS_2021:
            assert new == LOCATIONS_2021.index(location.name)
    assert {location.name for location, new in zip(LOCATIONS, TO_2021, strict=True) if new is None} == {
        "Microtubule ends",
        "Cytokinetic bridge",
        "Rods & rings",
    }
