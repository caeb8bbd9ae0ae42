"""Where an import works until its dataset is whole: a folder beside the output, a lock, and a journal of what is done.

The folder is ``NAME.dataset.part/``. Its name becomes ``.NAME.dataset.done`` once the dataset has its own, and then
it is removed; whatever a killed process leaves is either taken up or removed by the next one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cytoloc.dataset.quarantine import Rejected
from cytoloc.errors import OutputExistsError, StorageError
from cytoloc.files import held, read_json, sha256_of, write_json
from cytoloc.on_disk import DiskSet

KIND: Final = "cytoloc-import"
VERSION: Final = 5

_PLAN: Final = "import.json"
_RESULT: Final = "result.json"
_FOLDERS: Final = ("dataset", "journal", "replaced")


@dataclass
class Journal:
    """What is on the disk already: one entry per shard, in order.

    Attributes:
        folder: Where the entries are.
        shards: How many there are.
        item: The item of the source to go on with, by its number.
        within: How many of that item's fields are done.
        added: How many fields were added.
        known: How many were left out because the dataset had them already.
        rejected: What was put into quarantine.
        ids: Of the fields that were added.
        settled: Items that gave fields of other names.
        base: What tells the dataset that is added to from others.
    """

    folder: Path
    shards: int = 0
    item: int = 0
    within: int = 0
    added: int = 0
    known: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    ids: DiskSet = field(default_factory=DiskSet)
    settled: DiskSet = field(default_factory=DiskSet)
    base: str | None = None

    @classmethod
    def read(cls, part: Path) -> Journal:
        """Return the journal of the unfinished import in the folder ``part``; an empty one if nothing is in it yet."""
        journal = cls(part / "journal")
        while (file := journal.folder / f"{journal.shards:06d}.json").exists():
            entry = json.loads(file.read_text(encoding="utf-8"))
            # The rows of the first one begin with those that the dataset had.
            old = len(entry["rows"]) - (entry["added"] - journal.added)
            journal.ids.update(row["id"] for row in entry["rows"][old:])
            journal.shards += 1
            journal.item, journal.within = entry["next"]
            journal.base = entry["base"]
            journal.known = entry["known"]
            journal.added = entry["added"]
            journal.rejected += [Rejected(*each) for each in entry["rejected"]]
            journal.settled.update(entry["settled"])
        return journal

    def commit(self, entry: dict[str, Any]) -> None:
        """Add an entry; it is there whole or not at all."""
        file = self.folder / f"{self.shards:06d}.json"
        temporary = file.with_suffix(".part")
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(entry, stream, allow_nan=False)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
        self.shards += 1
        self.base = entry["base"]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of all fields, in order."""
        for shard in range(self.shards):
            entry = json.loads((self.folder / f"{shard:06d}.json").read_text(encoding="utf-8"))
            yield from entry["rows"]


def part_of(path: Path) -> Path:
    """Return the folder in which an import to ``path`` works."""
    return path.with_name(f"{path.name}.part")


def holds_dataset(folder: Path) -> bool:
    """Return whether a folder is a dataset, or where an import works that is not finished: its pixels are no source."""
    return _is_dataset(folder) or (folder.suffix == ".part" and (folder / _PLAN).exists())


def _is_dataset(folder: Path) -> bool:
    return all((folder / name).exists() for name in ("dataset.json", "images.zarr", "fields.parquet"))


def is_settled(path: Path) -> bool:
    """Return whether something lies at ``path`` and no import to it has anything left to do, be it tidying up.

    A lock that a killed process left is removed.

    Raises:
        StorageError: If a process is importing there now.
    """
    with locked(path):
        return path.exists() and not part_of(path).exists() and not _done(path).exists()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from importing to ``path`` in the block.

    Raises:
        StorageError: If one is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with held(path.with_name(f".{path.name}.part.lock"), busy=f"{part_of(path)}: another process is importing there"):
        yield


def settle(path: Path) -> None:
    """Finish what a killed process had begun of an exchange of datasets, or of tidying up; to be called under its lock.

    Raises:
        OutputExistsError: If a folder is in the way that is no import's.
    """
    part, done = part_of(path), _done(path)
    exchanging = all((part / name).exists() for name in (_PLAN, _RESULT, "replaced", "dataset"))
    if exchanging and not path.exists():
        (part / "dataset").rename(path)
    if done.exists():
        planned = (done / _PLAN).exists()
        _refuse_foreign(done, known=(*_FOLDERS, _PLAN, _RESULT) if planned else (_RESULT,))
        if not planned or not (done / _RESULT).exists():
            # Nothing in it says any more that an import is done.
            _empty(done)


