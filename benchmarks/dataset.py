"""The dataset against image files: random batches, size on disk, speed and memory of an import."""

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

from benchmarks.rounds import Timed, Way, in_separate_process, in_turns, peak_mb
from cytoloc.channels import COLORS
from cytoloc.dataset.importing import ImportOptions, import_fields
from cytoloc.dataset.sources.kaggle import KaggleSource, find_kaggle_fields, read_kaggle_field
from cytoloc.dataset.store import open_dataset
from cytoloc.images.scale import Scaling, scale_field
from cytoloc.memory import keep_freed_memory
from cytoloc.parallel import end_with_parent, in_order, processes

BATCH: Final = 32
"""Fields of a batch."""

STARTING_SYSTEM: Final = "four cv2.imread and a stack"
TWO_WORKERS: Final = "the same in a DataLoader of 2 workers"
OURS: Final = "cytoloc dataset"
LIMIT: Final = "NumPy memory map (the limit)"
DECODING: Final = "cv2.imread and cv2.resize alone"
OWN_DECODING: Final = "the same by cytoloc's decoder"
IMPORT: Final = "cytoloc import"


@dataclass(frozen=True)
class DatasetBench:
    """What was measured.

    Attributes:
        fields: Number of fields.
        size: Edge of the images, in pixels.
        uint8: Random batches as they are, in fields per second.
        float32: The same, from 0 to 1 in float32.
        importing: Imports, and decoding and resizing alone on all cores, in fields per second.
        disk: Bytes of the dataset by those of its raw pixels.
        files: Bytes of the image files by those of their raw pixels.
        import_mb: Peak memory of an import, in megabytes: of all its processes together.
    """

    fields: int
    size: int
    uint8: list[Way] = field(default_factory=list)
    float32: list[Way] = field(default_factory=list)
    importing: list[Way] = field(default_factory=list)
    disk: float = 0.0
    files: float = 0.0
    import_mb: float = 0.0


class _Files:
    """A dataset as the silver-medal baseline reads it; its workers are forked, so it holds only paths."""

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
    """Measure a dataset of the fields in ``images``, repeated to ``fields``.

    Args:
        images: A folder of ``{Id}_{red,green,blue,yellow}.png``.
        workshop: An empty folder for files, dataset and memory map.
        fields: How many fields.
        size: Edge of the packed images, in pixels.
        rounds: How often each way is measured.
        batches: How many batches are read in each measurement.
        advance: Told what is measured, and how much of it is done.

    Raises:
        ImageError: If ``images`` holds no fields.
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
    # The same rows for every way; the page cache holds all of them.
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
    packed = sum(file.stat().st_size for file in dataset.folder.rglob("*") if file.is_file())
    return DatasetBench(
        fields,
        size,
        uint8,
        float32,
        importing,
        packed / raw.nbytes,
        _files_bytes(files) / _raw_bytes(files, names),
        peak,
    )


def _repeat(images: Path, folder: Path, fields: int) -> list[str]:
    """Link the fields of ``images`` into ``folder`` until there are enough; return their names."""
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
    """Return ways to read batches of fields from image files."""
    from torch.utils.data import DataLoader

    # Workers stay from pass to pass, so that only the round which does not count starts them.
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=[rows.tolist() for rows in orders],
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="fork",
    )

    def starting_system() -> int:
        """Read every batch in this process, a file after the other."""
        return sum(len(np.stack([dataset[int(row)] for row in rows])) for rows in orders)

    def two_workers() -> int:
        """Read every batch in two processes."""
        return sum(len(batch) for batch in loader)

    return {STARTING_SYSTEM: starting_system, TWO_WORKERS: two_workers}


class _Reads(Protocol):
    def __call__(self, way: str, *, as_float: bool) -> int:
        """Read every batch in one of the two ways that need no image files; return how many fields."""


@contextmanager
def _as_the_commands(dataset: Path, raw: Path, orders: list[NDArray[np.int64]]) -> Iterator[_Reads]:
    """Lend reading from a dataset and a memory map in a process that treats memory as the commands do."""
    begun = (dataset, raw, orders)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin, initargs=begun) as process:

        def read(way: str, *, as_float: bool) -> int:
            return process.submit(_read, way, as_float=as_float).result()

        yield read


_begun: dict[str, Callable[[], Iterator[NDArray[np.uint8]]]] = {}
"""What gives the batches of each way, in that process."""


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
    """Import as the command does, processes started and ended; what was imported before is removed first."""
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
