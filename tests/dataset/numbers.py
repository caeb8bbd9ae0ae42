"""A source of made-up fields, imports of them, and a process that is killed while it imports."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from cytoloc.dataset import writer
from cytoloc.dataset.fields import FieldRow
from cytoloc.dataset.importing import Imported, ImportOptions, Loaded, import_fields
from cytoloc.dataset.quarantine import Rejected
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.errors import ImageError, OutputExistsError, TableError
from cytoloc.labels.label_set import LabelSet

SIZE = 16
CHANNELS = ("protein", "nucleus", "mito")
FIELD_BYTES = len(CHANNELS) * SIZE * SIZE
SHARD_BYTES = 4 * FIELD_BYTES
SEGMENT_BYTES = 9 * FIELD_BYTES
"""So small that a few fields make several shards and segments."""


class Numbers:
    """Items ``0`` … whose fields are noise; every seventh cannot be read, every fifth holds three fields."""

    def __init__(self, start: int, stop: int, *, stop_at: int | None = None) -> None:
        self.items: Sequence[str] = [f"{number}" for number in range(start, stop)]
        self.folder = Path("numbers")
        self.quick = False
        self.channels: tuple[str, ...] = CHANNELS
        self.label_set = LabelSet.hpa19()
        self.made_by: dict[str, Any] = {"command": "numbers"}
        self.stop_at = stop_at

    def loader(self, item: str) -> Callable[[], list[Loaded]]:
        return partial(self.load, item)

    def load(self, item: str) -> list[Loaded]:
        number = int(item)
        if number == self.stop_at:
            raise KeyboardInterrupt
        if number % 7 == 3:
            raise ImageError(f"{item} is seven and a bit")
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 256, (3, len(CHANNELS), SIZE, SIZE), dtype=np.uint8)
        if number % 5:
            return [(row(item, labels=(number % 19,)), pixels[0])]
        fields: list[Loaded] = [(row(f"{item}-{scene}", pixel_um=0.1), pixels[scene]) for scene in range(2)]
        return [*fields, Rejected(f"{item}-2", "the third scene is bad")]


def row(name: str, **known: Any) -> FieldRow:
    return FieldRow(id=name, source="test", original_px=SIZE, original_width_px=SIZE, **known)


def run(path: Path, start: int = 0, stop: int = 30, *, source: Numbers | None = None, **options: Any) -> Imported:
    """Import numbers in small segments; ``pool`` goes to the import, all others are options of it."""
    called = {name: options.pop(name) for name in ("pool",) if name in options}
    chosen = ImportOptions(**{"segment_bytes": SEGMENT_BYTES, **options})
    return import_fields(source or Numbers(start, stop), path, size=SIZE, options=chosen, **called)


def state(dataset: Dataset) -> tuple[str, tuple[Rejected, ...], str]:
    """Return what does not depend on how fields are split into segments."""
    listed = dataset.folder / "quarantine.csv"
    return dataset.fingerprint, dataset.quarantine, listed.read_text() if listed.exists() else ""


def _forked(work: Callable[[], object]) -> tuple[int, Any]:
    """Return the exit code of a process that does some work, negative if it was killed, and what the work returned."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(writing, json.dumps(work()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as stream:
        said = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), json.loads(said or "null")


def _import_and_die(path: Path, start: int, how: str, *, dies_at: int) -> list[Any]:
    """Import, but be killed before the change of the disk with a number; return how many there were, and the state."""
    changes = 0

    def watch(event: str, words: tuple[Any, ...]) -> None:
        nonlocal changes
        writes = event == "open" and isinstance(words[2], int) and words[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}) and str(path.name) in str(words[0]):
            changes += 1
            if changes == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    segment_bytes = 2**30 if how == "once" else SEGMENT_BYTES
    dataset = run(path, start, 16, append=how == "append", segment_bytes=segment_bytes).dataset
    return [changes, *state(dataset)]


def _count_and_import_again(path: Path, start: int, how: str) -> tuple[int, list[Any] | None]:
    """Return the number of fields after a kill, and the state after another import; None if it is refused."""
    fields = 0
    if (path / "dataset.json").exists():
        dataset = open_dataset(path)
        assert not list(dataset.damaged())
        fields = len(dataset)
    try:
        return fields, _import_and_die(path, start, how, dies_at=0)[1:]
    except (OutputExistsError, TableError):
        return fields, None


def main(folder: Path, start: int, how: str) -> None:
    """Kill an import before each change of the disk, run it again, and print what came of it as JSON."""
    writer.SHARD_BYTES = SHARD_BYTES  # type: ignore[misc]
    # What an import of fields needs: here once, not in each process below.
    for name in ("filelock", "imagecodecs._blosc", "numpy.random", "polars._utils.parquet"):
        import_module(name)
    gc.freeze()

    def begun(name: str) -> Path:
        path = folder / name
        shutil.rmtree(path, ignore_errors=True)
        if how == "append":
            shutil.copytree(folder / "begun.dataset", path)
        return path

    if how == "append":
        _forked(lambda: run(folder / "begun.dataset", 0, start).added)
    _, (changes, *whole) = _forked(partial(_import_and_die, begun("whole.dataset"), start, how, dies_at=0))
    seen: dict[str, Any] = {"changes": changes, "codes": [], "fields": [], "same": [], "left": []}
    for dies_at in range(1, changes + 1):
        path = begun("killed.dataset")
        seen["codes"].append(_forked(partial(_import_and_die, path, start, how, dies_at=dies_at))[0])
        _, (fields, again) = _forked(partial(_count_and_import_again, path, start, how))
        seen["fields"].append(fields)
        # A kill after the last commit leaves a finished dataset, which no import is made to anew.
        seen["same"].append("refused" if again is None else again == whole)
        seen["left"].append(sorted(each.name for each in path.iterdir()))
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
