"""Measure the peak memory of imports of few and of many fields, over all their processes.

    python research/import_memory.py [--fields 1000 10000 100000] [--size 256] [--labels | --hpa hpa_jpg/] [--append]

Fields are links to four smooth images, so that only the number of fields grows; a thousand fields of 256 px fill
several Zarr shards. With --labels, a list of labels selects the fields to import. With --hpa, fields are links to JPEG
files of the Human Protein Atlas. With --append, a thousand fields are added to each dataset.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from benchmarks.rounds import in_separate_process, peak_mb
from cytoloc.channels import COLORS
from cytoloc.dataset.importing import ImportOptions, import_fields
from cytoloc.dataset.sources.hpa import HpaSource
from cytoloc.dataset.sources.kaggle import KaggleSource, find_kaggle_fields
from cytoloc.images.scale import Scaling
from cytoloc.parallel import processes


def import_and_weigh(
    folder: Path, target: Path, size: int, *, hpa: bool, labels: Path | None = None, append: bool = False
) -> tuple[float, float]:
    """Return the peak memory in MB and the time in seconds of an import like the command's."""
    started = time.perf_counter()
    kind = HpaSource if hpa else KaggleSource
    with processes() as pool:
        source = kind(folder, labels=labels, scaling=Scaling(size=size))
        import_fields(source, target, size=size, options=ImportOptions(append=append), pool=pool)
        return peak_mb(), time.perf_counter() - started


def link_smooth(folder: Path, number: int, size: int, *, first: int = 0) -> None:
    """Create ``number`` fields of the competition with the same images."""
    rng = np.random.default_rng(0)
    for color in COLORS:
        original = folder.with_name(f"{color}.png")
        coarse = rng.integers(0, 255, (8, 8), np.uint8)
        cv2.imwrite(str(original), cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR))
        for field in range(first, first + number):
            (folder / f"{field:08d}-bba5-11e8-b2ba-ac1f6b6435d0_{color}.png").symlink_to(original)


def link_hpa(folder: Path, number: int, originals: Path, *, first: int = 0) -> None:
    """Create ``number`` fields of the Human Protein Atlas that link to the fields in a folder."""
    fields = sorted({path.name.rpartition("_")[0] for path in originals.glob("*_green.jpg")})
    for field in range(first, first + number):
        for color in COLORS:
            original = originals.resolve() / f"{fields[field % len(fields)]}_{color}.jpg"
            (folder / f"{10000 + field // 6}_{field // 6 % 1000}_A1_{field % 6 + 1}_{color}.jpg").symlink_to(original)


def list_labels(folder: Path) -> Path:
    """Write labels of the fields in a folder, in the format of ``train.csv``."""
    path = folder.with_suffix(".csv")
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as stream:
        stream.write("Id,Target\n")
        for name in find_kaggle_fields(folder):
            stream.write(f"{name},{rng.integers(28)}\n")
    return path


def link_more(folder: Path, given: argparse.Namespace) -> None:
    """Create a thousand fields with ids that no other folder has."""
    if given.hpa:
        link_hpa(folder, 1000, given.hpa, first=9_000_000)
    else:
        link_smooth(folder, 1000, given.size, first=9_000_000)


def main() -> None:
    """Print the peak memory for each number of fields."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--fields", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="numbers of fields to import"
    )
    parser.add_argument("--size", type=int, default=256, help="edge length of images in pixels (default: 256)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--hpa", type=Path, help="folder of JPEG files of the Human Protein Atlas")
    kind.add_argument("--labels", action="store_true", help="import the fields in a list of labels")
    parser.add_argument("--append", action="store_true", help="also add a thousand fields to each dataset")
    given = parser.parse_args()
    weigh = partial(import_and_weigh, hpa=given.hpa is not None)
    with tempfile.TemporaryDirectory() as place:
        for number in given.fields:
            folder, target = Path(place) / str(number), Path(place) / f"{number}.dataset"
            folder.mkdir()
            if given.hpa:
                link_hpa(folder, number, given.hpa)
            else:
                link_smooth(folder, number, given.size)
            labels = list_labels(folder) if given.labels else None
            peak, seconds = in_separate_process(partial(weigh, labels=labels), folder, target, given.size)
            print(f"{number:>8} fields: {peak:.0f} MB, {seconds:.0f} s", flush=True)
            if given.append:
                more = Path(place) / f"more-{number}"
                more.mkdir()
                link_more(more, given)
                peak, seconds = in_separate_process(partial(weigh, append=True), more, target, given.size)
                print(f"    1000 fields added: {peak:.0f} MB, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
