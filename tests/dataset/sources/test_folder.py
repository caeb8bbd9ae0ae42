from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from cytoloc.dataset.importing import ImportOptions, import_fields
from cytoloc.dataset.sources.channels import parse_channels
from cytoloc.dataset.sources.field_files import FieldReader
from cytoloc.dataset.sources.folder import FolderSource
from cytoloc.dataset.sources.labeling import label_set_from
from cytoloc.dataset.sources.planes import PlaneChoice
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.errors import ImageError, MissingExtraError, SettingsError, TableError
from cytoloc.images.scale import Scaling
from cytoloc.labels.label_set import LabelSet
from tests.conftest import DATA, Cli
from tests.images.lif import write_lif

SIZE = 32
FOUR = ["microtubules=*_r.png,protein=*_g.png,nucleus=*_b.png,er=*_y.png"]
STACK = ["microtubules=0,protein=1,nucleus=2,er=3"]


def noise(*shape: int, seed: int = 0, dtype: Any = np.uint8, top: int = 256) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, top, shape).astype(dtype)


def source_of(folder: Path, channels: list[str], **options: Any) -> FolderSource:
    """Return the fields of a folder at 32 px; options are of the reader or of the source."""
    read = {name: options.pop(name) for name in ("scaling", "planes", "pixel_um") if name in options}
    reader = FieldReader(folder=folder, channels=parse_channels(channels), **{"scaling": Scaling(size=SIZE), **read})
    return FolderSource(reader, **{"label_set": LabelSet.hpa28(), **options})


def pack(folder: Path, channels: list[str], *, strict: bool = True, **options: Any) -> Dataset:
    source, importing = source_of(folder, channels, **options), ImportOptions(strict=strict)
    return import_fields(source, folder.parent / "x.dataset", size=SIZE, options=importing).dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "files"
    path.mkdir()
    return path


