from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import cytoloc as cl
from cytoloc.errors import SettingsError, TableError
from tests.conftest import Cli

# The images are noise or flat, which imports warn about.
pytestmark = pytest.mark.filterwarnings("ignore::cytoloc.errors.DatasetWarning")

PX = 32
CHANNELS = {"protein": "GFP", "nucleus": "DNA"}


def write(path: Path, *grays: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.stack([np.full((PX, PX), gray, np.uint8) for gray in grays])
    tifffile.imwrite(path, image.squeeze(), metadata={"axes": "CYX"[-image.squeeze().ndim :]})


def imported(folder: Path, table: str, channels: dict[str, Any] = CHANNELS, name: str = "x") -> cl.Dataset:
    (folder / f"{name}.csv").write_text(table)
    options = cl.FolderOptions(table=folder / f"{name}.csv", pixel_um=0.08 * 64)
    return cl.import_folder(
        folder / "files", out=folder / f"{name}.dataset", channels=channels, size=PX, options=options
    )


def grays(dataset: cl.Dataset) -> dict[str, list[int]]:
    images = dataset.read(np.arange(len(dataset)))
    return {name: image[:, 0, 0].tolist() for name, image in zip(dataset.ids, images, strict=True)}


def test_a_row_per_field_as_cellprofiler_has_it(tmp_path: Path) -> None:
    files = tmp_path / "files"
    for number, (site, stain) in enumerate([(1, "d"), (1, "g"), (2, "d"), (2, "g")]):
        write(files / "sub dir" / f"{site}{stain}.tif", 10 + number)
    header = "FileName_DNA,PathName_DNA,URL_GFP,Metadata_Plate,Metadata_Well,Metadata_Site,Group_Index\n"
    urls = [(files / "sub dir" / f"{site}g.tif").absolute().as_uri() for site in (1, 2)]
    rows = f"1d.tif,sub dir,{urls[0]},P1,A01,1,1\n2d.tif,{files}/sub dir,{urls[1]},P1,A01,2,1\n3d.tif,,,P1,A02,1,1\n"
    dataset = imported(tmp_path, header + rows)
    assert grays(dataset) == {"P1_A01_1": [11, 10], "P1_A01_2": [13, 12]}
    assert dataset.fields.select("plate", "well", "field").rows() == [("P1", "A01", "1"), ("P1", "A01", "2")]
    assert "The table has no file of the channel GFP" in dict(dataset.quarantine)["P1_A02_1"]


def test_a_row_per_channel_with_z_planes_and_channels_in_files(tmp_path: Path) -> None:
    for z in (1, 2):
        write(tmp_path / "files" / f"a{z}.tif", 5 * z)
    write(tmp_path / "files" / "both.tif", 70, 80)
    rows = "a,DNA,a1.tif,1,B2\na,DNA,a2.tif,2,B2\na,GFP,both.tif,,B2\n"
    rows += "b,DNA,a1.tif,,B3\nb,DNA,a2.tif,,B3\nb,GFP,both.tif,,B3\n"
    channels = {"protein": "gfp#1", "nucleus": "DNA"}
    dataset = imported(tmp_path, "id,channel,path,z,well\n" + rows, channels)
    assert grays(dataset) == {"a": [80, 10]}
    assert dataset.fields["well"].to_list() == ["B2"]
    assert "two files for the channel DNA: a1.tif and a2.tif" in dict(dataset.quarantine)["b"]


def test_columns_can_be_named_after_channels(tmp_path: Path) -> None:
    write(tmp_path / "files" / "1.tif", 3)
    write(tmp_path / "files" / "2.tif", 4)
    dataset = imported(tmp_path, "ID,DNA,GFP\nx,1.tif,.\\2.tif\n")
    assert grays(dataset) == {"x": [4, 3]}


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ("id,DNA\na,1.tif\n", SettingsError, "no channel 'GFP' for protein; its channels are DNA"),
        ("DNA,GFP\n1.tif,2.tif\n", TableError, "no id, and no plate, well or field"),
        ("well,DNA,GFP\nA1,1.tif,2.tif\nA1,3.tif,4.tif\n", TableError, "two rows for the field A1"),
        ("id,DNA,GFP\n", TableError, "no rows"),
        ("id,channel,path,z\na,DNA,1.tif,top\n", TableError, "z is 'top'"),
    ],
)
def test_bad_tables_are_refused(table: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    with pytest.raises(error, match=message):
        imported(tmp_path, table)


def test_the_command_takes_a_table_and_a_wildcard(tmp_path: Path, cli: Cli) -> None:
    files = tmp_path / "files"
    for stain, gray in (("w1", 7), ("w2", 9)):
        for well in ("A01", "A02"):
            write(files / f"P_{well}_{stain}_{gray}{well}.tif", gray)
    pattern = "nucleus=P_{well}_w1_{_}.tif,protein=P_{well}_w2_{_}.tif"
    args = ("import", "folder", str(files), "--size", "32")
    done = cli(*args, "--channels", pattern, "--out", str(tmp_path / "a.dataset"))
    assert "2 fields of 32 px" in done.out
    assert grays(cl.open_dataset(tmp_path / "a.dataset")) == {"A01": [9, 7], "A02": [9, 7]}
    (tmp_path / "t.csv").write_text("id,a,b\nx,{},{}\n".format(*sorted(path.name for path in files.glob("P_A01*"))))
    table = ("--table", str(tmp_path / "t.csv"), "--channels", "protein=b,nucleus=a")
    done = cli(*args, *table, "--out", str(tmp_path / "b.dataset"))
    assert grays(cl.open_dataset(tmp_path / "b.dataset")) == {"x": [9, 7]}
    write(files / "P_A01_w1_again.tif", 1)
    done = cli("import", "folder", str(files), "--channels", pattern, "--dry-run")
    assert "two files for the channel nucleus of field A01" in done.err
