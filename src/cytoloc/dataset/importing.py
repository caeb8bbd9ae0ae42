"""Importing: packing many image files into one dataset, in order, on all cores.

An import writes segments. A commit at the end of an item replaces ``dataset.json``, which lists the segments and the
number of finished items. After a kill, Ctrl-C or an error, the same call continues after the last commit.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, Literal, Protocol, get_args

import polars as pl

from cytoloc._typing import UInt8Array
from cytoloc.channels import channel_order
from cytoloc.choices import Resample, Square, check_type, refuse_unknown
from cytoloc.dataset.fields import FieldRow, encode, row_of
from cytoloc.dataset.manifest import LOCK, MANIFEST, OWN_NAMES, ImportRecord, Manifest, is_complete, read_manifest
from cytoloc.dataset.quarantine import Rejected, examples, printable, refuse_unprintable, rejected
from cytoloc.dataset.segments import StoredFiles
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.dataset.writer import SEGMENT_BYTES, DatasetWriter
from cytoloc.errors import ChannelError, FormatError, ImageError, OutputExistsError, SettingsError, TableError
from cytoloc.files import disk_errors, existing, locked, refuse_existing, refuse_url
from cytoloc.images.scale import Scaling
from cytoloc.labels.label_set import LabelSet
from cytoloc.parallel import in_order, pool_or_threads

SHARE_BYTES: Final = 8 * 2**20
"""Uncompressed pixels per task, because starting a task for one small field costs as much as loading the field."""

MOST_IN_SHARE: Final = 64
"""Maximum number of fields per task, so that progress is visible."""

Loaded = tuple[FieldRow, UInt8Array] | Rejected

Order = tuple[str, Callable[[], Iterable[Loaded]]]
"""The name of an item, and the function that loads it."""

Packed = tuple[dict[str, Any], bytes, int]
"""The table row of a field, its compressed chunk, and the number of chunks that its files lack."""


class FieldSource(Protocol):
    """A source of fields. An item is the files of one field, or one file that contains several fields."""

    @property
    def folder(self) -> Path:
        """The folder of the files. Imports from different folders are different imports."""

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels of the fields, in the order of :func:`cytoloc.channels.channel_order`."""

    @property
    def label_set(self) -> LabelSet:
        """The label set of the labels."""

    @property
    def items(self) -> Sequence[str]:
        """The unique names of the items."""

    @property
    def quick(self) -> bool:
        """Whether each item is one field with the same id that loads fast, so that tasks can load several."""

    @property
    def made_by(self) -> dict[str, Any]:
        """The command and its settings, as JSON values."""

    def loader(self, item: str) -> Callable[[], Iterable[Loaded]]:
        """Return a function that loads the fields of an item, uint8 of shape ``(channels, size, size)`` each.

        It is called in a thread or, if it can be pickled, in another process. An
        :class:`~cytoloc.errors.ImageError` rejects the item; any other error stops the import.
        """


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Settings of an import.

    Attributes:
        square: What to do with images that are not square: ``"refuse"``, ``"crop"`` or ``"pad"``.
        enlarge: Whether images smaller than the image size are enlarged. Otherwise they are rejected.
        resample: How larger images are scaled down: by ``"area"`` means, or by the ``"nearest"`` pixel, which
            reproduces the 512 px files of the 2018 Kaggle competition from the originals of 2048 px.
        depth: How 16-bit and float images are scaled to 8 bits: with one intensity range per ``"field"``, or with one
            for all fields of the ``"import"``.
        floor: Smallest distance between the intensities that become black and white. Default: 10,000 for counts of at
            most 16 bits; a 12-bit camera needs 625. See :mod:`cytoloc.images.depth` for floats.
        limit: Maximum number of fields; the first ones are imported.
        append: Add fields to an existing dataset.
        skip_known: Skip fields whose ids are in the dataset already, instead of raising an error.
        discard_unfinished: Discard an unfinished import with other settings or other files, instead of raising an
            error.
        strict: Stop at the first rejected field, instead of adding it to the quarantine.
        segment_bytes: Uncompressed size at which a segment is committed, in bytes.
        segment_s: Time after which a segment is committed, in seconds.
        clock: A function that returns the time in seconds.
        processes: Load fields in one process per core instead of one thread per core, if there are at least 200
            fields. A script that sets this needs ``if __name__ == "__main__":``.
        progress: A function that is called with the number of finished items and of all items.

    Raises:
        ArgumentTypeError: If a value has the wrong type.
        SettingsError: If ``square``, ``resample``, ``depth``, ``floor`` or ``limit`` is invalid.
    """

    square: Square = "refuse"
    enlarge: bool = False
    resample: Resample = "area"
    depth: Literal["field", "import"] = "field"
    floor: float | None = None
    limit: int | None = None
    append: bool = False
    skip_known: bool = False
    discard_unfinished: bool = False
    strict: bool = False
    segment_bytes: int = SEGMENT_BYTES
    segment_s: float = 300.0
    clock: Callable[[], float] = time.monotonic
    processes: bool = False
    progress: Callable[[int, int], None] = lambda _done, _total: None

    def __post_init__(self) -> None:
        for name in ("enlarge", "append", "skip_known", "discard_unfinished", "strict", "processes"):
            check_type(getattr(self, name), bool, argument=name)
        check_type(self.floor, (int, float, type(None)), argument="floor")
        check_type(self.limit, (int, type(None)), argument="limit")
        refuse_unknown(self.square, get_args(Square), argument="square")
        refuse_unknown(self.resample, get_args(Resample), argument="resample")
        refuse_unknown(self.depth, ("field", "import"), argument="depth")
        if self.floor is not None and not (math.isfinite(self.floor) and self.floor >= 0):
            raise SettingsError(
                f"`floor` is {self.floor}, which is not an intensity.", hint="Give a finite number from 0."
            )
        if self.limit is not None and self.limit < 1:
            raise SettingsError(f"`limit` is {self.limit}, which is not a number of fields.", hint="Give 1 or more.")

    def scaling(self, size: int, *, target_um: float | None = None) -> Scaling:
        """Return how images are cropped, padded and scaled.

        Args:
            size: Edge length of the images in the dataset, in pixels.
            target_um: Pixel size in micrometers to scale images to.

        Returns:
            The scaling.
        """
        return Scaling(size=size, square=self.square, enlarge=self.enlarge, target_um=target_um, resample=self.resample)


@dataclass(frozen=True)
class Imported:
    """The result of an import.

    Attributes:
        path: The dataset.
        added: The number of fields that were added.
        known: The number of fields that were skipped because the dataset had them already.
        rejected: The number of fields that were rejected.
        missing_chunks: The number of chunks that the files of the added fields lack.
        examples: A few rejected fields with different reasons.
        notes: Notes for the user.
    """

    path: Path
    added: int
    known: int
    rejected: int
    missing_chunks: int = 0
    examples: tuple[Rejected, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def dataset(self) -> Dataset:
        """The dataset, opened at each access."""
        return open_dataset(self.path)

    def column(self, name: str) -> pl.Series:
        """Return one column of the table of the dataset; the added fields are last."""
        manifest = read_manifest(self.path)
        return StoredFiles(self.path).table(manifest, manifest.segments, columns=[name])[name]


def import_fields(
    source: FieldSource,
    path: Path,
    *,
    size: int,
    options: ImportOptions = ImportOptions(),
    pool: Executor | None = None,
    of_cells: bool = False,
) -> Imported:
    """Import the fields of a source into a new dataset, or add them to an existing one.

    If an import was interrupted, call the function again with the same source, and it continues after the last commit.

    Args:
        source: The source of the fields.
        path: The dataset.
        size: Edge length of the images, in pixels.
        options: Settings of the import.
        pool: Executor that loads and compresses fields. Default: one thread per core. Processes
            (:func:`cytoloc.parallel.processes`) are faster for more than a few hundred fields.
        of_cells: Whether the source yields cells, as :class:`~cytoloc.dataset.fields.CellRow`, instead of fields.

    Returns:
        The result of the import.

    Raises:
        OutputExistsError: If ``path`` exists and is not a dataset to continue or append to.
        ImageError: If no field could be read, or with ``strict`` if a field could not be read.
        TableError: If the dataset has an id already.
        ChannelError: If the dataset has other channels.
        LabelSetError: If the dataset has another label set.
        FormatError: If the dataset to append to does not exist or is damaged.
        StorageError: If the disk is full or read-only, or another process is importing to ``path``.
        SettingsError: If ``path`` is not a valid name.
    """
    refuse_url(path)
    whole = os.path.realpath(path)
    # Zarr libraries require names in UTF-8.
    if not path.name or printable(whole) != whole:
        raise SettingsError(
            f"{printable(str(path))!r} is not a valid name for a dataset.", hint="Choose a name in UTF-8."
        )
    if options.append:
        existing(path, error=FormatError, what="dataset")
        read_manifest(path)
    elif (path / MANIFEST).exists():
        if is_complete(path):
            refuse_existing(path, hint="Append to it, remove it, or choose another output.")
    # An import that was killed before its first commit leaves the lock file and some of its own files.
    elif not path.is_dir() or (
        (names := {each.name for each in path.iterdir()}) and not {LOCK} <= names <= {*OWN_NAMES}
    ):
        refuse_existing(path)
    busy = f"{path}: another process is importing to this dataset"
    with disk_errors(path, kept=path / MANIFEST), locked(path / LOCK, busy=busy):
        try:
            manifest, record = _resume(source, path, options, size=size, of_cells=of_cells)
            writer = DatasetWriter(path, manifest)
            try:
                with pool_or_threads(pool) as executor:
                    record = _pack(source, writer, record, options, pool=executor)
                return _finish(writer, record, append=options.append)
            finally:
                writer.discard()
        finally:
            if not (path / MANIFEST).exists():
                (path / LOCK).unlink(missing_ok=True)
                with suppress(OSError):
                    path.rmdir()


def _resume(
    source: FieldSource, path: Path, options: ImportOptions, *, size: int, of_cells: bool
) -> tuple[Manifest, ImportRecord]:
    """Return the current manifest, and the record of this import: a new one, or the one to resume."""
    # The digest covers all settings that determine the result, but not the content of the files.
    settings = [source.made_by, source.channels, source.label_set.to_json(), os.path.realpath(source.folder), size]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for item in source.items:
        digest.update(json.dumps(item).encode())
    record = ImportRecord(settings=source.made_by, digest=digest.hexdigest(), items=len(source.items))
    channels = channel_order(source.channels)
    if channels != source.channels:
        raise RuntimeError(f"the source has its channels as {source.channels}, not {channels}")
    if not (path / MANIFEST).exists():
        return Manifest(size=size, channels=channels, label_set=source.label_set, of_cells=of_cells), record
    whole = manifest = read_manifest(path)
    if whole.unfinished:
        if whole.unfinished.digest == record.digest:
            return whole, whole.unfinished
        if not options.discard_unfinished:
            command = whole.unfinished.settings.get("command", "import")
            if of_cells:
                raise OutputExistsError(
                    f"{path} has an unfinished segmentation with other settings or other fields.",
                    hint="Rerun that segmentation to finish it, or choose another output.",
                )
            raise OutputExistsError(
                f"{path} has an unfinished import ({command}) with other settings or other files.",
                hint="Rerun that import to finish it, or give `discard_unfinished` to discard its fields. Fields of"
                " finished imports are kept.",
            )
        manifest = whole.before(len(whole.imports) - 1)
    if manifest.imports:
        if not options.append:
            refuse_existing(path)
        if manifest.size != size:
            raise OutputExistsError(
                f"{path} has images of {manifest.size} px, not {size} px.",
                hint=f"Append with size {manifest.size}.",
            )
        if manifest.of_cells != of_cells:
            have, new = ("cells", "fields") if manifest.of_cells else ("fields", "cells")
            raise OutputExistsError(f"{path} is a dataset of {have}, not of {new}.", hint="Choose another output.")
        if manifest.channels != channels:
            raise ChannelError(
                f"{path} has the channels {', '.join(manifest.channels)}, not {', '.join(channels)}.",
                hint="Append fields with the same channels, or make a new dataset.",
            )
        manifest.label_set.refuse_other(source.label_set, what="the import", than=str(path))
    elif options.append:
        raise FormatError(f"{path} has no finished import to append to.", hint="Remove `append`.")
    else:
        manifest = Manifest(size=size, channels=channels, label_set=source.label_set, of_cells=of_cells)
    if whole.unfinished:
        DatasetWriter(path, whole).roll_back()
    return manifest, record


def _pack(
    source: FieldSource, writer: DatasetWriter, record: ImportRecord, options: ImportOptions, *, pool: Executor
) -> ImportRecord:
    """Load, compress and add the remaining items, and return the record of all items. The last segment is pending."""
    items, manifest, files = source.items, writer.manifest, StoredFiles(writer.folder)
    known = set(files.table(manifest, manifest.before(writer.number).segments, columns=["id"])["id"])
    own: set[str] = set()
    if not source.quick:
        # The ids that this import added. For quick sources these are the names of the items.
        names = {name: name for name in items}
        written = files.table(manifest, manifest.segments_of(writer.number), columns=["id"])["id"]
        own = {names.get(name, name) for name in written}
    orders = ((items[number], source.loader(items[number])) for number in range(record.done, len(items)))
    field_bytes = len(source.channels) * manifest.size**2
    some = max(1, min(MOST_IN_SHARE, SHARE_BYTES // field_bytes)) if source.quick else 1
    shares = iter(lambda: list(islice(orders, some)), [])
    packed = chain.from_iterable(in_order(partial(_pack_items, channels=source.channels), shares, pool=pool))
    added, passed, bad, missing = record.added, record.known, record.rejected, record.missing_chunks
    committed_s = options.clock()
    for done, results in enumerate(packed, record.done + 1):
        item = items[done - 1]
        for result in results:
            if not isinstance(result, Rejected):
                row, chunk, lost = result
                name = item if row["id"] == item else row["id"]
                if name in known:
                    if not options.skip_known:
                        raise TableError(
                            f"{writer.folder} has a field with the id {name} already.",
                            hint="Give `skip_known` to add only fields that the dataset does not have.",
                        )
                    passed += 1
                    continue
                if name not in own:
                    if not source.quick:
                        own.add(name)
                    writer.add(row, chunk)
                    added += 1
                    missing += lost
                    continue
                result = Rejected(name, "an earlier field of this import has the same id")
            if options.strict:
                raise ImageError(
                    f"{result.id}: {result.reason}",
                    hint="Fix the file, or remove `strict`, and start again. Committed fields are kept.",
                )
            writer.reject(result)
            bad += 1
        record = replace(record, done=done, added=added, known=passed, rejected=bad, missing_chunks=missing)
        if writer.raw_bytes >= options.segment_bytes or options.clock() - committed_s >= options.segment_s:
            writer.commit(record)
            committed_s = options.clock()
        options.progress(done, len(items))
    return record


def _finish(writer: DatasetWriter, record: ImportRecord, *, append: bool) -> Imported:
    """Commit the last segment, and return the result of the import. An import without any effect is not recorded.

    Raises:
        ImageError: If no field could be imported.
    """
    rejections = writer.rejections()
    shown = tuple(examples(rejections))
    imported = Imported(writer.folder, record.added, record.known, record.rejected, record.missing_chunks, shown)
    if not record.added and not record.known and (rejections or not append):
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in shown)
        writer.roll_back()
        if not record.rejected and writer.manifest.of_cells:
            raise ImageError("No field has a cell.", hint="Check the channels, the pixel size and the method.")
        done, what = ("segmented", "segmentation") if writer.manifest.of_cells else ("imported", "import")
        raise ImageError(
            f"{writer.folder}: none of {record.rejected} fields could be {done}.{reasons}",
            hint=f"Fix the files, or check the settings of the {what}.",
        )
    before = writer.manifest.before(writer.number)
    if not record.added and set(rejections) <= set(StoredFiles(writer.folder).quarantine(before)):
        writer.roll_back()
    else:
        writer.commit(replace(record, finished=True))
    return imported


def _pack_items(orders: Sequence[Order], *, channels: tuple[str, ...]) -> list[list[Packed | Rejected]]:
    """Return the fields of some items as table rows and compressed chunks."""
    items: list[list[Packed | Rejected]] = []
    for item, load in orders:
        packed: list[Packed | Rejected] = []
        items.append(packed)
        try:
            refuse_unprintable(item)
            # Fields are compressed one by one, because a file can have hundreds of them.
            for each in load():
                if isinstance(each, Rejected):
                    packed.append(each)
                    continue
                row, image = each
                try:
                    # The id may come from a name in the file.
                    refuse_unprintable(row.id)
                    packed.append((row_of(row, image, channels), encode(image), row.missing_chunks))
                except ImageError as error:
                    packed.append(rejected(row.id, error))
        except ImageError as error:
            packed.append(rejected(item, error))
    return items
