from __future__ import annotations

import gzip
import tracemalloc
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from cytoloc.errors import FormatError
from cytoloc.hpa.catalog import Gene, SelectionOptions, read_catalog, select_fields
from cytoloc.labels.label_set import LabelSet
from tests.hpa.site_double import Assay, Well, gene_xml

APPROVED = Assay(
    "HPA004109",
    "Approved",
    [
        Well("U-2 OS", ["cytosol", "nucleoplasm"], ["4109/24_H11_1", "4109/24_H11_2"]),
        Well("A-431", [], ["4109/25_B2_1_cr5af971a263864"]),
    ],
)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("root", [True, False])
def test_fields_have_the_locations_of_their_own_cell_line(tmp_path: Path, *, root: bool) -> None:
    (gene,) = read_catalog(write(tmp_path / "a.xml", gene_xml("ENSG00000000003", "TSPAN6", [APPROVED], root=root)))
    assert (gene.ensembl, gene.name, gene.release) == ("ENSG00000000003", "TSPAN6", "18")
    assert [(each.id, each.cell_line, each.locations) for each in gene.fields] == [
        ("4109_24_H11_1", "U-2 OS", ("cytosol", "nucleoplasm")),
        ("4109_24_H11_2", "U-2 OS", ("cytosol", "nucleoplasm")),
        ("4109_25_B2_1_cr5af971a263864", "A-431", ()),
    ]
    last = gene.fields[-1]
    assert (last.antibody, last.folder, last.plate, last.well, last.field) == (
        "HPA004109",
        "4109",
        "25",
        "B2",
        "1_cr5af971a263864",
    )
    assert last.reliability == "approved"
    assert gene.fields[0].go_ids == ("GO:0005829", "GO:0005829")
    assert gene.fields[0].url == "http://v18.proteinatlas.org/images/4109/24_H11_1_blue_red_green.jpg"
    assert not gene.skipped


def test_later_and_earlier_releases_are_read(tmp_path: Path) -> None:
    later = gene_xml("ENSG00000000003", "TSPAN6", [APPROVED], release="25", images="https://images.proteinatlas.org")
    later = later.replace('schemaVersion="2.5"', 'schemaVersion="3.1"')
    (gene,) = read_catalog(write(tmp_path / "later.xml", later))
    assert [each.id for each in gene.fields][:1] == ["4109_24_H11_1"]
    earlier = gene_xml("ENSG00000000003", "TSPAN6", [APPROVED], root=False, release="12")
    earlier = earlier.replace("cellExpression", "subcellularLocation").replace("reliability", "validation")
    earlier = earlier.replace("<assayImage>", '<verification type="validation">supportive</verification><assayImage>')
    (gene,) = read_catalog(write(tmp_path / "earlier.xml", earlier))
    assert [each.reliability for each in gene.fields] == ["supportive"] * 3


def test_images_of_other_kinds_are_counted(tmp_path: Path) -> None:
    others = [
        APPROVED._replace(kind='type="mouse"'),
        APPROVED._replace(kind='type="human" subtype="ciliated cell lines"'),
        APPROVED._replace(kind='type="human" subtype="human cell lines"', wells=[Well("HeLa", ["cytosol"], ["1/if"])]),
    ]
    (gene,) = read_catalog(write(tmp_path / "a.xml", gene_xml("ENSG00000000003", "TSPAN6", others)))
    assert not gene.fields
    assert gene.skipped == {
        "of the assay mouse": 3,
        "of the assay human ciliated cell lines": 3,
        "with an unexpected form of URL": 1,
    }


def test_addresses_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    for stem in ("../24_H11_1", "..%2f/24_H11_1", "4109/..", "4109/24_H11_../x", "41/09/24_H11_1?x"):
        assay = APPROVED._replace(wells=[Well("HeLa", ["cytosol"], [stem])])
        for gene in read_catalog(write(tmp_path / "a.xml", gene_xml("ENSG00000000003", "TSPAN6", [assay]))):
            assert not gene.fields, stem
            assert gene.skipped.total() == 1


def test_a_gene_without_images_is_a_gene(tmp_path: Path) -> None:
    (gene,) = read_catalog(write(tmp_path / "a.xml", gene_xml("ENSG00000000938", "FGR", [])))
    assert (gene.name, gene.fields) == ("FGR", [])


