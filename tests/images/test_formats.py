from __future__ import annotations

import errno
import gzip
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from cytoloc.errors import ImageError, MissingExtraError, StorageError
from cytoloc.images.decoding import decoding
from cytoloc.images.formats import Scene, open_image
from cytoloc.images.formats.scene import plausible_um
from tests.conftest import DATA
from tests.images.lif import write_lif

READERS = DATA / "readers"
needs_readers = pytest.mark.skipif(not READERS.exists(), reason=f"{READERS} is not there")


def pixels(*shape: int, dtype: Any = np.uint16) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, 250, shape).astype(dtype)


def scenes_of(path: Path) -> tuple[Scene, ...]:
    with open_image(path) as opened:
        return opened.scenes


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}], ids=str)
def test_ome_tiff_gives_every_plane_and_what_it_says(tmp_path: Path, dtype: Any, options: dict[str, Any]) -> None:
    image = pixels(2, 3, 4, 32, 48, dtype=dtype)  # times, depths, channels
    path = tmp_path / "a.ome.tif"
    metadata = {
        "axes": "TZCYX",
        "PhysicalSizeX": 80.0,
        "PhysicalSizeXUnit": "nm",
        "Channel": {"Name": ["DAPI", "GFP", "", "Cy5"]},
    }
    tifffile.imwrite(path, image, metadata=metadata, **options)
    with open_image(path) as opened:
        (scene,) = opened.scenes
        assert scene.channels == ("DAPI", "GFP", "", "Cy5")
        assert (scene.times, scene.depths, scene.height, scene.width) == (2, 3, 32, 48)
        assert scene.pixel_um == pytest.approx(0.08)
        for time, depth, channel in np.ndindex(image.shape[:3]):
            plane = opened.plane(0, channel=channel, depth=depth, time=time)
            np.testing.assert_array_equal(plane, image[time, depth, channel])
            assert plane.dtype == dtype
            assert plane.dtype.isnative


