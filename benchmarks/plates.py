"""Benchmark of the import of a plate: 96 wells, 9 fields per well, 4 channels, as an Operetta writes its files."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from benchmarks.rounds import Timed, Way, in_turns
from cytoloc.channels import CHANNELS
from cytoloc.dataset.from_plates import PlateOptions, plate_source
from cytoloc.dataset.importing import import_fields
from cytoloc.dataset.sources.kaggle import find_kaggle_fields, read_kaggle_field
from cytoloc.parallel import in_order, processes

WELLS: Final = 96
FIELDS: Final = 9
CAMERA_PX: Final = 1080
"""Edge length of the images: a camera of 2160 px with a binning of 2."""
PACKED_PX: Final = 512
DIFFERENT: Final = 8
"""Number of different fields; the files of the others are links to theirs."""

DECODING: Final = "tifffile.imread and cv2.resize alone"
IMPORT: Final = "cytoloc import plate"


def bench_plate(
    images: Path,
    workshop: Path,
    *,
    fields: int,
    rounds: int,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Way]:
    """Compare the import of a plate with only decoding and resizing its files on as many cores.

    Args:
        images: Folder of ``{Id}_{red,green,blue,yellow}.png``, from which the plate is made.
        workshop: Empty folder for the plate and the dataset.
        fields: Maximum number of fields; a whole plate has 864.
        rounds: Number of rounds.
        advance: Called with (done, total).

    Returns:
        The speed of both, in fields per second.

    Raises:
        ImageError: If ``images`` contains no fields.
    """
    plate = workshop / "plate" / "Images"
    names = write_plate(images, plate, fields=min(fields, WELLS * FIELDS))
    return in_turns(
        {
            DECODING: lambda: sum(1 for _ in in_order(partial(_decode, plate), names)),
            IMPORT: partial(_import_anew, plate, workshop / "plate.dataset"),
        },
        against=DECODING,
        rounds=rounds,
        advance=advance,
    )


def write_plate(images: Path, plate: Path, *, fields: int) -> list[str]:
    """Write a plate with 16 bits, LZW compression and the file names of Harmony.

    Args:
        images: Folder of ``{Id}_{red,green,blue,yellow}.png``.
        plate: The folder to write to.
        fields: Number of fields.

    Returns:
        The beginning of the names of the files of each field.
    """
    plate.mkdir(parents=True)
    found = find_kaggle_fields(images)
    originals = list(found)[:DIFFERENT]
    rng = np.random.default_rng(0)
    names = []
    for number in range(fields):
        well, field = divmod(number, FIELDS)
        names.append(f"r{well // 12 + 1:02d}c{well % 12 + 1:02d}f{field + 1:02d}p01-ch")
        for channel in range(len(CHANNELS)):
            file = plate / f"{names[-1]}{channel + 1}sk1fk1fl1.tiff"
            if number >= len(originals):
                file.symlink_to(plate / f"{names[number % len(originals)]}{channel + 1}sk1fk1fl1.tiff")
                continue
            image = read_kaggle_field(images, originals[number], found[originals[number]])[channel]
            larger = cv2.resize(image, (CAMERA_PX, CAMERA_PX), interpolation=cv2.INTER_LINEAR)
            # A dark level of 300, the stain, and the noise of photons and camera.
            signal = 300 + 60.0 * larger.astype(np.float64)
            noisy = rng.normal(signal, np.sqrt(signal) + 5)
            tifffile.imwrite(file, noisy.clip(0, 65_535).astype(np.uint16), compression="lzw", rowsperstrip=CAMERA_PX)
    return names


def _decode(plate: Path, name: str) -> NDArray[Any]:
    """Decode and resize the channels of a field."""
    planes = [tifffile.imread(plate / f"{name}{channel + 1}sk1fk1fl1.tiff") for channel in range(len(CHANNELS))]
    return np.stack([cv2.resize(plane, (PACKED_PX, PACKED_PX), interpolation=cv2.INTER_AREA) for plane in planes])


def _import_anew(plate: Path, target: Path) -> Timed:
    """Import like the command, with new processes and without an earlier dataset."""
    shutil.rmtree(target, ignore_errors=True)
    started = time.perf_counter()
    options = PlateOptions(strict=True)
    channels = {name: number for number, name in enumerate(CHANNELS, start=1)}
    _, source = plate_source(plate, out=target, channels=channels, size=PACKED_PX, options=options)
    with processes() as pool:
        added = import_fields(source, target, size=PACKED_PX, options=options, pool=pool).added
    return Timed(added, time.perf_counter() - started)
