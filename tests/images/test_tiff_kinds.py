from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from cytoloc.errors import ImageError
from cytoloc.images.formats import Scene, open_image
from cytoloc.images.formats.ome import parse_ome


def pixels(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 250, shape).astype(dtype)


def scene_of(path: Path) -> Scene:
    with open_image(path) as opened:
        return opened.scenes[0]


def read(path: Path, *, channels: int | None = None, **options: Any) -> NDArray[Any]:
    """Return all channels of the first scene."""
    with open_image(path, **options) as opened:
        count = channels or len(opened.scenes[0].channels)
        return np.stack([opened.plane(0, channel=channel) for channel in range(count)])


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_pixels_of_few_bits_are_scaled_as_in_png(tmp_path: Path, bits: int, photometric: Any) -> None:
    path = tmp_path / "a.tif"
    few = pixels(16, 24) >> (8 - bits)
    if bits == 1:
        stored = few.astype(bool) if photometric == "minisblack" else ~few.astype(bool)
        tifffile.imwrite(path, stored, photometric=photometric)
    else:
        inverted = few if photometric == "minisblack" else (1 << bits) - 1 - few
        tifffile.imwrite(path, inverted, bitspersample=bits, photometric=photometric)
    np.testing.assert_array_equal(read(path)[0], few * (255 // ((1 << bits) - 1)))


@pytest.mark.parametrize(
    ("photometric", "samples", "problem"),
    [
        ("separated", 4, "CMYK"),
        ("cielab", 3, "CIE L"),
        ("ycbcr", 3, "YCbCr"),
        ("icclab", 3, "ICC L"),
        ("cfa", 1, "Bayer"),
    ],
)
def test_colors_that_are_not_stains_are_named(tmp_path: Path, photometric: Any, samples: int, problem: str) -> None:
    image = pixels(16, 24, samples).squeeze()
    tifffile.imwrite(tmp_path / "a.tif", image, photometric=photometric)
    scene = scene_of(tmp_path / "a.tif")
    assert problem in scene.problem
    assert not {"red", "green", "blue"} & {*scene.channels}


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("photometric", "extra", "names"),
    [
        ("minisblack", ["unassalpha"], ("gray", "alpha")),
        ("minisblack", ["unspecified"] * 3, ("",) * 4),
        ("rgb", [], ("red", "green", "blue")),
        ("rgb", ["assocalpha"], ("red", "green", "blue", "alpha")),
        ("rgb", ["unspecified"], ("red", "green", "blue", "")),
    ],
)
def test_samples_are_named_by_what_the_file_says(
    tmp_path: Path, planar: Any, compression: Any, photometric: Any, extra: list[Any], names: tuple[str, ...]
) -> None:
    # The width is the number of samples, so that shapes do not tell which axis is which.
    image = pixels(16, len(names), len(names))
    stored = image if planar == "contig" else np.moveaxis(image, -1, 0)
    options = {"planarconfig": planar, "extrasamples": extra, "photometric": photometric, "compression": compression}
    tifffile.imwrite(tmp_path / "a.tif", stored, **options)
    assert scene_of(tmp_path / "a.tif").channels == names
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), np.moveaxis(image, -1, 0))


def test_ycbcr_in_jpeg_is_red_green_blue_and_cmyk_jpeg_is_refused(tmp_path: Path) -> None:
    image = np.kron(pixels(4, 4, 3), np.ones((8, 8, 1), np.uint8))
    Image.fromarray(image).save(tmp_path / "a.tif", compression="jpeg")
    assert scene_of(tmp_path / "a.tif").channels == ("red", "green", "blue")
    np.testing.assert_array_equal(
        read(tmp_path / "a.tif"), np.moveaxis(np.asarray(Image.open(tmp_path / "a.tif")), -1, 0)
    )
    Image.fromarray(pixels(16, 16, 4), mode="CMYK").save(tmp_path / "b.jpg")
    with pytest.raises(ImageError, match="inks of a printer"):
        scene_of(tmp_path / "b.jpg")


def old_jpeg(path: Path, image: NDArray[np.uint8]) -> None:
    """Write a TIFF with the JPEG compression of TIFF 6.0: one whole JPEG stream, named by tags 513 and 514."""
    Image.fromarray(image).save(path.with_suffix(".jpg"), quality=95, subsampling=0)
    stream = path.with_suffix(".jpg").read_bytes()
    stream += bytes(len(stream) % 2)
    (height, width), samples = image.shape[:2], 1 if image.ndim == 2 else 3
    tags = [(256, 4, width), (257, 4, height), (259, 3, 6), (262, 3, 1 if samples == 1 else 6), (273, 4, 8)]
    tags += [
        (277, 3, samples),
        (278, 4, height),
        (279, 4, len(stream)),
        (512, 3, 1),
        (513, 4, 8),
        (514, 4, len(stream)),
    ]
    listed = [struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags]
    # The bits of three samples do not fit into a tag, and follow the stream.
    listed.insert(2, struct.pack("<HHII", 258, 3, samples, 8 if samples == 1 else 8 + len(stream)))
    stream += struct.pack("<HHHH", 8, 8, 8, 0)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(stream))
    path.write_bytes(head + stream + struct.pack("<H", len(listed)) + b"".join(listed) + bytes(4))