def test_every_image_of_an_ome_tiff_is_a_scene(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for name in ("left", "right"):
            writer.write(pixels(2, 8, 8), metadata={"axes": "CYX", "Name": name})
    assert [scene.name for scene in scenes_of(path)] == ["left", "right"]


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_imagej_tiff_gives_planes_labels_and_pixel_size(tmp_path: Path, byteorder: Any) -> None:
    image = pixels(3, 2, 8, 9)
    path = tmp_path / "a.tif"
    metadata = {"axes": "ZCYX", "unit": "micron"}
    tifffile.imwrite(path, image, imagej=True, resolution=(4, 4), metadata=metadata, byteorder=byteorder)
    with open_image(path) as opened:
        assert opened.scenes[0].pixel_um == 0.25
        assert (opened.scenes[0].depths, len(opened.scenes[0].channels)) == (3, 2)
        np.testing.assert_array_equal(opened.plane(0, channel=1, depth=2), image[2, 1])


@pytest.mark.parametrize(("photometric", "planar", "axis"), [("rgb", "contig", -1), ("rgb", "separate", 0)])
def test_colors_of_a_tiff_are_channels(tmp_path: Path, photometric: Any, planar: Any, axis: int) -> None:
    image = pixels(20, 24, 3, dtype=np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.moveaxis(image, -1, axis), photometric=photometric, planarconfig=planar)
    with open_image(path) as opened:
        assert opened.scenes[0].channels == ("red", "green", "blue")
        for channel in range(3):
            np.testing.assert_array_equal(opened.plane(0, channel=channel), image[..., channel])


def test_pages_that_say_nothing_are_pages(tmp_path: Path) -> None:
    image = pixels(5, 8, 8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, metadata=None)
    with open_image(path) as opened:
        assert (opened.scenes[0].pages, opened.scenes[0].channels) == (5, ("",))
        np.testing.assert_array_equal(opened.plane(0, channel=0, page=3), image[3])


def test_gzipped_tiff_reads(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image := pixels(8, 8))
    (tmp_path / "b.tif.gz").write_bytes(gzip.compress((tmp_path / "a.tif").read_bytes()))
    with open_image(tmp_path / "b.tif.gz") as opened:
        np.testing.assert_array_equal(opened.plane(0, channel=0), image)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_png_and_jpeg_have_a_channel_per_color(tmp_path: Path, suffix: str, mode: str) -> None:
    flat = np.full((16, 16, 3), (250, 100, 20), np.uint8) if mode == "RGB" else np.full((16, 16), 100, np.uint8)
    Image.fromarray(flat).save(tmp_path / f"a.{suffix}", quality=100)
    with open_image(tmp_path / f"a.{suffix}") as opened:
        assert opened.scenes[0].channels == (("red", "green", "blue") if mode == "RGB" else ("",))
        assert abs(int(opened.plane(0, channel=-1 if mode == "L" else 1).mean()) - 100) <= 1


def test_lif_gives_scenes_channels_and_pixel_size(tmp_path: Path) -> None:
    scenes = {"Position 1": pixels(3, 20, 30, dtype=np.uint8), "Position 2": pixels(3, 16, 16, dtype=np.uint8) + 1}
    write_lif(tmp_path / "a.lif", scenes, names=("Blue", "Green", "Red"), pixel_um=0.16)
    with open_image(tmp_path / "a.lif") as opened:
        assert [(scene.height, scene.width) for scene in opened.scenes] == [(20, 30), (16, 16)]
        assert [name in scene.name for name, scene in zip(scenes, opened.scenes, strict=True)] == [True, True]
        for number, image in enumerate(scenes.values()):
            for channel in range(3):
                np.testing.assert_array_equal(opened.plane(number, channel=channel), image[channel])
        assert opened.scenes[0].pixel_um == pytest.approx(0.16, rel=0.07)  # length over width or width - 1


@pytest.mark.parametrize(
    ("dimensions", "problem"),
    [
        ((3, 1), r"section or line scan \(x-z\)"),
        ((4, 1), r"section or line scan \(x-t\)"),
        ((2, 3, 1), r"section or line scan|^$"),
        ((5, 2, 1), r"4 emission wavelengths \(a lambda scan\)"),
        ((9, 2, 1), r"4 excitation wavelengths"),
        ((3, 2, 1), "^$"),
        ((10, 2, 1), "^$"),
    ],
)
def test_lif_sections_and_spectra_are_named(tmp_path: Path, dimensions: tuple[int, ...], problem: str) -> None:
    image = pixels(2, *(4, 12, 16)[-len(dimensions) :], dtype=np.uint8)
    write_lif(tmp_path / "a.lif", {"s": image}, names=("Blue", "Green"), pixel_um=0.1, dimensions=dimensions)
    with open_image(tmp_path / "a.lif") as opened:
        assert [re.search(problem, scene.problem) is not None for scene in opened.scenes] == [True] * len(opened.scenes)
        if problem == "^$":
            tiles = len(opened.scenes) > 1
            assert len(opened.scenes) * opened.scenes[0].depths == 4
            for z in range(4):
                plane = opened.plane(z if tiles else 0, channel=1, depth=0 if tiles else z)
                np.testing.assert_array_equal(plane, image[1, z])


def test_ome_zarr_gives_planes_channels_and_pixel_size(tmp_path: Path) -> None:
    from bioio_ome_zarr.writers import Channel, OMEZarrWriter

    image = pixels(1, 2, 3, 32, 40)
    writer = OMEZarrWriter(
        store=str(tmp_path / "a.ome.zarr"),
        level_shapes=image.shape,
        dtype=image.dtype,
        channels=[Channel(label=name, color="ffffff") for name in ("DAPI", "GFP")],
        axes_units=[None, None, "micrometer", "micrometer", "micrometer"],
        physical_pixel_size=[1.0, 1.0, 0.5, 0.16, 0.16],
    )
    writer.write_full_volume(image)
    with open_image(tmp_path / "a.ome.zarr") as opened:
        (scene,) = opened.scenes
        assert (scene.channels, scene.depths) == (("DAPI", "GFP"), 3)
        assert scene.pixel_um == pytest.approx(0.16)
        np.testing.assert_array_equal(opened.plane(0, channel=1, depth=2), image[0, 1, 2])


@needs_readers
def test_real_files_of_microscopes_say_what_they_are() -> None:
    # The plates in hcs are folders of files, as an import of a folder reads them.
    found = {
        path.name: scenes_of(path) for path in READERS.glob("**/*.*") if path.is_file() and "hcs" not in path.parts
    }
    shapes = {name: (len(s[0].channels), s[0].depths, s[0].height, s[0].width, len(s)) for name, s in found.items()}
    assert shapes == {
        "5channel.tif": (5, 1, 64, 64, 1),
        "CH1_16bit.tif": (1, 1, 408, 406, 1),
        "CellDivision_T3_Z5_CH2_X240_Y170_comp1.czi": (2, 5, 170, 240, 1),
        "DAPI_GFP.czi": (2, 1, 640, 640, 1),
        "FOV7.ome.tiff": (1, 1, 512, 512, 1),
        "PR2729_frameOrderCombinedScanTypes.lif": (2, 3, 64, 64, 4),
        "RGB-multichannel.czi": (7, 1, 81, 147, 1),
        "WellD6-7_S2.czi": (1, 1, 440, 544, 2),
        "cells-2c.ome.tif": (2, 1, 131, 93, 1),
        "cells-2z.ome.tif": (1, 2, 131, 93, 1),
        "cells-gray16.tif": (1, 1, 131, 93, 1),
        "example-multichannel.nd2": (4, 1, 256, 256, 1),
        "example-timelapse.nd2": (1, 1, 64, 64, 1),
        "example-zstack.nd2": (1, 11, 128, 128, 1),
        "hpa_383_D2_1_blue.tif.gz": (1, 1, 2048, 2048, 1),
        "hpa_383_D2_1_blue_16bit.png": (1, 1, 2048, 2048, 1),
        "newCZI_compressed.czi": (1, 1, 512, 512, 1),
        "one_nucleus.tiff": (4, 1, 189, 156, 1),
        "test.oib": (3, 1, 256, 256, 1),
    }
    assert [name for name, scenes in found.items() if scenes[0].problem] == ["RGB-multichannel.czi"]
    assert "color images" in found["RGB-multichannel.czi"][0].problem
    assert found["test.oib"][0].channels == ("CH1", "Alexa Fluor 546", "None")
    assert found["test.oib"][0].pixel_um == pytest.approx(0.177)
    assert found["CellDivision_T3_Z5_CH2_X240_Y170_comp1.czi"][0].times == 3
    assert found["example-timelapse.nd2"][0].times == 53
    assert found["example-multichannel.nd2"][0].channels == ("Mono", "DAPI", "FITC BP", "TRITC BP")
    assert found["example-multichannel.nd2"][0].pixel_um == pytest.approx(0.3234, abs=1e-4)
    assert found["DAPI_GFP.czi"][0].channels == ("DAPI", "GFP")
    assert found["hpa_383_D2_1_blue.tif.gz"][0].pixel_um == pytest.approx(0.0801, abs=1e-4)
    assert found["cells-2c.ome.tif"][0].pixel_um == 0.25


@needs_readers
def test_an_oif_reads_as_the_oib_with_the_same_planes(tmp_path: Path) -> None:
    import oiffile

    with oiffile.OibFileSystem(READERS / "oib" / "test.oib") as oib:
        oib.saveas_oif(str(tmp_path))
    (path,) = tmp_path.rglob("*.oif")
    with open_image(path) as oif, open_image(READERS / "oib" / "test.oib") as oib:
        assert oif.scenes == oib.scenes
        for channel in range(3):
            np.testing.assert_array_equal(oif.plane(0, channel=channel), oib.plane(0, channel=channel))
    files = path.with_name(f"{path.name}.files")
    files.rename(tmp_path / "away")
    with pytest.raises(ImageError, match=r"\.oif\.files is missing"):
        scenes_of(path)


@needs_readers
def test_a_gzipped_tiff_of_the_dataset_and_its_png_have_the_same_pixels() -> None:
    planes = []
    for name in ("hpa_383_D2_1_blue.tif.gz", "hpa_383_D2_1_blue_16bit.png"):
        with open_image(READERS / name) as opened:
            planes.append(opened.plane(0, channel=0))
    np.testing.assert_array_equal(planes[0], planes[1])


@needs_readers
@pytest.mark.parametrize("name", ["DAPI_GFP.czi", "cells-2c.ome.tif", "5channel.tif", "hpa_383_D2_1_blue.tif.gz"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.8])
def test_a_truncated_real_file_is_refused(tmp_path: Path, name: str, kept: float) -> None:
    content = (READERS / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ImageError, match=name), open_image(path) as opened:
        for channel in range(len(opened.scenes[0].channels)):
            opened.plane(0, channel=channel)


@pytest.mark.parametrize("name", ["a.czi", "a.lif", "a.nd2", "a.tif", "a.tif.gz", "a.png", "a.jpg"])
@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0JPEG", b"\x89PNG\r\n\x1a\n", b"nothing at all, but long"])
def test_what_is_not_what_its_name_says_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=name):
        scenes_of(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "head"), [("a.nd2", b"\xda\xce\xbe\n"), ("a.lif", b"\x70\0\0\0"), ("a.czi", b"ZISRAWFILE")]
)
def test_the_head_alone_is_not_a_file(tmp_path: Path, name: str, head: bytes) -> None:
    (tmp_path / name).write_bytes(head + b"\1\2\3" * 300)
    with pytest.raises(ImageError, match=name):
        scenes_of(tmp_path / name)


