"""The exceptions of cytoloc. Each message says what is wrong, where, and what was found; a hint says how to fix it."""

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
    """The base class of all errors that cytoloc raises on purpose.

    Each error also derives from the built-in class that a Python user expects, such as ``ValueError`` or ``OSError``.

    Args:
        message: What is wrong, where, and what was found.
        hint: How to fix it; printed on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class SettingsError(CytolocError, ValueError):
    """Arguments or options that are unknown or do not fit together."""

    exit_code = 2


class ArgumentTypeError(CytolocError, TypeError):
    """An argument of a type that a function does not accept."""

    exit_code = 2


class UnknownIdError(CytolocError, KeyError):
    """The id of a field that a dataset or predictions do not have."""


class ImageError(CytolocError, ValueError):
    """An image that is missing, damaged, or not of the expected kind."""


class TableError(CytolocError, ValueError):
    """A table with wrong columns, ids or values."""


class LabelSetError(CytolocError, ValueError):
    """A label set that is not valid, or two different label sets that are used together."""


class ChannelError(CytolocError, ValueError):
    """Channels that are missing, not valid, or not those that a model needs."""


class FormatError(CytolocError, ValueError):
    """One of cytoloc's own files that is missing, damaged, or of another type or version."""


class OutputExistsError(CytolocError, FileExistsError):
    """An output that already exists. Outputs are never overwritten."""


class StorageError(CytolocError, OSError):
    """A disk that is full, read-only, or refuses a write."""


class WorkerError(CytolocError, RuntimeError):
    """A worker process that was lost."""


class RecipeError(CytolocError, ValueError):
    """A recipe that is unknown, or has an unknown key or a value that is not valid."""


class WeightsError(CytolocError, RuntimeError):
    """Pretrained weights that are not available. Training never starts from random weights instead."""


class TrainingError(CytolocError, RuntimeError):
    """A training run that cannot start or continue."""


class FetchError(CytolocError, ConnectionError):
    """A site that cannot be reached, refuses access, or sends an invalid answer."""


class MissingExtraError(CytolocError, ImportError):
    """An optional library that is not installed."""


class ModelCaution(UserWarning):
    """A caution of the makers of a model."""


class DatasetWarning(UserWarning):
    """Something about a dataset or an import that the user should check."""
