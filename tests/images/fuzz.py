"""Structured fuzzing of image readers: files with valid structure and strange values in their headers.

``python -m tests.images.fuzz --minutes 30`` reads new random files until the time is over. Files are read in child
processes. A file that ends its process, or whose planes differ from what was written, is kept in ``--out``.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cytoloc.errors import CytolocError
from cytoloc.images.formats import open_image
from tests.images.czi import Plane, write_czi
from tests.images.lif import write_lif

Draw = Callable[[st.SearchStrategy[Any]], Any]

EDGES = st.sampled_from([0, 1, 2, 3, 7, 8, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1])
"""Values at which numbers in headers overflow or lose their meaning."""

TEXTS = st.sampled_from(
    ["", "0", "-1", "1", "2", "9999999999", "nan", "1e999", "x", "é", "urn:uuid:x", "XYZCT", "µm", "a.tif"]
)


def image_of(draw: Draw, *, dtypes: tuple[type, ...] = (np.uint8, np.uint16, np.float32)) -> NDArray[Any]:
    """Return channels ``(channels, height, width)``."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(4, 20)), draw(st.integers(4, 20)))
    seed = draw(st.integers(0, 9))
    return np.random.default_rng(seed).integers(0, 250, shape).astype(draw(st.sampled_from(dtypes)))


def tiff(draw: Draw, folder: Path) -> tuple[Path, NDArray[Any]]:
    """Write a TIFF in one of its forms."""
    image = image_of(draw)
    form = draw(st.sampled_from(["ome", "imagej", "shaped", "separate"]))
    path = folder / ("a.ome.tif" if form == "ome" else "a.tif")
    options: dict[str, Any] = {"photometric": "minisblack", "byteorder": draw(st.sampled_from("<>"))}
    if form == "imagej":
        options |= {"imagej": True}
    else:
        options |= {"compression": draw(st.sampled_from([None, "zlib", "lzw", "packbits", "zstd"]))}
        options |= {"tile": draw(st.sampled_from([None, (16, 16)])), "bigtiff": draw(st.booleans())}
    if form == "separate":
        options |= {"planarconfig": "separate"} if len(image) > 1 else {}
    else:
        options |= {"metadata": {"axes": "CYX"}}
    if form == "ome":
        options["metadata"] |= {"Channel": {"Name": [f"c{number}" for number in range(len(image))]}}
    tifffile.imwrite(path, image, **options)
    return path, image


def czi(draw: Draw, folder: Path) -> tuple[Path, NDArray[Any]]:
    """Write a CZI with one scene."""
    image = image_of(draw)
    planes = [Plane(plane, {"S": 0, "C": channel}) for channel, plane in enumerate(image)]
    write_czi(folder / "a.czi", planes, names=[f"c{number}" for number in range(len(image))])
    return folder / "a.czi", image


def lif(draw: Draw, folder: Path) -> tuple[Path, NDArray[Any]]:
    """Write a LIF with one scene."""
    image = image_of(draw, dtypes=(np.uint8,))
    write_lif(folder / "a.lif", {"s": image}, names=tuple(f"c{number}" for number in range(len(image))), pixel_um=0.1)
    return folder / "a.lif", image


def zarr(draw: Draw, folder: Path) -> tuple[Path, NDArray[Any]]:
    """Write an OME-Zarr 0.4 with one uncompressed chunk per channel."""
    image = image_of(draw)
    root = folder / "a.zarr"
    shutil.rmtree(root, ignore_errors=True)
    (root / "0").mkdir(parents=True)
    axes = [{"name": name, "type": kind} for name, kind in (("c", "channel"), ("y", "space"), ("x", "space"))]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]}
    names = {"channels": [{"label": f"c{number}", "color": "ffffff"} for number in range(len(image))]}
    attributes = {"multiscales": [{"version": "0.4", "axes": axes, "datasets": [level], "name": "a"}], "omero": names}
    array = {"zarr_format": 2, "shape": image.shape, "chunks": (1, *image.shape[1:]), "dtype": image.dtype.str}
    array |= {"compressor": None, "fill_value": 0, "order": "C", "filters": None, "dimension_separator": "."}
    (root / ".zgroup").write_text('{"zarr_format": 2}')
    (root / ".zattrs").write_text(json.dumps(attributes))
    (root / "0" / ".zarray").write_text(json.dumps(array))
    for channel, plane in enumerate(image):
        (root / "0" / f"{channel}.0.0").write_bytes(plane.tobytes())
    return root, image


WRITERS = {"tiff": tiff, "czi": czi, "lif": lif, "zarr": zarr}


