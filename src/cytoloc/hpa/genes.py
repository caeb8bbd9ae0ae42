"""Genes to fetch: lists of Ensembl ids and names, tables of the Human Protein Atlas, and the XML of each gene."""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cytoloc.errors import FetchError, FormatError, TableError
from cytoloc.files import existing
from cytoloc.hpa.catalog import Gene, read_catalog
from cytoloc.hpa.site import FailedFile, RemoteFile, Site, host_of, is_of_the_atlas
from cytoloc.hpa.store import CATALOG, FetchFolder

GENE_TABLE: Final = f"{CATALOG}/subcellular_location.tsv.zip"
"""The site's table of genes in the folder."""

GENES_PER_BLOCK: Final = 100
"""With a limit of fields, this many genes are requested at a time."""

_ENSEMBL: Final = re.compile(r"ENSG[0-9]{11}")
_GENE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,39}")
_HEADER_WORDS: Final = frozenset(
    {
        "gene", "genes", "gene id", "gene ids", "gene name", "gene names", "gene stable id", "gene symbol", "symbol",
        "ensembl", "ensembl id", "ensembl ids", "ensembl gene", "ensembl gene id", "ensembl gene ids",
    }
)  # fmt: skip
"""Headers that a list may have, in lower case and with spaces; no gene has such a name."""

_ID_COLUMNS: Final = ("Ensembl", "Gene")
_NAME_COLUMNS: Final = ("Gene name", "Gene")
"""``subcellular_location.tsv`` has ids in ``Gene`` and names in ``Gene name``, ``proteinatlas.tsv`` in ``Ensembl`` and
``Gene``."""


class GeneList(NamedTuple):
    """Genes to fetch.

    Attributes:
        ids: Ensembl ids, in order, each once.
        names: Names of further genes, whose ids are not known yet.
        skipped: Number of rows without an Ensembl id, or with another number of cells than the header.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...] = ()
    skipped: int = 0


class GeneTable(NamedTuple):
    """A table of the Human Protein Atlas.

    Attributes:
        ids: Ensembl id of each gene's name, in order.
        skipped: As of :class:`GeneList`.
    """

    ids: dict[str, str]
    skipped: int = 0


def read_genes(path: Path) -> GeneList:
    """Return the genes in a file, plain, gzipped or zipped.

    It is a table of the Atlas with a column of Ensembl ids (``subcellular_location.tsv``, ``proteinatlas.tsv``), or has
    one Ensembl id or name of a gene per line. ``#`` starts a comment. A list may have a header such as ``Gene``.

    Raises:
        TableError: If the file lists no genes, or a line is neither an id nor a name.
    """
    lines = _read_lines(path)
    table = _table(lines, where=path)
    if table.ids:
        return GeneList(tuple(table.ids.values()), skipped=table.skipped)
    words = {number: line.partition("#")[0].strip() for number, line in enumerate(lines, start=1)}
    words = {number: word for number, word in words.items() if word}
    first = next(iter(words), 0)
    if first and re.sub(r"[\s_.-]+", " ", words[first]).lower() in _HEADER_WORDS:
        del words[first]
    return gene_list(words.values(), where=[f"{path}, line {number}" for number in words], what=str(path))


def gene_list(words: Iterable[str], *, where: Sequence[str] | None = None, what: str = "genes") -> GeneList:
    """Return a list of Ensembl ids and names of genes.

    Args:
        words: The ids and names.
        where: Place of each word, for messages.
        what: What the words are from, for messages.

    Raises:
        TableError: If there are none, or a word is neither an id nor a name.
    """
    every = list(words)
    for number, word in enumerate(every):
        if not isinstance(word, str) or not (_ENSEMBL.fullmatch(word) or _GENE_NAME.fullmatch(word)):
            raise TableError(
                f"{where[number] if where else what}: {str(word)[:60]!r} is neither an Ensembl id nor a gene name.",
                hint="Give ids or names such as ENSG00000000003 or TSPAN6, or a table of the Human Protein Atlas.",
            )
    if not every:
        raise TableError(f"{what} lists no genes.", hint="Give Ensembl ids or names of genes.")
    ids = [word for word in every if _ENSEMBL.fullmatch(word)]
    names = [word for word in every if not _ENSEMBL.fullmatch(word)]
    return GeneList(tuple(dict.fromkeys(ids)), tuple(dict.fromkeys(names)))


def read_gene_table(path: Path) -> GeneTable:
    """Return the Ensembl id of each gene's name in a table of the Atlas; see :func:`read_genes`.

    Raises:
        TableError: If it is no such table.
    """
    table = _table(_read_lines(path), where=path)
    if not table.ids:
        raise TableError(
            f"{path} is not a table with Ensembl ids and names of genes.",
            hint="Give subcellular_location.tsv or proteinatlas.tsv of the Human Protein Atlas.",
        )
    return table


def _table(lines: list[str], *, where: Path) -> GeneTable:
    """Return each gene's name and id, in order; none if the lines are not a table with such columns."""
    header, *written = _table_rows(lines, where=where) or [[]]
    whole = [row for row in written if len(row) == len(header) > 1]
    for column in _ID_COLUMNS:
        if column not in header:
            continue
        place = header.index(column)
        genes = [row for row in whole if _ENSEMBL.fullmatch(row[place])]
        if genes:
            name = next((each for each in _NAME_COLUMNS if each in header and each != column), column)
            found: dict[str, str] = {}
            for row in genes:
                # The second of two genes of one name is listed under its id.
                word = row[header.index(name)]
                found[word if word not in found else row[place]] = row[place]
            return GeneTable(found, len(written) - len(genes))
    return GeneTable({})