def write_four(folder: Path, name: str, *, seed: int = 0) -> NDArray[np.uint8]:
    image = noise(4, SIZE, SIZE, seed=seed)
    for plane, letter in zip(image, "rgby", strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(plane).save(folder / f"{name}_{letter}.png")
    return image


def test_a_file_per_stain_in_folders_makes_fields(folder: Path) -> None:
    images = {name: write_four(folder, name, seed=seed) for seed, name in enumerate(["b/1", "a/2", "ünï cødé"])}
    dataset = pack(folder, FOUR)
    assert dataset.ids == ("a/2", "b/1", "ünï cødé")
    for name, packed in zip(dataset.ids, dataset, strict=True):
        np.testing.assert_array_equal(packed, images[name])
    assert dataset.header["imports"][0]["settings"]["channels"]["er"] == "*_y.png"
    assert dataset.fields["source"].to_list() == ["folder"] * 3


def test_datasets_in_the_folder_are_no_images(folder: Path) -> None:
    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    for name in ("a", "b", "c"):
        tifffile.imwrite(folder / f"{name}.ome.tif", noise(4, SIZE, SIZE), metadata={"axes": "CYX"})
    path = folder / "x.dataset"
    with pytest.raises(KeyboardInterrupt):
        import_fields(source_of(folder, STACK), path, size=SIZE, options=ImportOptions(segment_bytes=1, progress=stop))
    assert (path / "segments" / "0002" / "images.zarr").is_dir()
    assert import_fields(source_of(folder, STACK), path, size=SIZE).dataset.ids == ("a", "b", "c")
    source = source_of(folder, STACK)
    assert source.items == ["a", "b", "c"]
    again = import_fields(source, path, size=SIZE, options=ImportOptions(append=True, skip_known=True))
    assert (again.added, again.known, again.rejected) == (0, 3, 0)


def test_an_id_of_two_lines_is_refused(folder: Path) -> None:
    write_four(folder, "two\nlines")
    with pytest.raises(ImageError, match=r"two\\nlines is not UTF-8 text, or contains a line break"):
        pack(folder, FOUR)


def test_a_file_is_named_once(folder: Path) -> None:
    tifffile.imwrite(folder / "a.tif", noise(SIZE, SIZE).astype(np.complex64))
    with pytest.raises(ImageError) as caught:
        pack(folder, ["protein=0"])
    assert str(caught.value).count("a.tif") == 1


def test_names_and_metadata_describe_fields_and_metadata_have_the_last_word(folder: Path, tmp_path: Path) -> None:
    for name in ("P1/A01_1", "P1/A01_2"):
        write_four(folder, name)
    (tmp_path / "m.csv").write_text("id,gene,plate\nP1_A01_2,TP53,P9\n")
    (tmp_path / "l.csv").write_text("Id,Target\nP1_A01_1,0 5\nelsewhere,1\n")
    patterns = [channel.replace("*", "{plate}/{well}_{field}") for channel in FOUR]
    dataset = pack(folder, patterns, metadata=tmp_path / "m.csv", labels=tmp_path / "l.csv")
    columns = dataset.fields.select("id", "plate", "well", "field", "gene", "labels").rows()
    assert columns == [("P1_A01_1", "P1", "A01", "1", None, [0, 5]), ("P1_A01_2", "P9", "A01", "2", "TP53", None)]


@pytest.mark.parametrize(("depth", "expected"), [(None, "max"), (1, "plane")])
def test_depths_are_projected_or_chosen(folder: Path, depth: int | None, expected: str) -> None:
    image = noise(3, 4, SIZE, SIZE)
    tifffile.imwrite(folder / "a.ome.tif", image, metadata={"axes": "ZCYX", "PhysicalSizeX": 0.1})
    dataset = pack(folder, STACK, planes=PlaneChoice(depth=depth))
    np.testing.assert_array_equal(dataset[0], image.max(axis=0) if expected == "max" else image[1])
    assert dataset.ids == ("a",)
    assert dataset.fields["pixel_um"].to_list() == pytest.approx([0.1])
    assert dataset.header["imports"][0]["settings"]["planes"]["z"] == ("max" if depth is None else 1)


@pytest.mark.parametrize("pages", ["channel", "z"])
def test_pages_are_what_the_user_says(folder: Path, pages: Any) -> None:
    image = noise(4, SIZE, SIZE)
    tifffile.imwrite(folder / "a.tif", image, metadata=None, photometric="minisblack")
    if pages == "channel":
        dataset = pack(folder, STACK, planes=PlaneChoice(pages=pages))
        np.testing.assert_array_equal(dataset[0], image)
    else:
        dataset = pack(folder, ["protein=0"], planes=PlaneChoice(pages=pages))
        np.testing.assert_array_equal(dataset[0], image.max(axis=0)[None])


def test_a_dataset_has_the_channels_that_were_imaged(folder: Path) -> None:
    image = noise(3, SIZE, SIZE)
    tifffile.imwrite(folder / "a.ome.tif", image, metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP", "TOM"]}})
    dataset = pack(folder, ["mito=2,nucleus=dapi,protein=GFP"])
    assert dataset.channels == ("protein", "nucleus", "mito")
    np.testing.assert_array_equal(dataset[0], image[[1, 0, 2]])
    settings = dataset.header["imports"][0]["settings"]
    assert settings["channels"] == {"protein": "GFP", "nucleus": "dapi", "mito": "2"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Id,Target\na,Rim;core body\nb,core body\nx,Spindle\n", ["core_body", "rim", "spindle"]),
        ("id,Labels\na,Rim|Core\nb,\n", ["core", "rim"]),
        ('Id,Location\na,"Rim, Core"\n', ["core", "rim"]),
        ("Id,plate,Rim,Core\na,P1,1,0\nb,P1,1,1\n", ["core", "rim"]),
    ],
)
def test_a_label_set_is_made_of_the_names_of_a_labels_file(tmp_path: Path, text: str, expected: list[str]) -> None:
    (tmp_path / "my labels.csv").write_text(text)
    made = label_set_from(tmp_path / "my labels.csv")
    assert (made.name, list(made.keys)) == ("my_labels", expected)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("0 16\nb,25", "the label '0 16', which is not a name"),
        ("Rim Core\nb,Rim\nx,Core", "the label 'Rim Core', which consists of other labels"),
        (
            "Bud neck Core Rim\nb,Rim\nx,Core\ny,Bud neck",
            "the label 'Bud neck Core Rim', which consists of other labels",
        ),
    ],
)
def test_labels_that_are_no_names_make_no_label_set(tmp_path: Path, labels: str, message: str) -> None:
    (tmp_path / "l.csv").write_text(f"Id,Target\na,{labels}\n")
    with pytest.raises(TableError, match=message):
        label_set_from(tmp_path / "l.csv")


