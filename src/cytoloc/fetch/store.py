"""The folder that fetched files lie in: what came from where, what did not come, and one process at a time.

``manifest.csv`` gets its row before the file gets its name, so that a killed process leaves either a row whose file can
be named, or a part that can be gone on with.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from cytoloc.errors import FormatError, OutputExistsError, SettingsError
from cytoloc.files import disk_errors, held, read_json, sha256_of, write_json

KIND: Final = "cytoloc-fetch"
VERSION: Final = 1

MANIFEST: Final = "manifest.csv"
FAILED: Final = "failed.csv"

CATALOGUE: Final = "catalogue"
_MARK: Final = "fetch.json"
_LOCK: Final = ".lock"
_FAILED_COLUMNS: Final = ("file", "url", "reason")


class Came(NamedTuple):
    """A row of the manifest: a file that is here, and where it came from.

    Attributes:
        file: Its path in the folder.
        url: Its address.
        release: Of the Human Protein Atlas.
        sha256: Of its bytes.
        size_bytes: Of the file.
        licence: Under which it was published.
        time: When it came, UTC, in ISO 8601.
        etag: What the site calls this state of the file.
    """

    file: str
    url: str
    release: str
    sha256: str
    size_bytes: int
    licence: str
    time: str
    etag: str


class Store:
    """The folder of a fetch, held for this process while it is open.

    Args:
        folder: Made if it is not there.
        base: The site, in words or by its address; a folder belongs to one as soon as anything came from there.

    Raises:
        OutputExistsError: If the folder holds something that is not of a fetch.
        SettingsError: If something in it came from another site.
        StorageError: If another process fetches into it.
    """

    def __init__(self, folder: Path, *, base: str) -> None:
        self.folder = folder
        self.catalogue = folder / CATALOGUE
        self.base = base

    @contextmanager
    def opened(self) -> Iterator[Store]:
        """Hold the folder in the block."""
        with disk_errors(self.folder):
            self._refuse_others()
            self.catalogue.mkdir(parents=True, exist_ok=True)
            with held(self.catalogue / _LOCK, busy=f"{self.folder}: another process is fetching into it"):
                for left in [*self.catalogue.glob(f".*{_MARK}.*"), *self.catalogue.glob(".*.csv.*")]:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                self._bind()
                yield self

    def _refuse_others(self) -> None:
        """Raise if the folder holds something that is not of a fetch."""
        if not (self.catalogue / _MARK).exists():
            # A process that was killed here leaves the folder of the catalogue, and in it hidden files alone.
            inside = [each for each in self.folder.glob("*") if each != self.catalogue]
            if inside or any(not each.name.startswith(".") for each in self.catalogue.glob("*")):
                raise OutputExistsError(
                    f"{self.folder} is not empty, and not of an earlier fetch.",
                    way_out="Nothing was changed. Choose another --out.",
                )

    def _bind(self) -> None:
        """Write down whose the folder is, unless it is known; raise if it is another site's."""
        mark = self.catalogue / _MARK
        if mark.exists():
            known = read_json(mark, kind=KIND, version=VERSION).get("base")
            if known == self.base:
                return
            if self._has_files():
                raise SettingsError(
                    f"{self.folder} was fetched from {known}, not from {self.base}.",
                    way_out="Choose another --out for another site, since releases do not mix, or remove the folder.",
                )
        written = self.catalogue / f".{_MARK}.new"
        write_json(written, {"base": self.base}, kind=KIND, version=VERSION)
        written.replace(mark)

    def _has_files(self) -> bool:
        """Return whether anything came: the table of genes, the XML of one, or a picture."""
        catalogue = (each for each in self.catalogue.glob("[!.]*") if each.name != _MARK)
        places = (*catalogue, *(self.folder / "images").rglob("*"))
        return any(each.is_file() for each in places) or bool(self.manifest())

    def part(self, file: str) -> Path:
        """Return where ``file`` is written until it is whole."""
        place = self.catalogue / "parts" / f"{file.replace('/', '_')}.part"
        place.parent.mkdir(exist_ok=True)
        return place

    def give_name(self, part: Path, file: str) -> None:
        """Give a whole part its final name."""
        target = self.folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)

    def tidy(self) -> None:
        """Remove notes of parts that are no longer there, and the folder of parts if none is left."""
        parts = self.catalogue / "parts"
        for note in parts.glob("*.note"):
            if not note.with_suffix("").exists():
                note.unlink()
        if parts.is_dir() and not any(parts.iterdir()):
            parts.rmdir()

    def manifest(self) -> dict[str, Came]:
        """Return the last row of each file; a row that a kill cut off is dropped from the disk.

        Raises:
            FormatError: If the manifest is damaged.
        """
        path = self.folder / MANIFEST
        if not path.exists():
            return {}
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
            content = content[: content.rfind(b"\n") + 1]
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _damaged(path, content.count(b"\n", 0, error.start) + 1, ": it is not UTF-8") from error
        rows = csv.reader(io.StringIO(text))
        found: dict[str, Came] = {}
        line = 1
        try:
            header = next(rows, list(Came._fields))
            if header != list(Came._fields):
                raise FormatError(
                    f"{path} is not a manifest of this version: it has the columns {', '.join(header)[:200]}.",
                    way_out="Move the folder away and fetch anew, or use the release of cytoloc that wrote it.",
                )
            line = 2
            for row in rows:
                if len(row) != len(header) or not row[4].isdecimal():
                    raise _damaged(path, line)
                came = Came(row[0], row[1], row[2], row[3], int(row[4]), *row[5:])
                found[came.file] = came
                line = rows.line_num + 1
        except csv.Error as error:
            # A quote that is not closed makes one cell of all that follows.
            raise _damaged(path, line) from error
        return found

    def is_here(self, came: Came, *, verify: bool) -> bool:
        """Return whether a file of the manifest is on the disk as it came; one that lacks but its name gets it.

        Args:
            came: Its row.
            verify: Read it all and compare the hash, instead of its size alone.
        """
        path = self.folder / came.file
        if path.exists():
            return _is(path, came, verify=verify)
        part = self.part(came.file)
        lacks_its_name = part.exists() and _is(part, came, verify=True)
        if lacks_its_name:
            self.give_name(part, came.file)
        return lacks_its_name

    def write_table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write a table of the folder, or replace it: whole, or as it was."""
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="", dir=self.catalogue, prefix=f".{name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            try:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(columns)
                writer.writerows(rows)
            except BaseException:
                temporary.unlink()
                raise
        temporary.chmod(0o644)
        temporary.replace(self.folder / name)

    def write_manifest(self, rows: Iterable[Came]) -> None:
        """Replace the manifest by one with a row a file, in order."""
        self.write_table(MANIFEST, Came._fields, sorted(rows))

    def write_failed(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Replace the list of what did not come; none is left if everything did."""
        every = sorted(rows)
        if every:
            self.write_table(FAILED, _FAILED_COLUMNS, every)
        else:
            (self.folder / FAILED).unlink(missing_ok=True)

    @contextmanager
    def log(self, name: str, columns: Sequence[str]) -> Iterator[Log]:
        """Lend a table to which rows are added; what is there is kept."""
        path = self.folder / name
        with path.open("ab", buffering=0) as file:
            log = Log(file.fileno())
            if path.stat().st_size == 0:
                log.add(columns)
            yield log


class Log:
    """Adds rows to a CSV, each in one write if the disk takes it; one that a full disk cut off is an error."""

    def __init__(self, number: int) -> None:
        self._number = number

    def add(self, row: Sequence[Any]) -> None:
        """Add a row."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        rest = text.getvalue().encode("utf-8")
        while rest:
            rest = rest[os.write(self._number, rest) :]


def _damaged(path: Path, line: int, why: str = "") -> FormatError:
    return FormatError(f"{path}, line {line}, is damaged{why}.", way_out="Remove that line; its file comes anew.")


def _is(path: Path, came: Came, *, verify: bool) -> bool:
    return path.stat().st_size == came.size_bytes and (not verify or sha256_of(path) == came.sha256)
