"""Benchmark of datasets and image files: random batches, size on disk, and speed and memory of an import."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.plates import bench_plate
from benchmarks.rounds import Timed, Way, in_separate_process, in_turns, peak_mb
from cytoloc.channels import COLORS
from cytoloc.dataset.importing import ImportOptions, import_fields
from cytoloc.dataset.sources.kaggle import KaggleSource, find_kaggle_fields, read_kaggle_field
from cytoloc.dataset.store import open_dataset
from cytoloc.images.scale import Scaling, scale_field
from cytoloc.memory import keep_freed_memory
from cytoloc.parallel import end_with_parent, in_order, processes

BATCH: Final = 32
"""Number of fields per batch."""

STARTING_SYSTEM: Final = "four cv2.imread and numpy.stack"
TWO_WORKERS: Final = "the same in a DataLoader of 2 workers"
OURS: Final = "cytoloc dataset"
LIMIT: Final = "NumPy memory map (the limit)"
DECODING: Final = "cv2.imread and cv2.resize alone"
OWN_DECODING: Final = "the same by cytoloc's decoder"
IMPORT: Final = "cytoloc import"


@dataclass(frozen=True)
class DatasetBench:
    """Results of the benchmark.

    Attributes:
        fields: Number of fields.
        size: Edge length of images in pixels.
        uint8: Reading random batches as uint8, in fields per second.
        float32: Reading random batches as float32 from 0 to 1, in fields per second.
        importing: Import, and only decoding and resizing on all cores, in fields per second.
        plate: Import of a plate, and only decoding and resizing its files on all cores, in fields per second.
        disk: Size of the dataset divided by the size of its raw pixels.
        files: Size of the image files divided by the size of their raw pixels.
        import_mb: Peak memory of all processes of an import in megabytes.
    """

    fields: int
    size: int
    uint8: list[Way] = field(default_factory=list)
    float32: list[Way] = field(default_factory=list)
    importing: list[Way] = field(default_factory=list)
    plate: list[Way] = field(default_factory=list)
    disk: float = 0.0
    files: float = 0.0
    import_mb: float = 0.0


class _Files:
    """The image files, read as in the silver-medal baseline. Worker processes are forked, so it has only paths."""

    def __init__(self, folder: Path, names: list[str], size: int, *, as_float: bool) -> None:
        self.folder, self.names, self.size, self.as_float = folder, names, size, as_float

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> NDArray[Any]:
        planes = [cv2.imread(f"{self.folder}/{self.names[row]}_{color}.png", cv2.IMREAD_GRAYSCALE) for color in COLORS]
        image = np.stack(planes)  # type: ignore[arg-type]  # None only for a missing file, which then fails here
        if image.shape[1] != self.size:
            image = np.stack(
                [cv2.resize(plane, (self.size, self.size), interpolation=cv2.INTER_AREA) for plane in image]
            )
        return image.astype(np.float32) / 255 if self.as_float else image


def bench_dataset(
    images: Path,
    workshop: Path,
    *,
    fields: int = 2000,
    size: int = 512,
    rounds: int = 5,
    batches: int = 8,
    advance: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> DatasetBench:
    """Compare a dataset with image files.

    Args:
        images: Folder of ``{Id}_{red,green,blue,yellow}.png``.
        workshop: Empty folder for files, dataset and memory map.
        fields: Number of fields; images are repeated to this number.
        size: Edge length of the dataset's images in pixels.
        rounds: Number of rounds.
        batches: Number of batches per measurement.
        advance: Called with a description and (done, total).

    Returns:
        The results.

    Raises:
        ImageError: If ``images`` contains no fields.
    """
    files = workshop / "files"
    names = _repeat(images, files, fields)
    source = KaggleSource(files, labels=None, scaling=Scaling(size=size))
    peak = in_separate_process(_import_and_weigh, files, workshop / "bench.dataset", size)
    dataset = open_dataset(workshop / "bench.dataset")
    raw = np.memmap(workshop / "raw", np.uint8, "w+", shape=(fields, len(COLORS), size, size))
    for start in range(0, fields, BATCH):
        raw[start : start + BATCH] = dataset.read(np.arange(start, min(start + BATCH, fields)))
    raw.flush()
    rng = np.random.default_rng(0)
    # All methods read the same rows, which are in the page cache.
    orders = [rng.choice(fields, BATCH, replace=False) for _ in range(batches)]
    with _as_the_commands(workshop / "bench.dataset", workshop / "raw", orders) as ours:
        uint8, float32 = (
            in_turns(
                _file_readers(_Files(files, names, size, as_float=as_float), orders)
                | {way: partial(ours, way, as_float=as_float) for way in (OURS, LIMIT)},
                against=STARTING_SYSTEM,
                rounds=rounds,
                advance=partial(advance, f"reading {kind}"),
            )
            for kind, as_float in (("uint8", False), ("float32", True))
        )
    plain = _Files(files, names, size, as_float=False)
    importing = in_turns(
        {
            DECODING: lambda: _number(in_order(plain.__getitem__, range(fields))),
            OWN_DECODING: lambda: _number(in_order(partial(_decode, source, size), source.items)),
            IMPORT: lambda: _import_anew(source, workshop, size),
        },
        against=DECODING,
        rounds=rounds,
        advance=partial(advance, "importing"),
    )
    plate = bench_plate(
        images, workshop, fields=fields, rounds=(rounds + 1) // 2, advance=partial(advance, "importing a plate")
    )
    packed = sum(file.stat().st_size for file in dataset.folder.rglob("*") if file.is_file())
    return DatasetBench(
        fields,
        size,
        uint8,
        float32,
        importing,
        plate,
        packed / raw.nbytes,
        _files_bytes(files) / _raw_bytes(files, names),
        peak,
    )


def _repeat(images: Path, folder: Path, fields: int) -> list[str]:
    """Link images repeatedly into a folder; return the names of the fields."""
    found = find_kaggle_fields(images)
    folder.mkdir(parents=True)
    originals, names = list(found), []
    for number in range(fields):
        original = originals[number % len(originals)]
        names.append(f"{number:06d}-{original}")
        for color, file in found[original].items():
            (folder / f"{names[-1]}_{color}.png").symlink_to((images / file).resolve())
    return names


def _file_readers(dataset: Any, orders: list[NDArray[np.int64]]) -> dict[str, Callable[[], int]]:
    """Return functions that read batches of fields from image files."""
    from torch.utils.data import DataLoader

    # Workers persist, so that they start only in the warm-up round.
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=[rows.tolist() for rows in orders],
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="fork",
    )

    def starting_system() -> int:
        """Read all batches in this process, file by file."""
        return sum(len(np.stack([dataset[int(row)] for row in rows])) for rows in orders)

    def two_workers() -> int:
        """Read all batches in two processes."""
        return sum(len(batch) for batch in loader)

    return {STARTING_SYSTEM: starting_system, TWO_WORKERS: two_workers}


class _Reads(Protocol):
    def __call__(self, way: str, *, as_float: bool) -> int:
        """Read all batches from the dataset or the memory map; return the number of fields."""


@contextmanager
def _as_the_commands(dataset: Path, raw: Path, orders: list[NDArray[np.int64]]) -> Iterator[_Reads]:
    """Yield a function that reads in a process with the memory settings of the commands."""
    begun = (dataset, raw, orders)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin, initargs=begun) as process:

        def read(way: str, *, as_float: bool) -> int:
            return process.submit(_read, way, as_float=as_float).result()

        yield read


_begun: dict[str, Callable[[], Iterator[NDArray[np.uint8]]]] = {}
"""Generators of batches by method, in the reading process."""


def _begin(path: Path, raw: Path, orders: list[NDArray[np.int64]]) -> None:
    end_with_parent()
    keep_freed_memory()
    dataset = open_dataset(path)
    pixels = np.memmap(raw, np.uint8, "r", shape=(len(dataset), len(COLORS), dataset.size, dataset.size))
    _begun[OURS] = lambda: (dataset.read(rows) for rows in orders)
    _begun[LIMIT] = lambda: (pixels[rows] for rows in orders)


def _read(way: str, *, as_float: bool) -> int:
    import torch

    fields = 0
    for batch in _begun[way]():
        ready = torch.from_numpy(batch) / 255 if as_float else batch
        fields += len(ready)
    return fields


def _number(fields: Iterable[Any]) -> int:
    return sum(1 for _ in fields)


def _decode(source: KaggleSource, size: int, item: str) -> None:
    scale_field(read_kaggle_field(source.folder, item, source.found[item]), Scaling(size=size))


def _import_anew(source: KaggleSource, workshop: Path, size: int) -> Timed:
    """Import like the command, with new processes and without an earlier dataset."""
    target = workshop / "again.dataset"
    shutil.rmtree(target, ignore_errors=True)
    started = time.perf_counter()
    with processes() as pool:
        added = import_fields(source, target, size=size, options=ImportOptions(strict=True), pool=pool).added
    return Timed(added, time.perf_counter() - started)


def _import_and_weigh(files: Path, target: Path, size: int) -> float:
    source = KaggleSource(files, labels=None, scaling=Scaling(size=size))
    with processes() as pool:
        import_fields(source, target, size=size, options=ImportOptions(strict=True), pool=pool)
        return peak_mb()


def _files_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _raw_bytes(folder: Path, names: list[str]) -> int:
    first = read_kaggle_field(folder, names[0])
    return first.nbytes * len(names)
