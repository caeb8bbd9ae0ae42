from __future__ import annotations

import pytest

from cytoloc.dataset.sources.channels import FilePattern, parse_channels
from cytoloc.errors import ImageError, SettingsError

FOUR = "microtubules=*_r.tif,protein=*_g.tif,nucleus=*_b.tif,er=*_y.tif"


@pytest.mark.parametrize(
    ("pattern", "path", "said"),
    [
        ("*_b.tif", "monday/3_b.tif", {"id": "monday/3"}),
        ("*_b.tif", "3_b.tiff", None),
        ("{id}/blue.tif", "3/blue.tif", {"id": "3"}),
        ("{id}/blue.tif", "monday/3/blue.tif", None),
        ("{plate}/{well}.tif", "P1/A01.tif", {"plate": "P1", "well": "A01", "id": "P1_A01"}),
        ("a+b(*).tif", "a+b(7).tif", {"id": "7"}),
    ],
)
def test_patterns_read_names(pattern: str, path: str, said: dict[str, str] | None) -> None:
    assert FilePattern(pattern).match(path) == said


@pytest.mark.parametrize("pattern", ["fixed.tif", "*_*.tif", "{well}{well}.tif", "{color}.tif"])
def test_patterns_that_cannot_name_a_field_are_refused(pattern: str) -> None:
    with pytest.raises(SettingsError):
        FilePattern(pattern)


def test_channels_go_by_number_by_name_and_alone() -> None:
    picks = parse_channels(["protein=1,nucleus=dapi"]).picks
    assert picks["protein"].index(["DAPI", "GFP"]) == 1
    assert picks["nucleus"].index(["DAPI", "GFP"]) == 0
    assert parse_channels([FOUR]).picks["er"].index([""]) == 0
    assert parse_channels([FOUR.replace("y.tif", "y.tif#2")]).picks["er"].index(["", "", ""]) == 2


@pytest.mark.parametrize(
    ("pick", "names"), [("2", ["a", "b"]), ("c", ["a", "b"]), ("a", ["a", "A"]), ("*.tif", ["a", "b"])]
)
def test_a_channel_that_is_not_there_or_not_the_only_one_is_refused(pick: str, names: list[str]) -> None:
    channels = parse_channels([f"protein={pick}"])
    with pytest.raises(ImageError, match=r"'b'|'A'"):
        channels.picks["protein"].index(names)


@pytest.mark.parametrize(
    ("pick", "names", "number"),
    [
        ("name:488", ["405", "488"], 1),
        ("name:1", ["2", "1"], 1),
        ("number:1", ["1", "2"], 1),
        ("1", ["0", "1"], 1),
        ("name:Alexa 488, long * #2", ["DAPI", "Alexa 488, long * #2"], 1),
        ("alexa 488 ", ["DAPI", "Alexa 488"], 1),
        ("name:GFP", ["gfp", "GFP"], 1),
        ("name:é", ["e", "e\N{COMBINING ACUTE ACCENT}"], 1),
    ],
)
def test_channels_with_strange_names_are_found(pick: str, names: list[str], number: int) -> None:
    assert parse_channels([f"nucleus=name:a,protein={pick}"]).picks["protein"].index(names) == number
    assert parse_channels({"protein": pick}).picks["protein"].index(names) == number
    if pick.startswith("name:"):
        in_files = parse_channels([f"protein=*.tif#{pick}"]).picks["protein"]
        assert (in_files.index(names), str(in_files)) == (number, f"*.tif#{pick}")


@pytest.mark.parametrize(("pick", "names"), [("488", ["405", "488"]), ("1", ["1", "2"]), ("name:a", ["a", "a"])])
def test_ambiguous_channels_are_refused(pick: str, names: list[str]) -> None:
    with pytest.raises(ImageError, match=r"ambiguous|2 channels"):
        parse_channels([f"protein={pick}"]).picks["protein"].index(names)


def test_transparency_is_no_stain() -> None:
    assert parse_channels(["protein=*_g.tif"]).picks["protein"].index(["gray", "alpha"]) == 0


def test_channels_come_in_the_order_of_datasets() -> None:
    channels = parse_channels(["mito=3,nucleus=DAPI", "protein=GFP,actin=0"])
    assert channels.channels == ("protein", "nucleus", "mito", "actin")
    assert list(channels.note.values()) == ["GFP", "DAPI", "3", "0"]


@pytest.mark.parametrize(
    ("channels", "said"),
    [
        ("nucleus=1", "protein channel is missing among nucleus"),
        ("nucleus=1,protien=2", "protein channel is missing among nucleus, protien"),
        ("protein=1,protein=2", "Two channels have the name protein"),
        ("protein=1,my channel=2", "'my channel' is not a valid channel name"),
        ("protein", "'protein'"),
        ("protein=", "'protein='"),
        ("protein=1,nucleus=1", "for both protein and nucleus"),
        ("protein=1,nucleus=*_b.tif", "mixes patterns of files with channels of one file"),
        ("protein={well}_g.tif,nucleus=*_b.tif", "differ"),
    ],
)
def test_maps_that_leave_something_open_are_refused(channels: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        parse_channels([channels])
    assert caught.value.hint
    assert caught.value.exit_code == 2
