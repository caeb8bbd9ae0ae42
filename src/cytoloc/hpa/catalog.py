"""What the Human Protein Atlas says of its fields: its XML of genes, read in a stream.

The schema as it was seen in public copies of the files (releases 12 and 13) and in programs that read them (18 to 25):

* ``proteinAtlas`` (attribute ``schemaVersion``, 3.0 and 3.1 in release 25) holds an ``entry`` a gene; the file of a
  single gene begins with ``proteinAtlas`` or, in release 18 and before, with ``entry`` itself.
* ``entry`` (attribute ``version``, the release) has ``name``, ``identifier`` (``id``, of Ensembl) and, for each
  ``antibody`` (``id``, such as HPA010580), a ``cellExpression``, which was ``subcellularLocation`` in release 12. The
  ``cellExpression`` outside antibodies sums up the gene and has no images of wells.
* ``subAssay`` of the type ``human`` has ``verification`` of the type ``reliability``; in release 12 it was
  ``validation`` and ``data`` had its own. Other types are of mice and of gene silencing; release 24 adds the subtype
  ``ciliated cell lines``, whose images are stacks of depths.
* ``data`` is a cell line: ``cellLine``, ``location`` (``GOId``), ``assayImage/image/imageUrl``. The address names the
  well: ``…/10580/1610_C1_1_blue_red_green.jpg``. It has no ``location`` where nothing was seen.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from cytoloc.errors import FormatError
from cytoloc.files import existing

NEWEST_SCHEMA: Final = 3
"""The newest major version of the schema that was seen."""

_ROOTS: Final = ("proteinAtlas", "entry")
_CELLS: Final = ("cellExpression", "subcellularLocation")
_SUBTYPES: Final = (None, "human cell lines")
_CHUNK: Final = 1 << 16
_COLOR: Final = "(?:red|green|blue|yellow)"
_ADDRESS: Final = re.compile(
    rf"https?://[^/?#]+/(?:[^?#]*/)?(?P<folder>[A-Za-z0-9-]+)/"
    rf"(?P<stem>(?P<plate>[A-Za-z0-9-]+)_(?P<well>[A-Z]+[0-9]+)_(?P<field>[0-9]+(?:_cr[0-9a-f]+)?))"
    rf"_{_COLOR}(?:_{_COLOR})*\.jpg"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field of view in the catalog.

    Attributes:
        id: ``{antibody}_{plate}_{well}_{field}``, the antibody as in the address.
        gene: Its name.
        ensembl: The gene's id.
        antibody: As the Atlas names it, such as HPA010580.
        reliability: How far the antibody's locations are trusted, in lower case; empty if it is not said.
        cell_line: The cells.
        plate: Of the well.
        well: On the plate.
        field: In the well.
        locations: Of this cell line, as they are named.
        go_ids: Their terms of the Gene Ontology; empty where none is given.
        url: The address of one of its images.
        release: Of the Atlas.
    """

    id: str
    gene: str
    ensembl: str
    antibody: str
    reliability: str
    cell_line: str
    plate: str
    well: str
    field: str
    locations: tuple[str, ...]
    go_ids: tuple[str, ...]
    url: str
    release: str

    @property
    def folder(self) -> str:
        """The antibody as the address has it."""
        return self.id.partition("_")[0]

    @property
    def place(self) -> tuple[str, str, str]:
        """Antibody, plate and well: what is seen there is one protein in one cell line."""
        return self.folder, self.plate, self.well


@dataclass(slots=True)
class Gene:
    """A gene in the catalog.

    Attributes:
        ensembl: Its id.
        name: Its name.
        release: Of the Atlas.
        fields: Its subcellular images; none for many genes.
        passed_over: Images that are not of the kind wanted here, counted by the reason.
    """

    ensembl: str
    name: str
    release: str
    fields: list[Field] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)


def read_catalog(path: Path) -> Iterator[Gene]:
    """Yield the genes in an XML file, plain or gzipped; memory holds one at a time, however long the file is.

    Document types are refused before anything they declare is looked at, so that no entity is expanded.

    Raises:
        FormatError: If it is broken, a web page, of another schema or a later one.
    """
    with existing(path, error=FormatError, what="catalog file").open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            yield from _genes(gzip.GzipFile(fileobj=file) if zipped else file, where=path.name)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise FormatError(f"{path.name} is cut off or damaged: {error}.", hint="Fetch it again.") from error


def _genes(stream: IO[bytes] | gzip.GzipFile, *, where: str) -> Iterator[Gene]:
    reader = _Reader(where)
    try:
        while chunk := stream.read(_CHUNK):
            reader.parser.Parse(chunk, False)  # noqa: FBT003
            yield from reader.take()
        reader.parser.Parse(b"", True)  # noqa: FBT003
    except expat.ExpatError as error:
        raise FormatError(
            f"{where} is not whole XML: {expat.ErrorString(error.code)}, line {error.lineno}, column {error.offset}.",
            hint="Is it cut off, or a web page? Fetch it again.",
        ) from error
    yield from reader.take()


