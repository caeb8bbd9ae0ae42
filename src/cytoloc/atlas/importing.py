"""Importing: many files to one atlas, in order, on all cores, going on where it was stopped.

An import works in ``NAME.atlas.part/`` beside its output. After each shard of pixels is on the disk, an entry of the
journal says which fields it holds and where to go on, so that a process killed at any moment loses one shard of work
and nothing else: the finished atlas is byte for byte that of an undisturbed import. Its name comes by one rename.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cytoloc.atlas.store import Atlas, FieldRow, open_atlas
from cytoloc.atlas.writer import AtlasWriter, encode, row_of
from cytoloc.errors import ImageError, OutputExistsError, StorageError, TableError
from cytoloc.files import disk_errors, new_file, read_json, refuse_existing, write_json
from cytoloc.parallel import in_order

KIND: Final = "cytoloc-import"
VERSION: Final = 2

QUARANTINE: Final = "quarantine.csv"
"""The file of an atlas that lists what could not be imported: ``id,reason``."""


class Rejected(NamedTuple):
    """A field, or a file, that was left out."""

    id: str
    reason: str


def rejected(name: str, error: ImageError) -> Rejected:
    """Return the entry of a field, or a file, that ``error`` rejects: what is wrong, and the way out."""
    return Rejected(name, f"{error.message} {error.way_out}".rstrip())


Loaded = tuple[FieldRow, NDArray[np.uint8]] | Rejected


class FieldSource(Protocol):
    """Where fields come from, an item at a time: the four files of a field, or one file that holds several fields."""

    @property
    def items(self) -> Sequence[str]:
        """The name of each item."""

    @property
    def made_by(self) -> dict[str, Any]:
        """The command and its settings, as JSON: all that decides what becomes of the items."""

    def load(self, item: str) -> Sequence[Loaded]:
        """Return an item's fields, uint8 ``(4, size, size)`` each; called in threads, several at a time.

        An :class:`~cytoloc.errors.ImageError` that it raises rejects the item; any other error stops the import.
        """


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Attributes:
        path: The finished atlas.
        added: How many fields it added.
        known: How many it left out because the atlas had them already.
        rejected: How many fields of this import were put into quarantine.
    """

    path: Path
    added: int
    known: int
    rejected: int

    @property
    def atlas(self) -> Atlas:
        """The finished atlas, opened anew; its table takes memory for every field."""
        return open_atlas(self.path)


