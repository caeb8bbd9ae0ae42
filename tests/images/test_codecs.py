from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cytoloc.errors import ImageError
from cytoloc.images.codecs import read_gray_png, read_png, read_stain_jpeg
from cytoloc.images.formats.tiff import read_gray_tiff


@pytest.fixture
def png(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "a_red.png"
    Image.fromarray(rng.integers(0, 256, (60, 60), dtype=np.uint8)).save(path)
    return path


def test_a_png_reads_as_pillow_reads_it(png: Path) -> None:
    np.testing.assert_array_equal(read_gray_png(png), np.asarray(Image.open(png)))


@pytest.mark.parametrize("kept", [0, 5, 30, 0.2, 0.5, 0.9, 0.99])
def test_every_truncation_is_refused(png: Path, kept: float) -> None:
    content = png.read_bytes()
    png.write_bytes(content[: int(kept if kept >= 1 or kept == 0 else kept * len(content))])
    with pytest.raises(ImageError, match=r"a_red\.png is (truncated|empty|not a PNG)"):
        read_gray_png(png)


def test_a_flipped_byte_in_the_pixels_is_refused(png: Path) -> None:
    content = bytearray(png.read_bytes())
    content[len(content) // 2] ^= 0x10
    png.write_bytes(content)
    with pytest.raises(ImageError, match="could not be read"):
        read_gray_png(png)


def gray_png(shape: tuple[int, int], stream: bytes, *more: tuple[bytes, bytes], interlaced: bool = False) -> bytes:
    """Return a gray PNG of 8 bits around a stream of pixels, with more chunks before it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", *shape[::-1], 8, 0, 0, 0, interlaced)
    chunks = [(b"IHDR", header), *more, (b"IDAT", stream), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def test_pixels_that_cannot_be_inflated_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a_red.png"
    path.write_bytes(gray_png((8, 8), b"no zlib stream"))
    with pytest.raises(ImageError, match="could not be read"):
        read_gray_png(path)


@pytest.mark.parametrize("row_filter", range(5))
def test_a_gray_png_reads_the_same_however_it_was_written(tmp_path: Path, row_filter: int) -> None:
    plane = np.random.default_rng(0).integers(0, 256, (37, 23), dtype=np.uint8)
    path = tmp_path / "a_red.png"
    assert cv2.imwrite(str(path), plane, [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE << row_filter])
    np.testing.assert_array_equal(read_gray_png(path), plane)


def test_interlaced_gray_and_what_else_a_header_may_say(tmp_path: Path) -> None:
    plane = np.random.default_rng(0).integers(0, 256, (37, 23), dtype=np.uint8)
    path = tmp_path / "a_red.png"
    # First row and column, and step, of the seven passes of Adam7.
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = [row for top, left, down, right in passes for row in plane[top::down, left::right]]
    path.write_bytes(
        gray_png(plane.shape, zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)), interlaced=True)
    )
    np.testing.assert_array_equal(read_gray_png(path), plane)
    stream = zlib.compress(b"".join(b"\0" + row.tobytes() for row in plane))
    # A gamma and a gray that is transparent change how an image is shown, not what was measured.
    path.write_bytes(gray_png(plane.shape, stream, (b"gAMA", struct.pack(">I", 30_000)), (b"tRNS", b"\0\7")))
    np.testing.assert_array_equal(read_gray_png(path), plane)


def test_images_that_are_not_gray_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a_red.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    with pytest.raises(ImageError, match="not gray"):
        read_gray_png(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_gray_tiff_reads_as_it_was_written(tmp_path: Path, dtype: type) -> None:
    plane: np.ndarray = np.random.default_rng(0).integers(0, 250, (20, 30)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", plane, compression="zlib")
    np.testing.assert_array_equal(read_gray_tiff(tmp_path / "a.tif"), plane)
    content = (tmp_path / "a.tif").read_bytes()
    for kept in (0, 4, 100, len(content) // 2, len(content) - 200):
        (tmp_path / "a.tif").write_bytes(content[:kept])
        with pytest.raises(ImageError, match=r"a\.tif"):
            read_gray_tiff(tmp_path / "a.tif")


@pytest.mark.parametrize("pixels", [np.zeros((2, 8, 8), np.uint8), np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8))])
def test_tiffs_of_anything_else_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb" if pixels.shape[-1] == 3 else "minisblack")
    with pytest.raises(ImageError, match="not a single gray image of 8 or 16 bits"):
        read_gray_tiff(tmp_path / "a.tif")


def test_16_bit_and_colored_png_keep_their_depth(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    deep, colored = rng.integers(0, 65536, (8, 6), dtype=np.uint16), rng.integers(0, 256, (8, 6, 3), dtype=np.uint8)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(colored).save(tmp_path / "colored.png")
    np.testing.assert_array_equal(read_png(tmp_path / "deep.png"), deep)
    np.testing.assert_array_equal(read_png(tmp_path / "colored.png"), colored)


def test_a_file_is_judged_by_its_content_not_by_its_name(tmp_path: Path, png: Path) -> None:
    jpeg = tmp_path / "b_red.png"
    Image.open(png).save(jpeg, format="JPEG")
    with pytest.raises(ImageError, match="is a JPEG file, although its name says PNG"):
        read_png(jpeg)
    png.rename(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="is a PNG file, although its name says JPEG"):
        read_stain_jpeg(tmp_path / "a.jpg", "er")


def test_a_header_that_states_a_huge_image_is_refused_before_it_is_decoded(png: Path) -> None:
    content = bytearray(png.read_bytes())
    content[16:20] = struct.pack(">I", 60_000)
    png.write_bytes(content)
    with pytest.raises(ImageError, match="states a size of 60000 x 60 px, but fields have at most 16384 px"):
        read_png(png)


@pytest.mark.parametrize(("role", "color"), [("microtubules", 0), ("protein", 1), ("nucleus", 2), ("er", (0, 1))])
def test_a_stain_is_in_the_plane_of_its_color(tmp_path: Path, role: str, color: int | tuple[int, int]) -> None:
    ramp = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    rendering = np.zeros((64, 64, 3), np.uint8)
    rendering[..., color] = ramp[..., None] if isinstance(color, tuple) else ramp
    Image.fromarray(rendering).save(tmp_path / "stain.jpg", quality=98, subsampling=0)
    stain = read_stain_jpeg(tmp_path / "stain.jpg", role).plane
    assert np.abs(stain.astype(int) - ramp).max() <= 6


def test_yellow_is_the_mean_of_red_and_green(tmp_path: Path) -> None:
    rendering = np.zeros((16, 16, 3), np.uint8)
    rendering[..., 0], rendering[..., 1] = 100, 50
    Image.fromarray(rendering).save(tmp_path / "stain.jpg", quality=100, subsampling=0)
    assert np.abs(read_stain_jpeg(tmp_path / "stain.jpg", "er").plane.astype(int) - 75).max() <= 2


def test_a_large_jpeg_is_decoded_no_larger_than_is_needed(tmp_path: Path) -> None:
    Image.fromarray(np.full((200, 240, 3), 90, np.uint8)).save(tmp_path / "a.jpg")
    stains = [read_stain_jpeg(tmp_path / "a.jpg", "er", at_least=edge) for edge in (0, 101, 100, 50, 1)]
    assert {stain.original for stain in stains} == {(200, 240)}
    sizes = [stain.plane.shape for stain in stains]
    assert sizes == [(200, 240), (200, 240), (100, 120), (50, 60), (25, 30)]


@given(st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_refused_or_read_and_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    for kind, read in (("PNG", read_png), ("JPEG", partial(read_stain_jpeg, role="er")), ("TIFF", read_gray_tiff)):
        content = bytearray(_encoded(kind))
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path = tmp_path / "fuzzed"
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        with suppress(ImageError):
            read(path)


@cache
def _encoded(kind: str) -> bytes:
    file = io.BytesIO()
    shape = (24, 24) if kind == "TIFF" else (24, 24, 3)
    Image.fromarray(np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)).save(file, format=kind)
    return file.getvalue()
