"""The quarantine: fields that could not be imported or predicted, with the reasons."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl

from cytoloc.errors import ImageError
from cytoloc.files import new_file

QUARANTINE: Final = "quarantine.csv"
"""The file of a dataset that lists the fields that could not be imported: CSV ``id,reason``."""


class Rejected(NamedTuple):
    """A field or file that was skipped, and the reason."""

    id: str
    reason: str


def rejected(name: str, error: ImageError) -> Rejected:
    """Return the quarantine entry for a field or file, with the message and hint of an error."""
    # Messages of libraries do not end with a period.
    stop = "" if error.message.endswith((".", "!", "?")) or not error.hint else "."
    return Rejected(printable(name), printable(f"{error.message}{stop} {error.hint}".rstrip()))


def refuse_unprintable(name: str) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` if a name is not one line of UTF-8 text; file names need not be."""
    if printable(name) != name:
        raise ImageError(
            f"The name {printable(name)} is not UTF-8 text, or contains a line break.", hint="Rename the files."
        )


def examples(quarantine: Sequence[Rejected], *, most: int = 3) -> list[Rejected]:
    """Return one entry for each kind of reason, ``most`` at most. Names and numbers in reasons are ignored."""
    kinds: dict[str, Rejected] = {}
    for each in quarantine:
        kinds.setdefault(re.sub(r"\S*[\d/_.]\S*", "", each.reason.replace(each.id, "")), each)
    return list(kinds.values())[:most]


def to_csv(rows: Iterable[Rejected]) -> bytes:
    """Return rejected fields as the content of a CSV file ``id,reason``."""
    return pl.DataFrame(list(rows), schema=list(Rejected._fields), orient="row").write_csv().encode()


def write_quarantine(quarantine: Iterable[Rejected], path: Path) -> None:
    """Write rejected fields to a new CSV file ``id,reason``."""
    with new_file(path) as temporary:
        temporary.write_bytes(to_csv(quarantine))


def from_csv(content: bytes) -> list[Rejected]:
    """Return the rejected fields in the content of a CSV file that :func:`to_csv` made."""
    table = pl.read_csv(io.BytesIO(content), infer_schema=False).select(Rejected._fields)
    return [Rejected(*row) for row in table.iter_rows()]


def still_rejected(imports: Iterable[tuple[Iterable[str], Iterable[Rejected]]]) -> list[Rejected]:
    """Return the rejections of all imports of a dataset that are still valid.

    A later rejection of an id replaces an earlier one. An id that a later import added is no longer rejected.

    Args:
        imports: For each import, in order, the ids that it added and the fields that it rejected.

    Returns:
        The rejected fields.

    >>> still_rejected([([], [Rejected("b", "empty"), Rejected("c", "empty")]), (["b"], [Rejected("c", "damaged")])])
    [Rejected(id='c', reason='damaged')]
    """
    left: dict[str, Rejected] = {}
    for added, rejections in imports:
        for name in added:
            left.pop(name, None)
        for each in rejections:
            left.pop(each.id, None)
            left[each.id] = each
    return list(left.values())


def printable(text: str) -> str:
    """Return text with control characters and bytes that are not UTF-8 as escape sequences."""
    whole = text.encode("utf-8", "backslashreplace").decode()
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda each: each[0].encode("unicode_escape").decode(), whole)
