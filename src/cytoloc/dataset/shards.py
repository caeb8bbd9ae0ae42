"""The shards that an import fills, one after the other: one is written while the next is being filled."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import Future
from typing import Any

from cytoloc.dataset.base import Base
from cytoloc.dataset.fields import encode
from cytoloc.dataset.quarantine import Rejected
from cytoloc.dataset.workshop import Journal
from cytoloc.dataset.writer import DatasetWriter
from cytoloc.errors import FormatError
from cytoloc.memory import hand_back_freed_memory


class Shards:
    """What an import writes: pixels by the shard, and an entry of its journal for each shard that lies on the disk.

    Args:
        writer: Writes pixels.
        base: The dataset that is added to. Its whole shards are linked; the fields of its last one begin the first new
            one.
        journal: Of what is on the disk already; it grows with every entry.

    Raises:
        FormatError: If a shard of ``base`` is not there.
    """

    def __init__(self, writer: DatasetWriter, base: Base | None, journal: Journal) -> None:
        self._writer = writer
        self._journal = journal
        self._fingerprint = base.fingerprint if base else None
        self._kept = base.whole_shards if base else 0
        self._chunks: list[bytes] = []
        self._rows: list[dict[str, Any]] = []
        self._bad: list[Rejected] = []
        self._settled: list[str] = []
        self._writing: list[tuple[Future[None], dict[str, Any]]] = []
        # What a stopped process wrote, and did not enter into the journal.
        writer.drop_shards(self._kept + journal.shards if journal.shards else 0)
        if base is not None and journal.shards == 0:
            _link_shards(base, writer)
            rest = (self._kept * writer.shard_length, len(base))
            self._chunks += [encode(image) for image in base.images(*rest)]
            self._rows += base.rows(*rest)

    @property
    def full(self) -> bool:
        """Whether the shard that is being filled has all its fields."""
        return len(self._chunks) == self._writer.shard_length

    def add(self, item: str, row: dict[str, Any], chunk: bytes) -> None:
        """Add a field that came from ``item``."""
        self._journal.ids.add(row["id"])
        self._journal.added += 1
        if row["id"] != item and item not in self._journal.settled:
            self._journal.settled.add(item)
            self._settled.append(item)
        self._chunks.append(chunk)
        self._rows.append(row)

    def reject(self, bad: Rejected) -> None:
        """Put a field into quarantine."""
        self._bad.append(bad)
        self._journal.rejected.append(bad)

    def close(self, item: int, within: int) -> None:
        """Start to write what there is of a shard; its entry, which says where to go on, follows once that is done."""
        self.commit()
        entry = {
            "base": self._fingerprint,
            "next": [item, within],
            "added": self._journal.added,
            "known": self._journal.known,
            "rejected": list(self._bad),
            "settled": list(self._settled),
            "rows": list(self._rows),
        }
        if self._chunks:
            written = self._writer.put(self._kept + self._journal.shards, self._chunks)
            self._writing.append((written, entry))
        else:
            self._journal.commit(entry)
        for each in (self._chunks, self._rows, self._bad, self._settled):
            each.clear()
        hand_back_freed_memory()

    def commit(self) -> None:
        """Wait until the shard that is being written lies on the disk, and enter it into the journal."""
        while self._writing:
            written, entry = self._writing.pop()
            written.result()
            self._journal.commit(entry)

    def finish(self, items: int) -> None:
        """Write what is left after all ``items``; the journal has an entry at least."""
        if self._chunks or self._bad or not self._journal.shards:
            self.close(items, 0)
        self.commit()


def _link_shards(base: Base, writer: DatasetWriter) -> None:
    """Give the new dataset the full shards of the old one, without copying where the disk allows that.

    Raises:
        FormatError: If one is not there.
    """
    for shard in range(base.whole_shards):
        source, target = base.shard_path(shard), writer.shard_path(shard)
        if not source.exists():
            raise FormatError(f"{base.path} is damaged: {source} is missing.", way_out="Import it again.")
        target.parent.mkdir(parents=True)
        try:
            os.link(source, target)
        except OSError:
            # Some file systems have no links; a copy is as good, and fails if there is another reason.
            shutil.copyfile(source, target)
