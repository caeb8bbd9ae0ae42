"""Limits and errors that all image readers share."""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cytoloc.errors import CytolocError, ImageError, StorageError, first_line

MAX_EDGE_PX: Final = 16_384
"""Maximum edge length of an image, four times that of a large camera. Larger images are slide scans, or damaged."""

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
    (b"\xd0\xcf\x11\xe0", "OIB"),
    (b"\xff\xfe[\0", "OIF"),
    (b"[", "OIF"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
)


def read_bytes(path: Path, *, kind: str) -> bytes:
    """Read a file of a given kind.

    Args:
        path: The file.
        kind: The kind of file, a name in :data:`MAGIC`.

    Returns:
        The content.

    Raises:
        ImageError: If the file is missing, unreadable or empty, or its content is of another kind.
    """
    with decoding(path):
        content = path.read_bytes()
    refuse_other_kind(content[:16], path, kind=kind)
    return content


def refuse_other_kind(head: bytes, path: Path, *, kind: str) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` unless the first bytes of a file are of the given kind."""
    if not head:
        raise ImageError(f"{path} is empty (0 bytes).", hint="Copy or download the file again.")
    found = next((name for magic, name in MAGIC if head.startswith(magic)), None)
    if found != kind:
        what = f"a {found} file, although its name says {kind}" if found else f"not a {kind} file"
        raise ImageError(f"{path} is {what}.", hint="Replace or rename the file.")


def refuse_edges(height: int, width: int, path: Path) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` if an image is too large for a field, before it is decoded."""
    if max(height, width) > MAX_EDGE_PX:
        raise ImageError(
            f"{path} states a size of {width} x {height} px, but fields have at most {MAX_EDGE_PX} px per edge.",
            hint="Divide slide scans into fields first.",
        )
    if min(height, width) < 1:
        raise ImageError(f"{path} states a size of {width} x {height} px.", hint="Copy or download the file again.")


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
"""Errors of the operating system that are caused by this process or the network, not by the file."""


def truncated(path: Path, found: str) -> ImageError:
    """Return the error for a file of which a part is missing.

    Args:
        path: The file.
        found: What was found, such as "plane 3 is incomplete".

    Returns:
        The error, to be raised.
    """
    return ImageError(f"{path} is truncated or damaged: {found}.", hint="Copy or download the file again.")


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turn exceptions of decoders into :class:`~cytoloc.errors.ImageError` that name the file.

    Errors that are not caused by the file, such as too many open files, become :class:`~cytoloc.errors.StorageError`.
    These stop an import, which would otherwise reject all following files.
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
                f"{path} cannot be read now: {error.strerror}.",
                hint="Fix the problem, and rerun the command to continue.",
            ) from error
        raise ImageError(
            f"{path} cannot be read: {error.strerror or error}.", hint="Check the file and its permissions."
        ) from error
    except MemoryError as error:
        raise ImageError(
            f"{path} needs more memory than is available.", hint="Copy or download the file again."
        ) from error
    except (EOFError, struct.error) as error:
        # What the file states is longer than the file.
        raise truncated(path, f"it ends too early ({first_line(error)})") from error
    except Exception as error:
        # Decoders raise anything from KeyError to RuntimeError for files that they do not understand. Memory addresses
        # are removed, because they would make each list of such files different.
        reason = re.sub(r" at 0x[0-9a-f]+", "", first_line(error)).rstrip(".")
        raise ImageError(
            f"{path} could not be read: {reason}.",
            hint="Open it in the program that wrote it. If it opens, export it as OME-TIFF; if not, copy it again.",
        ) from error


@contextmanager
def located(where: str) -> Iterator[None]:
    """Prefix the message of an :class:`~cytoloc.errors.ImageError` in the block with ``where``, unless it has it."""
    try:
        yield
    except ImageError as error:
        if error.message.startswith(where):
            raise
        raise ImageError(f"{where}: {error.message}", hint=error.hint) from error