def test_the_column_of_labels_is_the_one_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("Id,Location,Target\na,room 3,Rim\nb,room 3,Core\n")
    assert label_set_from(tmp_path / "l.csv").names == ("Core", "Rim")


def test_the_command_makes_a_label_set_and_info_shows_it(folder: Path, tmp_path: Path, cli: Cli) -> None:
    for name in ("a", "b"):
        tifffile.imwrite(folder / f"{name}.ome.tif", noise(2, SIZE, SIZE), metadata={"axes": "CYX"})
    labels = tmp_path / "mine.csv"
    labels.write_text("Id,Target\na,Rim;Core\nb,Core\n")
    call = ["import", "folder", folder, "--channels", "nucleus=0,protein=1", "--size", SIZE, "--labels", labels]
    missing = cli(*call, "--out", tmp_path / "x.dataset")
    assert (missing.code, "from-labels" in missing.err) == (2, True)
    done = cli(*call, "--label-set", "from-labels", "--out", tmp_path / "x.dataset")
    assert done.code == 0, done.err
    assert f"Label set mine, made from {labels}" in done.err
    facts = json.loads(cli("info", tmp_path / "x.dataset", "--json").out)
    assert facts["channels"] == ["protein", "nucleus"]
    assert facts["label_set"]["name"] == "mine"
    assert facts["locations"] == [
        {"key": "core", "name": "Core", "fields": 2},
        {"key": "rim", "name": "Rim", "fields": 1},
    ]
    assert (facts["segments"], facts["quarantined"], facts["imports"][0]["finished"]) == (1, 0, True)
    said = cli("info", tmp_path / "x.dataset").out
    assert "channels     protein, nucleus" in said
    assert "label set    mine (version 1, 2 locations)" in said


