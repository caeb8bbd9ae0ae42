from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from cytoloc.hpa.catalog import Gene, read_catalog
from cytoloc.hpa.selection import Wanted, select
from cytoloc.labels import LabelSet
from tests.hpa.site_double import Assay, Well, gene_xml

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
    found = select(genes(tmp_path, Assay("HPA004109", "approved", WELLS)), Wanted())
    assert found.labels == {"4109_24_H11_1": (0, 25), "4109_24_H11_2": (0, 25), "4109_25_B2_1": (22,)}
    assert found.without == {"vesicles": 1, "Vesicles": 1}
    assert found.left_out == {"without any location of the label set": 2}
    per_location = found.per_location
    assert (per_location[0], per_location[25], per_location[22], sum(per_location)) == (2, 2, 1, 5)


def test_they_are_what_another_parser_finds(tmp_path: Path) -> None:
    found = select(genes(tmp_path, Assay("HPA004109", "approved", WELLS)), Wanted(unlabeled=True))
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
    found = select(genes(tmp_path, Assay("HPA000001", "enhanced", wells)), Wanted())
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
    found = select(every, Wanted(cell_lines=frozenset({"U-2 OS"})))
    assert [each.id for each in found.fields] == ["3_24_H11_1"]
    assert found.left_out == {
        "of the reliability uncertain": 2,
        "of the reliability supportive": 1,
        "of other cell lines": 1,
    }
    uncertain = select(every, Wanted(reliability=frozenset({"uncertain"})))
    assert list(uncertain.labels) == ["4109_24_H11_1", "4109_24_H11_2"]


def test_a_well_with_two_stories_is_left_out(tmp_path: Path) -> None:
    wells = [
        Well("U-2 OS", ["cytosol"], ["1/2_C1_1"]),
        Well("U-2 OS", ["nucleoli"], ["1/2_C1_2"]),
        Well("U-2 OS", ["cytosol", "nucleoli"], ["1/2_C2_1"]),
        Well("U-2 OS", ["Nucleoli", "Cytosol"], ["1/2_C2_2"]),
    ]
    found = select(genes(tmp_path, Assay("HPA000001", "enhanced", wells)), Wanted())
    assert found.labels == {"1_2_C2_1": (2, 25), "1_2_C2_2": (2, 25)}
    assert found.left_out == {"of a well of which the catalog says two things": 2}


def test_genes_that_share_an_antibody_share_its_fields(tmp_path: Path) -> None:
    shared = Assay("HPA004109", "approved", WELLS[:1])
    both = genes(tmp_path, shared) + genes(tmp_path, shared, ensembl="ENSG00000000457", name="SCYL3")
    found = select(both, Wanted())
    assert [(each.id, each.gene, each.ensembl) for each in found.fields] == [
        ("4109_24_H11_1", "TSPAN6;SCYL3", "ENSG00000000003;ENSG00000000457"),
        ("4109_24_H11_2", "TSPAN6;SCYL3", "ENSG00000000003;ENSG00000000457"),
    ]


@pytest.mark.parametrize(("limit", "taken"), [(1, 1), (2, 2), (99, 3)])
def test_a_limit_takes_the_first(tmp_path: Path, limit: int, taken: int) -> None:
    found = select(genes(tmp_path, Assay("HPA004109", "approved", WELLS)), Wanted(limit=limit))
    assert list(found.labels) == ["4109_24_H11_1", "4109_24_H11_2", "4109_25_B2_1"][:taken]
    assert found.left_out["beyond the limit"] == 3 - taken