def import_fields(
    source: FieldSource,
    path: Path,
    *,
    size: int,
    strict: bool = False,
    append: bool = False,
    skip_known: bool = False,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> Imported:
    """Pack a source's fields into a new atlas, or add them to one.

    Call it again with the same arguments after it was stopped, in whatever way, and it goes on.

    Args:
        source: Gives the fields.
        path: Where the atlas goes; with ``append`` where it is.
        size: Edge of the pictures, in pixels.
        strict: Stop at the first field that is rejected instead of putting it into quarantine.
        append: Add to the atlas at ``path``.
        skip_known: With ``append``, pass over ids that the atlas has already instead of stopping there.
        advance: Told after each item how many of how many are done.

    Raises:
        OutputExistsError: If something lies at ``path``, or an import with other settings was started there.
        ImageError: If no field could be read, or with ``strict`` one could not.
        TableError: If an appended id is in the atlas already.
        StorageError: If the disk is full or read-only, or another process is importing to ``path``.
    """
    part = path.with_name(f"{path.name}.part")
    plan = _digest(source, size=size, append=append)
    _settle(path, part)
    if not append and not _same_plan(part, plan):
        refuse_existing(path)
    with disk_errors(path), _workshop(part, plan):
        if not (part / "atlas").exists():
            # Killed after the atlas got its name.
            journal = _Journal.read(part)
        else:
            base = open_atlas(path) if append else None
            if base is not None and base.size != size:
                raise OutputExistsError(
                    f"{path} has pictures of {base.size} px, not {size}.", way_out=f"Append with --size {base.size}."
                )
            journal = _Journal.read(part)
            _pack(source, path, part, base, journal, size=size, strict=strict, skip_known=skip_known, advance=advance)
            _finish(source, path, part, base, journal, size=size)
            if not append:
                refuse_existing(path)
            _give_name(path, part)
    _remove(part)
    return Imported(path, journal.added, journal.known, len(journal.rejected))


@dataclass
class _Journal:
    """What is on the disk already: one entry per shard, in order."""

    folder: Path
    shards: int = 0
    item: int = 0
    within: int = 0
    added: int = 0
    known: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, part: Path) -> _Journal:
        """Return the journal of the unfinished import in the folder ``part``; an empty one if nothing is in it yet."""
        journal = cls(part / "journal")
        while (file := journal.folder / f"{journal.shards:06d}.json").exists():
            entry = json.loads(file.read_text(encoding="utf-8"))
            journal.shards += 1
            journal.item, journal.within = entry["next"]
            journal.known = entry["known"]
            journal.added = entry["added"]
            journal.rejected += [Rejected(*each) for each in entry["rejected"]]
            journal.ids.update(row["id"] for row in entry["rows"])
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

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of all fields, in order."""
        for shard in range(self.shards):
            entry = json.loads((self.folder / f"{shard:06d}.json").read_text(encoding="utf-8"))
            yield from entry["rows"]


def _pack(
    source: FieldSource,
    path: Path,
    part: Path,
    base: Atlas | None,
    journal: _Journal,
    *,
    size: int,
    strict: bool,
    skip_known: bool,
    advance: Callable[[int, int], None],
) -> None:
    """Write what is not written yet, a shard at a time: one is written while the next is being read."""
    writer = AtlasWriter(part / "atlas", size=size, path=path)
    kept = 0 if base is None else len(base) // writer.shard_length
    before = set() if base is None else set(base.ids)
    chunks: list[bytes] = []
    rows: list[dict[str, Any]] = []
    rejected: list[Rejected] = []
    writing: list[tuple[Future[None], dict[str, Any]]] = []
    if base is not None and journal.shards == 0:
        _link_shards(base, writer, kept)
        rest = np.arange(kept * writer.shard_length, len(base))
        chunks += [encode(image) for image in base.read(rest)]
        rows += base.fields[rest].to_dicts()

    def commit() -> None:
        while writing:
            future, entry = writing.pop()
            future.result()
            journal.commit(entry)

    def close_shard(item: int, within: int) -> None:
        """Start to write the shard that is full; its entry is committed once it lies on the disk."""
        commit()
        entry = {
            "next": [item, within],
            "added": journal.added,
            "known": journal.known,
            "rejected": list(rejected),
            "rows": list(rows),
        }
        if chunks:
            writing.append((writer.put(kept + journal.shards, chunks), entry))
        else:
            journal.commit(entry)
        for each in (chunks, rows, rejected):
            each.clear()

    items = source.items
    todo = range(journal.item, len(items))
    for item, results in zip(todo, in_order(lambda i: _load(source, items[i]), todo), strict=True):
        first = journal.within if item == journal.item else 0
        for position, result in list(enumerate(results))[first:]:
            loaded = result
            if not isinstance(loaded, Rejected):
                row, chunk = loaded
                if row["id"] in before:
                    _refuse_known(row["id"], base, skip_known=skip_known)
                    journal.known += 1
                    continue
                if row["id"] in journal.ids:
                    loaded = Rejected(row["id"], "an earlier field of this import has the same id")
            if isinstance(loaded, Rejected):
                if strict:
                    raise ImageError(
                        f"{loaded.id}: {loaded.reason}",
                        way_out=f"Mend or remove it, or leave out --strict, and start again: what is done is kept in"
                        f" {part}.",
                    )
                rejected.append(loaded)
                journal.rejected.append(loaded)
                continue
            journal.ids.add(row["id"])
            journal.added += 1
            chunks.append(chunk)
            rows.append(row)
            if len(chunks) == writer.shard_length:
                close_shard(item, position + 1)
        advance(item + 1, len(items))
    if chunks or rejected or not journal.shards:
        close_shard(len(items), 0)
    commit()


def _load(source: FieldSource, item: str) -> list[tuple[dict[str, Any], bytes] | Rejected]:
    """Return an item's fields as finished rows and chunks, so that all cores check and compress too."""
    try:
        loaded = source.load(item)
    except ImageError as error:
        return [rejected(item, error)]
    return [each if isinstance(each, Rejected) else (row_of(*each), encode(each[1])) for each in loaded]


def _refuse_known(name: str, base: Atlas | None, *, skip_known: bool) -> None:
    if not skip_known:
        raise TableError(
            f"{base.path if base else ''} has a field {name} already.",
            way_out="Say --skip-known to add only the fields that it does not have.",
        )


def _link_shards(base: Atlas, writer: AtlasWriter, count: int) -> None:
    """Give the new atlas the full shards of the old one, without copying where the disk allows that."""
    for shard in range(count):
        source, target = base.folder / "images.zarr" / "c" / str(shard) / "0" / "0" / "0", writer.shard_path(shard)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:
            # Some file systems have no links; a copy is as good.
            shutil.copyfile(source, target)


