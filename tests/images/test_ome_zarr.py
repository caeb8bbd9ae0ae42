from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cytoloc as cl
from cytoloc.errors import DatasetWarning, ImageError
from cytoloc.images.formats import Scene, missing_chunks, open_image
from tests.conftest import DATA
from tests.images.zarrs import noise, write_array, write_group, write_image, write_plate, zipped

# The images are noise or flat, which imports warn about.
pytestmark = pytest.mark.filterwarnings("ignore::cytoloc.errors.DatasetWarning")


def scene_of(path: Path) -> Scene:
    with open_image(path) as image:
        (scene,) = image.scenes
        return scene


@pytest.mark.parametrize("version", ["0.1", "0.2", "0.3", "0.4", "0.5"])
@pytest.mark.parametrize("kind", ["folder", "content zipped", "folder zipped"])
def test_every_version_is_read_from_folders_and_zip_files(version: str, kind: str, tmp_path: Path) -> None:
    pixels = noise(2, 3, 2, 20, 24, dtype="u2")
    path = tmp_path / "a.ome.zarr"
    write_image(path, pixels, version=version, labels=["DAPI", "GFP", "ER"])
    if kind != "folder":
        path = zipped(path, inside="a.ome.zarr/" if kind == "folder zipped" else "")
    with open_image(path) as image:
        (scene,) = image.scenes
        assert (scene.channels, scene.height, scene.width) == (("DAPI", "GFP", "ER"), 20, 24)
        assert (scene.depths, scene.times, scene.dtype.name) == (2, 2, "uint16")
        np.testing.assert_array_equal(image.plane(0, channel=2, depth=1, time=1), pixels[1, 2, 1])
        assert missing_chunks(image) == (0, 4)


def test_axes_can_be_any_and_in_any_order(tmp_path: Path) -> None:
    pixels = noise(3, 20, 24)
    for axes, image in (("cyx", pixels), ("yxc", pixels.transpose(1, 2, 0)), ("xcy", pixels.transpose(2, 0, 1))):
        path = tmp_path / f"{axes}.zarr"
        write_image(path, image, axes=axes, chunks=[4, 4, 4])
        with open_image(path) as opened:
            np.testing.assert_array_equal(opened.plane(0, channel=1), pixels[1])
    write_image(tmp_path / "l.zarr", noise(2, 16, 16), axes="lyx")
    with pytest.raises(ImageError, match="L of 2"), open_image(tmp_path / "l.zarr"):
        pass


@pytest.mark.parametrize(
    ("scale", "unit", "pixel_um"),
    [
        (None, "micrometer", None),
        ((1, 1, 1), "micrometer", None),
        ((1, 1, 1), None, None),
        ((1, 0.2, 0.2), None, None),
        ((1, 0.2, 0.2), "furlong", None),
        ((1, 0.2, 0.2), "micrometer", 0.2),
        ((1, 200, 200), "nanometer", 0.2),
        ((1, 2000, 2000), "angstrom", 0.2),
        ((1, 2e-7, 2e-7), "meter", 0.2),
        ((1, 2e-4, 2e-4), "millimeter", 0.2),
        ((1, 2e-10, 2e-10), "kilometer", 0.2),
        ((1, 2e5, 2e5), "picometer", 0.2),
        ((1, 0.2 / 25_400, 0.2 / 25_400), "inch", 0.2),
        ((1, 0.2 / 914_400, 0.2 / 914_400), "yard", 0.2),
    ],
)
def test_pixel_sizes_are_in_the_unit_that_is_stated(
    scale: tuple[float, ...] | None, unit: str | None, pixel_um: float | None, tmp_path: Path
) -> None:
    write_image(tmp_path / "a.zarr", noise(1, 16, 16), axes="cyx", scale=scale, unit=unit)
    assert scene_of(tmp_path / "a.zarr").pixel_um == (pixel_um and pytest.approx(pixel_um))


def test_a_scale_of_all_levels_counts_too(tmp_path: Path) -> None:
    every = [{"type": "scale", "scale": [1, 0.5, 0.5]}, {"type": "translation", "translation": [0, 3, 3]}]
    write_image(tmp_path / "a.zarr", noise(1, 16, 16), axes="cyx", scale=(1, 0.4, 0.4), coordinateTransformations=every)
    assert scene_of(tmp_path / "a.zarr").pixel_um == pytest.approx(0.2)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate_is_a_file_whose_scenes_are_fields(version: str, tmp_path: Path) -> None:
    fields = {name: noise(1, 2, 1, 32, 32, seed=seed) for seed, name in enumerate(["A/1/0", "A/1/1", "B/12/0"])}
    write_plate(tmp_path / "z" / "p.zarr", fields, version=version, labels=["DAPI", "GFP"], scale=[1, 1, 1, 5.12, 5.12])
    channels = {"protein": "GFP", "nucleus": "DAPI"}
    for folder, out in (
        ("z", "a"),
        ("z/p.zarr", "b"),
    ):
        dataset = cl.import_folder(tmp_path / folder, out=tmp_path / f"{out}.dataset", channels=channels, size=32)
        assert dataset.ids == ("p_A01_0", "p_A01_1", "p_B12_0")
        assert dataset.fields.select("plate", "well", "field").rows()[2] == ("P1", "B12", "0")
        np.testing.assert_array_equal(dataset[2], fields["B/12/0"][0, ::-1, 0])
    file = zipped(tmp_path / "z" / "p.zarr").rename(tmp_path / "p.zarr.zip")
    for path in (tmp_path / "z", tmp_path / "z" / "p.zarr", file):
        plate = cl.import_plate(path, out=tmp_path / f"{path.name}.dataset", channels=channels, size=32)
        assert plate.ids == ("P1_A01_0", "P1_A01_1", "P1_B12_0")
        np.testing.assert_array_equal(plate.read(np.arange(3)), dataset.read(np.arange(3)))