WHOLE = gene_xml("ENSG00000000003", "TSPAN6", [APPROVED])
BAD: dict[str, tuple[str, str]] = {
    "empty": ("", "not valid XML: no element found"),
    "cut off": (WHOLE[:900], "not valid XML"),
    "mismatched": (WHOLE.replace("</antibody>", "</antibodies>", 1), "mismatched tag"),
    "a web page": ("<!DOCTYPE html>\n<html><head><meta charset=utf-8></head></html>", "is a web page"),
    "an older web page": ("<html><p>Not found<br></html>", "is a web page"),
    "text": ("Not found", "not valid XML"),
    "another root": ("<uniprot><entry/></uniprot>", "begins with <uniprot>"),
    "a later schema": (WHOLE.replace('"2.5"', '"4.0"'), "has schema 4.0"),
    "no identifier": (WHOLE.replace("<identifier", "<id").replace("</identifier>", "</id>"), "without identifier"),
    "no name": (WHOLE.replace("<name>TSPAN6</name>", ""), "without name"),
    "no sub-assays": (
        WHOLE.replace("subAssay", "assay"),
        "<cellExpression> has no <subAssay>; its children are <assay>",
    ),
    "no cell lines": (
        WHOLE.replace("cellLine", "cells"),
        "<data> has no <cellLine>; its children are <cells>, <location>",
    ),
    "no addresses": (
        WHOLE.replace("imageUrl>http://v18.proteinatlas.org/images/4109/2", "link>").replace(
            "n.jpg</imageUrl", "n</link"
        ),
        "<image> has no <imageUrl>; its children are <channel>, <link>",
    ),
    "entities": (
        '<!DOCTYPE entry [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;">]>' + gene_xml("E", "&b;", [], root=False)[39:],
        "declares the document type 'entry'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_a_catalog_is_refused(tmp_path: Path, case: str) -> None:
    text, expected = BAD[case]
    with pytest.raises(FormatError) as caught:
        list(read_catalog(write(tmp_path / "bad.xml", text)))
    assert expected in str(caught.value)
    assert "bad.xml" in str(caught.value)


def test_a_zipped_file_is_read_and_a_cut_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.xml.gz"
    path.write_bytes(gzip.compress(WHOLE.encode()))
    assert [gene.name for gene in read_catalog(path)] == ["TSPAN6"]
    path.write_bytes(gzip.compress(WHOLE.encode())[:-40])
    with pytest.raises(FormatError, match="truncated or damaged"):
        list(read_catalog(path))
    damaged = bytearray(gzip.compress(WHOLE.encode()))
    damaged[10] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(FormatError, match=r"a\.xml\.gz is truncated or damaged: .*decompress"):
        list(read_catalog(path))
    with pytest.raises(FormatError, match=r"The catalog file .* does not exist"):
        list(read_catalog(tmp_path / "none.xml"))


def many(path: Path, genes: int, of: Callable[[int], str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write('<proteinAtlas schemaVersion="3.0">')
        for number in range(genes):
            file.write(of(number))
        file.write("</proteinAtlas>")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def one(number: int) -> str:
        entry = gene_xml(f"ENSG{number:011d}", f"G{number}", [APPROVED], root=False).partition("\n")[2]
        return entry.replace("<tissue>liver</tissue>", "<tissue>liver</tissue>" * 500)

    peaks = []
    for genes in (20, 400):
        many(tmp_path / "many.xml", genes, one)
        tracemalloc.start()
        assert sum(len(gene.fields) for gene in read_catalog(tmp_path / "many.xml")) == 3 * genes
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 100_000


WELLS = [
    Well("U-2 OS", ["cytosol", "Nucleus"], ["4109/24_H11_1", "4109/24_H11_2"]),
    Well("A-431", ["Vesicles", "cell junctions"], ["4109/25_B2_1"]),
    Well("MCF7", ["vesicles"], ["4109/26_B2_1"]),
    Well("HeLa", [], ["4109/27_B2_1"]),
]


def genes(tmp_path: Path, *assays: Assay, ensembl: str = "ENSG00000000003", name: str = "TSPAN6") -> list[Gene]:
    path = tmp_path / f"{ensembl}.xml"
    path.write_text(gene_xml(ensembl, name, assays))
    return list(read_catalog(path))


def test_labels_belong_to_wells(tmp_path: Path) -> None:
    found = select_fields(genes(tmp_path, Assay("HPA004109", "approved", WELLS)), SelectionOptions())
    assert found.labels == {"4109_24_H11_1": (0, 25), "4109_24_H11_2": (0, 25), "4109_25_B2_1": (22,)}
    assert found.without == {"vesicles": 1, "Vesicles": 1}
    assert found.left_out == {"without any location of the label set": 2}
    per_location = found.per_location
    assert (per_location[0], per_location[25], per_location[22], sum(per_location)) == (2, 2, 1, 5)


def test_labels_are_those_that_another_parser_finds(tmp_path: Path) -> None:
    found = select_fields(genes(tmp_path, Assay("HPA004109", "approved", WELLS)), SelectionOptions(unlabeled=True))
    expected = {}
    names = {name.lower(): index for index, name in enumerate(LabelSet.hpa28().names)} | {
        "nucleus": 0,
        "vesicles": None,
    }
    for row in ET.parse(tmp_path / "ENSG00000000003.xml").getroot().iterfind(".//subAssay/data"):
        numbers = [names[(each.text or "").lower()] for each in row.iterfind("location")]
        for url in row.iterfind("assayImage/image/imageUrl"):
            folder, name = (url.text or "").split("/")[-2:]
            ids = tuple(sorted({number for number in numbers if number is not None}))
            expected[f"{folder}_{name.removesuffix('_blue_red_green.jpg')}"] = ids
    assert found.labels == expected


def test_unknown_names_are_counted_and_give_no_label(tmp_path: Path) -> None:
    wells = [
        Well("U-2 OS", ["Nucleoli", "Dark side"], ["1/2_C1_1", "1/2_C1_2"]),
        Well("A-431", ["cytoplasm"], ["1/3_C1_1"]),
    ]
    found = select_fields(genes(tmp_path, Assay("HPA000001", "enhanced", wells)), SelectionOptions())
    assert found.unknown == {"Dark side": 2, "cytoplasm": 1}
    assert found.labels == {"1_2_C1_1": (2,), "1_2_C1_2": (2,)}


def test_reliability_and_cells_are_chosen_and_counted(tmp_path: Path) -> None:
    every = genes(
        tmp_path,
        Assay("HPA004109", "Uncertain", WELLS[:1]),
        Assay("HPA000002", "supportive", [WELLS[0]._replace(fields=["2/24_H11_1"])]),
        Assay(
            "HPA000003", "enhanced", [WELLS[0]._replace(fields=["3/24_H11_1"]), WELLS[1]._replace(fields=["3/25_B2_1"])]
        ),
    )
    found = select_fields(every, SelectionOptions(cell_lines=frozenset({"U-2 OS"})))
    assert [each.id for each in found.fields] == ["3_24_H11_1"]
    assert found.left_out == {
        "of the reliability uncertain": 2,
        "of the reliability supportive": 1,
        "of other cell lines": 1,
    }
    uncertain = select_fields(every, SelectionOptions(reliability=frozenset({"uncertain"})))
    assert list(uncertain.labels) == ["4109_24_H11_1", "4109_24_H11_2"]


def test_a_well_with_contradictory_locations_is_left_out(tmp_path: Path) -> None:
    wells = [
        Well("U-2 OS", ["cytosol"], ["1/2_C1_1"]),
        Well("U-2 OS", ["nucleoli"], ["1/2_C1_2"]),
        Well("U-2 OS", ["cytosol", "nucleoli"], ["1/2_C2_1"]),
        Well("U-2 OS", ["Nucleoli", "Cytosol"], ["1/2_C2_2"]),
    ]
    found = select_fields(genes(tmp_path, Assay("HPA000001", "enhanced", wells)), SelectionOptions())
    assert found.labels == {"1_2_C2_1": (2, 25), "1_2_C2_2": (2, 25)}
    assert found.left_out == {"of a well with contradictory locations": 2}


def test_genes_that_share_an_antibody_share_its_fields(tmp_path: Path) -> None:
    shared = Assay("HPA004109", "approved", WELLS[:1])
    both = genes(tmp_path, shared) + genes(tmp_path, shared, ensembl="ENSG00000000457", name="SCYL3")
    found = select_fields(both, SelectionOptions())
    assert [(each.id, each.gene, each.ensembl) for each in found.fields] == [
        ("4109_24_H11_1", "TSPAN6;SCYL3", "ENSG00000000003;ENSG00000000457"),
        ("4109_24_H11_2", "TSPAN6;SCYL3", "ENSG00000000003;ENSG00000000457"),
    ]


@pytest.mark.parametrize(("limit", "taken"), [(1, 1), (2, 2), (99, 3)])
def test_a_limit_takes_the_first(tmp_path: Path, limit: int, taken: int) -> None:
    found = select_fields(genes(tmp_path, Assay("HPA004109", "approved", WELLS)), SelectionOptions(limit=limit))
    assert list(found.labels) == ["4109_24_H11_1", "4109_24_H11_2", "4109_25_B2_1"][:taken]
    assert found.left_out["beyond the limit"] == 3 - taken
