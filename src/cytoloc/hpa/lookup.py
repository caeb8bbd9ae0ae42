"""Which genes there are, and what the Human Protein Atlas says of each: its XML, fetched once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cytoloc.errors import FetchError, FormatError, TableError
from cytoloc.hpa.address import host_of, is_of_the_atlas
from cytoloc.hpa.catalog import Gene, read_catalog
from cytoloc.hpa.genes import Genes, read_gene_table, resolve
from cytoloc.hpa.site import Advance, BadFile, Failed, Luck, Remote, Site, fetch_all
from cytoloc.hpa.store import CATALOG, Store

GENE_TABLE: Final = f"{CATALOG}/subcellular_location.tsv.zip"
"""Where the site's own table of genes lies in the folder."""

_BLOCK: Final = 100
"""Genes that are asked for before it is seen whether they are enough."""


class WantedGenes(NamedTuple):
    """Genes that are to be looked up.

    Attributes:
        ids: Of Ensembl.
        unknown: Names that the site does not know.
        passed_over: Rows of the site's table without an Ensembl id, or with another number of cells than its header.
    """

    ids: tuple[str, ...]
    unknown: list[Failed]
    passed_over: int = 0


def wanted_genes(site: Site, store: Store, genes: Genes | None) -> WantedGenes:
    """Return the Ensembl ids of the genes, and the names that the site does not know.

    Names, and the genes of which the Atlas has subcellular images if none are given, are looked up in its own table.

    Raises:
        FetchError: If that table cannot be had.
    """
    if genes is not None and not genes.names:
        return WantedGenes(genes.ids, [])
    table = Remote(GENE_TABLE, f"{site.base}/download/{Path(GENE_TABLE).name}")
    if not (store.folder / table.file).exists():
        try:
            fetch_all(site, store, [table], _check_gene_table, _raise)
        except (FetchError, FormatError) as error:
            raise FetchError(
                f"The site's table of genes cannot be had: {error.message}",
                hint="Is the network there, and --base right? If so, give --genes with Ensembl ids.",
            ) from error
    known, passed_over = read_gene_table(store.folder / table.file)
    if genes is None:
        return WantedGenes(tuple(known.values()), [], passed_over)
    ids, unknown = resolve(genes, known)
    failed = [Failed(name, table.url, "The site's table has no gene of this name.") for name in unknown]
    return WantedGenes(ids, failed, passed_over)


def fetch_genes(
    site: Site,
    store: Store,
    ids: Sequence[str],
    *,
    advance: Advance,
    enough: Callable[[Iterator[Gene]], bool] | None = None,
) -> tuple[tuple[str, ...], list[Failed]]:
    """Bring the XML of genes to the folder; return the genes that were asked for, and those that could not be had.

    Args:
        site: Where it comes from.
        store: Where it goes; what is there is not asked for again.
        ids: Of Ensembl.
        advance: Told how many are done, and of how many.
        enough: Told of some genes more each time; where it says yes the rest is not asked for.
    """
    failed: list[Failed] = []
    luck = Luck(site, failed)
    asked: list[str] = []
    step = _BLOCK if enough else max(1, len(ids))
    for start in range(0, len(ids), step):
        asked += ids[start : start + step]
        files = [Remote(_file(name), f"{site.base}/{name}.xml") for name in ids[start : start + step]]
        files = [each for each in files if not (store.folder / each.file).exists()]
        there = len(asked) - len(files)

        def tell(done: int, there: int = there) -> None:
            advance(there + done, len(ids))

        fetch_all(site, store, files, _check_gene, luck.take, tell)
        if enough and enough(genes_in(store, asked[start:])):
            break
    return tuple(asked), failed


def genes_in(store: Store, ids: Sequence[str]) -> Iterator[Gene]:
    """Yield what the fetched XML says of the genes, in order."""
    for name in ids:
        path = store.folder / _file(name)
        if path.exists():
            yield from (gene for gene in read_catalog(path) if gene.ensembl == name)


def origin_of_file(path: Path) -> str:
    """Return which release a file of many genes is of, and the host of its images, whatever the file is called.

    The first gene with images at a host of the Atlas says it, so that little is read, and a file of some of the genes
    counts as the one of all.
    """
    for gene in read_catalog(path):
        for each in gene.fields:
            host = host_of(each.url)
            if is_of_the_atlas(host):
                return f"release {each.release or 'that is not said'} at {host}"
    return "a catalog without images at the Atlas"


def genes_of_file(path: Path, genes: Genes | None) -> Iterator[Gene]:
    """Yield what a file of many genes says of those that are wanted, or of all."""
    asked = None if genes is None else {*genes.ids, *genes.names}
    for gene in read_catalog(path):
        if asked is None or gene.ensembl in asked or gene.name in asked:
            yield gene


def not_in_file(path: Path, genes: Genes, found: Iterable[tuple[str, str]]) -> list[Failed]:
    """Return the genes that were asked for and are not in a file of many, whose ids and names are ``found``."""
    there = {word for gene in found for word in gene}
    return [
        Failed(word, path.name, f"{path.name} has no such gene.")
        for word in (*genes.ids, *genes.names)
        if word not in there
    ]


def _file(name: str) -> str:
    return f"{CATALOG}/{name}.xml"


def _raise(_: Remote, error: BadFile | None) -> None:
    if error is not None:
        raise error


def _check_gene(path: Path, remote: Remote) -> None:
    """Raise :class:`~cytoloc.errors.FormatError` unless a file is the XML of the gene that it is named after."""
    name = Path(remote.file).stem
    try:
        found = [gene.ensembl for gene in read_catalog(path)]
    except FormatError as error:
        raise FormatError(error.message.replace(path.name, f"{name}.xml"), hint=error.hint) from error
    if name not in found:
        raise FormatError(f"{remote.url} is of {', '.join(found[:3]) or 'no gene'}, not of {name}.")


def _check_gene_table(path: Path, remote: Remote) -> None:
    try:
        read_gene_table(path)
    except TableError as error:
        raise FormatError(f"{remote.url} is not a table of genes.") from error
