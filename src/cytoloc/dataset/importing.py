"""Importing: many files to one dataset, in order, on all cores, going on where it was stopped.

An import works in a folder beside its output (:mod:`cytoloc.dataset.workshop`). After each shard of pixels is on the
disk, an entry of the journal says which fields it holds and where to go on, so that a process killed at any moment
loses one shard of work and nothing else: the finished dataset is byte for byte that of an undisturbed import. Its name
comes by one rename.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cytoloc.dataset.base import Base
from cytoloc.dataset.fields import FieldRow, encode, row_of
from cytoloc.dataset.quarantine import (
    QUARANTINE,
    Rejected,
    examples,
    printable,
    refuse_unprintable,
    rejected,
    write_quarantine,
)
from cytoloc.dataset.shards import Shards
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.dataset.workshop import (
    Journal,
    enter,
    finished,
    give_name,
    locked,
    part_of,
    retire,
    settle,
)
from cytoloc.dataset.writer import DatasetWriter, fields_per_shard
from cytoloc.errors import CytolocError, FormatError, ImageError, OutputExistsError, SettingsError, TableError
from cytoloc.files import disk_errors, existing, refuse_existing
from cytoloc.labels import CHANNELS
from cytoloc.on_disk import DiskSet
from cytoloc.parallel import in_order

SHARE_BYTES: Final = 8 * 2**20
"""Raw pixels that a core is asked for at a time: one small field would cost as much to ask for as to load."""

MOST_IN_SHARE: Final = 64
"""Fields that a core is asked for at a time, so that progress is seen."""

Loaded = tuple[FieldRow, NDArray[np.uint8]] | Rejected

Order = tuple[str, Callable[[], Sequence[Loaded]]]
"""An item, and what loads it."""

Packed = tuple[dict[str, Any], bytes]
"""A field's row of the table, and its chunk of the array."""


class FieldSource(Protocol):
    """Where fields come from, an item at a time: the four files of a field, or one file that holds several fields."""

    @property
    def folder(self) -> Path:
        """Where the files are: an import of the same names from elsewhere is another one."""

    @property
    def items(self) -> Sequence[str]:
        """The name of each item."""

    @property
    def quick(self) -> bool:
        """Whether an item is one field, and soon loaded: then several are asked for at once."""

    @property
    def made_by(self) -> dict[str, Any]:
        """The command and its settings, as JSON: all that decides what becomes of the items."""

    def loader(self, item: str) -> Callable[[], Sequence[Loaded]]:
        """Return what loads an item's fields, uint8 ``(4, size, size)`` each, when it is called.

        It is called in a thread or, if it can be pickled, in another process, several at a time. An
        :class:`~cytoloc.errors.ImageError` that the call raises rejects the item; any other error stops the import.
        """


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Attributes:
        path: The finished dataset.
        added: How many fields it added.
        known: How many it left out because the dataset had them already.
        rejected: How many fields of this import were put into quarantine.
    """

    path: Path
    added: int
    known: int
    rejected: int

    @property
    def dataset(self) -> Dataset:
        """The finished dataset, opened anew; its table takes memory for every field."""
        return open_dataset(self.path)

    def column(self, name: str) -> pl.Series:
        """Return one column of the finished dataset's table, without the rest of it; the fields added come last."""
        return pl.read_parquet(self.path / "fields.parquet", columns=[name], glob=False)[name]


