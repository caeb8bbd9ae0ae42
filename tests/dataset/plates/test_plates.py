from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import cytoloc as cl
from cytoloc.dataset.plates.names import read_name
from cytoloc.errors import DatasetWarning, ImageError, SettingsError
from tests.conftest import DATA, Cli
from tests.dataset.plates import trees

# The images are noise or flat, which imports warn about.
pytestmark = pytest.mark.filterwarnings("ignore::cytoloc.errors.DatasetWarning")

TREES: dict[str, Callable[[Path], list[Path]]] = {
    "imagexpress": trees.imagexpress,
    "harmony": trees.harmony,
    "harmony 7": partial(trees.harmony, version=7),
    "cellvoyager": trees.cellvoyager,
    "incell": trees.incell,
    "scanr": trees.scanr,
}
CHANNELS = {"nucleus": "DAPI", "protein": "FITC"}
INDEXES = (".htd", ".xml", ".mlf", ".mrf", ".mes", ".xdce")


def imported(folder: Path, out: Path, channels: dict[str, Any] = CHANNELS, **options: Any) -> cl.Dataset:
    options = {"pixel_um": 0.08 * 64, "enlarge": True, **options}
    return cl.import_plate(folder, out=out, channels=channels, size=32, options=cl.PlateOptions(**options))


def without_indexes(folder: Path) -> None:
    for path in list(folder.rglob("*")):
        if path.suffix.lower() in INDEXES:
            path.unlink()


def grays(dataset: cl.Dataset) -> dict[str, list[int]]:
    """Return the gray levels of protein and nucleus by id, each checked to be constant."""
    images = dataset.read(np.arange(len(dataset)))
    assert (images == images[:, :, :1, :1]).all()
    return {name: image[:, 0, 0].tolist() for name, image in zip(dataset.ids, images, strict=True)}


def expected(plate: str = "P1", z: int = 2) -> dict[str, list[int]]:
    """Return the gray levels that the planes of a tree have: the last z plane is the brightest."""
    found: dict[str, dict[int, int]] = {}
    for at in trees.every_plane():
        if at.z == z:
            found.setdefault(f"{plate}_{at.well}_{at.field}_t{at.time}", {})[at.channel] = at.gray
    return {name: [by[2], by[1]] for name, by in sorted(found.items())}


@pytest.mark.parametrize("layout", TREES)
def test_index_and_names_lead_to_the_same_fields(layout: str, tmp_path: Path) -> None:
    folder = tmp_path / "screen"
    TREES[layout](folder)
    by_index = imported(folder, tmp_path / "a.dataset", strict=layout != "cellvoyager")
    assert grays(by_index) == expected()
    rows = by_index.fields.select("plate", "well", "field", "source").unique().sort("well", "field").rows()
    assert rows == [("P1", well, field, "plate") for well in ("A01", "B02") for field in ("1", "2")]
    note = by_index.header["imports"][0]["settings"]
    assert (note["command"], note["layout"]) == ("import plate", layout.split()[0])
    if layout == "cellvoyager":
        assert dict(by_index.quarantine) == {
            "P1_A03_1_t1": "P1_20260101/MeasurementData.mlf reports an error of the instrument: autofocus failed."
            " Copy the files again."
        }

    without_indexes(folder)
    named = dict(CHANNELS) if layout in ("incell", "scanr") else {"nucleus": "w1", "protein": 2}
    by_names = imported(folder, tmp_path / "b.dataset", named, strict=True)
    plate = by_names.fields["plate"][0]
    renamed = {name.replace(plate, "P1", 1): values for name, values in grays(by_names).items()}
    if layout == "scanr":
        renamed = {name.replace("W00001", "A01").replace("W00014", "B02"): each for name, each in renamed.items()}
    assert renamed == expected()


