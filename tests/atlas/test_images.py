from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cytoloc.atlas.images import read_grey_png, resize_field
from cytoloc.errors import ImageError


@pytest.fixture
def png(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "a_red.png"
    Image.fromarray(rng.integers(0, 256, (60, 60), dtype=np.uint8)).save(path)
    return path


def test_a_png_reads_as_pillow_reads_it(png: Path) -> None:
    np.testing.assert_array_equal(read_grey_png(png), np.asarray(Image.open(png)))


@pytest.mark.parametrize("kept", [0, 5, 30, 0.2, 0.5, 0.9, 0.99])
def test_every_truncation_is_refused(png: Path, kept: float) -> None:
    content = png.read_bytes()
    png.write_bytes(content[: int(kept if kept >= 1 or kept == 0 else kept * len(content))])
    with pytest.raises(ImageError, match=r"a_red\.png"):
        read_grey_png(png)


def test_a_flipped_byte_in_the_pixels_is_refused(png: Path) -> None:
    content = bytearray(png.read_bytes())
    content[len(content) // 2] ^= 0x10
    png.write_bytes(content)
    with pytest.raises(ImageError, match="damaged"):
        read_grey_png(png)


def test_pixels_that_cannot_be_inflated_are_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    path = tmp_path / "a_red.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"no zlib stream") + chunk(b"IEND", b"")
    )
    with pytest.raises(ImageError, match="damaged"):
        read_grey_png(path)


@pytest.mark.parametrize(
    "pixels", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint16)], ids=["colour", "16 bit"]
)
def test_pictures_that_are_not_8_bit_grey_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "a_red.png"
    Image.fromarray(pixels).save(path)
    with pytest.raises(ImageError, match="not 8-bit grey"):
        read_grey_png(path)


def test_shrinking_by_a_whole_number_takes_means() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 64, 64), dtype=np.uint8)
    means = image.reshape(4, 16, 4, 16, 4).mean(axis=(2, 4))
    assert np.abs(resize_field(image, 16) - means).max() <= 0.51
    assert resize_field(image, 64) is image
    assert resize_field(image, 100).shape == (4, 100, 100)


def test_fields_that_are_not_square_are_refused() -> None:
    with pytest.raises(ImageError, match="10 x 20 px"):
        resize_field(np.zeros((4, 20, 10), np.uint8), 8)