def test_info_of_an_unfinished_import_says_how_to_resume(folder: Path, tmp_path: Path, cli: Cli) -> None:
    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    for name in ("a", "b"):
        tifffile.imwrite(folder / f"{name}.ome.tif", noise(4, SIZE, SIZE), metadata={"axes": "CYX"})
    path, options = tmp_path / "x.dataset", ImportOptions(segment_bytes=1, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        import_fields(source_of(folder, STACK), path, size=SIZE, options=options)
    assert "unfinished   1 of 2 items imported. Rerun the import to continue." in cli("info", path).out
    said = cli("folds", path, "--out", tmp_path / "folds.csv").err
    assert "has an unfinished import; 1 of 2 items are in the dataset." in said.replace("\n", " ")


def test_scenes_are_fields(folder: Path) -> None:
    scenes = {f"Position {n}": noise(4, SIZE, SIZE, seed=n) for n in (1, 2)}
    write_lif(folder / "a.lif", scenes, names=("Red", "Green", "Blue", "Gray"), pixel_um=0.1)
    dataset = pack(folder, STACK)
    assert [name.endswith(scene) for name, scene in zip(dataset.ids, scenes, strict=True)] == [True, True]
    for packed, image in zip(dataset, scenes.values(), strict=True):
        np.testing.assert_array_equal(packed, image)


def test_what_was_done_to_pixels_can_be_read_back(folder: Path) -> None:
    image = noise(4, 2 * SIZE, 2 * SIZE, dtype=np.uint16, top=20_000)
    tifffile.imwrite(folder / "a.tif", image, imagej=True, resolution=(10, 10), metadata={"axes": "CYX", "unit": "um"})
    row = pack(folder, STACK, scaling=Scaling(size=SIZE)).fields.row(0, named=True)
    for channel in range(4):
        low, high = np.percentile(image[channel], [0.001, 99.999])
        assert (row["black"][channel], row["white"][channel]) == pytest.approx((low, high), abs=1)
    assert (row["original_px"], row["original_width_px"]) == (64, 64)
    assert (row["pixel_um"], row["packed_um"]) == pytest.approx((0.1, 0.2))


def test_joint_bounds_keep_a_dim_field_dim(folder: Path) -> None:
    for name, top in (("bright", 40_000), ("dim", 20_000)):
        tifffile.imwrite(folder / f"{name}.tif", noise(4, SIZE, SIZE, dtype=np.uint16, top=top), imagej=True)
    tifffile.imwrite(folder / "float.tif", noise(4, SIZE, SIZE, dtype=np.float32), imagej=True)
    source = source_of(folder, STACK)
    source.measure_jointly()
    imported = import_fields(source, folder.parent / "x.dataset", size=SIZE)
    assert {
        name: round(int(field.max()) / 255, 1)
        for name, field in zip(imported.dataset.ids, imported.dataset, strict=True)
    } == {
        "bright": 1.0,
        "dim": 0.5,
    }
    assert [rejected.id for rejected in imported.dataset.quarantine] == ["float"]
    assert imported.dataset.header["imports"][0]["settings"]["depth"]["jointly"][0]["of"] == "uint16"


def test_pixels_are_brought_to_the_scale_asked_for(folder: Path) -> None:
    tifffile.imwrite(folder / "a.ome.tif", noise(4, 64, 64), metadata={"axes": "CYX", "PhysicalSizeX": 0.1})
    tifffile.imwrite(folder / "b.ome.tif", noise(4, 96, 96), metadata={"axes": "CYX"})
    dataset = pack(folder, STACK, strict=False, scaling=Scaling(size=SIZE, target_um=0.2))
    assert dataset.fields["packed_um"].to_list() == pytest.approx([0.2])
    assert "The pixel size of the image is unknown" in dataset.quarantine[0].reason


@pytest.mark.parametrize(
    ("axes", "shape", "dtype", "said"),
    [
        ("TCYX", (2, 4, SIZE, SIZE), np.uint8, "2 time points"),
        ("CYX", (3, SIZE, SIZE), np.uint8, "no channel 3"),
        ("CYX", (4, SIZE, SIZE + 1), np.uint8, "not square"),
        ("CYX", (4, 2, 2), np.uint8, "enlarged"),
        ("CYX", (4, SIZE, SIZE), np.complex64, "complex64"),
    ],
)
def test_files_that_are_no_field_are_listed_with_the_reason(
    folder: Path, axes: str, shape: tuple[int, ...], dtype: Any, said: str
) -> None:
    tifffile.imwrite(folder / "bad.ome.tif", noise(*shape, dtype=dtype), metadata={"axes": axes})
    tifffile.imwrite(folder / "good.ome.tif", noise(4, SIZE, SIZE), photometric="minisblack", metadata={"axes": "CYX"})
    dataset = pack(folder, STACK, strict=False)
    assert dataset.ids == ("good",)
    (rejected,) = dataset.quarantine
    assert rejected.id == "bad"
    assert said in rejected.reason


def test_pixels_that_are_not_finite_are_refused(folder: Path) -> None:
    image = noise(4, SIZE, SIZE, dtype=np.float32)
    image[2, 5, 5] = np.nan
    tifffile.imwrite(folder / "a.tif", image, imagej=True)
    with pytest.raises(
        ImageError, match=r"nucleus in a\.tif: The image has NaN or infinite values in 1 of 1024 pixels"
    ):
        pack(folder, STACK)


def test_a_lacking_file_rejects_its_field_alone(folder: Path) -> None:
    write_four(folder, "a")
    write_four(folder, "b")
    (folder / "b_y.png").unlink()
    dataset = pack(folder, FOUR, strict=False)
    assert dataset.ids == ("a",)
    assert "the file b_y.png of field b is missing" in dataset.quarantine[0].reason


def test_a_bad_scene_rejects_itself_alone(folder: Path) -> None:
    with tifffile.TiffWriter(folder / "a.ome.tif", ome=True) as writer:
        for name, channels in (("good", 4), ("bad", 3)):
            shape = (channels, SIZE, SIZE)
            writer.write(noise(*shape), photometric="minisblack", metadata={"axes": "CYX", "Name": name})
    dataset = pack(folder, STACK, strict=False)
    assert dataset.ids == ("a_good",)
    (entry,) = dataset.quarantine
    assert entry.id == "a_bad"
    assert "no channel 3" in entry.reason


def test_a_pattern_without_files_is_said(folder: Path) -> None:
    write_four(folder, "a")
    with pytest.raises(ImageError, match=r"has no file for the channel er: no name matches \*_yellow\.png"):
        pack(folder, [FOUR[0].replace("*_y.png", "*_yellow.png")])


def test_a_dry_run_looks_at_all_files(folder: Path, cli: Cli) -> None:
    for name, channels in (("a", 4), ("b", 4), ("c", 3)):
        image = noise(channels, SIZE, SIZE)
        names = {"Name": ["DAPI", "GFP", "Tubulin", "ER"][:channels]}
        tifffile.imwrite(
            folder / f"{name}.ome.tif", image, photometric="minisblack", metadata={"axes": "CYX", "Channel": names}
        )
    said = cli("import", "folder", folder, "--channels", STACK[0], "--size", SIZE, "--dry-run")
    assert said.code == 0
    assert "3 items" in said.err
    assert "Channels as in 2 of them, such as a:" in said.err
    assert "c cannot be imported" in said.err
    assert "no channel 3" in said.err


def test_two_files_for_one_stain_are_refused(folder: Path) -> None:
    for name in ("a.ome.tif", "a.tif"):
        tifffile.imwrite(folder / name, noise(4, SIZE, SIZE), photometric="minisblack", metadata={"axes": "CYX"})
    with pytest.raises(ImageError, match=r"two files for the channel microtubules of field a: a\.ome\.tif and a\.tif"):
        pack(folder, STACK)


def test_links_are_followed_and_loops_are_not(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    write_four(tmp_path / "elsewhere", "x")
    write_four(folder, "a")
    (folder / "loop").symlink_to(folder)
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    assert pack(folder, FOUR).ids == ("a", "linked/x")


def test_hidden_files_and_others_are_left_alone(folder: Path) -> None:
    write_four(folder, "a")
    for name in (".DS_Store", "._a_r.png", "notes.txt"):
        (folder / name).write_bytes(b"no image")
    assert pack(folder, FOUR).ids == ("a",)


def test_a_folder_without_such_files_is_refused(folder: Path) -> None:
    with pytest.raises(ImageError, match="no fields"):
        pack(folder, FOUR)
    write_four(folder, "a")
    with pytest.raises(ImageError, match="contains no fields: none of its 4 image files matches"):
        pack(folder, [FOUR[0].replace(".png", ".tif")])
    with pytest.raises(ImageError, match=r"The folder .*no does not exist"):
        pack(folder / "no", FOUR)
    with pytest.raises(SettingsError, match="`files`"):
        pack(folder, FOUR, files="*.png")


@pytest.mark.parametrize("text", ["well\nA01\n", "id,color\na,b\n", "id,well\na,A01\na,A02\n"])
def test_metadata_that_cannot_be_used_are_refused(folder: Path, tmp_path: Path, text: str) -> None:
    write_four(folder, "a")
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(TableError, match=r"m\.csv"):
        pack(folder, FOUR, metadata=tmp_path / "m.csv")


def test_the_command_shows_the_channels_warns_and_packs(folder: Path, tmp_path: Path, cli: Cli) -> None:
    image = noise(2, 64, 64, dtype=np.uint16, top=4096)
    tifffile.imwrite(folder / "a.ome.tif", image, metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}})
    call = ["import", "folder", folder, "--channels", "nucleus=0,protein=gfp"]
    dry = cli(*call, "--size", 32, "--dry-run")
    assert dry.code == 0
    assert cli(*call, "--dry-run").code == 1  # enlarged to 512 px, by no one's wish
    assert "channel 0 'DAPI' of 2 in a.ome.tif" in dry.err
    assert "channel 1 'GFP' of 2" in dry.err
    done = cli(*call, "--size", 32, "--out", tmp_path / "x.dataset")
    assert done.code == 0, done.err
    assert "1 field of 32 px" in done.out
    assert "pixel size of 1 field is unknown" in done.err
    assert "the camera has 12 bits, give --floor 625" in done.err
    far = cli(*call, "--size", 32, "--pixel-um", 0.02, "--floor", 0, "--out", tmp_path / "y.dataset")
    assert "in the dataset is 0.040 µm" in far.err
    assert "5.120 µm" in far.err
    assert "the camera has 12 bits, give --floor 625" not in far.err
    assert open_dataset(tmp_path / "y.dataset")[0][0].max() > 200


