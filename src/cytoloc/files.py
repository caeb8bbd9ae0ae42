"""Files as cytoloc writes them: whole or not at all, each with its format and version."""

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


class FileFormat(NamedTuple):
    """The name and the version that a file states, so that a reader can refuse what it does not know."""

    name: str
    version: int

    @property
    def header(self) -> dict[str, Any]:
        """What a JSON file of this format states."""
        return {"format": self.name, "version": self.version}


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Lend a temporary path that becomes ``path`` only if the block ends well.

    The temporary file lies in the same folder, so the move is atomic. Folders above ``path`` are made.

    Raises:
        OutputExistsError: If ``path`` is there already, before or after the block.
        StorageError: If the disk is full, read-only, or refuses.
    """
    refuse_existing(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _folder_beside(path) as folder:
            # The suffix is kept: many writers choose their format by it.
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
    # The folder is there: some file systems, such as /proc, take no new files and say that it is not.
    return StorageError(f"{folder} takes no new files.", hint="Choose an output on a disk that can be written.")


@contextmanager
def new_files(*paths: Path, images: Sequence[Path] = ()) -> Iterator[dict[Path, Path]]:
    """Lend a temporary path for each file; the files appear together, and only if the block succeeds.

    Args:
        paths: New files.
        images: PNG files, which may exist and are replaced; one that the block does not draw stays as it is. The first
            may be lost if a later one cannot get its name.

    Raises:
        OutputExistsError, SettingsError, StorageError: As :func:`check_outputs` and :func:`new_file`.
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
    """Lend a temporary folder that becomes ``path`` only if the block ends well; see :func:`new_file`."""
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
            # A disk that cannot be written may not let us tidy up either; the first error is the one to show.
            with suppress(OSError):
                shutil.rmtree(temporary)
            raise


def refuse_existing(path: Path, *, hint: str = "Remove it or choose another output.") -> None:
    """Raise unless nothing lies at ``path``.

    Raises:
        OutputExistsError: If something lies there.
        SettingsError: If it is a URL.
    """
    refuse_url(path)
    if path.exists() or path.is_symlink():
        raise OutputExistsError(f"{path} already exists.", hint=f"Nothing was changed. {hint}")


def refuse_url(path: Path) -> None:
    """Raise :class:`~cytoloc.errors.SettingsError` if an output is at a URL, where nothing can be written."""
    # A Path makes one slash of two.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise SettingsError(
            f"{str(path).replace(':/', '://', 1)} is a URL; cytoloc writes files on this machine only.",
            hint="Choose a local path, and copy the result there.",
        )


def refuse_given_twice(paths: Iterable[Path]) -> None:
    """Raise :class:`~cytoloc.errors.SettingsError` if two of these files or folders are one, whatever their names."""
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise SettingsError(f"{path} is given twice.", hint="Give each once.")
        seen.add(path.resolve())


def check_outputs(*paths: Path, images: Sequence[Path] = ()) -> None:
    """Raise unless files can be written at all these places.

    Raises:
        SettingsError: If two are the same file, or an image's name is not that of a PNG file.
        OutputExistsError: If something lies at one of ``paths``.
        StorageError: If the folder of one is a file, or cannot be written.
    """
    for path in images:
        refuse_url(path)
        if path.suffix.lower() != ".png" or path.is_dir():
            raise SettingsError(f"{path} is not the name of a PNG file.", hint="Choose a name that ends in .png.")
    places = [*paths, *images]
    for number, path in enumerate(places):
        if path.resolve() in [other.resolve() for other in places[:number]]:
            raise SettingsError(f"{path} was given for two outputs.", hint="Give each a name of its own.")
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
    """Hold a lock file in the block; the file is removed afterwards.

    Args:
        lock: The file. Folders above it are made; a file that a killed process left is taken over.
        busy: The message if another process holds it.

    Raises:
        StorageError: If another process holds it, or the folder takes no new files.
    """
    from filelock import FileLock, Timeout  # here, so that commands which lock nothing start at once

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
        # Windows removes no file that is open; an empty lock file does no harm.
        with suppress(OSError):
            lock.unlink()
        holder.release()


FREE_SPACE: Final = "Free space, or choose an output on a disk that can be written."
"""The hint of a full or read-only disk."""


@contextmanager
def disk_errors(path: Path, *, kept: Path | None = None) -> Iterator[None]:
    """Turn errors of the operating system about a full or read-only disk into a :class:`StorageError`.

    Args:
        path: What is being written.
        kept: A file that lists what is already complete; the error names it if it is there.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, CytolocError) and not isinstance(error, StorageError):
            raise
        known = error if isinstance(error, StorageError) else storage_error(error, path)
        if known is not None and known.hint == FREE_SPACE and kept is not None and kept.exists():
            hint = f"{FREE_SPACE} What {kept} lists is complete and kept: rerun the same command to continue."
            known = StorageError(known.message, hint=hint)
        if known is None or known is error:
            raise
        raise known from error


def storage_error(error: OSError, path: Path | str) -> StorageError | None:
    """Return the :class:`StorageError` that ``error`` means for ``path``, or None if it is of another kind."""
    if isinstance(error, (NotADirectoryError, FileExistsError)):
        return StorageError(
            f"{path} cannot be written: something above it is a file, not a folder.", hint="Choose another output."
        )
    number = error_number(error)
    if number == errno.ENAMETOOLONG:
        return StorageError(f"The name {path} is too long for this disk.", hint="Choose a shorter one.")
    if number in DISK_ERRNOS:
        return StorageError(f"{path} cannot be written: {os.strerror(number)}.", hint=FREE_SPACE)
    return None


def error_number(error: OSError) -> int | None:
    """Return the number of an error of the operating system; polars states it in its message only."""
    found = re.search(r"\(os error (\d+)\)", str(error)) if error.errno is None else None
    return int(found[1]) if found else error.errno


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_synced(path: Path, *parts: bytes) -> None:
    """Write or overwrite a file, and wait until its bytes are on the disk."""
    with path.open("wb") as stream:
        stream.writelines(parts)
        stream.flush()
        os.fsync(stream.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Replace the content of a file in one step: readers see either the old or the new content."""
    beside = path.with_name(f".{path.name}.new")
    write_synced(beside, content)
    beside.replace(path)


