"""Limits and errors that all readers of image files share."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cytoloc.errors import CytolocError, ImageError, StorageError, first_line

MAX_EDGE_PX: Final = 16_384
"""The largest edge that is decoded, four times that of a big camera; a larger image is a slide scan, or damaged."""

MAGIC: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"ZISRAWFILE", "CZI"),
    (b"\xda\xce\xbe\n", "ND2"),
    (b"\x0cjP  \r\n\x87\n", "ND2"),
    (b"\x70\0\0\0", "LIF"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
)


def read_bytes(path: Path, *, kind: str) -> bytes:
    """Return the content of a file that must be a ``kind`` (a name in :data:`MAGIC`).

    Raises:
        ImageError: If it is missing, cannot be read, is empty, or is something else, whatever its name says.
    """
    with decoding(path):
        content = path.read_bytes()
    refuse_other_kind(content[:16], path, kind=kind)
    return content


def refuse_other_kind(head: bytes, path: Path, *, kind: str) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` unless the first bytes of ``path`` are those of a ``kind``."""
    if not head:
        raise ImageError(f"{path} is empty (0 bytes).", hint="Copy or download the file again.")
    found = next((name for magic, name in MAGIC if head.startswith(magic)), None)
    if found != kind:
        what = f"a {found} file, not a {kind} file as its name says" if found else f"not a {kind} file"
        raise ImageError(f"{path} is {what}.", hint="Replace or rename the file.")


def refuse_edges(height: int, width: int, path: Path) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` if an image is too large to be a field, before it is decoded."""
    if max(height, width) > MAX_EDGE_PX:
        raise ImageError(
            f"{path} says that it is {width} x {height} px; more than {MAX_EDGE_PX} px an edge is not a field of view.",
            hint="Cut slide scans into fields first.",
        )
    if min(height, width) < 1:
        raise ImageError(f"{path} says that it is {width} x {height} px.", hint="Copy or download the file again.")


_NOT_THE_FILE: Final = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.ECONNRESET,
        errno.ECONNREFUSED,
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)
"""Errors of the operating system that concern this process or the network, not the file."""


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises over ``path`` into an :class:`~cytoloc.errors.ImageError` that names it.

    Errors that do not concern the file, such as too many open files, become :class:`~cytoloc.errors.StorageError`. They
    stop an import, which would otherwise reject every file that follows.
    """
    try:
        yield
    except CytolocError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist.", hint="Check the path.") from None
    except OSError as error:
        if error.errno in _NOT_THE_FILE:
            raise StorageError(
                f"{path} cannot be read now: {error.strerror}.", hint="Fix that and rerun the command to continue."
            ) from error
        raise ImageError(f"{path} cannot be read: {error.strerror or error}.") from error
    except MemoryError as error:
        raise ImageError(f"{path} asks for more memory than there is.", hint="Copy or download it again.") from error
    except Exception as error:
        # Decoders raise anything from struct.error to RuntimeError for damaged files.
        # Addresses in memory would make every list of bad files different.
        reason = re.sub(r" at 0x[0-9a-f]+", "", first_line(error)).rstrip(".")
        raise ImageError(
            f"{path} is truncated or damaged: {reason}.", hint="Copy or download the file again."
        ) from error


@contextmanager
def located(where: str) -> Iterator[None]:
    """Put ``where`` before the message of any :class:`~cytoloc.errors.ImageError` in the block that lacks it."""
    try:
        yield
    except ImageError as error:
        if error.message.startswith(where):
            raise
        raise ImageError(f"{where}: {error.message}", hint=error.hint) from error