def _finish(source: FieldSource, path: Path, part: Path, base: Atlas | None, journal: _Journal, *, size: int) -> None:
    """Write table, quarantine and header into the finished pixels."""
    writer = AtlasWriter(part / "atlas", size=size, path=path)
    if not journal.added and base is None:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in examples(journal.rejected))
        _remove(part)
        raise ImageError(
            f"{path}: none of {len(journal.rejected)} fields could be imported.{reasons}",
            way_out="Mend the files, or check the settings of the import.",
        )
    kept = 0 if base is None else len(base) // writer.shard_length * writer.shard_length
    count = (len(base) if base else 0) + journal.added

    def rows() -> Iterator[dict[str, Any]]:
        if base is not None:
            yield from base.fields[:kept].iter_rows(named=True)
        yield from journal.rows()

    header: dict[str, Any] = {"made_by": source.made_by}
    quarantine = journal.rejected
    if base is not None:
        header = {"made_by": base.header["made_by"]}
        header["appended"] = [*base.header.get("appended", []), source.made_by]
        # What came in now, or was rejected again, is no longer rejected for the old reason.
        settled = journal.ids.union(each.id for each in journal.rejected)
        quarantine = [each for each in read_quarantine(base.folder) if each.id not in settled] + quarantine
    if quarantine:
        header["quarantined"] = len(quarantine)
        (part / "atlas" / QUARANTINE).unlink(missing_ok=True)
        write_quarantine(quarantine, part / "atlas" / QUARANTINE)
    writer.finish(rows(), count=count, header=header)


def read_quarantine(atlas: Path) -> list[Rejected]:
    """Return what was left out when the atlas in the folder ``atlas`` was imported."""
    file = atlas / QUARANTINE
    if not file.exists():
        return []
    return [Rejected(*row) for row in pl.read_csv(file, infer_schema=False, glob=False).iter_rows()]


def write_quarantine(quarantine: Sequence[Rejected], path: Path) -> None:
    """Write the CSV ``id,reason`` at ``path``, which must be free."""
    with new_file(path) as temporary:
        pl.DataFrame(quarantine, schema=["id", "reason"], orient="row").write_csv(temporary)


def examples(quarantine: Sequence[Rejected], *, most: int = 3) -> list[Rejected]:
    """Return an entry for each of the different reasons, at most so many; names and numbers make no difference."""
    kinds: dict[str, Rejected] = {}
    for each in quarantine:
        kinds.setdefault(re.sub(r"\S*[\d/_.]\S*", "", each.reason.replace(each.id, "")), each)
    return list(kinds.values())[:most]


def _digest(source: FieldSource, *, size: int, append: bool) -> str:
    """Return a checksum of all that decides what an import makes, but for the content of the files."""
    digest = hashlib.sha256(json.dumps([source.made_by, size, append]).encode())
    for item in source.items:
        digest.update(json.dumps(item).encode())
    return digest.hexdigest()


def _same_plan(part: Path, plan: str) -> bool:
    note = part / "import.json"
    return note.exists() and read_json(note, kind=KIND, version=VERSION)["plan"] == plan


@contextmanager
def _workshop(part: Path, plan: str) -> Iterator[None]:
    """Make the folder of an import, or take up the one of the same import, for this process alone."""
    part.parent.mkdir(parents=True, exist_ok=True)
    lock = part.with_name(f".{part.name}.lock")
    with lock.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(
                f"{part} is in use: another process is importing there.", way_out="Wait until it has finished."
            ) from error
        if not (part / "import.json").exists():
            if part.exists():
                shutil.rmtree(part)
            (part / "atlas").mkdir(parents=True)
            (part / "journal").mkdir()
            write_json(part / "import.json", {"plan": plan}, kind=KIND, version=VERSION)
        elif not _same_plan(part, plan):
            raise OutputExistsError(
                f"{part} is of an import that was stopped, with other settings or other files.",
                way_out="Start that one again to finish it, or remove the folder to begin anew.",
            )
        try:
            yield
        finally:
            lock.unlink()


def _give_name(path: Path, part: Path) -> None:
    """Put the finished atlas in its place; an atlas that it replaces is kept until that is done."""
    if path.exists():
        path.rename(part / "replaced")
    (part / "atlas").rename(path)


def _settle(path: Path, part: Path) -> None:
    """Finish an exchange of atlases in which a process was killed."""
    if (part / "replaced").exists() and not path.exists():
        (part / "atlas").rename(path)


def _remove(part: Path) -> None:
    """Remove the folder of an import that is done; its note goes last, so that it is known for what it is."""
    for name in ("replaced", "atlas", "journal"):
        if (part / name).exists():
            shutil.rmtree(part / name)
    if part.exists():
        shutil.rmtree(part)
