"""Genes to fetch: gene lists, tables of the Human Protein Atlas, and the XML of each gene."""

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
"""File of the site's gene table in the folder."""

GENES_PER_BLOCK: Final = 100
"""Number of genes that are requested at a time if the number of fields is limited."""

_ENSEMBL: Final = re.compile(r"ENSG[0-9]{11}")
_GENE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,39}")
_HEADER_WORDS: Final = frozenset(
    {
        "gene", "genes", "gene id", "gene ids", "gene name", "gene names", "gene stable id", "gene symbol", "symbol",
        "ensembl", "ensembl id", "ensembl ids", "ensembl gene", "ensembl gene id", "ensembl gene ids",
    }
)  # fmt: skip
"""Headers of gene lists, in lower case and with single spaces. No gene has such a name."""

_ID_COLUMNS: Final = ("Ensembl", "Gene")
_NAME_COLUMNS: Final = ("Gene name", "Gene")
"""``subcellular_location.tsv`` has ids in ``Gene`` and names in ``Gene name``. ``proteinatlas.tsv`` has them in
``Ensembl`` and ``Gene``."""


class GeneList(NamedTuple):
    """Genes to fetch.

    Attributes:
        ids: Unique Ensembl ids, in order.
        names: Names of further genes, whose ids must be looked up.
        skipped: Number of rows without an Ensembl id, or with another number of cells than the header.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...] = ()
    skipped: int = 0


class GeneTable(NamedTuple):
    """A gene table of the Human Protein Atlas.

    Attributes:
        ids: Ensembl id of each gene name, in order.
        skipped: Number of rows without an Ensembl id, or with another number of cells than the header.
    """

    ids: dict[str, str]
    skipped: int = 0


def read_genes(path: Path) -> GeneList:
    """Read a list of genes from a file.

    The file is a table of the Human Protein Atlas (``subcellular_location.tsv`` or ``proteinatlas.tsv``), or a list
    with one Ensembl id or gene name per line. ``#`` starts a comment. A list may have a header such as ``Gene``.

    Args:
        path: File of genes, plain, gzipped or zipped.

    Returns:
        The Ensembl ids and names in the file.

    Raises:
        TableError: If the file lists no genes, or a line is neither an Ensembl id nor a gene name.
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
    """Return a list of genes from Ensembl ids and names.

    Args:
        words: Ensembl ids and gene names.
        where: Position of each word, for messages.
        what: Source of the words, for messages.

    Returns:
        The Ensembl ids and names, each once.

    Raises:
        TableError: If there are no words, or a word is neither an Ensembl id nor a gene name.
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
    """Read a gene table of the Human Protein Atlas; see :func:`read_genes`.

    Args:
        path: Table file, plain, gzipped or zipped.

    Returns:
        The Ensembl id of each gene name.

    Raises:
        TableError: If the file is not such a table.
    """
    table = _table(_read_lines(path), where=path)
    if not table.ids:
        raise TableError(
            f"{path} is not a table with Ensembl ids and gene names.",
            hint="Give subcellular_location.tsv or proteinatlas.tsv of the Human Protein Atlas.",
        )
    return table


def _table(lines: list[str], *, where: Path) -> GeneTable:
    """Return the id of each gene name, in order; empty if the lines are not a table with such columns."""
    rows = csv.reader(lines, delimiter="\t" if lines and "\t" in lines[0] else ",", strict=True)
    header: list[str] = []
    written: list[list[str]] = []
    line = 1
    try:
        for row in rows:
            if header and row:
                written.append(row)
            elif not header and (len(row) < 2 or not {*_ID_COLUMNS} & {*row}):
                return GeneTable({})
            elif not header:
                header = row
            line = rows.line_num + 1
    except csv.Error as error:
        raise TableError(f"{where}, line {line}: a quote is not closed.", hint="Close or remove the quote.") from error
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
                # A second gene with the same name is listed under its id.
                word = row[header.index(name)]
                found[word if word not in found else row[place]] = row[place]
            return GeneTable(found, len(written) - len(genes))
    return GeneTable({})


_ARCHIVE_ERRORS: Final = (
    OSError, EOFError, ValueError, RuntimeError, IndexError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""Errors of the libraries if an archive is damaged, encrypted (``RuntimeError``) or of an unknown kind."""


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
            hint="Fetch the file again, or unpack it and give the file in it.",
        ) from error
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise TableError(f"{path} is not a gene list: {error}.", hint="Give a text file in UTF-8.") from error


def ensembl_ids(
    site: Site, folder: FetchFolder, listed: GeneList | None, failed: list[FailedFile], skipped: dict[str, int]
) -> tuple[str, ...]:
    """Return the Ensembl ids of genes. Names, or all genes, are looked up in the gene table of the site."""
    if listed is not None and not listed.names:
        return listed.ids
    table = RemoteFile(GENE_TABLE, f"{site.base}/download/{Path(GENE_TABLE).name}")
    if not (folder.folder / table.file).exists():
        unfetched: list[FailedFile] = []
        site.fetch_files(folder, [table], _check_gene_table, failed=unfetched)
        if unfetched:
            raise FetchError(
                f"The gene table of {site.base} cannot be fetched: {unfetched[0].reason}",
                hint="Check the network and `base`, or give genes as Ensembl ids.",
            )
    known, rows = read_gene_table(folder.folder / table.file)
    if rows:
        skipped[str(folder.folder / table.file)] = rows
    if listed is None:
        return tuple(known.values())
    unknown = [name for name in listed.names if name not in known]
    failed += [FailedFile(name, table.url, "The gene table has no gene of this name.") for name in unknown]
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
    """Fetch the XML of genes.

    Args:
        site: Site of the Human Protein Atlas.
        folder: Output folder.
        ids: Ensembl ids.
        failed: List to which failed genes are appended.
        advance: Called with (done, total).
        is_enough: Called with each block of genes; returns whether to stop. None: all genes are requested at once.

    Returns:
        The ids that were requested.
    """
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
    """Return the release of a catalog and the host of its images, for any name of the file.

    They are taken from the first gene with images at the Human Protein Atlas. A catalog with a subset of the genes
    therefore has the same origin as the full catalog.
    """
    for gene in read_catalog(path):
        for each in gene.fields:
            host = host_of(each.url)
            if is_of_the_atlas(host):
                return f"release {each.release or 'unknown'} at {host}"
    return "a catalog without images at the Human Protein Atlas"


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
    """Raise a FormatError unless a file is a gene table."""
    try:
        read_gene_table(path)
    except TableError as error:
        raise FormatError(f"{remote.url} is not a gene table.") from error