@pytest.mark.parametrize("layout", TREES)
def test_a_lost_file_is_in_the_quarantine_with_the_reason(layout: str, tmp_path: Path) -> None:
    lost = TREES[layout](tmp_path / "screen")[0]
    lost.unlink()
    dataset = imported(tmp_path / "screen", tmp_path / "a.dataset")
    reason = dict(dataset.quarantine)["P1_A01_1_t1"]
    assert "is missing" in reason or "Z planes of the channel nucleus (1 'DAPI') are missing: 1" in reason
    assert grays(dataset) == {name: each for name, each in expected().items() if name != "P1_A01_1_t1"}


def test_wells_of_the_index_without_any_file_are_in_the_quarantine(tmp_path: Path) -> None:
    for path in trees.imagexpress(tmp_path / "screen"):
        if "_B02_" in path.name:
            path.unlink()
    dataset = imported(tmp_path / "screen", tmp_path / "a.dataset")
    assert len(dataset) == len(dataset.quarantine) == 4
    assert "P1.HTD lists this field, but there is no file of it" in dict(dataset.quarantine)["P1_B02_1_t1"]


def test_one_plane_and_one_time_point(tmp_path: Path) -> None:
    trees.harmony(tmp_path / "screen")
    dataset = imported(tmp_path / "screen", tmp_path / "a.dataset", {"protein": 488, "nucleus": "405nm"}, z=1, time=2)
    assert grays(dataset) == {name: each for name, each in expected(z=1).items() if name.endswith("_t2")}
    with pytest.raises(ImageError, match=r"no time point 7; their time points are 1 to 2"):
        imported(tmp_path / "screen", tmp_path / "b.dataset", time=7)


def test_the_pixel_size_of_the_index_is_used(tmp_path: Path) -> None:
    for layout in ("harmony", "cellvoyager", "incell", "scanr"):
        TREES[layout](tmp_path / layout)
        with pytest.warns(DatasetWarning, match=r"0\.100 µm"):
            dataset = imported(tmp_path / layout, tmp_path / f"{layout}.dataset", pixel_um=None, target_um=0.1)
        assert dataset.fields["pixel_um"].to_list() == [pytest.approx(0.1)] * 8


def test_plates_in_one_folder_have_different_names(tmp_path: Path) -> None:
    for name in ("monday", "tuesday"):
        trees.incell(tmp_path / "screen" / name)
    dataset = imported(tmp_path / "screen", tmp_path / "a.dataset")
    assert dataset.fields["plate"].unique().sort().to_list() == ["P1_monday_P1", "P1_tuesday_P1"]


def test_ambiguous_or_unknown_choices_are_refused(tmp_path: Path) -> None:
    trees.harmony(tmp_path / "a")
    trees.scanr(tmp_path / "b")
    for folder, channels, message in (
        (tmp_path, CHANNELS, "several layouts: harmony, scanr"),
        (tmp_path / "a", {"protein": "Cy5"}, r"no channel 'Cy5'; its channels are 1 'DAPI' \(405 nm\), 2 'FITC"),
        (tmp_path / "a", {"protein": 1, "nucleus": "DAPI"}, "for both protein and nucleus"),
        (tmp_path / "a", {"protein": "*_1.tif"}, "a pattern of files"),
    ):
        with pytest.raises(SettingsError, match=message):
            imported(folder, tmp_path / "x.dataset", channels)
    for layout, message in (
        ("cellvoyager", "no plate of the layout cellvoyager"),
        ("ome-zarr", "no plate of the layout"),
    ):
        with pytest.raises(ImageError, match=message):
            imported(tmp_path / "a", tmp_path / "x.dataset", layout=layout)
    (tmp_path / "a" / "P1__2026" / "Images" / "Index.idx.xml").write_text("<EvaluationInputData>")
    with pytest.raises(ImageError, match=r"index file P1__2026/Images/Index\.idx\.xml cannot be read"):
        imported(tmp_path / "a", tmp_path / "x.dataset")


