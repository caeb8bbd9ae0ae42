"""The exceptions of cytoloc: one tree, each message saying what is wrong, where, and the hint."""

from __future__ import annotations

import errno

DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM})
"""What the operating system says when a disk is full, read-only, over quota or not ours to write."""


def first_line(error: BaseException) -> str:
    """Return what an exception says, without what follows on further lines; its kind if it says nothing.

    >>> first_line(ValueError("too long")), first_line(EOFError())
    ('too long', 'EOFError')
    """
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def installing(extra: str) -> str:
    """Return how an optional part is installed.

    >>> installing("nets")
    "pip install 'cytoloc[nets]', or in a clone pip install '.[nets]'"
    """
    return f"pip install 'cytoloc[{extra}]', or in a clone pip install '.[{extra}]'"


class CytolocError(Exception):
    """Something that the person at the keyboard can mend.

    Args:
        message: What is wrong, where, and what was found there.
        hint: What to do about it; printed on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class SettingsError(CytolocError):
    """A call whose settings are not understood or do not fit together."""

    exit_code = 2


class ImageError(CytolocError):
    """An image that is missing, broken, or not of the kind that its place asks for."""


class TableError(CytolocError):
    """A CSV or Parquet table whose columns, ids or values are not what they must be."""


class LabelSetError(CytolocError):
    """A label set that is not valid, or two things of different label sets that are used together."""


class ChannelError(CytolocError):
    """Channels that are not valid, are missing, or are not those that a model needs."""


class FormatError(CytolocError):
    """A file of cytoloc's own that is damaged, of another type, or of a version this release cannot read."""


class OutputExistsError(CytolocError):
    """An output that is already there: it is never overwritten."""


class StorageError(CytolocError):
    """A disk that is full, read-only, or refuses a write."""


class WorkerError(CytolocError):
    """A process that worked for this one and is gone."""


class RecipeError(CytolocError):
    """A recipe that is unknown, or has a key or a value it must not have."""


class WeightsError(CytolocError):
    """Pretrained weights that cannot be had; training never starts from random ones instead."""


class TrainingError(CytolocError):
    """A training run that cannot start or go on."""


class FetchError(CytolocError):
    """A site that cannot be reached, does not let us in, or answers with what it must not."""


class MissingExtraError(CytolocError):
    """A part of cytoloc whose libraries are not installed."""
