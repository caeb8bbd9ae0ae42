"""The output folder of a fetch: its files, their manifest, and its tables.

A file gets its final name when it is complete and valid, and then a row in ``manifest.csv``. A file without a row,
which an interrupted process can leave, is fetched again.
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
from cytoloc.files import FileFormat, disk_errors, locked, read_json, sha256_of, write_json

FETCH_FORMAT: Final = FileFormat("cytoloc-fetch", 1, "folder of `cytoloc fetch hpa`")

FETCHED_FILES: Final = "manifest.csv"
FAILED_FILES: Final = "failed.csv"
CATALOG: Final = "catalog"
_MARK: Final = "fetch.json"
_LOCK: Final = ".lock"
_FAILED_COLUMNS: Final = ("file", "url", "reason")


class FetchedFile(NamedTuple):
    """A row of the manifest.

    Attributes:
        file: Path relative to the folder.
        url: URL of the file.
        release: Release of the Human Protein Atlas.
        sha256: SHA-256 of the file.
        size_bytes: Size in bytes.
        license: License of the file.
        time: UTC time of the fetch in ISO 8601.
        etag: ``ETag`` header of the file.
    """

    file: str
    url: str
    release: str
    sha256: str
    size_bytes: int
    license: str
    time: str
    etag: str


class FetchFolder:
    """The output folder of a fetch.

    Args:
        folder: Path of the folder, which is created if it does not exist.
        base: URL of the site, or a description of the catalog. All files of a folder come from the same one.
    """

    def __init__(self, folder: Path, *, base: str) -> None:
        self.folder = folder
        self.catalog = folder / CATALOG
        self.base = base

    @contextmanager
    def opened(self) -> Iterator[FetchFolder]:
        """Lock the folder for this process.

        Raises:
            OutputExistsError: If the folder contains files that are not from a fetch.
            SettingsError: If the folder contains files from another site.
            StorageError: If another process is fetching into the folder.
        """
        with disk_errors(self.folder):
            strange = [each for each in self.folder.glob("*") if each != self.catalog]
            if not (self.catalog / _MARK).exists() and (strange or any(self.catalog.glob("[!.]*"))):
                raise OutputExistsError(
                    f"{self.folder} is not empty, and not the folder of an earlier fetch.",
                    hint="Nothing was changed. Choose another folder.",
                )
            self.catalog.mkdir(parents=True, exist_ok=True)
            with locked(self.catalog / _LOCK, busy=f"{self.folder}: another process is fetching into it"):
                for pattern in (".*.part", f".*{_MARK}.*", ".*.csv.*"):
                    # Temporary files of interrupted processes are removed.
                    for left in self.catalog.glob(pattern):
                        shutil.rmtree(left) if left.is_dir() else left.unlink()
                self._bind()
                yield self

    def _bind(self) -> None:
        """Record the site of the folder; raise if it contains files from another site."""
        mark = self.catalog / _MARK
        if mark.exists():
            known = read_json(mark, FETCH_FORMAT).get("base")
            if known == self.base:
                return
            catalog = (each for each in self.catalog.glob("[!.]*") if each.name != _MARK)
            places = (*catalog, *(self.folder / "images").rglob("*"))
            if any(each.is_file() for each in places) or self.manifest():
                raise SettingsError(
                    f"{self.folder} was fetched from {known}, not from {self.base}.",
                    hint="Choose another folder for each site, since releases must not be mixed.",
                )
        written = self.catalog / f".{_MARK}.new"
        write_json(written, {"base": self.base}, FETCH_FORMAT)
        written.replace(mark)

    def part(self, file: str) -> Path:
        """Return the temporary path of a file until it is complete."""
        return self.catalog / f".{file.replace('/', '_')}.part"

    def give_name(self, part: Path, file: str) -> None:
        """Rename a complete file to its final name."""
        target = self.folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)

    def manifest(self) -> dict[str, FetchedFile]:
        """Return the last row of each file, and remove an incomplete last line from the disk.

        Raises:
            FormatError: If the manifest is damaged.
        """
        path = self.folder / FETCHED_FILES
        if not path.exists():
            return {}
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            path.write_bytes(whole)
        found: dict[str, FetchedFile] = {}
        rows = csv.reader(whole.decode("utf-8", errors="replace").splitlines(), strict=True)
        try:
            header = next(rows, list(FetchedFile._fields))
            for row in rows if header == list(FetchedFile._fields) else ():
                found[row[0]] = FetchedFile(row[0], row[1], row[2], row[3], int(row[4]), *row[5:])
        except (csv.Error, IndexError, TypeError, ValueError) as error:
            raise FormatError(
                f"{path}, line {rows.line_num}, is damaged.", hint="Remove that line; its file will be fetched again."
            ) from error
        if header != list(FetchedFile._fields):
            raise FormatError(
                f"{path} is not a manifest of this format: it has the columns {', '.join(header)[:200]}.",
                hint="Move the folder away and fetch again, or use the version of cytoloc that wrote it.",
            )
        return found

    def is_here(self, row: FetchedFile, *, verify: bool) -> bool:
        """Return whether a file of the manifest is on disk and unchanged.

        Args:
            row: Row of the file in the manifest.
            verify: Compare the SHA-256, not only the size.

        Returns:
            False if the file is missing or has changed.
        """
        path = self.folder / row.file
        if not path.exists() or path.stat().st_size != row.size_bytes:
            return False
        return not verify or sha256_of(path) == row.sha256

    def write_table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write or replace a CSV table in the folder, atomically."""
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

    def write_manifest(self, rows: Iterable[FetchedFile]) -> None:
        """Replace the manifest, with rows sorted by file."""
        self.write_table(FETCHED_FILES, FetchedFile._fields, sorted(rows))

    def write_failed(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Replace the table of failed files, or remove it if there are none."""
        every = sorted(rows)
        if every:
            self.write_table(FAILED_FILES, _FAILED_COLUMNS, every)
        else:
            (self.folder / FAILED_FILES).unlink(missing_ok=True)

    @contextmanager
    def log(self) -> Iterator[Callable[[FetchedFile], None]]:
        """Yield a function that appends a row to the manifest."""
        path = self.folder / FETCHED_FILES
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")

            def add(row: Sequence[Any]) -> None:
                writer.writerow(row)
                file.flush()

            if path.stat().st_size == 0:
                add(FetchedFile._fields)
            yield add
