from __future__ import annotations

import gzip
import random
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from cytoloc.errors import TableError
from cytoloc.hpa.genes import GeneList, gene_list, read_gene_table, read_genes
from tests.conftest import DATA

TABLE = "Gene\tGene name\tReliability\nENSG00000000003\tTSPAN6\tApproved\nENSG00000000457\tSCYL3\tUncertain\n"
IDS = ("ENSG00000000003", "ENSG00000000457")


def test_ids_and_names_a_line(tmp_path: Path) -> None:
    path = tmp_path / "genes.txt"
    path.write_text("# mine\nENSG00000000003\n\n SCYL3  # a name\nENSG00000000003\nHLA-A\n")
    assert read_genes(path) == GeneList(("ENSG00000000003",), ("SCYL3", "HLA-A"))
    assert gene_list(["ENSG00000000003", "SCYL3", "HLA-A"]) == read_genes(path)
    with pytest.raises(TableError, match="genes: 'what is' is neither"):
        gene_list(["what is"])


@pytest.mark.parametrize(
    "header", ["Gene", "gene", "GENES", "Ensembl", "Ensembl id", "ensembl_gene_id", "Gene stable ID", "gene.name"]
)
def test_the_header_of_a_list_is_no_gene(tmp_path: Path, header: str) -> None:
    path = tmp_path / "genes.txt"
    path.write_text(f"# mine\n\n{header}\nENSG00000000003\nSCYL3\n")
    assert read_genes(path) == GeneList(("ENSG00000000003",), ("SCYL3",))
    path.write_text(f"{header}\n")
    with pytest.raises(TableError, match="lists no genes"):
        read_genes(path)
    # Further down it is none.
    path.write_text("SCYL3\ngene\n")
    assert read_genes(path).names == ("SCYL3", "gene")


def test_tables_of_the_dataset(tmp_path: Path) -> None:
    path = tmp_path / "subcellular_location.tsv"
    path.write_text(TABLE)
    assert read_genes(path) == GeneList(IDS)
    assert read_gene_table(path) == ({"TSPAN6": IDS[0], "SCYL3": IDS[1]}, 0)
    zipped = tmp_path / "table.tsv.gz"
    zipped.write_bytes(gzip.compress(TABLE.encode()))
    assert read_genes(zipped) == GeneList(IDS)
    with zipfile.ZipFile(tmp_path / "table.tsv.zip", "w") as packed:
        packed.writestr("subcellular_location.tsv", TABLE)
    assert read_genes(tmp_path / "table.tsv.zip") == GeneList(IDS)
    other = tmp_path / "proteinatlas.csv"
    other.write_text('Gene,"Gene synonym",Ensembl\nTSPAN6,"T245, TM4SF6",ENSG00000000003\n')
    assert read_gene_table(other) == ({"TSPAN6": IDS[0]}, 0)


def test_skipped_rows_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    path.write_text(TABLE.replace("Reliability\n", "Reliability\nENSG1\tX\tApproved\n\n") + "ENSG00000000938\tFG")
    assert read_genes(path) == GeneList(IDS, skipped=2)
    assert read_gene_table(path).skipped == 2


def test_two_genes_of_one_name_are_two(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    path.write_text(TABLE.replace("SCYL3", "TSPAN6"))
    assert read_genes(path) == GeneList(IDS)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "lists no genes"),
        (b"# nothing\n", "lists no genes"),
        (b"TSPAN6\nwhat is this\n", "line 2: 'what is this' is neither"),
        (b"../../etc/passwd\n", "line 1"),
        (b"\xff\xfe\x00", "is not a gene list"),
        (b"\x1f\x8bxx", "is not a gene list"),
        (b"PK\x03\x04xx", "is not a gene list"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "genes.txt"
    path.write_bytes(content)
    with pytest.raises(TableError, match=expected):
        read_genes(path)
    with pytest.raises(TableError):
        read_gene_table(path)


def zipped(path: Path, *, kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    with zipfile.ZipFile(path, "w", kind) as packed:
        packed.writestr("table.tsv", TABLE * 20)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["gzip", zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_archive_is_refused_wherever_it_is_damaged(tmp_path: Path, kind: int | str) -> None:
    path, chance = tmp_path / "table", random.Random(0)
    whole = zipped(path, kind=kind) if isinstance(kind, int) else gzip.compress(TABLE.encode() * 20)
    refused = 0
    for place in range(4, len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= chance.randrange(1, 256)
        path.write_bytes(damaged)
        with suppress(TableError):
            read_genes(path)
            continue
        refused += 1
    assert refused > 30
    path.write_bytes(whole[:-1])
    with pytest.raises(TableError, match="table is not a gene list: it cannot be unpacked") as caught:
        read_genes(path)
    assert "unpack it and give the file in it" in caught.value.hint


def test_a_zip_with_a_password_or_of_a_later_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.zip"
    for place, value, expected in ((8, 1, "encrypted"), (10, 99, "compression method")):
        content = bytearray(zipped(path))
        # What is said at the end counts too, two bytes later.
        content[place - 2] = content[content.rfind(b"PK\x01\x02") + place] = value
        path.write_bytes(content)
        with pytest.raises(TableError, match=rf"table\.zip is not a gene list: it cannot be unpacked .*{expected}"):
            read_genes(path)


@pytest.mark.parametrize("rows", [0, 3, 20_000])
@pytest.mark.parametrize("begun", ['"ENSG00000000938\tFGR\tApproved\n', 'ENSG00000000938\tFGR\t"Approved\n'])
def test_a_quote_that_is_not_closed_is_named(tmp_path: Path, begun: str, rows: int) -> None:
    path = tmp_path / "table.tsv"
    path.write_text(TABLE + begun + "ENSG00000000938\tFGR\tApproved\n" * rows)
    for read in (read_genes, read_gene_table):
        with pytest.raises(TableError, match=r"table\.tsv, line 4: a quote is not closed"):
            read(path)
    path.write_text('"' + TABLE * (rows + 1))
    with pytest.raises(TableError, match="line 1: "):
        read_genes(path)


def test_a_cell_of_two_lines_is_a_cell(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    for word in ("Approved", "Reliability"):
        path.write_text(TABLE.replace(word, f'"{word}\nor so"'))
        assert read_genes(path) == GeneList(IDS)


def test_the_real_tables() -> None:
    path = DATA / "metadata" / "subcellular_location_v18.tsv.gz"
    if not path.exists():
        pytest.skip(f"the real table is not at {path}; set CYTOLOC_TEST_DATA")
    assert len(read_genes(path).ids) == 12_073
    assert read_gene_table(path).ids["SCYL3"] == "ENSG00000000457"