def test_what_is_missing_or_unknown_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.zarr").mkdir()
    for name, said in (
        ("no.tif", "does not exist"),
        ("a.bmp", "is not of a supported kind"),
        ("empty.zarr", "empty.zarr"),
    ):
        with pytest.raises(ImageError, match=said):
            scenes_of(tmp_path / name)


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "czifile", None)
    (tmp_path / "a.czi").write_bytes(b"ZISRAWFILE")
    with pytest.raises(MissingExtraError, match="czifile") as caught:
        scenes_of(tmp_path / "a.czi")
    assert "cytoloc[formats]" in caught.value.hint


def test_a_header_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, shape=(60_000, 60_000), dtype=np.uint8, compression="zlib", data=iter([b""]), rowsperstrip=60_000
    )
    with pytest.raises(ImageError, match="60000"):
        scenes_of(path)


@pytest.mark.parametrize(("edge", "kept"), [(None, None), (0.0, None), (0.08, 0.08), (84.7, None), (25_400.0, None)])
def test_only_a_pixel_size_of_microscopes_is_believed(edge: float | None, kept: float | None) -> None:
    assert plausible_um(edge) == kept


def example(kind: str, folder: Path) -> Path:
    path = folder / {"ome": "a.ome.tif", "imagej": "a.tif", "lif": "a.lif"}[kind]
    if kind == "lif":
        write_lif(path, {"s": pixels(2, 8, 8, dtype=np.uint8)}, names=("Blue", "Green"), pixel_um=0.1)
    elif kind == "ome":
        tifffile.imwrite(path, pixels(2, 2, 8, 8), metadata={"axes": "ZCYX"}, compression="zlib")
    else:
        tifffile.imwrite(path, pixels(2, 8, 8), imagej=True, metadata={"axes": "CYX"})
    return path


