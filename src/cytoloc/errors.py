"""The exceptions of cytoloc. Each message states what is wrong, where, and what was found; a hint states the fix."""

from __future__ import annotations

import errno
from collections.abc import Sequence

DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM})
"""Error numbers of the operating system for a disk that is full, read-only, over quota or not writable."""


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message without its period, or the exception's type if it has none.

    >>> first_line(ValueError("too long")), first_line(EOFError())
    ('too long', 'EOFError')
    """
    return next(
        (line.strip().rstrip(".") for line in str(error).splitlines() if line.strip(" .")), type(error).__name__
    )


def installing(extra: str) -> str:
    """Return the command that installs an optional part of cytoloc.

    >>> installing("nets")
    "pip install 'cytoloc[nets]', or in a clone pip install '.[nets]'"
    """
    return f"pip install 'cytoloc[{extra}]', or in a clone pip install '.[{extra}]'"


class CytolocError(Exception):
    """The base class of all errors that cytoloc raises deliberately.

    Each error also derives from the built-in class that a Python user expects, such as ``ValueError`` or ``OSError``.

    Args:
        message: What is wrong, where, and what was found.
        hint: How to fix it. It is printed on a separate line.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class SettingsError(CytolocError, ValueError):
    """Arguments or options that are unknown or contradict each other."""

    exit_code = 2


class ArgumentTypeError(CytolocError, TypeError):
    """An argument of the wrong type."""

    exit_code = 2


class UnknownIdError(CytolocError, KeyError):
    """An id of a field that a dataset or predictions do not contain."""


class ImageError(CytolocError, ValueError):
    """An image that is missing, damaged, or of an unsupported kind."""


class TableError(CytolocError, ValueError):
    """A table with wrong columns, ids or values."""


class LabelSetError(CytolocError, ValueError):
    """A label set that is invalid, or different label sets that are used together."""


class ChannelError(CytolocError, ValueError):
    """Channels that are missing or invalid, or differ from the channels that a model needs.

    Args:
        message: What is wrong, where, and what was found.
        hint: How to fix it.
        missing: The channels that images lack, if this is what is wrong.
    """

    def __init__(self, message: str, *, hint: str = "", missing: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.missing = tuple(missing)


class FormatError(CytolocError, ValueError):
    """A file of cytoloc that is missing, damaged, or of another type or version."""


class OutputExistsError(CytolocError, FileExistsError):
    """An output that exists already. Outputs are never overwritten, except images."""


class StorageError(CytolocError, OSError):
    """A disk that is full or read-only, or a failed read or write."""


class WorkerError(CytolocError, RuntimeError):
    """A worker process that ended unexpectedly."""


class RecipeError(CytolocError, ValueError):
    """A recipe that is unknown, or has an unknown key or an invalid value."""


class WeightsError(CytolocError, RuntimeError):
    """Pretrained weights that are not available. Random weights are never used instead."""


class TrainingError(CytolocError, RuntimeError):
    """A training run that cannot start or continue."""


class FetchError(CytolocError, ConnectionError):
    """A web site that cannot be reached, refuses access, or sends an invalid response."""


class BusyError(CytolocError, RuntimeError):
    """A service that has too much to do, or a port that another program uses."""


class FailedFieldsError(CytolocError, OSError):
    """More fields than allowed could not be read."""

    exit_code = 3


class ExportError(CytolocError, ValueError):
    """A network that cannot be converted to another library, or that computes other values there."""


class MissingExtraError(CytolocError, ImportError):
    """An optional library that is not installed."""


class ModelCaution(UserWarning):
    """A caution that the authors of a model give."""


class EngineWarning(UserWarning):
    """An engine that a model cannot use, so that another one computes it."""


class DatasetWarning(UserWarning):
    """A property of a dataset or import that the user should check."""


class IdWarning(UserWarning):
    """Ids of fields that do not agree between files, such as 980 and 0980."""
