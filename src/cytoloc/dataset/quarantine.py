"""Fields that were left out of a dataset or of predictions, each with the reason."""

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
"""The file of a dataset that lists what could not be imported: ``id,reason``."""


class Rejected(NamedTuple):
    """A field, or a file, that was left out."""

    id: str
    reason: str


def rejected(name: str, error: ImageError) -> Rejected:
    """Return the entry of a field, or a file, that ``error`` rejects: the message and the hint."""
    # Messages of libraries have no full stop.
    stop = "" if error.message.endswith((".", "!", "?")) or not error.hint else "."
    return Rejected(printable(name), printable(f"{error.message}{stop} {error.hint}".rstrip()))


def refuse_unprintable(name: str) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` if a name is no line of text: file names may be any bytes."""
    if printable(name) != name:
        raise ImageError(f"the name {printable(name)} is not UTF-8, or holds a line's end.", hint="Rename the files.")


def examples(quarantine: Sequence[Rejected], *, most: int = 3) -> list[Rejected]:
    """Return one entry for each kind of reason, at most ``most``; names and numbers in reasons are ignored."""
    kinds: dict[str, Rejected] = {}
    for each in quarantine:
        kinds.setdefault(re.sub(r"\S*[\d/_.]\S*", "", each.reason.replace(each.id, "")), each)
    return list(kinds.values())[:most]


def to_csv(rows: Iterable[Rejected]) -> bytes:
    """Return the CSV ``id,reason`` with these rows."""
    return pl.DataFrame(list(rows), schema=list(Rejected._fields), orient="row").write_csv().encode()


def write_quarantine(quarantine: Iterable[Rejected], path: Path) -> None:
    """Write the CSV ``id,reason`` at ``path``, which must be free."""
    with new_file(path) as temporary:
        temporary.write_bytes(to_csv(quarantine))


def from_csv(content: bytes) -> list[Rejected]:
    """Return the rows of what :func:`to_csv` returned."""
    table = pl.read_csv(io.BytesIO(content), infer_schema=False).select(Rejected._fields)
    return [Rejected(*row) for row in table.iter_rows()]


def still_rejected(imports: Iterable[tuple[Iterable[str], Iterable[Rejected]]]) -> list[Rejected]:
    """Return what is left of the rejections of all imports of a dataset.

    A later rejection of an id replaces an earlier one, and an id that a later import added is no longer rejected.

    Args:
        imports: For each import, in order, the ids that it added and the fields that it rejected.

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
    """Return ``text`` with bytes that are not UTF-8, and control characters, as escape sequences."""
    whole = text.encode("utf-8", "backslashreplace").decode()
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda each: each[0].encode("unicode_escape").decode(), whole)