def test_two_files_for_a_plane_are_not_guessed(tmp_path: Path) -> None:
    file = trees.imagexpress(tmp_path / "screen")[0]
    without_indexes(tmp_path)
    copy = file.with_name(re.sub(r"_w1.*", "_w1.tif", file.name))
    tifffile.imwrite(copy, np.zeros((32, 32), np.uint8))
    dataset = imported(tmp_path / "screen", tmp_path / "a.dataset", {"protein": 2, "nucleus": 1})
    assert "Two files for channel 1, z plane 1" in dict(dataset.quarantine)["P1_A01_1_t1"]


def test_the_command_says_what_was_found(tmp_path: Path, cli: Cli) -> None:
    trees.imagexpress(tmp_path / "screen")
    args = ("import", "plate", str(tmp_path / "screen"), "--channels", "nucleus=DAPI,protein=w2", "--size", "32")
    done = cli(*args, "--dry-run")
    for line in (
        "plate         P1",
        "index       plate 1/P1.HTD",
        "wells       2: A01, B02",
        "fields      2 per well: 1 to 2",
        "channels    1 'DAPI' (16 files); 2 'FITC' (16 files)",
        "z planes    1 to 2",
        "times       1 to 2",
        "Channels as in 8 of them, such as P1_A01_1_t1:",
        "protein       channel 2 'FITC' in plate 1/TimePoint_1/ZStep_1/P1_A01_s1_w2",
    ):
        assert line in done.err, line
    done = cli(*args, "--out", str(tmp_path / "x.dataset"))
    assert "8 fields of 32 px" in done.out


@pytest.mark.skipif(not (DATA / "awkward").is_dir(), reason="the test data are absent; set CYTOLOC_TEST_DATA")
def test_real_plates(tmp_path: Path) -> None:
    for folder, channels, number, lost, pixel_um in (
        ("readers/hcs/ImageXpress_exported", CHANNELS, 8, 16, 1.3672),
        ("readers/hcs/operetta_plate", {"protein": "FITC"}, 2, 0, 1.19595),
        ("awkward/plate-names/mx", {"protein": 2, "nucleus": 3}, 4, 0, None),
        ("awkward/plate-names/harmony", {"protein": 2, "nucleus": 3}, 4, 0, None),
        ("awkward/ome-zarr/plate", {"protein": "Prot", "nucleus": "DAPI"}, 3, 0, 0.08),
    ):
        with pytest.warns(DatasetWarning):
            dataset = imported(DATA / folder, tmp_path / f"{folder.replace('/', '-')}.dataset", channels, pixel_um=None)
        assert (len(dataset), len(dataset.quarantine)) == (number, lost), folder
        assert dataset.fields["pixel_um"][0] == (None if pixel_um is None else pytest.approx(pixel_um, rel=1e-4))


@pytest.mark.parametrize(
    ("layout", "name", "spot", "channel"),
    [
        ("imagexpress", "P_A01_s10.TIF", ("A01", 10, 1), None),
        ("imagexpress", "Exp_B02_A01_s1_w10.tif", ("A01", 1, 1), 10),
        ("imagexpress", "P_AB12_s12_w10ABCDEF01-1234-1234-1234-1234567890AB.tif", ("AB12", 12, 1), 10),
        ("imagexpress", "Plate 1/TimePoint_3/a_W10_s1_w1.tif", ("W10", 1, 3), 1),
        ("harmony", "001002-3-001004005.tif", ("A02", 3, 4), 5),
        ("harmony", "P/Images/r16c24f09p01-ch4sk10fk1fl1.tiff", ("P24", 9, 10), 4),
        ("cellvoyager", "A_B03_T0002F003L01A01Z01C04.png", ("B03", 3, 2), 4),
        ("cellvoyager", "W12F001T0001Z01C1.tif", ("W12", 1, 1), 1),
        ("incell", "B - 3(fld 02 wv 390 - Blue).tif", ("B03", 2, 1), None),
        ("scanr", "A1--W00001--P00002--Z00000--T00000--DAPI.tif", ("A01", 2, 0), None),
    ],
)
def test_names_of_every_layout(layout: str, name: str, spot: tuple[str, int, int], channel: int | None) -> None:
    found = read_name(name, layout)
    assert found is not None
    assert (tuple(found.spot), found.channel) == (spot, channel)
