from __future__ import annotations

import os
import signal
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from cytoloc.errors import ImageError
from cytoloc.images.formats import ImageFile, Scene, open_image
from cytoloc.images.formats.contained import ContainedFile
from tests.images.czi import Plane, write_czi


class Crashing:
    """A file whose reader ends its process when a plane of a given channel is read, as a decoder in C can."""

    scenes = (Scene(name="", channels=("a", "b"), height=4, width=5, dtype=np.dtype(np.uint8)),)

    def __init__(self, path: Path) -> None:
        if path.name == "dies.lif":
            os.kill(os.getpid(), signal.SIGSEGV)

    def plane(self, scene: int, *, channel: int, depth: int = 0, time: int = 0, page: int = 0) -> NDArray[Any]:
        print("libraries may print")
        if channel:
            os.abort()
        return np.full((4, 5), os.getpid() % 200, np.uint8)

    def close(self) -> None:
        """Do nothing."""


def crashing(path: Path) -> ImageFile:
    return Crashing(path)


def test_a_reader_that_crashes_costs_one_file() -> None:
    for _ in range(2):
        with pytest.raises(ImageError, match=r"dies\.lif could not be read: .* crashed \(SIGSEGV\)"):
            ContainedFile(Path("dies.lif"), crashing)
        image = ContainedFile(Path("a.lif"), crashing)
        assert image.plane(0, channel=0).shape == (4, 5)
        with pytest.raises(ImageError, match=r"a\.lif could not be read: .* crashed \(SIGABRT\)"):
            image.plane(0, channel=1)
        with pytest.raises(ImageError, match="is closed"):
            image.plane(0, channel=0)
        image.close()


def test_a_process_is_used_again_and_others_read_at_the_same_time() -> None:
    first = ContainedFile(Path("a.lif"), crashing)
    number = first.plane(0, channel=0)[0, 0]
    second = ContainedFile(Path("b.lif"), crashing)
    assert second.plane(0, channel=0)[0, 0] != number
    first.close()
    third = ContainedFile(Path("c.lif"), crashing)
    assert third.plane(0, channel=0)[0, 0] == number
    second.close()
    third.close()


def pixels(height: int, width: int, dtype: Any = np.uint8, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 250, (height, width)).astype(dtype)


def test_planes_of_a_czi_can_differ_in_size_by_scene_and_in_type_by_channel(tmp_path: Path) -> None:
    path = tmp_path / "a.czi"
    types = (np.uint8, np.uint16)
    planes = {
        (scene, channel, z): pixels(20 + 9 * scene, 30 + 7 * scene, types[channel], seed=z)
        for scene, channel, z in product(range(2), range(2), range(3))
    }
    write_czi(
        path, [Plane(plane, {"S": s, "C": c, "Z": z}) for (s, c, z), plane in planes.items()], names=("DAPI", "GFP")
    )
    with open_image(path) as opened:
        assert [(s.name, s.height, s.width, s.depths, s.channels) for s in opened.scenes] == [
            ("s0", 20, 30, 3, ("DAPI", "GFP")),
            ("s1", 29, 37, 3, ("DAPI", "GFP")),
        ]
        assert opened.scenes[0].pixel_um == pytest.approx(0.08)
        for (scene, channel, z), plane in planes.items():
            found = opened.plane(scene, channel=channel, depth=z)
            np.testing.assert_array_equal(found, plane)
            assert found.dtype == plane.dtype


