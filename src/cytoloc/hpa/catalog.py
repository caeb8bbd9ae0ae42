"""The catalog of the Human Protein Atlas (HPA): reading its XML files and selecting fields of view.

The schema is known from public copies of the files (releases 12 and 13) and from programs that read them (18 to 25):

* ``proteinAtlas`` (attribute ``schemaVersion``, 3.0 and 3.1 in release 25) contains one ``entry`` per gene. The file of
  a single gene begins with ``proteinAtlas`` or, up to release 18, with ``entry``.
* ``entry`` (attribute ``version``, the release) has ``name``, ``identifier`` (attribute ``id``, the Ensembl id) and,
  for each ``antibody`` (attribute ``id``, such as HPA010580), a ``cellExpression``. It was ``subcellularLocation`` in
  release 12. The ``cellExpression`` outside antibodies summarizes the gene and has no images of wells.
* ``subAssay`` of type ``human`` has ``verification`` of type ``reliability``. In release 12 it was ``validation``, and
  ``data`` had its own. Other types are mouse and gene silencing. Release 24 adds the subtype ``ciliated cell lines``,
  whose images are z-stacks.
* ``data`` is a cell line with ``cellLine``, ``location`` (attribute ``GOId``) and ``assayImage/image/imageUrl``. The
  URL names the well: ``…/10580/1610_C1_1_blue_red_green.jpg``. There is no ``location`` if no signal was seen.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, cast
from xml.etree.ElementTree import Element, ParseError, XMLPullParser
from xml.parsers import expat

from cytoloc.errors import FormatError
from cytoloc.files import existing
from cytoloc.labels.hpa_names import Named, count_unknown, locations_of
from cytoloc.labels.label_set import LabelSet

NEWEST_SCHEMA: Final = 3
"""Newest major version of the schema that is supported."""

_ROOTS: Final = ("proteinAtlas", "entry")
_CELLS: Final = ("cellExpression", "subcellularLocation")
_SUBTYPES: Final = (None, "human cell lines")
_CHUNK: Final = 1 << 16
_DOCTYPE: Final = re.compile(rb"(?:[^<]|<\?[^>]*>|<!--.*?-->)*<!DOCTYPE\s+([^\s\[>]+)", re.DOTALL | re.IGNORECASE)
_COLOR: Final = "(?:red|green|blue|yellow)"
_ADDRESS: Final = re.compile(
    rf"https?://[^/?#]+/(?:[^?#]*/)?(?P<folder>[A-Za-z0-9-]+)/"
    rf"(?P<stem>(?P<plate>[A-Za-z0-9-]+)_(?P<well>[A-Z]+[0-9]+)_(?P<field>[0-9]+(?:_cr[0-9a-f]+)?))"
    rf"_{_COLOR}(?:_{_COLOR})*\.jpg"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogField:
    """A field of view in the catalog.

    Attributes:
        id: ``{antibody}_{plate}_{well}_{field}``, with the number of the antibody in the URL.
        gene: Gene name; several are separated by ``;``.
        ensembl: Ensembl id of the gene; several are separated by ``;``.
        antibody: Antibody, such as HPA010580.
        reliability: Reliability of the antibody's locations, in lower case; may be empty.
        cell_line: Cell line.
        plate: Plate number.
        well: Position of the well on the plate.
        field: Number of the field in the well.
        locations: Names of the locations in this cell line.
        go_ids: Gene Ontology terms of the locations; may be empty.
        url: URL of one of the field's images.
        release: Release of the Human Protein Atlas.
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
        """The number of the antibody, as in the URL."""
        return self.id.partition("_")[0]

    @property
    def place(self) -> tuple[str, str, str]:
        """Antibody, plate and well, which identify one protein in one cell line."""
        return self.folder, self.plate, self.well