def finished(path: Path, plan: str) -> dict[str, Any] | None:
    """Return the result of an import with this plan whose dataset is in its place, but whose folder was not removed."""
    for folder in (_done(path), part_of(path)):
        if not _is_of(folder, plan) or not (folder / _RESULT).exists():
            continue
        result = read_json(folder / _RESULT, kind=KIND, version=VERSION)
        if _is_dataset(path) and sha256_of(path / "dataset.json") == result["dataset_sha256"]:
            return result
    return None


def enter(path: Path, plan: str) -> Path:
    """Return the folder of an import to ``path``, new or taken up; to be called under its lock.

    Raises:
        OutputExistsError: If it is that of another import, or of nobody's, or if the dataset at ``path`` is neither the
            one that this import made nor the one that it added to.
    """
    part = part_of(path)
    if _is_of(part, plan) and (part / _RESULT).exists() and not (part / "dataset").exists():
        # It was finished, and its dataset is elsewhere now.
        _refuse_loss(part / "replaced", path)
        retire(path, plan)
    if not (part / _PLAN).exists():
        if part.exists():
            _refuse_foreign(part)
            _empty(part)
        try:
            (part / "dataset").mkdir(parents=True)
            (part / "journal").mkdir()
            write_json(part / _PLAN, {"plan": plan}, kind=KIND, version=VERSION)
        except (OSError, StorageError):
            if part.exists():
                _empty(part)
            raise
    elif not _is_of(part, plan):
        former = f" First move {part / 'replaced'}: it is the dataset that was added to."
        raise OutputExistsError(
            f"{part} was begun with other settings or other files, and not finished.",
            way_out="Start that one again to finish it, or remove the folder to begin anew."
            + (former if (part / "replaced").exists() else ""),
        )
    # What is finished from here on is another try: until then no result speaks of what is in the folder.
    (part / _RESULT).unlink(missing_ok=True)
    return part


def give_name(path: Path, part: Path, result: dict[str, Any]) -> None:
    """Put the finished dataset in its place; a dataset that it replaces is kept until that is done."""
    (part / _RESULT).unlink(missing_ok=True)
    content = {**result, "dataset_sha256": sha256_of(part / "dataset" / "dataset.json")}
    write_json(part / _RESULT, content, kind=KIND, version=VERSION)
    if path.exists():
        if (part / "replaced").exists():
            # Somebody has brought the dataset back from elsewhere.
            shutil.rmtree(part / "replaced")
        path.rename(part / "replaced")
    (part / "dataset").rename(path)


def retire(path: Path, plan: str) -> None:
    """Remove what is left of an import that is done, or has nothing to go on with; its plan goes after its work."""
    part, done = part_of(path), _done(path)
    if done.exists():
        _empty(done)
    if _is_of(part, plan):
        part.rename(done)
        _empty(done)


def _is_of(folder: Path, plan: str) -> bool:
    note = folder / _PLAN
    return note.exists() and read_json(note, kind=KIND, version=VERSION)["plan"] == plan


def _done(path: Path) -> Path:
    return path.with_name(f".{path.name}.done")


def _empty(folder: Path) -> None:
    for name in _FOLDERS:
        if (folder / name).exists():
            shutil.rmtree(folder / name)
    (folder / _PLAN).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _refuse_loss(former: Path, path: Path) -> None:
    """Raise :class:`OutputExistsError` if ``former`` is there and not the same as ``path``: there may be no other."""
    both = _is_dataset(former) and _is_dataset(path)
    same = both and sha256_of(former / "dataset.json") == sha256_of(path / "dataset.json")
    if former.exists() and not same:
        raise OutputExistsError(
            f"{former} is what {path} was before it was added to, and {path} is another dataset now, or none.",
            way_out=f"Move it to where it shall stay, and remove {former.parent}.",
        )


def _refuse_foreign(folder: Path, *, known: tuple[str, ...] = ()) -> None:
    """Raise :class:`OutputExistsError` if a folder holds anything that no import put there.

    Args:
        folder: Holds what a killed process had hardly begun, folders with nothing in them and half-written files.
        known: Names besides.
    """

    def ours(each: Path) -> bool:
        begun = each.name in _FOLDERS and each.is_dir() and not any(each.iterdir())
        return begun or each.name in known or each.name.startswith((f".{_PLAN}", f".{_RESULT}"))

    foreign = [each.name for each in folder.iterdir() if not ours(each)] if folder.is_dir() else ["no folder"]
    if foreign:
        raise OutputExistsError(
            f"{folder} is in the way: it is no import's, and holds {', '.join(sorted(foreign)[:3])}.",
            way_out="Nothing was changed. Move it, or choose another --out.",
        )