def test_an_old_jpeg_is_read_as_pillow_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    old_jpeg(path, np.kron(pixels(6, 6), np.ones((8, 8), np.uint8)))
    np.testing.assert_array_equal(read(path)[0], np.asarray(Image.open(path.with_suffix(".jpg"))))
    old_jpeg(path, np.kron(pixels(6, 6, 3), np.ones((8, 8, 1), np.uint8)))
    assert scene_of(path).channels == ("red", "green", "blue")
    np.testing.assert_array_equal(np.moveaxis(read(path), 0, -1), np.asarray(Image.open(path)))


def test_a_page_split_from_an_imagej_stack_is_whole_but_a_cut_stack_is_not(tmp_path: Path) -> None:
    stack = pixels(4, 32, 32)
    description = "ImageJ=1.53c\nimages=4\nchannels=4\nunit=micron\nhyperstack=true\n"
    options: dict[str, Any] = {"description": description, "metadata": None, "resolution": (10, 10)}
    tifffile.imwrite(tmp_path / "split.tif", stack[2], **options)
    np.testing.assert_array_equal(read(tmp_path / "split.tif"), stack[2:3])
    assert scene_of(tmp_path / "split.tif").pixel_um == pytest.approx(0.1)
    tifffile.imwrite(tmp_path / "whole.tif", stack, imagej=True, metadata={"axes": "CYX"})
    content = (tmp_path / "whole.tif").read_bytes()
    for kept in (0.3, 0.5, 0.9):
        (tmp_path / "cut.tif").write_bytes(content[: int(kept * len(content))])
        with pytest.raises(ImageError, match=r"cut\.tif is truncated"):
            read(tmp_path / "cut.tif")