@pytest.mark.parametrize(
    "words",
    [
        ["--channels", "nucleus=1"],
        ["--channels", "protein"],
        ["--channels", "protein=0", "--label-set", "from-labels"],
        ["--channels", "protein=0", "--z", "top"],
        ["--channels", STACK[0], "--pixel-um", "nan"],
    ],
)
def test_wrong_calls_exit_with_2(folder: Path, tmp_path: Path, cli: Cli, words: list[str]) -> None:
    assert cli("import", "folder", folder, *words, "--out", tmp_path / "x.dataset").code == 2
    assert not (tmp_path / "x.dataset").exists()


@pytest.mark.skipif(not (DATA / "readers").exists(), reason="the real files are not there")
def test_every_real_file_is_read_or_refused_with_the_reason(tmp_path: Path) -> None:
    scaling = Scaling(size=SIZE, square="pad")
    source = source_of(DATA / "readers", ["protein=0"], scaling=scaling)
    imported = import_fields(source, tmp_path / "x.dataset", size=SIZE)
    # Of the 37 files four are refused, one of them with four scenes, and one holds two scenes.
    assert (len(source.items), imported.added) == (37, 34)
    assert {each.id for each in imported.dataset.quarantine} == {
        "CellDivision_T3_Z5_CH2_X240_Y170_comp1",
        *(f"PR2729_frameOrderCombinedScanTypes_TileScan_001_m{tile}" for tile in range(4)),
        "RGB-multichannel",
        "example-timelapse",
    }
    assert {"WellD6-7_S2_s0", "WellD6-7_S2_s1", "example-multichannel"} <= set(imported.dataset.ids)