@dataclass(slots=True)
class Gene:
    """A gene in the catalog.

    Attributes:
        ensembl: Ensembl id.
        name: Gene name.
        release: Release of the Human Protein Atlas.
        fields: Fields of view of subcellular images; many genes have none.
        skipped: Number of images of other assays, by reason.
    """

    ensembl: str
    name: str
    release: str
    fields: list[CatalogField] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def read_catalog(path: Path) -> Iterator[Gene]:
    """Yield the genes in an XML file one at a time.

    Files with a document type declaration are refused, because entities can expand until memory is full.

    Args:
        path: XML file, plain or gzipped.

    Yields:
        Each gene, in order of the file.

    Raises:
        FormatError: If the file is damaged, a web page, or of an unsupported schema.
    """
    where = path.name
    parser: XMLPullParser[Element] = XMLPullParser(("start", "end"))
    above: list[Element] = []
    with existing(path, error=FormatError, what="catalog file").open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream = gzip.GzipFile(fileobj=file) if zipped else file
        try:
            chunk = stream.read(_CHUNK)
            if declared := _DOCTYPE.match(chunk):
                kind = declared[1].decode(errors="replace")
                _refuse_document("html" if kind.lower() == "html" else "proteinAtlas", {}, where=where)
                raise FormatError(
                    f"{where} declares the document type {kind!r}; XML of the Human Protein Atlas declares none.",
                    hint="Fetch the file again. Such a declaration can fill the memory.",
                )
            while True:
                if chunk:
                    parser.feed(chunk)
                else:
                    parser.close()
                for event, part in cast("Iterator[tuple[str, Element]]", parser.read_events()):
                    if event == "start":
                        if not above:
                            _refuse_document(part.tag, part.attrib, where=where)
                        above.append(part)
                        continue
                    above.pop()
                    if part.tag == "entry":
                        yield _gene_of(part, where=where)
                    # Elements that are no longer needed are emptied, to limit memory.
                    tags = [each.tag for each in above]
                    if part.tag == "entry" or (tags[-1:] == ["antibody"] and part.tag not in _CELLS):
                        part.clear()
                    if tags == ["proteinAtlas"]:
                        above[0].clear()
                if not chunk:
                    return
                chunk = stream.read(_CHUNK)
        except ParseError as error:
            line, column = error.position
            raise FormatError(
                f"{where} is not valid XML: {expat.ErrorString(error.code)}, line {line}, column {column}.",
                hint="The file may be truncated, or a web page. Fetch it again.",
            ) from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise FormatError(f"{where} is truncated or damaged: {error}.", hint="Fetch it again.") from error


def _refuse_document(tag: str, attributes: Mapping[str, str], *, where: str) -> None:
    """Raise unless a document begins like the HPA's XML of a supported schema."""
    if tag.lower() == "html":
        raise FormatError(
            f"{where} is a web page, not the XML of a gene.",
            hint="Check that the gene is in this release, and that the site (`base`) is online.",
        )
    if tag not in _ROOTS:
        raise FormatError(
            f"{where} begins with <{tag}>, not with <proteinAtlas> or <entry>.",
            hint="Give the XML of genes, as at {base}/ENSG00000000003.xml.",
        )
    schema = attributes.get("schemaVersion", "")
    if (major := schema.partition(".")[0]).isdecimal() and int(major) > NEWEST_SCHEMA:
        raise FormatError(
            f"{where} has schema {schema}, but this version of cytoloc reads schemas up to {NEWEST_SCHEMA}.x.",
            hint="Use an earlier release of the Human Protein Atlas, such as https://v18.proteinatlas.org.",
        )


def _gene_of(entry: Element, *, where: str) -> Gene:
    name, identifier = text_of(found) if (found := entry.find("name")) is not None else "", entry.find("identifier")
    ensembl = "" if identifier is None else identifier.get("id", "")
    if not name or not ensembl:
        what = f"identifier ({name})" if name else f"name ({ensembl})"
        raise FormatError(f"{where} has an entry without {what}.", hint=_OTHER_SCHEMA)
    gene = Gene(ensembl, name, entry.get("version", ""))
    for antibody in entry.iterfind("antibody"):
        cells = [part for part in antibody if part.tag in _CELLS and part.find(".//imageUrl") is not None]
        for part in cells:
            place = f"{where}, {name}, {antibody.get('id', '')}"
            for assay in _children(part, "subAssay", where=place):
                _add_fields(gene, antibody.get("id", ""), assay, where=place)
    return gene


_OTHER_SCHEMA: Final = "The schema may have changed. See the docstring of cytoloc.hpa.catalog for the supported one."


def _add_fields(gene: Gene, antibody: str, assay: Element, *, where: str) -> None:
    """Add the fields of a ``subAssay`` to a gene."""
    kind, subtype = assay.get("type"), assay.get("subtype")
    if kind != "human" or subtype not in _SUBTYPES:
        reason = f"of the assay {' '.join(word for word in (kind, subtype) if word) or 'without type'}"
        gene.skipped[reason] += len(assay.findall("data/assayImage/image"))
        return
    for row in assay.findall("data"):
        if row.find("assayImage/image") is None:
            continue
        cell_line = _children(row, "cellLine", where=where)[0]
        named = [(text_of(each), each.get("GOId", "")) for each in row.findall("location") if text_of(each)]
        reliability = _reliability(row) or _reliability(assay)
        for image in row.findall("assayImage/image"):
            for url in _children(image, "imageUrl", where=where):
                found = _ADDRESS.fullmatch(text_of(url))
                if found is None:
                    gene.skipped["with an unexpected form of URL"] += 1
                    continue
                gene.fields.append(
                    CatalogField(
                        id=f"{found['folder']}_{found['stem']}",
                        gene=gene.name,
                        ensembl=gene.ensembl,
                        antibody=antibody,
                        reliability=reliability,
                        cell_line=text_of(cell_line),
                        plate=found["plate"],
                        well=found["well"],
                        field=found["field"],
                        locations=tuple(name for name, _ in named),
                        go_ids=tuple(go_id for _, go_id in named),
                        url=text_of(url),
                        release=gene.release,
                    )
                )


