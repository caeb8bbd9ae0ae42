"""Segmenting fields into a dataset of cells."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tifffile
from numpy.typing import NDArray

import cytoloc as cl
from cytoloc.cells.labels import read_labels
from cytoloc.cells.matching import match_objects
from cytoloc.cells.methods import FieldImage
from cytoloc.errors import DatasetWarning, ImageError, OutputExistsError, SettingsError, WeightsError
from cytoloc.simulate.files import write_kaggle_field
from tests.cells.conftest import IDS, PIXEL_UM, column
from tests.conftest import DATA, Cli

Pictures = dict[str, NDArray[np.uint8]]
Truths = dict[str, tuple[NDArray[np.int32], NDArray[np.int32]]]


def label_files(folder: Path) -> cl.LabelFiles:
    return cl.LabelFiles(folder=folder.parent / "labels", nuclei="{id}_nuclei.tif")


@pytest.fixture
def cells(folder: Path, tmp_path: Path) -> cl.Dataset:
    """Return the cells of two fields, from label images."""
    crops = cl.CropOptions(size=64)
    return cl.segment_cells(folder, tmp_path / "cells", method=label_files(folder), crops=crops, pixel_um=PIXEL_UM)


def test_every_label_becomes_a_cell_of_its_field(cells: cl.Dataset, truths: Truths) -> None:
    for name in IDS:
        truth, nuclei = truths[name]
        own = cells.fields.filter(pl.col("field") == name)
        assert own["cell"].to_list() == [int(n) for n in np.unique(truth) if n]
        for number, x, y, area in own.select("cell", "x", "y", "area").iter_rows():
            rows, columns = np.nonzero(truth == number)
            assert area == len(rows)
            assert (x, y) == pytest.approx((columns.mean(), rows.mean()), abs=1e-3)
        assert own["area_um2"].to_numpy() == pytest.approx(own["area"].to_numpy() * PIXEL_UM**2, rel=1e-5)
        has = {int(n) for n in np.unique(nuclei) if n}
        assert {n for n, found in own.select("cell", "nuclei").iter_rows() if found} == has
    assert cells.of_cells
    assert "cells of 64 px" in repr(cells)


def test_the_table_of_cells_is_a_file_of_its_own(cells: cl.Dataset) -> None:
    table = pl.read_parquet(cells.folder / "fields.parquet")
    assert table.equals(cells.fields)


def test_flags_tell_border_and_nuclei(cells: cl.Dataset, truths: Truths) -> None:
    truth = truths["one"][0]
    at_border = {int(n) for n in np.unique(np.concatenate([truth[0], truth[-1], truth[:, 0], truth[:, -1]])) if n}
    rows = cells.fields.filter(pl.col("field") == "one").select("cell", "nuclei", "flags").iter_rows()
    for number, nuclei, flags in rows:
        assert ("at border" in flags) == (number in at_border)
        assert ("no nucleus" in flags) == (nuclei == 0)


def test_a_crop_is_the_masked_window_of_the_field(folder: Path, tmp_path: Path, pictures: Pictures) -> None:
    labels = np.zeros((512, 512), np.uint16)
    labels[100:120, 200:240] = 5
    tifffile.imwrite(folder.parent / "labels" / "one_cells.tif", labels)
    (folder.parent / "labels" / "two_cells.tif").unlink()
    method = cl.LabelFiles(folder=folder.parent / "labels")
    for margin, masked in ((0, True), (3, True), (0, False)):
        crops = cl.CropOptions(size=64, window_px=64, margin_px=margin, masked=masked)
        found = cl.segment_cells(folder, tmp_path / f"{margin}{masked}", method=method, crops=crops)
        window = pictures["one"][:, 110 - 32 : 110 + 32, 220 - 32 : 220 + 32]
        mask = np.zeros((64, 64), bool)
        mask[22 - margin : 42 + margin, 12 - margin : 52 + margin] = True
        assert np.array_equal(found[0], np.where(mask, window, 0) if masked else window)
        assert found.ids == ("one_c5",)
        assert column(found, "is_masked") == [masked]
        assert [bad.id for bad in found.quarantine] == ["two"]
        assert "two_cells.tif of field two does not exist" in found.quarantine[0].reason


def test_windows_are_black_outside_the_field_and_scaled(folder: Path, tmp_path: Path) -> None:
    labels = np.zeros((512, 512), np.uint16)
    labels[:10, :10] = 1
    for name in IDS:
        tifffile.imwrite(folder.parent / "labels" / f"{name}_cells.tif", labels)
    crops = cl.CropOptions(size=64, window_um=128 * PIXEL_UM, masked=False)
    method = cl.LabelFiles(folder=folder.parent / "labels")
    found = cl.segment_cells(folder, tmp_path / "cells", method=method, crops=crops, pixel_um=PIXEL_UM)
    image = found[0]
    assert image[:, :29].max() == 0
    assert image[:, :, :29].max() == 0
    assert image[:, 31:, 31:].max() > 0
    assert column(found, "packed_um") == pytest.approx([2 * PIXEL_UM] * 2)


def test_a_turned_cell_is_horizontal(folder: Path, tmp_path: Path, pictures: Pictures) -> None:
    y, x = np.mgrid[:512, :512]
    along, across = (x - 250) * 0.6 + (y - 250) * 0.8, (x - 250) * 0.8 - (y - 250) * 0.6
    labels = ((np.abs(along) < 40) & (np.abs(across) < 10)).astype(np.uint8)
    tifffile.imwrite(folder.parent / "labels" / "one_cells.tif", labels)
    write_kaggle_field(folder, "one", np.full((4, 512, 512), 200, np.uint8))
    crops = cl.CropOptions(size=128, window_px=128, margin_px=0, turned=True)
    method = cl.LabelFiles(folder=folder.parent / "labels")
    image = cl.segment_cells(folder, tmp_path / "cells", method=method, crops=crops)["one_c1"]
    rows, columns = np.nonzero(image[0])
    assert np.ptp(columns) == pytest.approx(79, abs=4)
    assert np.ptp(rows) == pytest.approx(19, abs=4)


def test_kept_cells_and_border(folder: Path, tmp_path: Path) -> None:
    counts = {}
    for kept, border in (("all", "keep"), ("nucleated", "keep"), ("single", "drop")):
        crops = cl.CropOptions(size=32, kept=kept, border=border)  # type: ignore[arg-type]
        out = tmp_path / f"{kept}{border}"
        made = cl.segment_cells(folder, out, method=label_files(folder), crops=crops, pixel_um=PIXEL_UM)
        counts[kept] = len(made)
        flags = {flag for each in made.fields["flags"].to_list() for flag in each}
        assert ("no nucleus" in flags) == (kept == "all")
        assert ("at border" in flags) == (border == "keep")
    assert counts["all"] > counts["nucleated"] > counts["single"] > 0


def test_folds_keep_the_cells_of_a_field_together(study: cl.Dataset, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for name in study.ids:
        labels = np.zeros((64, 64), np.uint8)
        labels[5:30, 5:30], labels[35:60, 35:60] = 1, 2
        tifffile.imwrite(tmp_path / "labels" / f"{name}_cells.tif", labels)
    method, crops = cl.LabelFiles(folder=tmp_path / "labels"), cl.CropOptions(size=32, window_px=32)
    cells = cl.segment_cells(study, tmp_path / "cells", method=method, crops=crops)
    assert len(cells) == 2 * len(study)
    assert cells[f"{study.ids[0]}_c1"].shape == (4, 32, 32)
    assert cells.labels[0] == cells.labels[1] == study.labels[0]
    for group_by in ("field", "well", "antibody"):
        folds = cl.make_folds(cells, k=2, group_by=group_by)
        joined = folds.join(cells.fields.select("id", "field"), on="id")
        assert joined.group_by("field").agg(pl.col("fold").n_unique())["fold"].to_list() == [1] * len(study)
    with pytest.raises(SettingsError, match="is a dataset of cells"):
        cl.segment_cells(cells, tmp_path / "again", method=method)


@pytest.mark.parametrize("method", ["classical", "instanseg"])
def test_methods_find_simulated_cells(
    method: str, pictures: Pictures, truths: Truths, request: pytest.FixtureRequest
) -> None:
    chosen = cl.Classical() if method == "classical" else cl.InstanSeg(weights=request.getfixturevalue("weights"))
    channels = ("microtubules", "protein", "nucleus", "er")
    matched, found, true = 0, 0, 0
    with chosen.running():
        for name in IDS:
            truth, nuclei = truths[name]
            labels = chosen.segment(FieldImage(name, pictures[name], channels, PIXEL_UM))
            assert labels.cells.shape == (512, 512)
            assert labels.nuclei is not None
            # Every nucleus is in a cell.
            assert (labels.cells[labels.nuclei > 0] > 0).all()
            nucleated = np.where(np.isin(truth, np.unique(nuclei)), truth, 0)
            agreement = match_objects(labels.cells, nucleated, iou=0.5)
            matched, found, true = matched + agreement.matched, found + agreement.found, true + agreement.true
    assert matched / true > 0.75
    assert matched / found > 0.75


def test_instanseg_gives_the_answer_of_its_authors(weights: Path) -> None:
    from cytoloc.models.instanseg import InstanSegNet

    image = np.load(weights.parent / "test-input.npy")[0]
    golden = np.load(weights.parent / "test-output_instance_segmentation.npy")[0].astype(int)
    nuclei, cells = InstanSegNet(weights)(image)
    assert [len(np.unique(each)) - 1 for each in (nuclei, cells)] == [25, 30]
    for found, expected in ((nuclei, golden[0]), (cells, golden[1])):
        assert np.array_equal(found > 0, expected > 0)
        assert match_objects(found, expected, iou=0.99).recall == 1


def test_real_fields_have_the_cells_that_people_count(weights: Path, tmp_path: Path) -> None:
    folder = DATA / "images" / "fullres"
    if not folder.is_dir():
        pytest.skip(f"real fields are not at {folder}")
    for file in folder.glob("*.png"):
        if file.name.startswith(("000a6c98", "5c27f04c")):
            (tmp_path / file.name).symlink_to(file)
    method = cl.InstanSeg(weights=weights)
    with pytest.warns(DatasetWarning, match="larger than the window"):
        cells = cl.segment_cells(tmp_path, tmp_path / "cells", method=method, pixel_um=0.08)
    counts = cells.fields.filter(pl.col("nuclei") > 0).group_by("field").len().sort("field")["len"].to_list()
    assert counts == [pytest.approx(20, rel=0.2), pytest.approx(10, rel=0.2)]


def test_an_empty_field_has_no_cells(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_kaggle_field(folder, "two", rng.integers(3, 9, (4, 512, 512), dtype=np.uint8))
    with pytest.warns(DatasetWarning, match="1 of 2 fields have no cells"):
        cells = cl.segment_cells(folder, tmp_path / "cells", method=cl.Classical(), pixel_um=PIXEL_UM)
    assert set(column(cells, "field")) == {"one"}
    assert not cells.quarantine
    labels = cl.labels_of(cells, "two")
    assert labels.cells.shape == (512, 512)
    assert not labels.cells.any()
    assert cl.labels_of(cells, "one").nuclei is not None


def test_nothing_is_left_if_no_field_can_be_segmented(folder: Path, tmp_path: Path) -> None:
    for file in (tmp_path / "labels").iterdir():
        file.unlink()
    with pytest.raises(ImageError, match="none of 2 fields could be segmented"):
        cl.segment_cells(folder, tmp_path / "cells", method=label_files(folder), pixel_um=PIXEL_UM)
    assert not (tmp_path / "cells").exists()


def test_fields_without_any_cell_are_an_error(folder: Path, tmp_path: Path) -> None:
    for name in IDS:
        tifffile.imwrite(tmp_path / "labels" / f"{name}_cells.tif", np.zeros((512, 512), np.uint8))
    with pytest.raises(ImageError, match="No field has a cell"):
        cl.segment_cells(folder, tmp_path / "cells", method=cl.LabelFiles(folder=tmp_path / "labels"), pixel_um=0.3)
    assert not (tmp_path / "cells").exists()


def test_noise_has_no_cells(weights: Path) -> None:
    noise = np.random.default_rng(0).integers(3, 9, (4, 512, 512), dtype=np.uint8)
    field = FieldImage("noise", noise, ("microtubules", "protein", "nucleus", "er"), PIXEL_UM)
    method = cl.InstanSeg(weights=weights)
    with method.running():
        assert not method.segment(field).cells.any()


def test_a_stopped_segmentation_continues(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A commit after each field.
    monkeypatch.setattr("cytoloc.cells.segmenting.ImportOptions", partial(cl.ImportOptions, segment_bytes=1))
    arguments = {"method": label_files(folder), "crops": cl.CropOptions(size=32), "pixel_um": PIXEL_UM}
    whole = cl.segment_cells(folder, tmp_path / "whole", **arguments)  # type: ignore[arg-type]

    def stop(done: int, _total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cl.segment_cells(folder, tmp_path / "cells", progress=stop, **arguments)  # type: ignore[arg-type]
    assert (tmp_path / "cells" / "dataset.json").exists()
    again = cl.segment_cells(folder, tmp_path / "cells", **arguments)  # type: ignore[arg-type]
    assert again.fingerprint == whole.fingerprint
    assert again.fields.equals(whole.fields)
    with pytest.raises(OutputExistsError):
        cl.segment_cells(folder, tmp_path / "cells", **arguments)  # type: ignore[arg-type]


def test_microscope_files_need_channels(tmp_path: Path, pictures: Pictures) -> None:
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, pictures["one"][[2, 1]], metadata={"axes": "CYX"})
    with pytest.raises(SettingsError, match="Say where each channel is with `channels`"):
        cl.segment_cells(tmp_path, tmp_path / "cells", method=cl.Classical(), pixel_um=PIXEL_UM)
    for inputs, out in ((tmp_path, "one"), (file, "two")):
        made = cl.segment_cells(
            inputs, tmp_path / out, method=cl.Classical(), pixel_um=PIXEL_UM, channels=["nucleus=0", "protein=1"]
        )
        assert made.channels == ("protein", "nucleus")
        assert len(made) > 5


@pytest.mark.parametrize(
    ("pixel_um", "message"),
    [
        (None, "The pixel size of one is unknown"),
        (1.5, "too coarse"),
        (500.0, "not a pixel size of a light"),
    ],
)
def test_pixel_sizes_are_checked(pixel_um: float | None, message: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises((ImageError, SettingsError), match=message):
        cl.segment_cells(folder, tmp_path / "cells", method=cl.Classical(), pixel_um=pixel_um)


def test_other_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "instanseg.pt").write_bytes(b"something")
    with pytest.raises(WeightsError, match="has the SHA-256 3fc9b689459d"):
        cl.segment_cells(folder, tmp_path / "cells", method=cl.InstanSeg(weights=tmp_path / "instanseg.pt"), pixel_um=1)
    with pytest.raises(WeightsError, match="does not exist"):
        cl.segment_cells(folder, tmp_path / "cells", method=cl.InstanSeg(weights=tmp_path / "none.pt"), pixel_um=1)
    assert not (tmp_path / "cells").exists()


def test_the_command_writes_cells_and_a_sheet(folder: Path, tmp_path: Path, cli: Cli) -> None:
    out, sheet = tmp_path / "cells", tmp_path / "sheet.png"
    done = cli("segment", folder, "--method", "classical", "--pixel-um", PIXEL_UM, "--out", out, "--sheet", sheet)
    assert done.code == 0, done.err
    table = pl.read_parquet(out / "fields.parquet")
    nucleated = int((table["nuclei"] > 0).sum())
    assert f"{len(table)} cells of 2 fields, {nucleated} with a nucleus." in done.out
    assert f"{sheet}: outlines of 2 fields." in done.out
    assert sheet.stat().st_size > 10_000
    labels = read_labels(out / "labels" / "one.tif")
    assert len(np.unique(labels)) - 1 == (table["field"] == "one").sum()


def test_the_command_takes_labels_and_prints_json(folder: Path, tmp_path: Path, cli: Cli) -> None:
    import json

    labels = folder.parent / "labels"
    options = ("--labels", labels, "--nucleus-labels", "{id}_nuclei.tif", "--json", "--pixel-um", PIXEL_UM)
    done = cli("segment", folder, "--out", tmp_path / "cells", *options)
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert facts["fields"] == 2
    assert facts["flags"]["no nucleus"] == facts["cells"] - facts["with_nucleus"]
    for words, message in (
        (("--method", "classical", "--labels", labels), "--labels is given, but --method is classical."),
        (("--labels", labels, "--weights", "a.pt"), "--weights is given, but --method is labels."),
        (("--method", "labels"), "--method labels needs --labels."),
        (("--hpa-nuclei", "a.pth"), "--method hpa needs --hpa-nuclei and --hpa-cells."),
    ):
        wrong = cli("segment", folder, "--out", tmp_path / "b", *words)
        assert wrong.code == 2
        assert message in wrong.err


def test_info_and_evaluation_take_a_dataset_of_cells(cells: cl.Dataset, cli: Cli) -> None:
    done = cli("info", cells.path)
    assert done.code == 0, done.err
    assert "64 px" in done.out
