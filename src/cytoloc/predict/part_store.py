"""Where parts of predictions are stored: a local folder, or a folder of a bucket."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from cytoloc.errors import MissingExtraError, StorageError, first_line, installing
from cytoloc.files import write_synced


class PartStore(Protocol):
    """A folder of small files, each of which is written whole or not at all."""

    @property
    def name(self) -> str:
        """The path or URL of the folder."""

    def names(self) -> set[str]:
        """Return the names of all files."""

    def read(self, name: str) -> bytes:
        """Return the content of a file."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it."""


class LocalStore:
    """A local folder, which is created when the first file is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = str(folder)

    def names(self) -> set[str]:
        """Return the names of all files; none if there is no folder."""
        return {each.name for each in self.folder.iterdir()} if self.folder.is_dir() else set()

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return (self.folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it.

        Raises:
            StorageError: If the disk is full, read-only or not writable.
        """
        from cytoloc.files import disk_errors

        with disk_errors(self.folder / name):
            self.folder.mkdir(parents=True, exist_ok=True)
            # Jobs that start together write the same manifest, so each needs a file of its own.
            beside = self.folder / f".{name}.{uuid4().hex}.new"
            try:
                write_synced(beside, content)
                beside.replace(self.folder / name)
            finally:
                beside.unlink(missing_ok=True)


class BucketStore:
    """A folder of a bucket, through fsspec: ``s3://BUCKET/FOLDER``, ``gs://BUCKET/FOLDER`` and others.

    Args:
        url: The URL of the folder.

    Raises:
        MissingExtraError: If the library for this kind of bucket is not installed.
        StorageError: If the URL has a kind that fsspec does not know.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.name = url.rstrip("/")
        try:
            self._system, self._root = fsspec.core.url_to_fs(self.name)
        except ImportError as error:
            raise MissingExtraError(f"{url} cannot be written: {error}.", hint=installing("cloud")) from error
        except ValueError as error:
            raise StorageError(f"{url} cannot be written: {error}.", hint="Give a path, or s3:// or gs://.") from error

    def names(self) -> set[str]:
        """Return the names of all files.

        Raises:
            StorageError: If the bucket does not exist or cannot be read.
        """

        def listed() -> set[str]:
            self._system.invalidate_cache()
            try:
                # A folder that was made in a console has a marker whose name is empty.
                return {path.rsplit("/", 1)[-1] for path in self._system.ls(self._root, detail=False)} - {""}
            except FileNotFoundError:
                bucket = self._root.split("/", 1)[0]
                self._system.ls(bucket)  # raises if there is no bucket either
                return set()

        found: set[str] = self._attempt(listed)
        return found

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            StorageError: If the file cannot be read.
        """
        content: bytes = self._attempt(lambda: self._system.cat_file(f"{self._root}/{name}"))
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it.

        Raises:
            StorageError: If the bucket cannot be written.
        """
        self._attempt(lambda: self._system.pipe_file(f"{self._root}/{name}", content))

    def _attempt(self, action: Any) -> Any:
        try:
            return action()
        # Libraries of buckets raise errors of their own; all of them mean that the bucket did not do it.
        except Exception as error:
            raise StorageError(
                f"{self.name} cannot be read or written: {first_line(error)}.",
                hint="Check the bucket, the network and the credentials. Rerun the command to continue.",
            ) from error


def open_store(out: str | Path) -> PartStore:
    """Return the store for a local folder or a URL."""
    text = str(out)
    return BucketStore(text) if "://" in text else LocalStore(Path(out))