def damage(draw: Draw, path: Path) -> bool:
    """Change numbers, texts or the length of a file; return whether only its end was removed."""
    if path.is_dir():
        path = draw(st.sampled_from(sorted(each for each in path.rglob("*") if each.is_file())))
    content = bytearray(path.read_bytes())
    kind = draw(st.sampled_from(["cut", "number", "number", "tag", "text", "text"]))
    if kind == "cut":
        content = content[: draw(st.integers(0, len(content)))]
    for _ in range(draw(st.integers(1, 3)) if kind != "cut" else 0):
        if kind == "text" and (found := [*re.finditer(rb'(?:"|=|>|: )([\w.:-]{1,24})(?="|<|\n|,|\})', content)]):
            place = draw(st.sampled_from(found))
            content[place.start(1) : place.end(1)] = draw(TEXTS).encode()
        elif kind == "tag" and bytes(content[:2]) in (b"II", b"MM"):
            _damage_tag(draw, content)
        elif len(content) > 8:
            layout = draw(st.sampled_from(["<H", "<I", "<Q", ">H", ">I"]))
            # Headers are at the beginning and the end.
            near = draw(st.integers(0, min(len(content) - 8, 700)))
            at = near if draw(st.booleans()) else len(content) - 8 - near
            value = draw(EDGES | st.just(len(content)) | st.just(len(content) - 1)) % 2 ** (8 * struct.calcsize(layout))
            struct.pack_into(layout, content, max(at, 0), value)
    path.write_bytes(content)
    return bool(kind == "cut")


def _damage_tag(draw: Draw, content: bytearray) -> None:
    """Change the number, type, count or value of a tag of the first page of a classic TIFF."""
    order = "<" if content[:2] == b"II" else ">"
    (offset,) = struct.unpack_from(f"{order}I", content, 4)
    if offset + 14 > len(content):
        return
    (count,) = struct.unpack_from(f"{order}H", content, offset)
    tag = offset + 2 + 12 * draw(st.integers(0, max(0, count - 1)))
    shift, layout = draw(st.sampled_from([(0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "H")]))
    if tag + 12 <= len(content):
        value = draw(EDGES | st.integers(0, 20)) % 2 ** (8 * struct.calcsize(layout))
        struct.pack_into(order + layout, content, tag + shift, value)


def read_all(path: Path) -> list[tuple[int, int, NDArray[Any]]] | None:
    """Return scene, channel and pixels of each plane at the first z and time; None if the file is refused."""
    planes = []
    try:
        with open_image(path) as opened:
            for number, scene in enumerate(opened.scenes):
                if scene.problem:
                    return None
                for channel in range(len(scene.channels)):
                    plane = opened.plane(number, channel=channel)
                    planes.append((number, channel, plane))
                    # Outside of the block, because errors inside become errors of the file.
                    if plane.shape != (scene.height, scene.width):
                        planes.append((number, channel, np.zeros((0, 0))))
    except CytolocError:
        return None
    return planes


def check(draw: Draw, kind: str, folder: Path) -> None:
    """Read one file as written, and again after damage."""
    path, image = WRITERS[kind](draw, folder)
    before = read_all(path)
    if before is None or len(before) != len(image):
        raise AssertionError(f"a whole {kind} was not read: {before}")
    for (_, _, plane), written in zip(before, image, strict=True):
        np.testing.assert_array_equal(plane, written)
    cut = damage(draw, path)
    after = read_all(path)
    for _, channel, plane in after or []:
        if not plane.size:
            raise AssertionError(f"a damaged {kind} has planes of another size than it states")
        # A file that lost its end must not read as another image.
        if cut and kind != "zarr":
            np.testing.assert_array_equal(plane, image[channel])


def run(kind: str, folder: Path, *, examples: int, seed: int) -> None:
    """Check random files of one kind."""
    import hypothesis

    @hypothesis.seed(seed)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(data=st.data())
    def one(data: st.DataObject) -> None:
        check(data.draw, kind, folder)

    one()


def main() -> int:
    """Run child processes until the time is over; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("fuzz-finds"))
    parser.add_argument("--kind", choices=WRITERS, action="append")
    chosen = parser.parse_args()
    end, failed, number = time.monotonic() + 60 * chosen.minutes, 0, 0
    while time.monotonic() < end:
        for kind in chosen.kind or WRITERS:
            seed = random.randrange(2**32)
            folder = chosen.out / f"{kind}-{seed}"
            folder.mkdir(parents=True)
            code = f"from tests.images.fuzz import *; run({kind!r}, Path({str(folder)!r}), examples=200, seed={seed})"
            done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
            number += 200
            if done.returncode:
                failed += 1
                (folder / "error.txt").write_text(f"exit code {done.returncode}\n{done.stderr}")
                print(f"{folder}: exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}", flush=True)
            else:
                shutil.rmtree(folder)
    print(f"{number} files, {failed} batches failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
