"""Which genes are wanted: a list, or a table of the Human Protein Atlas."""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from cytoloc.errors import TableError
from cytoloc.files import existing

_ENSEMBL: Final = re.compile(r"ENSG[0-9]{11}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,39}")
_HEADERS: Final = frozenset(
    {
        "gene", "genes", "gene id", "gene ids", "gene name", "gene names", "gene stable id", "gene symbol", "symbol",
        "ensembl", "ensembl id", "ensembl ids", "ensembl gene", "ensembl gene id", "ensembl gene ids",
    }
)  # fmt: skip
"""What a list may have above its genes, in lower case and with spaces; no gene is called so."""

_ID_COLUMNS: Final = ("Ensembl", "Gene")
_NAME_COLUMNS: Final = ("Gene name", "Gene")
"""``subcellular_location.tsv`` has ids in ``Gene`` and names in ``Gene name``, ``proteinatlas.tsv`` in ``Ensembl`` and
``Gene``."""


class Genes(NamedTuple):
    """Genes that are wanted.

    Attributes:
        ids: Of Ensembl, in order, each once.
        names: Of genes whose id is not known yet.
        passed_over: Rows of a table without an Ensembl id, or with another number of cells than its header.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...] = ()
    passed_over: int = 0


class GeneTable(NamedTuple):
    """A table of the Human Protein Atlas.

    Attributes:
        ids: The Ensembl id of each gene's name, in order.
        passed_over: Rows without an Ensembl id, or with another number of cells than its header.
    """

    ids: dict[str, str]
    passed_over: int = 0


def read_genes(path: Path) -> Genes:
    """Return the genes in a file, plain, gzipped or zipped.

    It is a table of the Atlas with a column of Ensembl ids (``subcellular_location.tsv``, ``proteinatlas.tsv``), or has
    an id or the name of a gene a line; ``#`` begins a comment, and a header such as ``Gene`` may stand above.

    Raises:
        TableError: If it holds none, or a line is neither.
    """
    lines = _lines(path)
    table = _table(lines, where=path)
    if table.ids:
        return Genes(tuple(table.ids.values()), passed_over=table.passed_over)
    ids: dict[str, None] = {}
    names: dict[str, None] = {}
    first = True
    for number, line in enumerate(lines, start=1):
        word = line.partition("#")[0].strip()
        is_header = first and re.sub(r"[\s_.-]+", " ", word).lower() in _HEADERS
        first = first and not word
        if is_header:
            continue
        if _ENSEMBL.fullmatch(word):
            ids[word] = None
        elif _NAME.fullmatch(word):
            names[word] = None
        elif word:
            raise TableError(
                f"{path}, line {number}: {word[:60]!r} is neither an Ensembl id nor the name of a gene.",
                hint="Give one a line, such as ENSG00000000003 or TSPAN6, or a table of the Human Protein Atlas.",
            )
    if not ids and not names:
        raise TableError(f"{path} lists no genes.", hint="Give an Ensembl id or the name of a gene a line.")
    return Genes(tuple(ids), tuple(names))


def read_gene_table(path: Path) -> GeneTable:
    """Return the Ensembl id of each gene's name in a table of the Atlas; see :func:`read_genes`.

    Raises:
        TableError: If it is no such table.
    """
    table = _table(_lines(path), where=path)
    if not table.ids:
        raise TableError(
            f"{path} is not a table with Ensembl ids and names of genes.",
            hint="Give subcellular_location.tsv or proteinatlas.tsv of the Human Protein Atlas.",
        )
    return table


def resolve(genes: Genes, known: dict[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the ids of all genes, and the names that are not among those known."""
    found = [known[name] for name in genes.names if name in known]
    return tuple(dict.fromkeys([*genes.ids, *found])), tuple(name for name in genes.names if name not in known)


def _table(lines: list[str], *, where: Path) -> GeneTable:
    """Return each gene's name and id, in order; no gene if the lines are not a table with such columns."""
    header, *written = _rows(lines, where=where) or [[]]
    whole = [row for row in written if len(row) == len(header) > 1]
    for column in _ID_COLUMNS:
        if column not in header:
            continue
        place = header.index(column)
        genes = [row for row in whole if _ENSEMBL.fullmatch(row[place])]
        if genes:
            name = next((each for each in _NAME_COLUMNS if each in header and each != column), column)
            return GeneTable(_by_name(genes, place, header.index(name)), len(written) - len(genes))
    return GeneTable({})


def _rows(lines: list[str], *, where: Path) -> list[list[str]]:
    """Return the rows that are not empty; none but the header if no column of it can have ids.

    Raises:
        TableError: If a quote takes in the rows that follow.
    """
    rows = csv.reader(lines, delimiter="\t" if lines and "\t" in lines[0] else ",", strict=True)
    found: list[list[str]] = []
    line = 1
    try:
        for row in rows:
            if not found and (len(row) < 2 or not {*_ID_COLUMNS} & {*row}):
                return [row]
            line = rows.line_num + 1
            if row:
                found.append(row)
    except csv.Error as error:
        raise TableError(
            f"{where}, line {line}: a quote is opened and not closed, so that the rows below it are read as one cell.",
            hint="Close it or take it out.",
        ) from error
    return found


def _by_name(rows: Iterable[list[str]], ids: int, names: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for row in rows:
        # Two genes of one name are kept apart by their ids.
        name = row[names] if row[names] not in found else row[ids]
        found[name] = row[ids]
    return found


_UNPACKING: Final = (
    OSError, EOFError, ValueError, RuntimeError, IndexError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""What the libraries raise of archives that are damaged, encrypted (``RuntimeError``) or of a kind unknown to them."""


def _lines(path: Path) -> list[str]:
    content = existing(path, what="gene list file").read_bytes()
    try:
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        elif content.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(content)) as packed:
                content = packed.read(packed.namelist()[0])
    except _UNPACKING as error:
        raise TableError(
            f"{path} is not a gene list: it cannot be unpacked ({error}).",
            hint="Fetch it again, or give what is in it, unpacked.",
        ) from error
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise TableError(f"{path} is not a gene list: {error}.", hint="Give a text file in UTF-8.") from error