def _reliability(part: Element) -> str:
    """Return the text of ``verification``, or an empty string."""
    every = sorted(part.findall("verification"), key=lambda each: each.get("type") != "reliability")
    return text_of(every[0]).lower() if every else ""


def _children(part: Element, tag: str, *, where: str) -> list[Element]:
    """Return the children with a tag; raise if there are none."""
    found = part.findall(tag)
    if not found:
        others = ", ".join(dict.fromkeys(f"<{child.tag}>" for child in part)) or "nothing"
        raise FormatError(f"{where}: <{part.tag}> has no <{tag}>; its children are {others}.", hint=_OTHER_SCHEMA)
    return found


def text_of(part: Element) -> str:
    """Return the text of an element, with single spaces."""
    return " ".join((part.text or "").split())


RELIABILITIES: Final = ("enhanced", "supported", "approved", "uncertain")
"""Reliabilities of an antibody's locations since release 17, highest first."""


@dataclass(frozen=True, kw_only=True)
class SelectionOptions:
    """Options for the selection of fields.

    Attributes:
        reliability: Accepted reliabilities of antibodies.
        cell_lines: Accepted cell lines; None for all.
        unlabeled: Also select fields without a location of the label set.
        limit: Maximum number of fields, in order of the catalog; None for all.
        label_set: Label set of the labels.
    """

    reliability: frozenset[str] = frozenset(RELIABILITIES[:3])
    cell_lines: frozenset[str] | None = None
    unlabeled: bool = False
    limit: int | None = None
    label_set: LabelSet = field(default_factory=LabelSet.hpa28)


@dataclass(frozen=True)
class FieldSelection:
    """Fields that were selected from a catalog.

    Attributes:
        fields: Selected fields in order of the catalog. A field of several genes occurs once.
        label_set: Label set of the labels.
        labels: Indices of the locations of each field, by field id; may be empty.
        unknown: Number of fields with each unknown location name.
        without: Number of fields with each location that is not in the label set.
        left_out: Number of fields that were not selected, by reason.
    """

    fields: tuple[CatalogField, ...]
    label_set: LabelSet
    labels: dict[str, tuple[int, ...]]
    unknown: Counter[str]
    without: Counter[str]
    left_out: Counter[str]

    @property
    def per_location(self) -> list[int]:
        """Number of selected fields with each location."""
        counts = [0] * len(self.label_set)
        for ids in self.labels.values():
            for number in ids:
                counts[number] += 1
        return counts


def select_fields(genes: Iterable[Gene], options: SelectionOptions) -> FieldSelection:
    """Select fields, with the locations of their wells as labels.

    A field gets the locations of its own cell line, because an antibody can have other locations in other cell lines.
    Wells with contradictory locations are excluded.

    Args:
        genes: Genes of a catalog.
        options: Options for the selection.

    Returns:
        The selected fields, their labels, and counts of the other fields.
    """
    fields: dict[str, CatalogField] = {}
    wells: dict[tuple[str, str, str], set[tuple[str, ...]]] = {}
    left_out: Counter[str] = Counter()
    for gene in genes:
        left_out.update(gene.skipped)
        for each in gene.fields:
            if each.reliability not in options.reliability:
                left_out[f"of the reliability {each.reliability or 'unknown'}"] += 1
            elif options.cell_lines is not None and each.cell_line not in options.cell_lines:
                left_out["of other cell lines"] += 1
            else:
                # The order of names does not matter.
                wells.setdefault(each.place, set()).add(tuple(sorted(name.lower() for name in each.locations)))
                first = fields.setdefault(each.id, each)
                if each.ensembl not in first.ensembl.split(";"):
                    names, ids = f"{first.gene};{each.gene}", f"{first.ensembl};{each.ensembl}"
                    fields[each.id] = replace(first, gene=names, ensembl=ids)
    named: dict[str, Named] = {}
    for each in fields.values():
        if len(wells[each.place]) > 1:
            left_out["of a well with contradictory locations"] += 1
        else:
            named[each.id] = locations_of(each.locations, options.label_set)
    chosen: list[str] = []
    for name, found in named.items():
        if not found.indices and not options.unlabeled:
            left_out["without any location of the label set"] += 1
        elif options.limit is not None and len(chosen) >= options.limit:
            left_out["beyond the limit"] += 1
        else:
            chosen.append(name)
    return FieldSelection(
        fields=tuple(fields[name] for name in chosen),
        label_set=options.label_set,
        labels={name: named[name].indices for name in chosen},
        unknown=count_unknown(named.values()),
        without=Counter(name for found in named.values() for name in found.without),
        left_out=left_out,
    )
