"""Lists of pairs of fields, in the formats in which they are published."""

from __future__ import annotations

import csv
import gzip
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import polars as pl

from cytoloc.channels import MICROTUBULES, NUCLEUS, PROTEIN
from cytoloc.choices import check_type
from cytoloc.errors import ArgumentTypeError, TableError
from cytoloc.files import existing

_HEADERS: Final[tuple[tuple[str, str], ...]] = (("a", "b"), ("Extra", "Test"), ("Train", "Extra"))
"""Names of the two columns of ids: in our files, in the leak list of 2018, and in the near-duplicates of 2021."""


_OTHER_HEADERS: Final = frozenset({"id", "target", "label", "predicted", "group", "fold"})
"""Columns of label lists, submissions and folds files, which are not lists of pairs."""

_NUMBER: Final = re.compile(r"[-+]?[0-9]*\.[0-9]+(?:[eE][-+]?[0-9]+)?")
"""A score or a distance. Without a header, a column of such numbers could be mistaken for ids."""

_PUBLISHED_BITS: Final = {"SimR": MICROTUBULES, "SimG": PROTEIN, "SimB": NUCLEUS}
"""The channel of each column of distances in the published list of leaks. Our columns are named ``d_CHANNEL``."""


class Pair(NamedTuple):
    """Two fields that may show the same cells.

    Attributes:
        a: The id of the first field.
        b: The id of the second field.
        bits: The Hamming distance of the hashes, for each channel for which it is known.
        correlation: The registered correlation of the pixels, from -1 to 1; None if unknown.
        verdict: ``copy``, ``doubtful`` or ``different``; None if unknown.
    """

    a: str
    b: str
    bits: Mapping[str, float] = MappingProxyType({})
    correlation: float | None = None
    verdict: str | None = None

    @property
    def sureness(self) -> tuple[float, float]:
        """A key that sorts pairs by certainty: by correlation, then by the negative sum of Hamming distances."""
        return (-2.0 if self.correlation is None else self.correlation, -sum(self.bits.values()))


PairSource = pl.DataFrame | str | Path | Sequence[str | Path] | Sequence[tuple[str, str]] | Sequence[Pair]
"""Pairs of fields: the table of :func:`~cytoloc.curation.duplicates.find_duplicates`, files, or pairs of ids."""


def open_pairs(pairs: PairSource) -> list[Pair]:
    """Return pairs of fields.

    Args:
        pairs: A table with the columns ``a`` and ``b``, one or several files, or pairs of ids.

    Returns:
        The pairs, with distances, correlations and verdicts if they are known.

    Raises:
        ArgumentTypeError: If ``pairs`` has another type.
        TableError: If a file or table does not contain pairs.
    """
    if isinstance(pairs, str | Path):
        return read_matches(Path(pairs))
    if isinstance(pairs, pl.DataFrame):
        if not {"a", "b"} <= set(pairs.columns):
            raise TableError(
                f"`pairs` lacks the columns a and b; it has {', '.join(pairs.columns)}.",
                hint="Give a table with the columns a and b.",
            )
        found = []
        for row in pairs.iter_rows(named=True):
            bits = {name[2:]: value for name, value in row.items() if name.startswith("d_") and value is not None}
            found.append(Pair(row["a"], row["b"], bits, row.get("correlation"), row.get("verdict")))
        return found
    check_type(pairs, (list, tuple), argument="pairs")
    found = []
    for each in pairs:
        if isinstance(each, str | Path):
            found += read_matches(Path(each))
        elif isinstance(each, tuple) and len(each) >= 2:
            found.append(each if isinstance(each, Pair) else Pair(str(each[0]), str(each[1])))
        else:
            raise ArgumentTypeError(
                f"`pairs` contains {each!r}, which is not a pair of ids.",
                hint="Give a table, files, or tuples of two ids.",
            )
    return found


def tied_ids(pairs: PairSource, *, doubtful: bool = True) -> list[tuple[str, str]]:
    """Return the unique pairs of ids that show the same field.

    Args:
        pairs: Pairs of fields; see :func:`open_pairs`. Pairs with the verdict ``different`` are ignored.
        doubtful: Whether pairs with the verdict ``doubtful`` are returned too.

    Returns:
        The pairs of ids.
    """
    left_out = {"different"} if doubtful else {"different", "doubtful"}
    return list(dict.fromkeys((pair.a, pair.b) for pair in open_pairs(pairs) if pair.verdict not in left_out))