def test_a_thumbnail_in_a_file_is_passed_over(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(pixels(32, 32), metadata=None)
        writer.write(pixels(8, 8), metadata=None, subfiletype=1)
    with open_image(tmp_path / "a.tif") as opened:
        assert [scene.height for scene in opened.scenes] == [32]


@pytest.mark.parametrize(
    ("stored", "written", "axes"),
    [
        ("TYX", "CYX", "CYX"),
        ("ZYX", "CYX", "CYX"),
        ("QYX", "YXC", "YXC"),
        ("QQYX", "ZCYX", "ZCYX"),
        ("TZYX", "CZYX", "CZYX"),
    ],
)
def test_axes_that_the_user_names_are_found_by_shape(tmp_path: Path, stored: str, written: str, axes: str) -> None:
    length = {"Z": 3, "C": 4, "Y": 20, "X": 24}
    image = pixels(*(length[axis] for axis in written))
    path = tmp_path / ("a.tif" if "Q" in stored else "a.ome.tif")
    tifffile.imwrite(path, image, photometric="minisblack", metadata=None if "Q" in stored else {"axes": stored})
    if stored == "QQYX":
        tifffile.imwrite(path, image, photometric="minisblack")
    with open_image(path, axes=axes) as opened:
        (scene,) = opened.scenes
        assert (len(scene.channels), scene.height, scene.width) == (4, 20, 24)
        for channel in range(4):
            for depth in range(scene.depths):
                place = tuple({"C": channel, "Z": depth}.get(axis, slice(None)) for axis in written)
                np.testing.assert_array_equal(opened.plane(0, channel=channel, depth=depth), image[place])
    with (
        pytest.raises(ImageError, match=r"axes longer than 1: .* of 20.*`axes` names 5"),
        open_image(path, axes="TZCYX"),
    ):
        pass


def ome_set(folder: Path, parts: dict[str, list[tuple[int, int, int]]], *, companion: str = "") -> NDArray[Any]:
    """Write an OME-TIFF set of two positions and two channels.

    Args:
        folder: The folder.
        parts: For each file the image, channel and page of its planes.
        companion: The only file with the whole XML; the others refer to it.

    Returns:
        The planes, shape ``(position, channel, height, width)``.
    """
    image = pixels(2, 2, 16, 20, dtype=np.uint16)
    body = ""
    for position in range(2):
        planes = "".join(
            f'<TiffData IFD="{page}" FirstC="{channel}" FirstZ="0" FirstT="0" PlaneCount="1">'
            f'<UUID FileName="{file}">urn:uuid:{file}</UUID></TiffData>'
            for file, listed in parts.items()
            for at, channel, page in listed
            if at == position
        )
        body += (
            f'<Image ID="Image:{position}" Name="Pos{position}"><Pixels ID="Pixels:{position}" DimensionOrder="XYCZT"'
            ' Type="uint16" SizeX="20" SizeY="16" SizeC="2" SizeZ="1" SizeT="1" PhysicalSizeX="0.5">'
            f'<Channel ID="Channel:{position}:0" Name="DAPI"/><Channel ID="Channel:{position}:1" Name="GFP"/>'
            f"{planes}</Pixels></Image>"
        )
    head = '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
    if companion.endswith(".ome"):
        (folder / companion).write_text(f"{head}>{body}</OME>")
    for file, listed in parts.items():
        xml = f'{head} UUID="urn:uuid:{file}">{body}</OME>'
        if companion and file != companion:
            xml = f'{head} UUID="urn:uuid:{file}"><BinaryOnly MetadataFile="{companion}" UUID="urn:uuid:x"/></OME>'
        with tifffile.TiffWriter(folder / file) as writer:
            for at, channel, _ in listed:
                writer.write(image[at, channel], description=xml.encode(), metadata=None)
    return image


PER_POSITION = {"p0.ome.tif": [(0, 0, 0), (0, 1, 1)], "p1.ome.tif": [(1, 0, 0), (1, 1, 1)]}
PER_CHANNEL = {"c0.ome.tif": [(0, 0, 0), (1, 0, 1)], "c1.ome.tif": [(0, 1, 0), (1, 1, 1)]}


@pytest.mark.parametrize("companion", ["", "set.companion.ome", "p0.ome.tif"])
def test_a_set_with_a_file_per_position_reads_with_names(tmp_path: Path, companion: str) -> None:
    image = ome_set(tmp_path, PER_POSITION, companion=companion)
    for position in range(2):
        for alone in (False, True):
            with open_image(tmp_path / f"p{position}.ome.tif", alone=alone) as opened:
                (scene,) = opened.scenes
                assert (scene.name, scene.channels, scene.pixel_um) == (f"Pos{position}", ("DAPI", "GFP"), 0.5)
            planes = read(tmp_path / f"p{position}.ome.tif", alone=alone)
            np.testing.assert_array_equal(planes, image[position])


def test_a_set_with_a_file_per_channel_is_read_from_all_files(tmp_path: Path) -> None:
    image = ome_set(tmp_path, PER_CHANNEL)
    with open_image(tmp_path / "c0.ome.tif") as opened:
        assert [(scene.name, scene.channels) for scene in opened.scenes] == [
            ("Pos0", ("DAPI", "GFP")),
            ("Pos1", ("DAPI", "GFP")),
        ]
        for at, channel in np.ndindex(2, 2):
            np.testing.assert_array_equal(opened.plane(at, channel=channel), image[at, channel])
    with open_image(tmp_path / "c1.ome.tif") as opened:
        assert opened.scenes == ()
    with open_image(tmp_path / "c1.ome.tif", alone=True) as opened:
        assert [scene.channels for scene in opened.scenes] == [("GFP",), ("GFP",)]
        np.testing.assert_array_equal(opened.plane(1, channel=0), image[1, 1])
    (tmp_path / "c0.ome.tif").unlink()
    assert "c0.ome.tif of its set is missing" in scene_of(tmp_path / "c1.ome.tif").problem


def test_a_renamed_file_of_a_set_reads_and_one_without_its_master_is_a_plain_tiff(tmp_path: Path) -> None:
    image = ome_set(tmp_path, PER_POSITION)
    (tmp_path / "p1.ome.tif").rename(tmp_path / "other.tif")
    np.testing.assert_array_equal(read(tmp_path / "other.tif"), image[1])
    ome_set(tmp_path, PER_POSITION, companion="p0.ome.tif")
    (tmp_path / "p0.ome.tif").unlink()
    assert scene_of(tmp_path / "p1.ome.tif").pages == 2


def test_planes_of_ome_xml_follow_the_order_of_dimensions() -> None:
    xml = (
        '<OME xmlns="x"><Image Name="a"><Pixels DimensionOrder="XYZCT" SizeC="2" SizeZ="2" SizeT="1">'
        '<TiffData IFD="3" PlaneCount="4"><UUID FileName="b.tif">u</UUID></TiffData></Pixels></Image></OME>'
    )
    (image,) = parse_ome(xml).images
    assert [(plane.channel, plane.depth, plane.page) for plane in image.planes] == [
        (0, 0, 3),
        (0, 1, 4),
        (1, 0, 5),
        (1, 1, 6),
    ]


def without_tag(content: bytes, tag: int) -> bytes:
    """Return a little-endian TIFF in which a tag of the first page has an unknown number."""
    changed = bytearray(content)
    (offset,) = struct.unpack_from("<I", changed, 4)
    (count,) = struct.unpack_from("<H", changed, offset)
    (place,) = [
        at for at in range(offset + 2, offset + 2 + 12 * count, 12) if struct.unpack_from("<H", changed, at)[0] == tag
    ]
    struct.pack_into("<H", changed, place, 65_000)
    return bytes(changed)


def test_odd_files_that_are_whole_are_read_or_not_called_truncated(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image := pixels(16, 24))
    content = path.read_bytes()
    odd = {
        "no photometric interpretation": without_tag(content, 262),
        "another shape in the description": content.replace(b"[16, 24]", b"[48, 24]"),
        "a broken description": content.replace(b'{"shape"', b'{"sh"pe"'),
        "more bytes": content + b"more",
    }
    for changed in odd.values():
        path.write_bytes(changed)
        np.testing.assert_array_equal(read(path)[0], image)
    path.write_bytes(without_tag(content, 279))
    with pytest.raises(ImageError, match="could not be read: missing data ByteCounts tag"):
        read(path)