def test_the_order_of_parts_in_names_does_not_matter(folder: Path) -> None:
    for well, field in (("1", "2"), ("2", "1")):
        Image.fromarray(np.full((SIZE, SIZE), int(well + field), np.uint8)).save(folder / f"w{well}_f{field}_c1.png")
        Image.fromarray(np.full((SIZE, SIZE), int(well + field), np.uint8)).save(folder / f"f{field}_w{well}_c2.png")
    channels = ["nucleus=w{well}_f{field}_c1.png,protein=f{field}_w{well}_c2.png"]
    dataset = pack(folder, channels)
    assert [(int(field[0].max()), int(field[1].max())) for field in dataset] == [(12, 12), (21, 21)]


def test_files_that_agree_only_in_the_id_are_refused(folder: Path) -> None:
    for plate, letter in (("A", "1"), ("B", "2")):
        (folder / plate).mkdir()
        Image.fromarray(noise(SIZE, SIZE)).save(folder / plate / f"1_c{letter}.png")
    with pytest.raises(ImageError, match="files of field 1 that differ in metadata"):
        pack(folder, ["nucleus={plate}/*_c1.png,protein={plate}/*_c2.png"])


def test_bad_files_at_the_front_do_not_stop_an_import(folder: Path, tmp_path: Path, cli: Cli) -> None:
    for number in range(25):
        (folder / f"{number:02d}.tif").write_bytes(b"")
    tifffile.imwrite(folder / "good.ome.tif", noise(4, SIZE, SIZE), photometric="minisblack", metadata={"axes": "CYX"})
    call = ["import", "folder", folder, "--channels", STACK[0], "--size", SIZE, "--out", tmp_path / "x.dataset"]
    dry = cli(*call, "--dry-run")
    assert dry.code == 0
    assert "Channels as in 1 of them, such as good" in dry.err
    assert "… and 5 more" in dry.err
    done = cli(*call)
    assert done.code == 0, done.err
    assert "00 cannot be imported" in done.err
    assert (
        f"25 fields could not be imported; {tmp_path / 'x.dataset' / 'quarantine.csv'} gives the reasons." in done.err
    )
    assert open_dataset(tmp_path / "x.dataset").ids == ("good",)