def import_fields(
    source: FieldSource,
    path: Path,
    *,
    size: int,
    strict: bool = False,
    append: bool = False,
    skip_known: bool = False,
    pool: Executor | None = None,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> Imported:
    """Pack a source's fields into a new dataset, or add them to one.

    Call it again with the same arguments after it was stopped, in whatever way, and it goes on. An error before the
    first whole shard leaves nothing behind.

    Args:
        source: Gives the fields.
        path: Where the dataset goes; with ``append`` where it is.
        size: Edge of the pictures, in pixels.
        strict: Stop at the first field that is rejected instead of putting it into quarantine.
        append: Add to the dataset at ``path``.
        skip_known: With ``append``, pass over ids that the dataset has already instead of stopping there.
        pool: Where fields are loaded and compressed; by default a thread per core. Processes
            (:func:`cytoloc.parallel.processes`) are faster, but for a few hundred fields, which take less time than
            processes take to start.
        advance: Told after each item how many of how many are done.

    Raises:
        OutputExistsError: If something lies at ``path``, an import with other settings was started there, or the
            dataset that is added to is another one than when that was begun.
        ImageError: If no field could be read, or with ``strict`` one could not.
        TableError: If an appended id is in the dataset already.
        FormatError: If the dataset that is to be added to is not there, or damaged.
        StorageError: If the disk is full or read-only, or another process is importing to ``path``.
        SettingsError: If ``path`` has no name.
    """
    if not path.name:
        raise SettingsError(f"{path} is not a name for a dataset.", way_out="Choose another --out.")
    _refuse_other_than_text(path)
    # A link to a dataset stays one: what it points to is exchanged.
    path = Path(os.path.realpath(path)) if append else path
    if append and not path.parent.exists():
        # Else the lock would make the folder.
        existing(path, error=FormatError, what="dataset")
    plan = _digest(source, size=size, append=append)
    with disk_errors(path, kept=part_of(path)), locked(path):
        settle(path)
        result = finished(path, plan)
        if result is None:
            if append:
                existing(path, error=FormatError, what="dataset")
            else:
                refuse_existing(path)
            part = enter(path, plan)
            journal = Journal.read(part)
            try:
                base = _base(path, journal, size=size) if append else None
                with DatasetWriter(part / "dataset", size=size, path=part) as writer:
                    _pack(
                        source,
                        writer,
                        base,
                        journal,
                        strict=strict,
                        skip_known=skip_known,
                        pool=pool,
                        advance=advance,
                    )
            except (CytolocError, OSError):
                # What has nothing to go on with stands in nobody's way.
                if not journal.shards:
                    retire(path, plan)
                raise
            result = {"added": journal.added, "known": journal.known, "rejected": len(journal.rejected)}
            if base is not None:
                # Nobody else adds to it meanwhile, but it may have been moved.
                base = _base(path, journal, size=size)
            if base is None or not _has_it_all(base, journal):
                try:
                    _finish(source, path, part, base, journal, size=size)
                except ImageError:
                    retire(path, plan)
                    raise
                if not append:
                    refuse_existing(path)
                give_name(path, part, result)
        retire(path, plan)
    return Imported(path, result["added"], result["known"], result["rejected"])


def _refuse_other_than_text(path: Path) -> None:
    """Raise :class:`~cytoloc.errors.SettingsError` if a path is not UTF-8, which Zarr's libraries ask for."""
    try:
        os.path.realpath(path).encode()
    except UnicodeEncodeError as error:
        raise SettingsError(
            f"{printable(os.path.realpath(path))} is not UTF-8, and no name for a dataset.",
            way_out="Choose another --out, or rename its folder.",
        ) from error


def _base(path: Path, journal: Journal, *, size: int) -> Base:
    """Return the dataset that is to be added to; it must be the one that this was begun with."""
    base = Base(path)
    if base.size != size:
        raise OutputExistsError(
            f"{path} has pictures of {base.size} px, not {size}.", way_out=f"Append with --size {base.size}."
        )
    if journal.shards and journal.base != base.fingerprint:
        raise OutputExistsError(
            f"{path} is not the dataset that {part_of(path)} was begun with.",
            way_out="Bring that one back to finish, or remove the folder to begin anew.",
        )
    return base


def _pack(
    source: FieldSource,
    writer: DatasetWriter,
    base: Base | None,
    journal: Journal,
    *,
    strict: bool,
    skip_known: bool,
    pool: Executor | None,
    advance: Callable[[int, int], None],
) -> None:
    """Write what is not written yet, a shard at a time: one is written while the next is being read."""
    shards = Shards(writer, base, journal)
    before = DiskSet() if base is None else DiskSet(base.ids())
    items = source.items
    for item, results in _packed(source, range(journal.item, len(items)), size=writer.size, pool=pool):
        first = journal.within if item == journal.item else 0
        for position, result in list(enumerate(results))[first:]:
            loaded = result
            if not isinstance(loaded, Rejected):
                row, chunk = loaded
                if row["id"] in before:
                    if not skip_known:
                        shards.commit()
                        raise TableError(
                            f"{base.path if base else ''} has a field {row['id']} already.",
                            way_out="Say --skip-known to add only the fields that it does not have.",
                        )
                    journal.known += 1
                    continue
                if row["id"] in journal.ids:
                    loaded = Rejected(row["id"], "an earlier field of this import has the same id")
            if isinstance(loaded, Rejected):
                if strict:
                    shards.commit()
                    raise ImageError(
                        f"{loaded.id}: {loaded.reason}",
                        way_out="Mend it, or leave out --strict, and start again; whole shards are kept.",
                    )
                shards.reject(loaded)
                continue
            shards.add(items[item], row, chunk)
            if shards.full:
                shards.close(item, position + 1)
        advance(item + 1, len(items))
    shards.finish(len(items))


def _packed(
    source: FieldSource, todo: range, *, size: int, pool: Executor | None
) -> Iterator[tuple[int, list[Packed | Rejected]]]:
    """Return for each item, by its number, its fields as finished rows and chunks, in order."""
    orders = ((source.items[item], source.loader(source.items[item])) for item in todo)
    some = max(1, min(MOST_IN_SHARE, SHARE_BYTES // (len(CHANNELS) * size * size))) if source.quick else 1
    packed = in_order(partial(_pack_all, here=Path.cwd()), _shares(orders, some), pool=pool)
    return zip(todo, chain.from_iterable(packed), strict=True)


def _shares(orders: Iterator[Order], some: int) -> Iterator[list[Order]]:
    """Yield items ``some`` at a time."""
    while share := list(islice(orders, some)):
        yield share


def _pack_all(orders: Sequence[Order], *, here: Path) -> list[list[Packed | Rejected]]:
    if parent_process() is not None and Path.cwd() != here:
        # A lent pool keeps the folder that it was started in; paths are meant from where the import was called.
        os.chdir(here)
    return [_pack_item(*order) for order in orders]


def _pack_item(item: str, load: Callable[[], Sequence[Loaded]]) -> list[Packed | Rejected]:
    """Return an item's fields as finished rows and chunks, so that all cores check and compress too."""
    try:
        refuse_unprintable(item)
        loaded = load()
    except ImageError as error:
        return [rejected(item, error)]
    return [each if isinstance(each, Rejected) else _pack_field(*each) for each in loaded]


def _pack_field(row: FieldRow, image: NDArray[np.uint8]) -> Packed | Rejected:
    """Return a field as a finished row and chunk; its id may be of a name within the file."""
    try:
        refuse_unprintable(row.id)
    except ImageError as error:
        return rejected(row.id, error)
    return row_of(row, image), encode(image)


def _has_it_all(base: Base, journal: Journal) -> bool:
    """Return whether an import changes nothing: all fields are known, and what is rejected was rejected before."""
    if journal.added or (journal.rejected and not journal.known):
        return False
    return set(journal.rejected) <= set(base.quarantine)


def _finish(source: FieldSource, path: Path, part: Path, base: Base | None, journal: Journal, *, size: int) -> None:
    """Write table, quarantine and header into the finished pixels."""
    if not journal.added and (base is None or (journal.rejected and not journal.known)):
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in examples(journal.rejected))
        raise ImageError(
            f"{path}: none of {len(journal.rejected)} fields could be imported.{reasons}",
            way_out="Mend the files, or check the settings of the import.",
        )
    kept = 0 if base is None else base.whole_shards * fields_per_shard(size)
    count = (len(base) if base else 0) + journal.added

    def rows() -> Iterator[dict[str, Any]]:
        if base is not None:
            yield from base.rows(0, kept)
        yield from journal.rows()

    header: dict[str, Any] = {"made_by": source.made_by}
    quarantine = journal.rejected
    if base is not None:
        header = {"made_by": base.header["made_by"]}
        header["appended"] = [*base.header.get("appended", []), source.made_by]
        # What came in now, or was rejected again, is no longer rejected for the old reason.
        again = {each.id for each in journal.rejected}
        known = (again, journal.ids, journal.settled)
        before = [each for each in base.quarantine if not any(each.id in names for names in known)]
        quarantine = before + quarantine
    if quarantine:
        header["quarantined"] = len(quarantine)
        (part / "dataset" / QUARANTINE).unlink(missing_ok=True)
        write_quarantine(quarantine, part / "dataset" / QUARANTINE)
    with DatasetWriter(part / "dataset", size=size, path=path) as writer:
        writer.finish(rows(), count=count, header=header)


def _digest(source: FieldSource, *, size: int, append: bool) -> str:
    """Return a checksum of all that decides what an import makes, but for the content of the files."""
    digest = hashlib.sha256(json.dumps([source.made_by, os.path.realpath(source.folder), size, append]).encode())
    for item in source.items:
        digest.update(json.dumps(item).encode())
    return digest.hexdigest()