def _table_rows(lines: list[str], *, where: Path) -> list[list[str]]:
    """Return the rows that are not empty; only the header if it has no column of ids.

    Raises:
        TableError: If a quote is not closed.
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
            f"{where}, line {line}: a quote is not closed.",
            hint="Close or remove the quote.",
        ) from error
    return found


_ARCHIVE_ERRORS: Final = (
    OSError, EOFError, ValueError, RuntimeError, IndexError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""Errors of the libraries for archives that are damaged, encrypted (``RuntimeError``) or of an unknown kind."""


def _read_lines(path: Path) -> list[str]:
    content = existing(path, what="gene list file").read_bytes()
    try:
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        elif content.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(content)) as packed:
                content = packed.read(packed.namelist()[0])
    except _ARCHIVE_ERRORS as error:
        raise TableError(
            f"{path} is not a gene list: it cannot be unpacked ({error}).",
            hint="Fetch it again, or give what is in it, unpacked.",
        ) from error
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise TableError(f"{path} is not a gene list: {error}.", hint="Give a text file in UTF-8.") from error


def ensembl_ids(
    site: Site, folder: FetchFolder, listed: GeneList | None, failed: list[FailedFile], skipped: dict[str, int]
) -> tuple[str, ...]:
    """Return the Ensembl ids of the genes; names, or all genes, are looked up in the site's table."""
    if listed is not None and not listed.names:
        return listed.ids
    table = RemoteFile(GENE_TABLE, f"{site.base}/download/{Path(GENE_TABLE).name}")
    if not (folder.folder / table.file).exists():
        unfetched: list[FailedFile] = []
        site.fetch_files(folder, [table], _check_gene_table, failed=unfetched)
        if unfetched:
            raise FetchError(
                f"The site's table of genes cannot be fetched: {unfetched[0].reason}",
                hint="Check the network and base, or give genes as Ensembl ids.",
            )
    known, rows = read_gene_table(folder.folder / table.file)
    if rows:
        skipped[str(folder.folder / table.file)] = rows
    if listed is None:
        return tuple(known.values())
    unknown = [name for name in listed.names if name not in known]
    failed += [FailedFile(name, table.url, "The site's table has no gene of this name.") for name in unknown]
    return tuple(dict.fromkeys([*listed.ids, *(known[name] for name in listed.names if name in known)]))


def fetch_genes(
    site: Site,
    folder: FetchFolder,
    ids: Sequence[str],
    *,
    failed: list[FailedFile],
    advance: Callable[[int, int], None],
    is_enough: Callable[[Iterator[Gene]], bool] | None = None,
) -> list[str]:
    """Fetch the XML of genes; return the genes that were requested."""
    requested: list[str] = []
    step = GENES_PER_BLOCK if is_enough else max(1, len(ids))
    for start in range(0, len(ids), step):
        block = ids[start : start + step]
        requested += block
        files = [RemoteFile(f"{CATALOG}/{name}.xml", f"{site.base}/{name}.xml") for name in block]
        files = [each for each in files if not (folder.folder / each.file).exists()]

        def tell(done: int, there: int = len(requested) - len(files)) -> None:
            advance(there + done, len(ids))

        site.fetch_files(folder, files, _check_gene, failed=failed, advance=tell)
        if is_enough and is_enough(genes_in(folder, block)):
            break
    return requested


def genes_in(folder: FetchFolder, ids: Sequence[str]) -> Iterator[Gene]:
    """Yield the genes whose XML was fetched, in order."""
    for name in ids:
        path = folder.catalog / f"{name}.xml"
        if path.exists():
            yield from (gene for gene in read_catalog(path) if gene.ensembl == name)


def catalog_origin(path: Path) -> str:
    """Return the release of a catalog, and the host of its images, whatever the name of the file.

    The first gene with images at the Atlas determines it, so a catalog of some genes has the same origin as that of
    all.
    """
    for gene in read_catalog(path):
        for each in gene.fields:
            host = host_of(each.url)
            if is_of_the_atlas(host):
                return f"release {each.release or 'unknown'} at {host}"
    return "a catalog without images at the Atlas"


def _check_gene(path: Path, remote: RemoteFile) -> None:
    """Raise a FormatError unless a file is the XML of its gene."""
    name = Path(remote.file).stem
    try:
        found = [gene.ensembl for gene in read_catalog(path)]
    except FormatError as error:
        raise FormatError(error.message.replace(path.name, f"{name}.xml"), hint=error.hint) from error
    if name not in found:
        raise FormatError(f"{remote.url} is of {', '.join(found[:3]) or 'no gene'}, not of {name}.")


def _check_gene_table(path: Path, remote: RemoteFile) -> None:
    """Raise a FormatError unless a file is a table of genes."""
    try:
        read_gene_table(path)
    except TableError as error:
        raise FormatError(f"{remote.url} is not a table of genes.") from error