VERDICTS: Final = ("copy", "doubtful", "different")
"""The verdicts on a pair, by ``cytoloc duplicates`` or by a person."""


def read_matches(path: Path) -> list[Pair]:
    """Read pairs of fields from a file, with distances, correlations and verdicts if it has them.

    A header can name the columns ``a,b`` (``cytoloc duplicates``), ``Extra,Test`` (the list of 259 leaks) or
    ``Train,Extra``. Without a header, each line contains ids, and the last one is a copy of all others. Folders in ids
    are removed. The file can be gzipped.

    Args:
        path: The file.

    Returns:
        The pairs.

    Raises:
        TableError: If the file has another format, or a line has fewer than two ids.
    """
    try:
        content = existing(path, what="pairs file").read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        lines = content.decode("utf-8-sig").splitlines()
    except (EOFError, UnicodeDecodeError, OSError, zlib.error) as error:
        raise TableError(
            f"{path} is not a pairs file: {error}.", hint="Give a CSV file with the columns a,b."
        ) from error
    rows = _rows(lines, path)
    if not rows:
        raise TableError(f"{path} contains no pairs.", hint="Give a CSV file with the columns a,b.")
    header, *others = rows.values()
    columns = next(([header.index(one), header.index(two)] for one, two in _HEADERS if {one, two} <= set(header)), None)
    # A first line of words is a header if all other lines have digits in both ids.
    words = not any(map(_has_digit, header)) and all(_has_digit(cell) for row in others for cell in row[:2])
    if columns is None and ((words and others) or _OTHER_HEADERS & {cell.lower() for cell in header}):
        raise TableError(
            f"{path} is not a pairs file: its first line looks like the columns {', '.join(header)}.",
            hint="Give a CSV file with the columns a,b; if these are ids, add the line a,b above them.",
        )
    pairs = []
    for number, row in list(rows.items())[1:] if columns else rows.items():
        cells = [row[place] for place in columns if place < len(row)] if columns else row
        ids = [cell.rpartition("/")[2] for cell in cells]
        if len(ids) < 2 or not all(ids) or any(_NUMBER.fullmatch(name) for name in ids):
            raise TableError(
                f"{path}, line {number}: {','.join(row)!r} is not a pair of ids.",
                hint="Give a CSV file with the columns a,b, or lines of ids separated by commas.",
            )
        known, where = Pair("", ""), f"{path}, line {number}"
        if columns:
            evidence = dict(zip(header, row, strict=False))
            bits: dict[str, float] = {}
            for column, text in evidence.items():
                channel = _PUBLISHED_BITS.get(column) or (column[2:] if column.startswith("d_") else "")
                if channel and text:
                    bits[channel] = _number(text, where)
            correlation = _number(evidence["correlation"], where) if evidence.get("correlation") else None
            verdict = (evidence.get("verdict") or "").lower() or None
            if verdict is not None and verdict not in VERDICTS:
                raise TableError(
                    f"{where}: {evidence['verdict']!r} is not a verdict.", hint=f"Choose one of {', '.join(VERDICTS)}."
                )
            known = Pair("", "", bits, correlation, verdict)
        pairs += [known._replace(a=one, b=ids[-1]) for one in ids[:-1]]
    return pairs


def _rows(lines: Sequence[str], path: Path) -> dict[int, list[str]]:
    """Return the cells of each line that is not empty, by line number.

    Lines are parsed one by one, so that an unclosed quote does not affect the following lines.
    """
    rows: dict[int, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        cells = [cell.strip() for cell in next(csv.reader([line]), [])]
        try:
            next(csv.reader([line], strict=True), [])
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise TableError(
                    f"{path}, line {number}: a quotation mark is not closed on its line.",
                    hint="Close it or remove it. Cells with several lines are not supported.",
                ) from error
        if any(cells):
            rows[number] = cells
    return rows


def _has_digit(cell: str) -> bool:
    return any(letter.isdigit() for letter in cell)


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise TableError(f"{where}: {text!r} is not a number.", hint="Leave the cell empty if the value is unknown.")
    return number