@pytest.mark.parametrize(
    ("planes", "problem"),
    [
        ([((8, 8), {"C": 0}), ((9, 8), {"C": 1})], "differ in size: channel 1"),
        ([((8, 8), {"C": 0, "Z": 0}), ((8, 12), {"C": 0, "Z": 1})], "differ in size: channel 0, z plane 1"),
        ([((8, 8), {"C": 0, "Z": z}) for z in range(2)] + [((8, 8), {"C": 1, "Z": 0})], "lacks 1 of its planes"),
        ([((8, 8), {"H": h}) for h in range(4)], "4 raw detector images"),
        ([((8, 8), {"C": 0}), ((8, 8), {"C": 0})], "several planes at the same place"),
        ([((8, 8, 3), {"C": 0}), ((8, 8, 3), {"C": 1})], "2 channels are color images"),
        ([((8, 8, 3), {"C": 0})], ""),
    ],
)
def test_a_scene_of_a_czi_that_is_no_field_says_why(
    tmp_path: Path, planes: list[tuple[tuple[int, ...], dict[str, int]]], problem: str
) -> None:
    path = tmp_path / "a.czi"
    write_czi(path, [Plane(np.arange(np.prod(shape), dtype=np.uint8).reshape(shape), at) for shape, at in planes])
    with open_image(path) as opened:
        (scene,) = opened.scenes
        assert problem in scene.problem
        assert bool(problem) == bool(scene.problem)
        if not problem:
            assert scene.channels == ("red", "green", "blue")
            assert [opened.plane(0, channel=channel)[0, 0] for channel in range(3)] == [2, 1, 0]


def zstd_of_low_and_high_bytes(plane: NDArray[Any]) -> bytes:
    split = np.frombuffer(plane.tobytes(), np.uint8).reshape(-1, 2).T.tobytes()
    return b"\x03\x01\x01" + bytes(imagecodecs.zstd_encode(split))


@pytest.mark.parametrize(
    ("compression", "dtype", "encode"),
    [
        (1, np.uint8, lambda plane: imagecodecs.jpeg8_encode(plane, level=100)),
        (2, np.uint8, lambda plane: imagecodecs.lzw_encode(plane.tobytes())),
        (4, np.uint8, lambda plane: imagecodecs.jpegxr_encode(plane, level=1.0)),
        (4, np.uint16, lambda plane: imagecodecs.jpegxr_encode(plane, level=1.0)),
        (5, np.uint16, lambda plane: imagecodecs.zstd_encode(plane.tobytes())),
        (6, np.uint16, lambda plane: b"\x01" + imagecodecs.zstd_encode(plane.tobytes())),
        (6, np.uint16, zstd_of_low_and_high_bytes),
    ],
)
def test_compressed_planes_of_a_czi_are_decoded(
    tmp_path: Path, compression: int, dtype: type, encode: Callable[[NDArray[Any]], bytes]
) -> None:
    plane = np.kron(pixels(4, 6, dtype), np.ones((8, 8), dtype))
    encoded = bytes(encode(plane))
    write_czi(tmp_path / "a.czi", [Plane(plane, {"C": 0}, compression, encoded)])
    with open_image(tmp_path / "a.czi") as opened:
        np.testing.assert_array_equal(opened.plane(0, channel=0), plane)
    write_czi(tmp_path / "b.czi", [Plane(plane, {"C": 0}, compression, encoded[: len(encoded) // 2])])
    with pytest.raises(ImageError, match=r"b\.czi"), open_image(tmp_path / "b.czi") as opened:
        opened.plane(0, channel=0)


def test_tiles_of_a_czi_are_fields(tmp_path: Path) -> None:
    write_czi(tmp_path / "a.czi", [Plane(pixels(8, 8, seed=tile), {"M": tile, "C": 0}) for tile in range(2)])
    with open_image(tmp_path / "a.czi") as opened:
        assert [scene.name for scene in opened.scenes] == ["m0", "m1"]
        np.testing.assert_array_equal(opened.plane(1, channel=0), pixels(8, 8, seed=1))


@pytest.mark.parametrize("compression", ["jpegxr", "jpeg2000"])
def test_a_tiff_with_a_rare_compression_is_read_in_another_process(tmp_path: Path, compression: Any) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image := pixels(32, 32), compression=compression)
    with open_image(tmp_path / "a.tif") as opened:
        assert isinstance(opened, ContainedFile)
        np.testing.assert_allclose(opened.plane(0, channel=0).astype(int), image, atol=16)
