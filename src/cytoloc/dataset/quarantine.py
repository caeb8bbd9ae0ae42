"""Fields that were left out, each with the reason: a bad file is listed, and the work goes on."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
    """Return the entry of a field, or a file, that ``error`` rejects: what is wrong, and the way out."""
    # What a library says has no full stop.
    stop = "" if error.message.endswith((".", "!", "?")) or not error.way_out else "."
    return Rejected(printable(name), printable(f"{error.message}{stop} {error.way_out}".rstrip()))


def refuse_unprintable(name: str) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` if a name is no line of text: file names may be any bytes."""
    if printable(name) != name:
        raise ImageError(
            f"the name {printable(name)} is not UTF-8, or holds a line's end.", way_out="Rename the files."
        )


def examples(quarantine: Sequence[Rejected], *, most: int = 3) -> list[Rejected]:
    """Return an entry for each of the different reasons, at most so many; names and numbers make no difference."""
    kinds: dict[str, Rejected] = {}
    for each in quarantine:
        kinds.setdefault(re.sub(r"\S*[\d/_.]\S*", "", each.reason.replace(each.id, "")), each)
    return list(kinds.values())[:most]


def read_quarantine(dataset: Path) -> list[Rejected]:
    """Return what was left out when the dataset in the folder ``dataset`` was imported."""
    file = dataset / QUARANTINE
    if not file.exists():
        return []
    table = pl.read_csv(file, infer_schema=False, glob=False).select(Rejected._fields)
    return [Rejected(*row) for row in table.iter_rows()]


def write_quarantine(quarantine: Sequence[Rejected], path: Path) -> None:
    """Write the CSV ``id,reason`` at ``path``, which must be free."""
    with new_file(path) as temporary:
        pl.DataFrame(quarantine, schema=["id", "reason"], orient="row").write_csv(temporary)


def printable(text: str) -> str:
    """Return ``text`` with what is no UTF-8, or has no shape but moves what stands behind it, spelled out."""
    whole = text.encode("utf-8", "backslashreplace").decode()
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda each: each[0].encode("unicode_escape").decode(), whole)