def test_a_missing_library_stops_an_import_instead_of_rejecting_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "czifile", None)
    tifffile.imwrite(folder / "a.ome.tif", noise(4, SIZE, SIZE), photometric="minisblack", metadata={"axes": "CYX"})
    (folder / "b.czi").write_bytes(b"ZISRAWFILE")
    with pytest.raises(MissingExtraError):
        pack(folder, STACK, strict=False)


def test_a_damaged_file_is_the_one_that_is_blamed(folder: Path) -> None:
    for letter in "rgby":
        tifffile.imwrite(folder / f"a_{letter}.tif", noise(64, 64), compression="zlib")
    content = bytearray((folder / "a_r.tif").read_bytes())
    with tifffile.TiffFile(folder / "a_r.tif") as file:
        content[file.pages.first.dataoffsets[0] + 2] ^= 0xFF
    (folder / "a_r.tif").write_bytes(content)
    with pytest.raises(ImageError, match=r"a_r\.tif could not be read: libdeflate"):
        pack(folder, [FOUR[0].replace(".png", ".tif")])


def test_a_bad_scene_leaves_joint_bounds_to_its_neighbors(folder: Path, tmp_path: Path) -> None:
    with tifffile.TiffWriter(folder / "a.ome.tif", ome=True) as writer:
        for name, top in (("bright", 60_000), ("nan", None)):
            image = np.full((4, SIZE, SIZE), np.nan if top is None else top, np.float32)
            image[:, 0] = 0
            writer.write(image, metadata={"axes": "CYX", "Name": name})
    dim = noise(4, SIZE, SIZE, dtype=np.float32, top=1000)
    tifffile.imwrite(folder / "b.ome.tif", dim, photometric="minisblack", metadata={"axes": "CYX"})
    source = source_of(folder, STACK)
    source.measure_jointly()
    dataset = import_fields(source, tmp_path / "x.dataset", size=SIZE).dataset
    assert dataset.ids == ("a_bright", "b")
    assert dataset.fields["white"][0].to_list() == pytest.approx([60_000] * 4, rel=0.01)
    assert dataset[1].max() < 10


def write_stains(
    folder: Path, *, um: Mapping[str, float | None], names: Mapping[str, tuple[str, ...]] | None = None
) -> None:
    for letter, edge in um.items():
        with tifffile.TiffWriter(folder / f"a_{letter}.ome.tif", ome=True) as writer:
            for name in (names or {}).get(letter, ("",)):
                metadata: dict[str, Any] = {"axes": "YX", "Name": name}
                if edge:
                    metadata |= {"PhysicalSizeX": edge, "PhysicalSizeXUnit": "µm"}
                writer.write(noise(SIZE, SIZE), photometric="minisblack", metadata=metadata)


STAINS = ["microtubules=*_r.ome.tif,protein=*_g.ome.tif,nucleus=*_b.ome.tif,er=*_y.ome.tif"]


def test_a_pixel_size_that_one_file_states_holds_for_all(folder: Path) -> None:
    write_stains(folder, um={"r": None, "g": 0.16, "b": None, "y": 0.1601})
    assert pack(folder, STAINS).fields["pixel_um"].to_list() == pytest.approx([0.16])


def test_files_that_contradict_each_other_are_refused(folder: Path) -> None:
    write_stains(folder, um={"r": 0.1, "g": 0.5, "b": None, "y": None})
    with pytest.raises(ImageError, match=r"The files of a have different pixel sizes: microtubules 0\.1, protein 0\.5"):
        pack(folder, STAINS, strict=False)
    assert pack(folder, STAINS, pixel_um=0.2, strict=False).fields["pixel_um"].to_list() == pytest.approx([0.2])


def test_scenes_are_not_brought_together_by_number_alone(folder: Path) -> None:
    names = dict.fromkeys("rgb", ("one", "two")) | {"y": ("two", "one")}
    write_stains(folder, um=dict.fromkeys("rgby", 0.1), names=names)
    with pytest.raises(ImageError, match="The files of a have different names of scenes"):
        pack(folder, STAINS)


