"""Folders as microscopes, macOS and other programs write them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import cytoloc as cl
from cytoloc.errors import DatasetWarning
from cytoloc.images.formats import opening
from tests.conftest import DATA, Cli
from tests.images.czi import Plane, write_czi
from tests.images.lif import write_lif
from tests.images.test_contained import crashing
from tests.images.test_tiff_kinds import PER_CHANNEL, ome_set, pixels

AWKWARD = DATA / "awkward"
SIZE = 32
pytestmark = pytest.mark.filterwarnings("ignore::cytoloc.errors.DatasetWarning")


def imported(folder: Path, channels: dict[str, str | int], **options: object) -> cl.Dataset:
    settings = {"square": "pad", "enlarge": True} | options
    return cl.import_folder(
        folder,
        out=folder.parent / "x.dataset",
        channels=channels,
        size=SIZE,
        options=cl.FolderOptions(**settings),  # type: ignore[arg-type]
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


def test_a_crash_costs_one_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(opening._VENDORS, "LIF", crashing)
    write_czi(folder / "a.czi", [Plane(pixels(32, 32))])
    write_lif(folder / "dies.lif", {"s": pixels(1, 8, 8)}, names=("a",), pixel_um=0.1)
    tifffile.imwrite(folder / "z.tif", pixels(32, 32))
    dataset = imported(folder, {"protein": 0})
    assert dataset.ids == ("a", "z")
    ((name, reason),) = dataset.quarantine
    assert name == "dies"
    assert "crashed (SIGSEGV)" in reason


def test_scenes_that_cannot_be_imported_are_named_by_a_dry_run(folder: Path, cli: Cli) -> None:
    planes = [Plane(pixels(32, 32), {"S": 0, "C": c}) for c in range(2)]
    planes += [Plane(pixels(32 + c, 32), {"S": 1, "C": c}) for c in range(2)]
    write_czi(folder / "a.czi", planes)
    call = ("import", "folder", folder, "--channels", "protein=1", "--size", SIZE)
    dry = cli(*call, "--dry-run")
    assert (dry.code, "a_s1 cannot be imported" in dry.err, "differ in size" in dry.err) == (0, True, True)
    assert cli(*call, "--dry-run", "--strict").code == 1
    done = cli(*call, "--out", folder.parent / "x.dataset")
    assert (done.code, "1 field of 32 px" in done.out, "differ in size" in done.err) == (0, True, True)


def test_files_of_macos_and_thumbnails_are_passed_over(folder: Path) -> None:
    for name in (
        "a.tif",
        "A01_thumb.tif",
        "A01_Thumbnail.tif",
        "A01_s1_thumb4F7C1BD8-4DA5-E709-D471-3D60C8A70639.tif",
        "._a.tif",
        "thumbs/b.tif",
        "__MACOSX/c.tif",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        tifffile.imwrite(folder / name, pixels(32, 32))
    assert imported(folder, {"protein": 0}).ids == ("a",)


def test_composed_and_decomposed_names_meet(folder: Path, tmp_path: Path) -> None:
    name = "cellulé"
    tifffile.imwrite(folder / f"{unicodedata.normalize('NFC', name)}_g.tif", pixels(32, 32))
    tifffile.imwrite(folder / f"{unicodedata.normalize('NFD', name)}_b.tif", pixels(32, 32, seed=1))
    (tmp_path / "m.csv").write_text(f"id,gene\n{unicodedata.normalize('NFD', name)},TP53\n", encoding="utf-8")
    dataset = imported(folder, {"protein": "*_g.tif", "nucleus": "*_b.tif"}, metadata=tmp_path / "m.csv")
    assert dataset.ids == (unicodedata.normalize("NFC", name),)
    assert dataset.fields["gene"].to_list() == ["TP53"]


@pytest.mark.parametrize("files", [None, "*.ome.tif", "scan_*", "P1/{well}_*.tif"])
def test_ids_do_not_depend_on_the_pattern_of_files(folder: Path, files: str | None) -> None:
    path = folder / ("scan_1.ome.tif" if files != "P1/{well}_*.tif" else "P1/A01_1.ome.tif")
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(path, pixels(32, 32))
    dataset = imported(folder, {"protein": 0}, files=files)
    assert dataset.ids == (("scan_1",) if files != "P1/{well}_*.tif" else ("P1/A01_1",))
    assert dataset.fields["well"].to_list() == (["A01"] if files and "{well}" in files else [None])


def test_files_of_a_set_become_one_field_each(folder: Path) -> None:
    image = ome_set(folder, PER_CHANNEL)
    dataset = imported(folder, {"protein": "GFP", "nucleus": "DAPI"}, floor=0)
    assert (dataset.ids, dataset.quarantine) == (("c0_Pos0", "c0_Pos1"), ())
    assert dataset.fields["white"].to_list() == [
        pytest.approx(image[at, ::-1].max(axis=(1, 2)), abs=1) for at in range(2)
    ]


def test_axes_are_asked_for_by_name_and_found_by_shape(folder: Path, cli: Cli) -> None:
    tifffile.imwrite(
        folder / "a.ome.tif", image := pixels(4, 32, 32), metadata={"axes": "TYX"}, photometric="minisblack"
    )
    call = ("import", "folder", folder, "--channels", "protein=1,nucleus=2", "--size", SIZE)
    asked = cli(*call, "--dry-run")
    assert asked.code == 1
    assert "no channel 1" in asked.err
    assert "T of 4, Y of 32, X of 32" in asked.err
    assert "--axes CYX" in asked.err
    assert cli(*call, "--dry-run", "--axes", "CY").code == 2
    assert cli(*call, "--axes", "cyx", "--out", folder.parent / "x.dataset").code == 0
    np.testing.assert_array_equal(cl.open_dataset(folder.parent / "x.dataset")[0], image[1:3])


def test_an_import_says_that_a_channel_is_blank_saturated_or_of_unknown_range(folder: Path) -> None:
    noise = np.random.default_rng(0).normal(100, 3, (64, 64))
    tifffile.imwrite(folder / "a_g.tif", np.rint(noise).astype(np.uint16))
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(folder / "a_b.png")
    tifffile.imwrite(folder / "a_r.tif", (noise * 1.1).astype(np.float32))
    channels: dict[str, str | int] = {"protein": "*_g.tif", "nucleus": "*_b.png", "microtubules": "*_r.tif"}
    with pytest.warns(DatasetWarning) as caught:
        imported(folder, channels)
    said = [str(each.message) for each in caught]
    for words in (
        "protein looks blank in 1 of 1 field",
        "nucleus is saturated",
        "microtubules has pixels of unknown range",
    ):
        assert any(words in each for each in said), words


@pytest.mark.skipif(not AWKWARD.exists(), reason=f"{AWKWARD} is not there")
def test_the_awkward_files_read_or_say_why(tmp_path: Path) -> None:
    options = {"square": "pad", "enlarge": True}

    def read(folder: str, channels: dict[str, str | int], **more: object) -> cl.Dataset:
        settings = cl.FolderOptions(**options, **more)  # type: ignore[arg-type]
        out = tmp_path / f"{len([*tmp_path.iterdir()])}.dataset"
        return cl.import_folder(AWKWARD / folder, out=out, channels=channels, size=64, options=settings)

    czi = read("czi", {"protein": "Prot", "nucleus": "DAPI"})
    assert (czi.ids, czi.quarantine) == (("c4", "mixed-8-16", "s-128-130_s0", "s-128-130_s1"), ())
    sets = read("ome-set", {"protein": "Prot", "nucleus": "DAPI"})
    assert sets.ids == ("MMStack_Pos0", "MMStack_Pos1", "MMStack_Pos2")
    assert sets.fields["pixel_um"].to_list() == [pytest.approx(0.08)] * 3
    tiff = read("tiff", {"protein": 0})
    assert tiff.ids == ("4bit_grey", "imagej_split_DAPI", "la")
    reasons = dict(tiff.quarantine)
    assert {*reasons} == {"channels_last", "channels_saved_as_T", "cmyk"}
    assert "inks of a printer" in reasons["cmyk"]
    assert "axes='YXC'" in reasons["channels_last"]
    assert "axes='CYX'" in reasons["channels_saved_as_T"]
    assert read("tiff", {"protein": 2}, files="channels_last*", axes="YXC").ids == ("channels_last",)
    assert read("tiff", {"protein": 2}, files="channels_saved*", axes="CYX").ids == ("channels_saved_as_T",)
    noise = read("depth/float32_noise", {"protein": "*_green.tif", "nucleus": "*_blue.tif"})
    assert noise.fields["flags"].to_list() == [["protein empty", "nucleus blurred"]]
    offset = read("depth", {"protein": "*_green.tif"}, limit=1)
    assert int(offset[0].max()) < 128
