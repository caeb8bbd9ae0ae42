"""Names by the million, kept on the disk: memory does not grow with the fields of an import.

Each collection is a private database of SQLite in the folder for temporary files, gone when the collection is.
"""

from __future__ import annotations

import json
import sqlite3
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from operator import itemgetter
from threading import RLock
from typing import Any, Final, Generic, TypeVar, overload

from cytoloc.errors import StorageError, first_line

Value = TypeVar("Value")

_CACHE_KIB: Final = 512
"""What a collection keeps in memory; the rest is read from the disk, or from what the system keeps of it."""

_AT_A_TIME: Final = 512
"""Rows that are written, or fetched, together."""

_NO_ROOM: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
"""What SQLite says if it cannot write a file."""


class _Table:
    """A table of names in the order in which they came. None is ever taken away."""

    def __init__(self, columns: str) -> None:
        # The empty path means a file of one's own; it has no name and is never seen by anyone else.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        # When Python ends the system closes it, and nothing is cut off that still reads.
        weakref.finalize(self, self._database.close).atexit = False
        # Not every build of SQLite lets threads use a connection at the same time.
        self._lock = RLock()
        self.ask(f"PRAGMA cache_size = -{_CACHE_KIB}")
        # Nothing is ever rolled back.
        self.ask("PRAGMA journal_mode = OFF")
        self.ask(f"CREATE TABLE entries (position INTEGER PRIMARY KEY, {columns})")

    def __len__(self) -> int:
        ((last,),) = self.ask("SELECT max(position) FROM entries")
        return last or 0

    def __iter__(self) -> Iterator[str]:
        return (_name(key) for (key,) in self.rows("SELECT name FROM entries ORDER BY position"))

    def ask(self, question: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of an answer, which are few."""
        with self._lock, _no_room_named():
            return self._database.execute(question, values).fetchall()

    def add_rows(self, command: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Run a command once for each row of values."""
        rows = iter(rows)
        while some := list(islice(rows, _AT_A_TIME)):
            with self._lock, _no_room_named():
                self._database.executemany(command, some)

    def rows(self, question: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of an answer that may be long, a few fetched at a time."""
        with self._lock, _no_room_named():
            cursor = self._database.execute(question, values)
        try:
            while True:
                with self._lock, _no_room_named():
                    some = cursor.fetchmany(_AT_A_TIME)
                if not some:
                    return
                yield from some
        finally:
            with self._lock:
                cursor.close()


class DiskList(_Table, Sequence[str]):
    """Names in order.

    Args:
        names: All of them.

    Raises:
        StorageError: If the folder for temporary files has no room, here or when names are asked for.

    Examples:
        >>> names = DiskList(["b", "a", "b"])
        >>> names[0], names[-1], names[1:], len(names)
        ('b', 'b', ['a', 'b'], 3)
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__("name BLOB NOT NULL")
        self.add_rows("INSERT INTO entries (name) VALUES (?)", ((_key(name),) for name in names))

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return a name, or a list of some."""
        places = range(1, len(self) + 1)[index]
        if isinstance(places, range):
            return [self[place - 1] for place in places]
        ((key,),) = self.ask("SELECT name FROM entries WHERE position = ?", places)
        return _name(key)


class DiskSet(_Table, Collection[str]):
    """Names, each once, to which more can be added.

    Args:
        names: Its first names; those that repeat are kept once.

    Raises:
        StorageError: If the folder for temporary files has no room, here or later.

    Examples:
        >>> names = DiskSet(["b", "a"])
        >>> names.add("b")
        >>> "a" in names, "c" in names, list(names)
        (True, False, ['b', 'a'])
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        super().__init__("name BLOB NOT NULL UNIQUE")
        self.update(names)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        return bool(self.ask("SELECT 1 FROM entries WHERE name = ?", _key(name)))

    def add(self, name: str) -> None:
        """Add a name, if it is new."""
        self.update([name])

    def update(self, names: Iterable[str]) -> None:
        """Add those names that are new."""
        self.add_rows("INSERT OR IGNORE INTO entries (name) VALUES (?)", ((_key(name),) for name in names))


class DiskMap(_Table, Mapping[str, Value], Generic[Value]):
    """What is known by name, in the order in which names came.

    Args:
        entries: All names, each with its value, which goes through JSON: tuples come back as lists. Of a name that
            repeats the last value counts.

    Raises:
        StorageError: If the folder for temporary files has no room, here or when names are asked for.

    Examples:
        >>> found = DiskMap([("scan_2", ["b.tif"]), ("scan", ["a.tif"])])
        >>> list(found), found["scan"], found.get("scan_3")
        (['scan_2', 'scan'], ['a.tif'], None)
    """

    def __init__(self, entries: Iterable[tuple[str, Value]] = ()) -> None:
        super().__init__("name BLOB NOT NULL UNIQUE, value TEXT NOT NULL")
        self.add_rows(
            "INSERT INTO entries (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            ((_key(name), json.dumps(value)) for name, value in entries),
        )

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._text(name) is not None

    def __getitem__(self, name: str) -> Value:
        text = self._text(name)
        if text is None:
            raise KeyError(name)
        value: Value = json.loads(text)
        return value

    def beginning(self, name: str) -> dict[str, Value]:
        """Return what is known of ``name`` itself and of names that add to it behind ``_``, without a look at others.

        >>> DiskMap((name, 0) for name in ("scan", "scan_s1", "other", "scanned")).beginning("scan")
        {'scan': 0, 'scan_s1': 0}
        """
        after = chr(ord("_") + 1)
        question = "SELECT name, value FROM entries WHERE name = ? OR name >= ? AND name < ? ORDER BY name"
        rows = self.rows(question, *map(_key, (name, f"{name}_", f"{name}{after}")))
        return {_name(key): json.loads(text) for key, text in rows}

    def _text(self, name: str) -> str | None:
        rows = self.ask("SELECT value FROM entries WHERE name = ?", _key(name))
        return str(rows[0][0]) if rows else None


def gathered(pairs: Iterable[tuple[str, Value]]) -> Iterator[tuple[str, list[Value]]]:
    """Yield each name with all the values that it came with, names in the order of their letters.

    Args:
        pairs: A name and a value at a time, in any order; values go through JSON as in :class:`DiskMap`.

    Raises:
        StorageError: If the folder for temporary files has no room.

    Examples:
        >>> list(gathered([("b", 1), ("a", 2), ("b", 3)]))
        [('a', [2]), ('b', [1, 3])]
    """
    table = _Table("name BLOB NOT NULL, value TEXT NOT NULL")
    rows = ((_key(name), json.dumps(value)) for name, value in pairs)
    table.add_rows("INSERT INTO entries (name, value) VALUES (?, ?)", rows)
    ordered = table.rows("SELECT name, value FROM entries ORDER BY name, position")
    for key, group in groupby(ordered, key=itemgetter(0)):
        yield _name(key), [json.loads(text) for _, text in group]


@contextmanager
def _no_room_named() -> Iterator[None]:
    """Turn what SQLite says of a full or read-only disk into a :class:`~cytoloc.errors.StorageError`."""
    try:
        yield
    except sqlite3.OperationalError as error:
        # The lower byte is the kind of the error, the rest says more of it.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _NO_ROOM:
            raise
        raise StorageError(
            f"The folder for temporary files cannot hold the names of the fields: {first_line(error)}.",
            way_out="It is the one that the variable SQLITE_TMPDIR names, else TMPDIR, else /var/tmp or /tmp: name one"
            " that has room and can be written.",
        ) from error


def _key(name: str) -> bytes:
    """Return a name as bytes that sort as its characters do; names of files may hold what is not UTF-8."""
    return name.encode("utf-8", "surrogatepass")


def _name(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")