class _Reader:
    """Builds trees of the cells' part of each antibody alone, and turns them into fields."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._refuse_doctype
        self.path: list[str] = []
        self.builder: TreeBuilder | None = None
        self.gene: Gene | None = None
        self.antibody = ""
        self.ready: list[Gene] = []

    def take(self) -> list[Gene]:
        """Return the genes that are complete, once."""
        ready, self.ready = self.ready, []
        return ready

    def _refuse_doctype(self, name: str, *_: Any) -> None:
        if name.lower() == "html":
            raise self._web_page()
        raise FormatError(
            f"{self.where} declares the document type {name!r}, which the Human Protein Atlas's XML does not.",
            hint="It is not read: what such a type declares can fill the memory.",
        )

    def _web_page(self) -> FormatError:
        return FormatError(
            f"{self.where} is a web page, not the XML of a gene.",
            hint="Is the gene in this release? Does the site (--base) still answer?",
        )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self.path:
            self._check_root(tag, attributes)
        self.path.append(tag)
        if self.builder is None:
            if tag == "entry":
                self.gene = Gene("", "", attributes.get("version", ""))
            elif self.path[-2:-1] == ["entry"] and tag == "identifier" and self.gene:
                self.gene.ensembl = attributes.get("id", "")
            elif self.path[-2:-1] == ["entry"] and tag == "antibody":
                self.antibody = attributes.get("id", "")
            if (self.path[-2:-1] == ["antibody"] and tag in _CELLS) or self.path[-2:] == ["entry", "name"]:
                self.builder = TreeBuilder()
        if self.builder is not None:
            self.builder.start(tag, attributes)

    def _text(self, text: str) -> None:
        if self.builder is not None:
            self.builder.data(text)

    def _end(self, tag: str) -> None:
        if self.builder is not None:
            self.builder.end(tag)
            if self.path[-2:] == ["entry", "name"] or (self.path[-2:-1] == ["antibody"] and tag in _CELLS):
                self._take_part(self.builder.close())
                self.builder = None
        elif tag == "entry" and self.gene is not None:
            if not self.gene.name or not self.gene.ensembl:
                raise FormatError(
                    f"{self.where} has an entry without {'identifier' if self.gene.name else 'name'}"
                    f" (before line {self.parser.CurrentLineNumber}).",
                    hint=_OTHER_SCHEMA,
                )
            self.ready.append(self.gene)
            self.gene = None
        self.path.pop()

    def _take_part(self, part: Element) -> None:
        if self.gene is None:
            raise FormatError(f"{self.where} has <{part.tag}> outside an entry.", hint=_OTHER_SCHEMA)
        if part.tag == "name":
            self.gene.name = (part.text or "").strip()
            return
        where = f"{self.where}, {self.gene.name}, {self.antibody}"
        if part.find(".//imageUrl") is None:
            return
        for assay in _children(part, "subAssay", where=where):
            _add_fields(self.gene, self.antibody, assay, where=where)

    def _check_root(self, tag: str, attributes: dict[str, str]) -> None:
        if tag.lower() == "html":
            raise self._web_page()
        if tag not in _ROOTS:
            raise FormatError(
                f"{self.where} begins with <{tag}>, not with <proteinAtlas> or <entry> as the Atlas's XML.",
                hint="Give the XML of genes, as at {base}/ENSG00000000003.xml.",
            )
        schema = attributes.get("schemaVersion", "")
        if (major := schema.partition(".")[0]).isdecimal() and int(major) > NEWEST_SCHEMA:
            raise FormatError(
                f"{self.where} is of schema {schema}; this release of cytoloc reads up to {NEWEST_SCHEMA}.x.",
                hint="Take an earlier release of the Atlas, such as --base https://v18.proteinatlas.org.",
            )


_OTHER_SCHEMA: Final = "Is it of another schema? The docstring of cytoloc.hpa.catalog says what was expected."


def _add_fields(gene: Gene, antibody: str, assay: Element, *, where: str) -> None:
    """Add the fields of a ``subAssay`` to its gene."""
    kind, subtype = assay.get("type"), assay.get("subtype")
    if kind != "human" or subtype not in _SUBTYPES:
        reason = f"of the assay {' '.join(word for word in (kind, subtype) if word) or 'without type'}"
        gene.passed_over[reason] += len(assay.findall("data/assayImage/image"))
        return
    for row in assay.findall("data"):
        if row.find("assayImage/image") is None:
            continue
        cell_line = _children(row, "cellLine", where=where)[0]
        named = [(_words(each), each.get("GOId", "")) for each in row.findall("location") if _words(each)]
        reliability = _reliability(row) or _reliability(assay)
        for image in row.findall("assayImage/image"):
            for url in _children(image, "imageUrl", where=where):
                found = _ADDRESS.fullmatch(_words(url))
                if found is None:
                    gene.passed_over["with an address of another form"] += 1
                    continue
                gene.fields.append(
                    Field(
                        id=f"{found['folder']}_{found['stem']}",
                        gene=gene.name,
                        ensembl=gene.ensembl,
                        antibody=antibody,
                        reliability=reliability,
                        cell_line=_words(cell_line),
                        plate=found["plate"],
                        well=found["well"],
                        field=found["field"],
                        locations=tuple(name for name, _ in named),
                        go_ids=tuple(go_id for _, go_id in named),
                        url=_words(url),
                        release=gene.release,
                    )
                )


def _reliability(part: Element) -> str:
    """Return what ``verification`` says, that of the type ``reliability`` first; empty if there is none."""
    every = sorted(part.findall("verification"), key=lambda each: each.get("type") != "reliability")
    return _words(every[0]).lower() if every else ""


def _children(part: Element, tag: str, *, where: str) -> list[Element]:
    """Return the children that must be there."""
    found = part.findall(tag)
    if not found:
        others = ", ".join(dict.fromkeys(f"<{child.tag}>" for child in part)) or "nothing"
        raise FormatError(f"{where}: <{part.tag}> has no <{tag}>; it has {others}.", hint=_OTHER_SCHEMA)
    return found


def _words(part: Element) -> str:
    return " ".join((part.text or "").split())