def test_rows_of_metadata_without_a_field_are_said(folder: Path, tmp_path: Path, cli: Cli) -> None:
    write_four(folder, "a")
    (tmp_path / "m.csv").write_text("id,gene\nA,TP53\n")
    call = ["import", "folder", folder, "--channels", FOUR[0], "--size", SIZE, "--metadata", tmp_path / "m.csv"]
    assert (
        "1 id in --metadata match no imported field: A. Ids of imported fields look like a."
        in cli(*call, "--out", tmp_path / "x.dataset").err
    )
    (tmp_path / "m.csv").write_text("id,gene\na,TP53\n,XX\n")
    said = cli(*call, "--out", tmp_path / "y.dataset")
    assert (said.code, "row 2 after the header has no id" in said.err) == (1, True)


def test_a_pixel_size_beyond_reason_rejects_its_file_alone(folder: Path) -> None:
    tifffile.imwrite(folder / "a.ome.tif", noise(4, 64, 64), metadata={"axes": "CYX", "PhysicalSizeX": 0.2})
    tifffile.imwrite(folder / "b.ome.tif", noise(4, 2048, 2048), metadata={"axes": "CYX", "PhysicalSizeX": 19.0})
    dataset = pack(folder, STACK, strict=False, scaling=Scaling(size=SIZE, target_um=0.2, enlarge=True, square="crop"))
    assert dataset.ids == ("a",)
    assert "would have 194560 x 194560 px" in dataset.quarantine[0].reason


def test_a_dry_run_sees_all_that_an_import_rejects_by_the_header(folder: Path, cli: Cli) -> None:
    tifffile.imwrite(folder / "good.ome.tif", noise(4, SIZE, SIZE), metadata={"axes": "CYX"})
    tifffile.imwrite(folder / "times.ome.tif", noise(2, 4, SIZE, SIZE), metadata={"axes": "TCYX"})
    tifffile.imwrite(folder / "wide.ome.tif", noise(4, SIZE, SIZE + 8), metadata={"axes": "CYX"})
    tifffile.imwrite(folder / "small.ome.tif", noise(4, 8, 8), metadata={"axes": "CYX"})
    tifffile.imwrite(folder / "two\nlines.ome.tif", noise(4, SIZE, SIZE), metadata={"axes": "CYX"})
    np.save(folder / "no image.npy", noise(4, SIZE, SIZE))
    truth = noise(4, SIZE, SIZE).astype(np.complex64)
    tifffile.imwrite(folder / "truth.tif", truth, photometric="minisblack", metadata={"axes": "CYX"})
    call = ["import", "folder", folder, "--channels", STACK[0], "--size", SIZE, "--dry-run"]
    said = cli(*call)
    assert (said.code, "Channels as in 5 of them" in said.err) == (0, True)
    for words in (
        "times cannot be imported:",
        "The file has 2 time points. Choose one with --time",
        "wide cannot be imported: The image is 40 x 32 px, not square",
        "Crop or pad the image, or import it with --square crop",
        "would be enlarged",
        "truth cannot be imported: microtubules in truth.tif: The image has complex64 pixels",
        r"two\nlines cannot be imported: The name two\nlines is not UTF-8 text, or contains a line break.",
    ):
        assert words in said.err
    assert cli(*call, "--strict").code == 1
    endless = cli("import", "folder", folder, "--channels", STACK[0], "--floor", "inf", "--out", folder / "x.dataset")
    assert (endless.code, "finite" in endless.err) == (2, True)


@pytest.mark.parametrize("kept", [8, 0.5])
def test_a_tiff_whose_directory_is_cut_off_is_listed(folder: Path, kept: float) -> None:
    # Pillow writes the directory behind the pixels, so that nothing says any more what was there.
    for name in ("cut", "whole"):
        Image.fromarray(noise(SIZE, SIZE)).save(folder / f"{name}.tif")
    content = (folder / "cut.tif").read_bytes()
    (folder / "cut.tif").write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    dataset = pack(folder, ["protein=0"], strict=False)
    assert dataset.ids == ("whole",)
    assert [each.id for each in dataset.quarantine] == ["cut"]
