"""The folder that fetched files lie in: what came from where, what did not come, and one process at a time.

A file gets its name when it is whole and checked, and then its row in ``manifest.csv``; one without a row, which a
killed process leaves, is fetched again.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from cytoloc.errors import FormatError, OutputExistsError, SettingsError
from cytoloc.files import FileFormat, disk_errors, held, read_json, sha256_of, write_json

FETCH_FORMAT: Final = FileFormat("cytoloc-fetch", 1)

MANIFEST: Final = "manifest.csv"
FAILED: Final = "failed.csv"

CATALOG: Final = "catalog"
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
        license: Under which it was published.
        time: When it came, UTC, in ISO 8601.
        etag: What the site calls this state of the file.
    """

    file: str
    url: str
    release: str
    sha256: str
    size_bytes: int
    license: str
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
        self.catalog = folder / CATALOG
        self.base = base

    @contextmanager
    def opened(self) -> Iterator[Store]:
        """Hold the folder in the block."""
        with disk_errors(self.folder):
            self._refuse_others()
            self.catalog.mkdir(parents=True, exist_ok=True)
            with held(self.catalog / _LOCK, busy=f"{self.folder}: another process is fetching into it"):
                for pattern in (".*.part", f".*{_MARK}.*", ".*.csv.*"):
                    # What a killed process was writing.
                    for left in self.catalog.glob(pattern):
                        shutil.rmtree(left) if left.is_dir() else left.unlink()
                self._bind()
                yield self

    def _refuse_others(self) -> None:
        """Raise if the folder holds something that is not of a fetch."""
        strange = [each for each in self.folder.glob("*") if each != self.catalog]
        if not (self.catalog / _MARK).exists() and (strange or any(self.catalog.glob("[!.]*"))):
            raise OutputExistsError(
                f"{self.folder} is not empty, and not of an earlier fetch.",
                hint="Nothing was changed. Choose another --out.",
            )

    def _bind(self) -> None:
        """Write down whose the folder is, unless it is known; raise if it is another site's."""
        mark = self.catalog / _MARK
        if mark.exists():
            known = read_json(mark, FETCH_FORMAT).get("base")
            if known == self.base:
                return
            if self._has_files():
                raise SettingsError(
                    f"{self.folder} was fetched from {known}, not from {self.base}.",
                    hint="Choose another --out for another site, since releases do not mix, or remove the folder.",
                )
        written = self.catalog / f".{_MARK}.new"
        write_json(written, {"base": self.base}, FETCH_FORMAT)
        written.replace(mark)

    def _has_files(self) -> bool:
        """Return whether anything came: the table of genes, the XML of one, or an image."""
        catalog = (each for each in self.catalog.glob("[!.]*") if each.name != _MARK)
        places = (*catalog, *(self.folder / "images").rglob("*"))
        return any(each.is_file() for each in places) or bool(self.manifest())

    def part(self, file: str) -> Path:
        """Return where ``file`` is written until it is whole."""
        return self.catalog / f".{file.replace('/', '_')}.part"

    def give_name(self, part: Path, file: str) -> None:
        """Give a whole part its final name."""
        target = self.folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)

    def manifest(self) -> dict[str, Came]:
        """Return the last row of each file; a row that a kill cut off is dropped from the disk.

        Raises:
            FormatError: If the manifest is damaged.
        """
        path = self.folder / MANIFEST
        if not path.exists():
            return {}
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            path.write_bytes(whole)
        found: dict[str, Came] = {}
        rows = csv.reader(whole.decode("utf-8", errors="replace").splitlines(), strict=True)
        try:
            for row in rows:
                if rows.line_num == 1 and row != list(Came._fields):
                    raise FormatError(
                        f"{path} is not a manifest of this version: it has the columns {', '.join(row)[:200]}.",
                        hint="Move the folder away and fetch again, or use the release of cytoloc that wrote it.",
                    )
                if rows.line_num > 1:
                    came = Came(row[0], row[1], row[2], row[3], int(row[4]), *row[5:])
                    found[came.file] = came
        except (csv.Error, IndexError, TypeError, ValueError) as error:
            raise FormatError(
                f"{path}, line {rows.line_num}, is damaged.", hint="Remove that line; its file is fetched again."
            ) from error
        return found

    def is_here(self, came: Came, *, verify: bool) -> bool:
        """Return whether a file of the manifest is on the disk as it came.

        Args:
            came: Its row.
            verify: Read it all and compare the hash, instead of its size alone.
        """
        path = self.folder / came.file
        if not path.exists() or path.stat().st_size != came.size_bytes:
            return False
        return not verify or sha256_of(path) == came.sha256

    def write_table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write a table of the folder, or replace it: whole, or as it was."""
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="", dir=self.catalog, prefix=f".{name}.", delete=False
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
    def log(self, name: str, columns: Sequence[str]) -> Iterator[Callable[[Sequence[Any]], None]]:
        """Lend a function that adds a row to a table; what is there is kept."""
        path = self.folder / name
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")

            def add(row: Sequence[Any]) -> None:
                writer.writerow(row)
                file.flush()

            if path.stat().st_size == 0:
                add(columns)
            yield add
