"""Peak memory of imports of a thousand and of many fields, of all their processes together.

    python studies/import_memory.py [--fields 100000] [--size 256] [--hpa hpa_jpg/]

The fields are links to four smooth pictures, so that the number of fields, not their content, is what grows; a thousand
of 256 px fill several shards. With --hpa they are links to the fields of a folder of the Human Protein Atlas's JPEG
files, taken in turns, and are imported as such.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from cytoloc.atlas.hpa import HpaSource
from cytoloc.atlas.importing import import_fields
from cytoloc.atlas.kaggle import COLOURS, KaggleSource
from cytoloc.bench.rounds import in_separate_process, peak_mb
from cytoloc.parallel import processes
from cytoloc.pictures.scale import Scaling


def import_and_weigh(folder: Path, target: Path, size: int, *, hpa: bool) -> tuple[float, float]:
    """Return peak memory in MB and time in seconds of an import as the command does it."""
    started = time.perf_counter()
    kind = HpaSource if hpa else KaggleSource
    with processes() as pool:
        import_fields(kind(folder, labels=None, scaling=Scaling(size=size)), target, size=size, pool=pool)
        return peak_mb(), time.perf_counter() - started


def link_smooth(folder: Path, number: int, size: int) -> None:
    """Make ``number`` fields of the competition that all show the same."""
    rng = np.random.default_rng(0)
    for colour in COLOURS:
        original = folder.with_name(f"{colour}.png")
        coarse = rng.integers(0, 255, (8, 8), np.uint8)
        cv2.imwrite(str(original), cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR))
        for field in range(number):
            (folder / f"{field:08d}-bba5-11e8-b2ba-ac1f6b6435d0_{colour}.png").symlink_to(original)


def link_hpa(folder: Path, number: int, originals: Path) -> None:
    """Make ``number`` fields of the Human Protein Atlas out of those in a folder."""
    fields = sorted({path.name.rpartition("_")[0] for path in originals.glob("*_green.jpg")})
    for field in range(number):
        for colour in COLOURS:
            original = originals.resolve() / f"{fields[field % len(fields)]}_{colour}.jpg"
            (folder / f"{10000 + field // 6}_{field // 6 % 1000}_A1_{field % 6 + 1}_{colour}.jpg").symlink_to(original)


def main() -> None:
    """Print peak memory for each number of fields."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--hpa", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        for number in (1000, given.fields):
            folder = Path(place) / str(number)
            folder.mkdir()
            if given.hpa:
                link_hpa(folder, number, given.hpa)
            else:
                link_smooth(folder, number, given.size)
            call = (folder, Path(place) / f"{number}.atlas", given.size)
            peak, seconds = in_separate_process(partial(import_and_weigh, hpa=given.hpa is not None), *call)
            print(f"{number:>8} fields: {peak:.0f} MB, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