def write_json(path: Path, content: dict[str, Any], file_format: FileFormat) -> None:
    """Write ``content`` as JSON that states its ``format`` and ``version``, to a path that must be free."""
    with new_file(path) as temporary:
        temporary.write_bytes(json_bytes(content, file_format))


def json_bytes(content: dict[str, Any], file_format: FileFormat) -> bytes:
    """Return ``content`` as the bytes of a JSON file that states its ``format`` and ``version``."""
    text = json.dumps({**file_format.header, **content}, indent=2, allow_nan=False)
    return f"{text}\n".encode()


def read_json(path: Path, file_format: FileFormat) -> dict[str, Any]:
    """Return what :func:`write_json` wrote.

    Raises:
        FormatError: If there is no such file, it is no JSON, or it states another format or version.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise FormatError(f"{path} does not exist.", hint=f"A {file_format.name} file was expected.") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error}.") from error
    return parse_json(text, file_format, where=path)


def parse_json(text: bytes, file_format: FileFormat, *, where: Path | str) -> dict[str, Any]:
    """Return what :func:`write_json` wrote, from its bytes.

    Raises:
        FormatError: If it is no JSON, or states another format or version.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{where} cannot be read as JSON: {error}.", hint=f"Give a {file_format.name} file, or write it again."
        ) from error
    check_format(content if isinstance(content, dict) else {}, file_format, where=where)
    return dict(content)


def check_format(header: dict[str, Any], file_format: FileFormat, *, where: Path | str) -> None:
    """Raise :class:`~cytoloc.errors.FormatError` unless ``header`` states this format and version."""
    if header.get("format") != file_format.name:
        raise FormatError(
            f"{where} is not a {file_format.name} file: its format is {header.get('format')!r}.",
            hint=f"Give a {file_format.name} file.",
        )
    if header.get("version") != file_format.version:
        raise FormatError(
            f"{where} is a {file_format.name} file of version {header.get('version')!r};"
            f" this release reads version {file_format.version}.",
            hint="Use the release that wrote it, or write it again with this one.",
        )


def existing(path: Path, *, error: type[CytolocError] = TableError, what: str = "file") -> Path:
    """Return ``path`` if it is there, else raise ``error`` saying which ``what`` is missing."""
    if not path.exists():
        raise error(f"{path}: there is no such {what}.", hint="Check the path.")
    if what.endswith("file") and not path.is_file():
        raise error(
            f"{path} is {'a folder' if path.is_dir() else 'no plain file'}, not a {what}.", hint="Check the path."
        )
    return path


def walk_files(
    folder: Path, *, suffixes: tuple[str, ...], passing_over: Callable[[Path], bool] = lambda _folder: False
) -> Iterator[str]:
    """Yield the path below ``folder`` of every file whose name ends in one of ``suffixes``, in no order.

    Names of any case count, hidden ones do not; a folder whose name ends in ``.zarr`` counts as a file. Links are
    followed, loops are not; folders for which ``passing_over`` returns true are skipped.

    Raises:
        ImageError: If there is no such folder, or one in it cannot be read.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder}: there is no such folder.", hint="Give the folder that holds the files.")
    yield from _below(os.fspath(folder), "", suffixes, frozenset(), passing_over)


def _below(
    place: str, inside: str, suffixes: tuple[str, ...], above: frozenset[str], passing_over: Callable[[Path], bool]
) -> Iterator[str]:
    """Yield what :func:`walk_files` does of the folder ``place``; no link leads back ``above``."""
    trail = above | {os.path.realpath(place)}
    try:
        if above and passing_over(Path(place)):
            return
        with os.scandir(place) as entries:
            for entry in entries:
                name = entry.name.lower()
                if name.startswith("."):
                    continue
                is_folder = False
                # A link that leads nowhere is no folder; it is read, or refused, as a file.
                with suppress(OSError):
                    is_folder = entry.is_dir()
                if is_folder and not name.endswith(".zarr"):
                    if os.path.realpath(entry.path) not in trail:
                        yield from _below(entry.path, f"{inside}{entry.name}/", suffixes, trail, passing_over)
                elif name.endswith(suffixes):
                    yield f"{inside}{entry.name}"
    except OSError as error:
        raise ImageError(f"{place} cannot be read: {error.strerror}.", hint="Make it readable.") from error