@pytest.mark.parametrize("kind", ["ome", "imagej", "lif"])
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_read_or_are_refused(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    path = example(kind, tmp_path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))] if data.draw(st.booleans()) else content)
    read = []
    with suppress(ImageError), open_image(path) as opened:
        for number, scene in enumerate(opened.scenes):
            read.append((scene, opened.plane(number, channel=len(scene.channels) - 1, depth=scene.depths - 1)))
    for scene, plane in read:
        assert plane.shape == (scene.height, scene.width)
        assert plane.dtype == scene.dtype.newbyteorder("=")


@pytest.mark.parametrize("big", [False, True])
def test_a_list_of_pages_that_leads_back_to_itself_is_refused(tmp_path: Path, *, big: bool) -> None:
    path = tmp_path / "a.tif"
    # Compressed pages that differ in size, so that each has an entry of its own in the list.
    with tifffile.TiffWriter(path, bigtiff=big) as writer:
        for height in (8, 9):
            writer.write(pixels(height, 8), compression="zlib")
    with tifffile.TiffFile(path) as file:
        first, last = (page.aspage() for page in file.pages)
        tiff = file.tiff
    content = bytearray(path.read_bytes())
    at = last.offset + tiff.tagnosize + len(last.tags) * tiff.tagsize
    content[at : at + tiff.offsetsize] = first.offset.to_bytes(tiff.offsetsize, "little")
    path.write_bytes(content)
    with pytest.raises(ImageError, match="its list of pages is a loop"):
        scenes_of(path)


COMPRESSIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "jpeg": {"compression": "jpeg"},
    "jpeg tiles": {"compression": "jpeg", "tile": (32, 32)},
    "lzw": {"compression": "lzw"},
    "zlib": {"compression": "zlib"},
    "zstd": {"compression": "zstd"},
    "packbits": {"compression": "packbits"},
}


@pytest.mark.parametrize("options", COMPRESSIONS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_truncated_tiff_is_refused_or_whole_to_the_last_pixel(
    tmp_path: Path, options: str, data: st.DataObject
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels(96, 96, dtype=np.uint8), **COMPRESSIONS[options])
    with open_image(path) as opened:
        whole = opened.plane(0, channel=0)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(1, len(content) - 1))])
    # Compared outside: what is raised while an image is open counts as its damage.
    plane = whole
    with suppress(ImageError), open_image(path) as opened:
        plane = opened.plane(0, channel=0)
    np.testing.assert_array_equal(plane, whole)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE, errno.ENETDOWN])
def test_what_is_not_the_files_fault_stops_an_import(number: int) -> None:
    with pytest.raises(StorageError, match="cannot be read now"), decoding(Path("a.tif")):
        raise OSError(number, "no")
    with pytest.raises(ImageError, match="cannot be read: no"), decoding(Path("a.tif")):
        raise OSError(errno.EIO, "no")


def damaged_strips(content: bytes, path: Path) -> bytes:
    """Return a TIFF with the second half of every strip set to zero."""
    changed = bytearray(content)
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
            changed[start + length // 2 : start + length] = bytes(length - length // 2)
    return bytes(changed)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "lzw", "zlib", "png"])
def test_strips_that_are_half_empty_are_refused(tmp_path: Path, compression: Any) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels(96, 96, dtype=np.uint8), compression=compression)
    path.write_bytes(damaged_strips(path.read_bytes(), path))
    with pytest.raises(ImageError, match=r"a\.tif"), open_image(path) as opened:
        opened.plane(0, channel=0)


def test_a_jpeg_strip_with_a_hole_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels(96, 96, dtype=np.uint8), compression="jpeg")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        start, length = file.pages.first.dataoffsets[0], file.pages.first.databytecounts[0]
    content[start + length // 2 : start + length // 2 + 50] = bytes(50)
    path.write_bytes(content)
    with pytest.raises(ImageError, match="plane 1 is incomplete"), open_image(path) as opened:
        opened.plane(0, channel=0)


@pytest.mark.parametrize("compression", [None, "zlib", "jpeg"])
def test_white_is_bright_whatever_number_means_it(tmp_path: Path, compression: Any) -> None:
    coarse = np.kron(pixels(6, 6, dtype=np.uint8), np.ones((16, 16), np.uint8))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, 255 - coarse, photometric="miniswhite", compression=compression)
    with open_image(path) as opened:
        plane = opened.plane(0, channel=0)
    assert np.abs(plane.astype(int) - coarse).mean() < (10 if compression == "jpeg" else 0.1)


def test_a_palette_is_read_if_it_grows_with_brightness(tmp_path: Path) -> None:
    image = pixels(20, 20, dtype=np.uint8)
    ramp = np.zeros((3, 256), np.uint16)
    ramp[1] = np.arange(256) * 257
    tifffile.imwrite(tmp_path / "green.tif", image, photometric="palette", colormap=ramp)
    with open_image(tmp_path / "green.tif") as opened:
        np.testing.assert_array_equal(opened.plane(0, channel=0), image)
    tifffile.imwrite(tmp_path / "mixed.tif", image, photometric="palette", colormap=ramp[:, ::-1].copy())
    with (
        pytest.raises(ImageError, match="has a color palette that does not increase in brightness"),
        open_image(tmp_path / "mixed.tif") as opened,
    ):
        opened.plane(0, channel=0)
