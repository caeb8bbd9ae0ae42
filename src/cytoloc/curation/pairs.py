"""Lists of pairs of fields, in all the forms in which people have published them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Final

from cytoloc.errors import TableError
from cytoloc.files import existing

_HEADERS: Final[tuple[tuple[str, str], ...]] = (("a", "b"), ("Extra", "Test"), ("Train", "Extra"))
"""Names of the two columns of ids: ours, the competition's leak list, and the near-duplicates of 2021."""


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of ids in a file.

    It may have a header, with the columns ``a,b`` (`cytoloc duplicates`), ``Extra,Test`` (the list of 259 leaks) or
    ``Train,Extra``; or none, each line being ids with commas between of which the last is the same as each before it.
    Ids that are paths lose their folders. A gzipped file is read too.

    Raises:
        TableError: If it is not such a file, or a line has fewer than two ids.
    """
    try:
        with gzip.open(existing(path, what="pairs file"), "rt", encoding="utf-8-sig") as stream:
            lines = stream.read().splitlines()
    except gzip.BadGzipFile:
        lines = _plain_lines(path)
    except (EOFError, UnicodeDecodeError, OSError) as error:
        raise TableError(f"{path} is not a pairs file: {error}.", way_out="Give a CSV with the columns a,b.") from error
    rows = [[cell.strip() for cell in line.split(",")] for line in lines if line.strip()]
    if not rows:
        raise TableError(f"{path} lists no pairs.", way_out="Give a CSV with the columns a,b.")
    header = rows[0]
    columns = next(([header.index(one), header.index(two)] for one, two in _HEADERS if {one, two} <= set(header)), None)
    pairs = []
    for number, row in enumerate(rows[1:] if columns else rows, start=2 if columns else 1):
        cells = [row[place] for place in columns if place < len(row)] if columns else row
        ids = [cell.rpartition("/")[2] for cell in cells]
        if len(ids) < 2 or not all(ids):
            raise TableError(
                f"{path}, line {number}: {','.join(row)!r} is not a pair of ids.",
                way_out="Give a CSV with the columns a,b, or lines of ids with commas between.",
            )
        pairs += [(one, ids[-1]) for one in ids[:-1]]
    return pairs


def _plain_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise TableError(f"{path} is not a pairs file: {error}.", way_out="Give a CSV with the columns a,b.") from error