def test_lost_wells_and_times_of_a_plate(tmp_path: Path) -> None:
    fields = {name: noise(2, 1, 1, 32, 32, seed=seed) for seed, name in enumerate(["A/1/0", "B/2/0"])}
    root = tmp_path / "p.zarr"
    write_plate(root, fields, scale=[1, 1, 1, 5.12, 5.12])
    described = json.loads((root / ".zattrs").read_text())
    described["plate"]["wells"].append({"path": "C/3"})
    (root / ".zattrs").write_text(json.dumps(described))
    dataset = cl.import_plate(root, out=tmp_path / "a.dataset", channels={"protein": 0}, size=32)
    assert dataset.ids == ("P1_A01_0_t0", "P1_A01_0_t1", "P1_B02_0_t0", "P1_B02_0_t1")
    np.testing.assert_array_equal(dataset[3], fields["B/2/0"][1, :, 0])
    assert "lists the well C/3, which does not exist" in dict(dataset.quarantine)["P1_C03_0_t0"]
    with pytest.raises(ImageError, match="lists the well C/3"), open_image(root):
        pass


@pytest.mark.parametrize("listed", [True, False])
def test_the_images_of_bioformats2raw_are_scenes(listed: bool, tmp_path: Path) -> None:  # noqa: FBT001
    root = tmp_path / "a.zarr"
    write_group(root, {"bioformats2raw.layout": 3})
    write_group(root / "OME", {"series": ["0", "1"]} if listed else {})
    for number in range(2):
        write_image(root / str(number), noise(1, 1, 1, 16, 16, seed=number))
    with open_image(root) as image:
        assert [scene.name for scene in image.scenes] == ["0", "1"]
        np.testing.assert_array_equal(image.plane(1, channel=0), noise(1, 1, 1, 16, 16, seed=1)[0, 0, 0])


def test_missing_chunks_are_counted_and_refused_if_strict(tmp_path: Path) -> None:
    for version in ("0.1", "0.4", "0.5"):
        root = tmp_path / version / "a.zarr"
        write_image(root, noise(1, 2, 1, 32, 32), version=version, labels=["DAPI", "GFP"], scale=[1, 1, 1, 5.12, 5.12])
        lost = {"0.1": "0.1.0.1.0", "0.4": "0/1/0/1/0", "0.5": "c/0/1/0/1/0"}[version]
        (root / "0" / lost).unlink()
        channels = {"protein": "GFP", "nucleus": "DAPI"}
        with pytest.warns(DatasetWarning, match="The files of 1 field lack 1 chunk"):
            dataset = cl.import_folder(
                root.parent,
                out=tmp_path / f"{version}.dataset",
                channels=channels,
                size=32,
                options=cl.FolderOptions(pixel_um=5.12),
            )
        assert "protein incomplete" in dataset.fields["flags"][0]
        assert "nucleus incomplete" not in dataset.fields["flags"][0]
        assert not dataset[0][0, 16:, :16].any()
        with pytest.raises(ImageError, match="1 of 4 chunks of the channel protein are missing"):
            cl.import_folder(
                root.parent,
                out=tmp_path / "strict.dataset",
                channels=channels,
                size=32,
                options=cl.FolderOptions(strict=True, pixel_um=5.12),
            )


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_array(tmp_path / "array.zarr", noise(16, 16))
    write_group(tmp_path / "empty.zarr", {})
    write_image(tmp_path / "future.zarr", noise(1, 16, 16), axes="cyx")
    write_image(tmp_path / "codec.zarr", noise(1, 16, 16), axes="cyx")
    write_image(tmp_path / "array-lost.zarr", noise(1, 16, 16), axes="cyx")

    def change(path: Path, old: str, new: str) -> None:
        path.write_text(path.read_text().replace(old, new))

    change(tmp_path / "future.zarr" / ".zattrs", '"0.4"', '"0.9"')
    change(tmp_path / "codec.zarr" / "0" / ".zarray", '"id":"blosc"', '"id":"lz4"')
    (tmp_path / "array-lost.zarr" / "0" / ".zarray").unlink()
    messages: dict[str, Any] = {
        "array": "a Zarr array, not an OME-Zarr image",
        "empty": "no OME-Zarr image",
        "future": r"OME-Zarr version 0\.9; the versions 0\.1 to 0\.5",
        "codec": r"array 0 cannot be read: .*lz4",
        "array-lost": "no array 0",
    }
    for name, message in messages.items():
        with pytest.raises(ImageError, match=message), open_image(tmp_path / f"{name}.zarr"):
            pass


@pytest.mark.skipif(not (DATA / "awkward").is_dir(), reason="the test data are absent; set CYTOLOC_TEST_DATA")
def test_files_of_other_programs() -> None:
    scene = scene_of(DATA / "awkward" / "ome-zarr" / "v04" / "a.zarr")
    assert (scene.channels, scene.pixel_um) == (("MT", "Prot", "DAPI", "ER"), 0.08)
