"""Writing files atomically, each with its format and version."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from cytoloc.errors import (
    DISK_ERRNOS,
    CytolocError,
    FormatError,
    ImageError,
    OutputExistsError,
    SettingsError,
    StorageError,
    TableError,
)

IMAGE_SUFFIXES: Final = (".png", ".svg", ".pdf")
"""The endings of figures."""


class FileFormat(NamedTuple):
    """The name and version of a file format, which each file states so that readers can refuse unknown formats."""

    name: str
    version: int
    source: str = ""
    """What users know the file as, and the command that writes it, for hints."""

    @property
    def description(self) -> str:
        """The file and the command that writes it."""
        return self.source or f"file of the format {self.name}"

    @property
    def header(self) -> dict[str, Any]:
        """The keys that state the format in a JSON file."""
        return {"format": self.name, "version": self.version}


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Provide a temporary path that is renamed to ``path`` if the block succeeds.

    The temporary file is in the same folder, so renaming is atomic. Missing parent folders are created.

    Args:
        path: The new file.

    Yields:
        The temporary path.

    Raises:
        OutputExistsError: If ``path`` exists, before or after the block.
        StorageError: If the disk is full, read-only or not writable.
    """
    refuse_existing(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _folder_beside(path) as folder:
            # The suffix is kept, because many writers choose the file format by it.
            temporary = Path(folder) / path.name
            yield temporary
            refuse_existing(path)
            temporary.replace(path)


def _folder_beside(path: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    except FileNotFoundError as error:
        raise _takes_none(path.parent) from error


def _takes_none(folder: Path) -> StorageError:
    # The folder exists. Some file systems, such as /proc, report that it does not when a file is created.
    return StorageError(f"{folder} does not accept new files.", hint="Choose an output on a writable disk.")


@contextmanager
def new_files(*paths: Path, images: Sequence[Path] = ()) -> Iterator[dict[Path, Path]]:
    """Provide a temporary path for each file; all files are renamed together, and only if the block succeeds.

    Args:
        paths: New files.
        images: PNG, SVG or PDF files. Existing ones are replaced; an image that the block does not write stays as it
            is. If renaming fails in between, the first images may be lost.

    Yields:
        The temporary path of each file.

    Raises:
        OutputExistsError, SettingsError, StorageError: For the reasons of :func:`check_outputs` and :func:`new_file`.
    """
    check_outputs(*paths, images=images)
    temporaries: dict[Path, Path] = {}
    with ExitStack() as stack:
        for path in (*paths, *images):
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                folder = _folder_beside(path)
            temporaries[path] = Path(stack.enter_context(folder)) / path.name
        try:
            yield temporaries
        except StorageError as error:
            for path, temporary in temporaries.items():
                error.message = error.message.replace(str(temporary), str(path))
            raise StorageError(error.message, hint=error.hint) from error
        check_outputs(*paths, images=images)
        named: list[Path] = []
        try:
            for path, temporary in temporaries.items():
                if path in images and not temporary.exists():
                    continue
                with disk_errors(path):
                    temporary.replace(path)
                named.append(path)
        except BaseException:
            for path in named:
                path.unlink()
            raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Provide a temporary folder that is renamed to ``path`` if the block succeeds; see :func:`new_file`."""
    refuse_existing(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        except FileNotFoundError as error:
            raise _takes_none(path.parent) from error
        try:
            yield temporary
            refuse_existing(path)
            temporary.chmod(0o755)
            temporary.rename(path)
        except BaseException:
            # Cleaning up may fail on a disk that cannot be written; the first error is the relevant one.
            with suppress(OSError):
                shutil.rmtree(temporary)
            raise


def refuse_existing(path: Path, *, hint: str = "Remove it or choose another output.") -> None:
    """Raise if something exists at a path.

    Args:
        path: The path of an output.
        hint: The hint of the error.

    Raises:
        OutputExistsError: If something exists at the path.
        SettingsError: If the path is a URL.
    """
    refuse_url(path)
    if path.exists() or path.is_symlink():
        raise OutputExistsError(f"{path} already exists.", hint=f"Nothing was changed. {hint}")


def refuse_url(path: Path) -> None:
    """Raise :class:`~cytoloc.errors.SettingsError` if an output is a URL, because only local files are written."""
    # A Path turns two slashes into one.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise SettingsError(
            f"{str(path).replace(':/', '://', 1)} is a URL, but cytoloc writes local files only.",
            hint="Choose a local path, and copy the result to the URL.",
        )


def refuse_given_twice(paths: Iterable[Path]) -> None:
    """Raise :class:`~cytoloc.errors.SettingsError` if two paths are the same file or folder."""
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise SettingsError(f"{path} is given twice.", hint="Give each path once.")
        seen.add(path.resolve())


def check_outputs(*paths: Path, images: Sequence[Path] = ()) -> None:
    """Raise unless all outputs can be written.

    Args:
        paths: New files.
        images: PNG, SVG or PDF files, which may exist.

    Raises:
        SettingsError: If two outputs are the same file, or the name of an image has another ending.
        OutputExistsError: If one of ``paths`` exists.
        StorageError: If a parent folder is a file, or not writable.
    """
    for path in images:
        refuse_url(path)
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.is_dir():
            raise SettingsError(
                f"{path} is not the name of a PNG, SVG or PDF file.",
                hint="Choose a name that ends in .png, .svg or .pdf.",
            )
    places = [*paths, *images]
    for number, path in enumerate(places):
        if path.resolve() in [other.resolve() for other in places[:number]]:
            raise SettingsError(f"{path} was given for two outputs.", hint="Give each output its own name.")
        if path not in images:
            refuse_existing(path)
        above = next(each for each in path.absolute().parents if each.exists())
        with disk_errors(path):
            if not above.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if not os.access(above, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@contextmanager
def locked(lock: Path, *, busy: str) -> Iterator[None]:
    """Hold a lock file during the block, and remove it afterwards.

    Args:
        lock: The lock file. Missing parent folders are created. A file that a killed process left is taken over.
        busy: The message if another process holds the lock, without a period.

    Raises:
        StorageError: If another process holds the lock, or the folder does not accept new files.
    """
    from filelock import FileLock, Timeout  # imported here so that commands without locks start faster

    holder = FileLock(lock, timeout=0)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        holder.acquire()
    except Timeout as error:
        raise StorageError(f"{busy}.", hint="Wait until it has finished.") from error
    except FileNotFoundError as error:
        raise _takes_none(next(each for each in lock.absolute().parents if each.exists())) from error
    try:
        yield
    finally:
        # Windows does not remove open files; an empty lock file does no harm.
        with suppress(OSError):
            lock.unlink()
        holder.release()


FREE_SPACE: Final = "Free space, or choose an output on a writable disk."
"""The hint for a full or read-only disk."""


@contextmanager
def disk_errors(path: Path, *, kept: Path | None = None) -> Iterator[None]:
    """Turn errors of the operating system about a full or read-only disk into :class:`StorageError`.

    Args:
        path: The file or folder that is written.
        kept: A file that lists finished parts. If it exists, the hint says that these are kept.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, CytolocError) and not isinstance(error, StorageError):
            raise
        known = error if isinstance(error, StorageError) else storage_error(error, path)
        if known is not None and known.hint == FREE_SPACE and kept is not None and kept.exists():
            hint = f"{FREE_SPACE} Everything that {kept} lists is kept: rerun the same command to continue."
            known = StorageError(known.message, hint=hint)
        if known is None or known is error:
            raise
        raise known from error


def storage_error(error: OSError, path: Path | str) -> StorageError | None:
    """Return the :class:`StorageError` for an error of the operating system; None if it is of another kind.

    Args:
        error: The error.
        path: The file or folder that is written.

    Returns:
        The error to raise instead.
    """
    if isinstance(error, (NotADirectoryError, FileExistsError)):
        return StorageError(
            f"{path} cannot be written, because a parent folder is a file.", hint="Choose another output."
        )
    number = error_number(error)
    if number == errno.ENAMETOOLONG:
        return StorageError(f"The name {path} is too long for this disk.", hint="Choose a shorter name.")
    if number in DISK_ERRNOS:
        return StorageError(f"{path} cannot be written: {os.strerror(number)}.", hint=FREE_SPACE)
    return None


def error_number(error: OSError) -> int | None:
    """Return the number of an error of the operating system. polars states it in its message only."""
    found = re.search(r"\(os error (\d+)\)", str(error)) if error.errno is None else None
    return int(found[1]) if found else error.errno


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_synced(path: Path, *parts: bytes) -> None:
    """Write or overwrite a file, and wait until its content is on the disk."""
    with path.open("wb") as stream:
        stream.writelines(parts)
        stream.flush()
        os.fsync(stream.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Replace the content of a file atomically, so that readers see either the old or the new content."""
    beside = path.with_name(f".{path.name}.new")
    write_synced(beside, content)
    beside.replace(path)


def write_json(path: Path, content: dict[str, Any], file_format: FileFormat) -> None:
    """Write a new JSON file that states its ``format`` and ``version``.

    Args:
        path: The new file.
        content: JSON values.
        file_format: The format.

    Raises:
        OutputExistsError: If the file exists.
    """
    with new_file(path) as temporary:
        temporary.write_bytes(json_bytes(content, file_format))


def json_bytes(content: dict[str, Any], file_format: FileFormat) -> bytes:
    """Return the content of a JSON file that states its ``format`` and ``version``."""
    text = json.dumps({**file_format.header, **content}, indent=2, allow_nan=False)
    return f"{text}\n".encode()


def read_json(path: Path, file_format: FileFormat) -> dict[str, Any]:
    """Read a JSON file that :func:`write_json` wrote.

    Args:
        path: The file.
        file_format: The expected format.

    Returns:
        The JSON values.

    Raises:
        FormatError: If the file does not exist, is not JSON, or states another format or version.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise FormatError(f"{path} does not exist.", hint=f"Give a {file_format.description}.") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error}.", hint="Check the path.") from error
    return parse_json(text, file_format, where=path)


def parse_json(text: bytes, file_format: FileFormat, *, where: Path | str) -> dict[str, Any]:
    """Return the JSON values in the content of a file that :func:`write_json` wrote.

    Args:
        text: The content.
        file_format: The expected format.
        where: The file, for error messages.

    Returns:
        The JSON values.

    Raises:
        FormatError: If the content is not JSON, or states another format or version.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{where} cannot be read as JSON: {error}.", hint=f"Give a {file_format.description}, or write it again."
        ) from error
    check_format(content if isinstance(content, dict) else {}, file_format, where=where)
    return dict(content)


def check_format(header: dict[str, Any], file_format: FileFormat, *, where: Path | str) -> None:
    """Raise :class:`~cytoloc.errors.FormatError` unless a header states the expected format and version."""
    if header.get("format") != file_format.name:
        raise FormatError(
            f"{where} is not a {file_format.name} file: its format is {header.get('format')!r}.",
            hint=f"Give a {file_format.description}.",
        )
    if header.get("version") != file_format.version:
        raise FormatError(
            f"{where} is a {file_format.name} file of version {header.get('version')!r}, but"
            f" this release reads version {file_format.version}.",
            hint="Use the release that wrote the file, or write it again with this release.",
        )


def existing(path: Path, *, error: type[CytolocError] = TableError, what: str = "file") -> Path:
    """Return a path if it exists, otherwise raise an error.

    Args:
        path: The path.
        error: The class of the error.
        what: The kind of file, for the message. A kind that ends in ``file`` must be a file, not a folder.

    Returns:
        The path.
    """
    if not path.exists():
        raise error(f"The {what} {path} does not exist.", hint="Check the path.")
    if what.endswith("file") and not path.is_file():
        raise error(
            f"{path} is {'a folder' if path.is_dir() else 'not a regular file'}, not a {what}.", hint="Check the path."
        )
    return path


_SYSTEM: Final = frozenset({"__macosx", "thumbs.db", "@eadir"})
"""Folders and files, in lower case, that operating systems add."""

_THUMBNAIL: Final = re.compile(r"(^|[\W_])thumb(nail)?s?([\W_]|$|[0-9a-f]{8}-)|\.oif\.files$")
"""Names of thumbnails, as MetaXpress and other programs write them beside images, and of the planes of OIF files."""


def walk_files(
    folder: Path, *, suffixes: tuple[str, ...], passing_over: Callable[[Path], bool] = lambda _folder: False
) -> Iterator[str]:
    """Yield the paths of all files in a folder whose names end in one of several suffixes, in no particular order.

    Suffixes match in any case. Hidden files, such as the ``._*`` files of macOS, and thumbnails are ignored. A folder
    whose name ends in ``.zarr`` is yielded like a file. The planes in ``*.oif.files`` folders belong to an OIF file.
    Links are followed, unless they lead to a loop.

    Args:
        folder: The folder. Its subfolders are searched too.
        suffixes: Suffixes in lower case.
        passing_over: A function that returns true for subfolders to skip.

    Yields:
        Paths relative to ``folder``.

    Raises:
        ImageError: If the folder does not exist, or a folder cannot be read.
    """
    if not folder.is_dir():
        raise ImageError(f"The folder {folder} does not exist.", hint="Give the folder of the image files.")
    yield from _below(os.fspath(folder), "", suffixes, frozenset(), passing_over)


def _below(
    place: str, inside: str, suffixes: tuple[str, ...], above: frozenset[str], passing_over: Callable[[Path], bool]
) -> Iterator[str]:
    """Yield the files in ``place`` for :func:`walk_files`; links to a folder in ``above`` are not followed."""
    trail = above | {os.path.realpath(place)}
    try:
        if above and passing_over(Path(place)):
            return
        with os.scandir(place) as entries:
            for entry in entries:
                name = entry.name.lower()
                if name.startswith(".") or name in _SYSTEM or _THUMBNAIL.search(name):
                    continue
                is_folder = False
                # A broken link is not a folder; it is treated as a file.
                with suppress(OSError):
                    is_folder = entry.is_dir()
                if is_folder and not name.endswith(".zarr"):
                    if os.path.realpath(entry.path) not in trail:
                        yield from _below(entry.path, f"{inside}{entry.name}/", suffixes, trail, passing_over)
                elif name.endswith(suffixes):
                    yield f"{inside}{entry.name}"
    except OSError as error:
        raise ImageError(f"{place} cannot be read: {error.strerror}.", hint="Check the file permissions.") from error
