"""Fetching by the command and from Python, from a local site with the layout of the Atlas and with its faults."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from cytoloc import open_dataset
from cytoloc.errors import ArgumentTypeError, SettingsError
from cytoloc.files import sha256_of
from cytoloc.hpa.fetching import Fetched, FetchOptions, fetch_hpa, plan_hpa
from tests.cli.test_bad_input import on_small_disks
from tests.conftest import DATA, Cli
from tests.hpa.conftest import GENES
from tests.hpa.site_double import COLORS, Assay, AtlasSite, Fault, Well

TAKEN = [
    "4109_24_H11_1",
    "4109_24_H11_2",
    "4109_25_B2_1_cr5af971a263864",
    "10580_1610_C1_1",
    "10580_1610_C1_2",
]
LABELS = {TAKEN[0]: "0 25", TAKEN[1]: "0 25", TAKEN[2]: "22", TAKEN[3]: "27", TAKEN[4]: "27"}


@pytest.fixture
def genes(tmp_path: Path) -> Path:
    path = tmp_path / "genes.txt"
    path.write_text("\n".join(GENES) + "\n")
    return path


def call(site: AtlasSite, genes: Path | None, out: Path, *more: object) -> list[object]:
    words: list[object] = ["fetch", "hpa", "--base", site.base, "--out", out, "--rate", 1000]
    return [*words, *(["--genes", genes] if genes else []), *more]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def images(folder: Path) -> list[Path]:
    """Return the images that lie below a folder that another process is changing: what goes away is passed by."""
    return [Path(below) / name for below, _, names in os.walk(folder) for name in names if name.endswith(".jpg")]


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file of a fetch; times are left out."""
    files = {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}
    rows = [row | {"time": ""} for row in table(folder / "manifest.csv")]
    return files | {"manifest.csv": json.dumps(rows).encode()}


def test_fields_come_with_labels_per_well(site: AtlasSite, genes: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "v18"
    said = cli(*call(site, genes, out))
    assert said.code == 0, said.err
    assert "5 fields; 20 images fetched" in said.out
    assert {row["Id"]: row["Target"] for row in table(out / "labels.csv")} == LABELS
    fields = {row["id"]: row for row in table(out / "fields.csv")}
    assert list(fields) == TAKEN
    assert fields["10580_1610_C1_1"] | {"url": "", "go_ids": ""} == {
        "id": "10580_1610_C1_1",
        "gene": "SCYL3",
        "ensembl": "ENSG00000000457",
        "antibody": "CAB004223",
        "cell_line": "U-2 OS",
        "plate": "1610",
        "well": "C1",
        "field": "1",
        "reliability": "enhanced",
        "locations": "rods & rings;dark side of the moon",
        "go_ids": "",
        "url": "",
    }
    assert table(out / "unknown_names.csv") == [{"name": "dark side of the moon", "fields": "2"}]
    assert "dark side of the moon (2)" in said.err
    assert "1 field of the reliability uncertain" in said.err
    assert [tuple(row.values()) for row in table(out / "genes.csv")] == [
        ("ENSG00000000003", "TSPAN6", "18", "4", "3"),
        ("ENSG00000000457", "SCYL3", "18", "3", "2"),
        ("ENSG00000000938", "FGR", "18", "0", "0"),
    ]
    assert not (out / "failed.csv").exists()
    for name in TAKEN:
        folder, _, stem = name.partition("_")
        for color in COLORS:
            path = f"/images/{folder}/{stem}_{color}.jpg"
            assert (out / f"images/{folder}/{stem}_{color}.jpg").read_bytes() == site.files[path]


def test_the_manifest_says_where_each_file_came_from(site: AtlasSite, genes: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "v18"
    cli(*call(site, genes, out))
    rows = table(out / "manifest.csv")
    assert len(rows) == 20
    for row in rows:
        assert row["sha256"] == sha256_of(out / row["file"])
        assert row["url"] == f"{site.base}/{row['file']}"
        assert int(row["size_bytes"]) == (out / row["file"]).stat().st_size
        assert row["etag"] == f'"{row["sha256"][:12]}"'
        assert (row["license"], row["release"], row["time"][-6:]) == ("CC BY-SA 3.0", "18", "+00:00")
    cli(*call(site, genes, tmp_path / "b", "--license", "by permission"))
    assert table(tmp_path / "b" / "manifest.csv")[0]["license"] == "by permission"


def test_what_was_fetched_can_be_imported(site: AtlasSite, genes: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "v18"
    assert cli(*call(site, genes, out)).code == 0
    said = cli(
        "import", "hpa", out / "images", "--labels", out / "labels.csv", "--size", 32, "--out", tmp_path / "e.dataset"
    )
    assert said.code == 0, said.err
    dataset = open_dataset(tmp_path / "e.dataset")
    assert list(dataset.ids) == TAKEN
    assert [" ".join(map(str, ids)) for ids in dataset.fields["labels"].to_list()] == list(LABELS.values())
    assert "could not be imported" not in said.err


def test_a_second_start_fetches_nothing_twice(site: AtlasSite, genes: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "v18"
    cli(*call(site, genes, out))
    before, asked = tree(out), len(site.asked)
    said = cli(*call(site, genes, out))
    assert (said.code, len(site.asked)) == (0, asked)
    assert "0 images fetched (0.0 MB), 20 already there" in said.out
    assert tree(out) == before


FAULTS: dict[str, tuple[list[Fault], bool]] = {
    "busy for a while": (["503", "429", "503"], True),
    "cut off twice": (["cut", "cut"], True),
    "without the file": (["404"], False),
    "always sending web pages": (["html"] * 20, False),
    "always sending half an image": (["short"] * 20, False),
    "always sending another kind": (["png"] * 20, False),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_bad_site(site: AtlasSite, genes: Path, cli: Cli, tmp_path: Path, case: str) -> None:
    faults, comes = FAULTS[case]
    path = "/images/4109/24_H11_2_green.jpg"
    site.faults[path] = list(faults)
    out = tmp_path / "v18"
    said = cli(*call(site, genes, out))
    assert said.code == 0, said.err
    assert (out / path[1:]).exists() == comes
    assert len(list(out.rglob("*.jpg"))) == 19 + comes
    if comes:
        assert not (out / "failed.csv").exists()
        return
    (row,) = table(out / "failed.csv")
    assert (row["file"], row["url"]) == (path[1:], site.base + path)
    expected = {"404": "404", "html": "a web page", "short": "truncated or damaged", "png": "a PNG file"}
    assert expected[faults[0]] in row["reason"]
    assert str(tmp_path) not in row["reason"]
    assert path[1:] in said.err
    # The site has it now: the next start brings it, and it alone.
    site.faults.clear()
    asked = len(site.asked)
    again = cli(*call(site, genes, out))
    assert (again.code, len(site.asked)) == (0, asked + 1)
    assert len(list(out.rglob("*.jpg"))) == 20
    assert not (out / "failed.csv").exists()


def test_a_site_that_fails_at_everything_is_left(site: AtlasSite, genes: Path, cli: Cli, tmp_path: Path) -> None:
    stems = [f"77/1_A{number}_1" for number in range(1, 40)]
    site.add_gene("ENSG00000000938", "FGR", Assay("HPA000077", "enhanced", [Well("U-2 OS", ["cytosol"], stems)]))
    site.faults |= {path: ["503"] * 50 for path in site.images}
    said = cli(*call(site, genes, tmp_path / "v18", "--attempts", 2))
    assert said.code == 1
    assert "20 files in a row could not be fetched" in said.err
    assert len({each.path for each in site.asked if each.path.endswith(".jpg")}) < 30


def test_changed_files_are_fetched_again(site: AtlasSite, genes: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "v18"
    cli(*call(site, genes, out))
    before = tree(out)
    cut, flipped = out / "images/4109/24_H11_1_red.jpg", out / "images/4109/24_H11_1_blue.jpg"
    cut.write_bytes(cut.read_bytes()[:50])
    content = bytearray(flipped.read_bytes())
    content[-20] ^= 1
    flipped.write_bytes(content)
    said = cli(*call(site, genes, out))
    assert (
        "1 image with another checksum than recorded, fetched again, such as images/4109/24_H11_1_red.jpg" in said.err
    )
    assert tree(out) != before
    said = cli(*call(site, genes, out, "--verify"))
    assert "images/4109/24_H11_1_blue.jpg" in said.err
    assert tree(out) == before


def test_a_changed_file_that_cannot_be_fetched_again_is_removed(
    site: AtlasSite, genes: Path, cli: Cli, tmp_path: Path
) -> None:
    out, file = tmp_path / "v18", "images/4109/24_H11_1_red.jpg"
    cli(*call(site, genes, out))
    (out / file).write_bytes((out / file).read_bytes()[:50])
    site.faults["/" + file] = ["404"]
    assert cli(*call(site, genes, out)).code == 0
    assert not (out / file).exists()
    assert [row["file"] for row in table(out / "failed.csv")] == [file]
    assert len(table(out / "manifest.csv")) == 19


def test_a_plan_fetches_the_catalog_alone(site: AtlasSite, genes: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "v18"
    said = cli(*call(site, genes, out, "--plan"))
    assert said.code == 0, said.err
    assert "25 Cytosol" in said.out
    assert "5 fields of 3 wells, antibodies: 2, 3 genes (1 without subcellular images)." in said.out
    assert "20 images, 0 of them fetched already; 20 to fetch, about" in said.out
    assert [each.name for each in out.iterdir()] == ["catalog"]
    assert not [each for each in site.asked if each.path.endswith(".jpg") and each.method == "GET"]
    facts: dict[str, Any] = json.loads(cli(*call(site, genes, out, "--plan", "--json")).out)
    sizes = [
        len(site.files[f"/images/{i.split('_', 1)[0]}/{i.split('_', 1)[1]}_{c}.jpg"]) for i in TAKEN for c in COLORS
    ]
    assert facts["estimated_bytes"] == sum(sizes)
    assert (facts["fields"], facts["wells"], facts["antibodies"], facts["images_here"]) == (5, 3, 2, 0)
    found = {row["key"]: row["fields"] for row in facts["locations"] if row["fields"]}
    assert found == {"0": 2, "22": 1, "25": 2, "27": 2}
    assert facts["unknown_names"] == {"dark side of the moon": 2}
    assert facts["left_out"]["of the reliability uncertain"] == 1
    cli(*call(site, genes, out, "--limit", 2))
    facts = json.loads(cli(*call(site, genes, out, "--plan", "--json")).out)
    assert (facts["images"], facts["images_here"]) == (20, 8)


def test_names_are_looked_up_in_the_sites_table(site: AtlasSite, cli: Cli, tmp_path: Path) -> None:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        rows = "".join(f"{ensembl}\t{name}\n" for ensembl, name in GENES.items())
        file.writestr("subcellular_location.tsv", "Gene\tGene name\n" + rows)
    names = tmp_path / "names.txt"
    names.write_text("TSPAN6\nNOSUCH1\n")
    without = cli(*call(site, names, tmp_path / "a"))
    assert (without.code, "give genes as Ensembl ids" in without.err) == (1, True)
    site.files["/download/subcellular_location.tsv.zip"] = packed.getvalue()
    said = cli(*call(site, names, tmp_path / "b"))
    assert said.code == 0, said.err
    assert list({row["Id"]: 0 for row in table(tmp_path / "b" / "labels.csv")}) == TAKEN[:3]
    (row,) = table(tmp_path / "b" / "failed.csv")
    assert (row["file"], "no gene of this name" in row["reason"]) == ("NOSUCH1", True)
    assert cli(*call(site, None, tmp_path / "c")).code == 0
    assert len(table(tmp_path / "c" / "genes.csv")) == 3


def test_bad_genes_are_listed_and_the_others_fetched(site: AtlasSite, genes: Path, cli: Cli, tmp_path: Path) -> None:
    site.files["/ENSG00000000938.xml"] = b"<html>Not here</html>"
    site.files["/ENSG00000000457.xml"] = site.files["/ENSG00000000003.xml"]
    genes.write_text(genes.read_text() + "ENSG00000009999\n")
    out = tmp_path / "v18"
    said = cli(*call(site, genes, out, "--attempts", 2))
    assert said.code == 0, said.err
    reasons = {row["file"]: row["reason"] for row in table(out / "failed.csv")}
    assert "is a web page" in reasons["catalog/ENSG00000000938.xml"]
    assert "is of ENSG00000000003, not of ENSG00000000457" in reasons["catalog/ENSG00000000457.xml"]
    assert "answers 404" in reasons["catalog/ENSG00000009999.xml"]
    assert len(table(out / "labels.csv")) == 3
    genes.write_text("ENSG00000009999\n")
    nothing = cli(*call(site, genes, tmp_path / "none"))
    assert (nothing.code, "None of 1 gene could be looked up" in nothing.err) == (1, True)


def test_a_limit_asks_for_no_more_genes_than_it_needs(
    site: AtlasSite, genes: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cytoloc.hpa.genes.GENES_PER_BLOCK", 1)
    said = cli(*call(site, genes, tmp_path / "v18", "--limit", 3))
    assert said.code == 0
    assert [each.path for each in site.asked if each.path.endswith(".xml")] == ["/ENSG00000000003.xml"]
    assert len(table(tmp_path / "v18" / "labels.csv")) == 3


def test_one_file_of_many_genes_takes_the_place_of_the_sites(site: AtlasSite, cli: Cli, tmp_path: Path) -> None:
    entries = [site.files[f"/{name}.xml"].decode().partition("\n")[2] for name in GENES]
    inside = "".join(each.partition(">")[2].removesuffix("</proteinAtlas>") for each in entries)
    catalog = tmp_path / "proteinatlas.xml"
    catalog.write_text(f'<proteinAtlas schemaVersion="3.1">{inside}</proteinAtlas>')
    out = tmp_path / "v18"
    assert cli(*call(site, None, out, "--catalog", catalog)).code == 0
    assert {row["Id"]: row["Target"] for row in table(out / "labels.csv")} == LABELS
    assert not [each for each in site.asked if each.path.endswith(".xml")]
    some = tmp_path / "some.txt"
    some.write_text("SCYL3\nNOSUCH1\nENSG00000009999\n")
    said = cli(*call(site, some, tmp_path / "b", "--catalog", catalog))
    assert (said.code, "NOSUCH1: proteinatlas.xml has no such gene" in said.err) == (0, True)
    assert [row["Id"] for row in table(tmp_path / "b" / "labels.csv")] == TAKEN[3:]
    assert [row["file"] for row in table(tmp_path / "b" / "failed.csv")] == ["ENSG00000009999", "NOSUCH1"]
    some.write_text("NOSUCH1\n")
    said = cli(*call(site, some, tmp_path / "c", "--catalog", catalog))
    assert (said.code, "None of 1 gene is in proteinatlas.xml" in said.err) == (1, True)


def test_a_failed_call_does_not_bind_the_folder(site: AtlasSite, genes: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "v18"
    page = tmp_path / "page.xml"
    page.write_text("<html>Not here</html>")
    for words, expected in (
        (["--catalog", tmp_path / "typo.xml"], "The catalog file " + str(tmp_path / "typo.xml") + " does not exist"),
        (
            ["--catalog", tmp_path / "typo.xml", "--base", site.base],
            "The catalog file " + str(tmp_path / "typo.xml") + " does not exist",
        ),
        (["--catalog", tmp_path], "is a folder, not a catalog file"),
        (["--catalog", page], "is a web page"),
    ):
        said = cli("fetch", "hpa", "--out", out, *words)
        assert (said.code, expected in said.err) == (1, True)
        assert not out.exists()
    wrong = cli("fetch", "hpa", "--out", out, "--genes", genes, "--base", f"{site.base}/elsewhere")
    assert (wrong.code, "None of 3 genes could be looked up" in wrong.err) == (1, True)
    said = cli(*call(site, genes, out))
    assert (said.code, "20 images fetched" in said.out) == (0, True)
    said = cli("fetch", "hpa", "--out", out, "--genes", genes, "--base", f"{site.base}/elsewhere")
    assert (said.code, f"was fetched from {site.base}, not from {site.base}/elsewhere" in said.err) == (2, True)


def test_a_catalog_is_known_by_what_it_says(site: AtlasSite, cli: Cli, tmp_path: Path) -> None:
    text = site.files["/ENSG00000000003.xml"].decode()
    out, catalog = tmp_path / "v18", tmp_path / "proteinatlas.xml"
    catalog.write_text(text)
    # No field of this reliability is there, so that no host is asked for sizes.
    words = ["fetch", "hpa", "--out", out, "--plan", "--reliability", "supported", "--catalog"]
    assert cli(*words, catalog).code == 0
    # A file of this fetch, as if one image had come.
    (out / "images").mkdir()
    (out / "images" / "1.jpg").write_bytes(b"image")
    renamed = tmp_path / "renamed.xml.gz"
    renamed.write_bytes(gzip.compress(text.encode()))
    assert cli(*words, renamed).code == 0
    (tmp_path / "some.xml").write_text(site.files["/ENSG00000000457.xml"].decode())
    assert cli(*words, tmp_path / "some.xml").code == 0
    known = "was fetched from release 18 at v18.proteinatlas.org, not from release"
    for other, what in (
        (text.replace('<entry version="18"', '<entry version="19.1"'), "19.1 at v18.proteinatlas.org."),
        (text.replace("http://v18.", "https://images."), "18 at images.proteinatlas.org."),
    ):
        catalog.write_text(other)
        said = cli(*words, catalog)
        assert (said.code, f"{known} {what}" in said.err) == (2, True), said.err


def test_hosts_in_the_catalog_must_be_of_the_atlas(site: AtlasSite, genes: Path, cli: Cli, tmp_path: Path) -> None:
    catalog = tmp_path / "one.xml"
    text = site.files["/ENSG00000000003.xml"].decode()
    catalog.write_text(text.replace("v18.proteinatlas.org/images/4109/2", "evil-proteinatlas.org/images/4109/2"))
    said = cli("fetch", "hpa", "--catalog", catalog, "--plan", "--json", "--out", tmp_path / "v18")
    assert json.loads(said.out)["left_out"] == {"at a host outside proteinatlas.org": 4}
    disguised = f"proteinatlas.org:x@{site.base.removeprefix('http://')}"
    catalog.write_text(text.replace("v18.proteinatlas.org/images/4109/2", f"{disguised}/images/4109/2"))
    said = cli("fetch", "hpa", "--catalog", catalog, "--out", tmp_path / "b")
    assert (said.code, "4 at a host outside proteinatlas.org" in said.err) == (1, True)
    assert site.asked == []


def test_options_select_fields_and_channels(site: AtlasSite, genes: Path, cli: Cli, tmp_path: Path) -> None:
    more = ["--reliability", "Uncertain, approved", "--cell-line", "U-2 OS", "--cell-line", "MCF7", "--unlabeled"]
    said = cli(*call(site, genes, tmp_path / "v18", *more, "--colors", "green,blue"))
    assert said.code == 0, said.err
    assert [row["id"] for row in table(tmp_path / "v18" / "fields.csv")] == [*TAKEN[:2], "4109_26_B2_1", "5422_30_A1_1"]
    assert [row["Id"] for row in table(tmp_path / "v18" / "labels.csv")] == [*TAKEN[:2], "5422_30_A1_1"]
    assert {each.name.rpartition("_")[2] for each in (tmp_path / "v18").rglob("*.jpg")} == {"green.jpg", "blue.jpg"}


def test_labels_are_written_in_any_label_set(site: AtlasSite, genes: Path, cli: Cli, tmp_path: Path) -> None:
    assert cli(*call(site, genes, tmp_path / "a", "--label-set", "hpa19")).code == 0
    labels = {row["Id"]: row["Target"] for row in table(tmp_path / "a" / "labels.csv")}
    # Vesicles are a class of 2021; rods & rings are not.
    assert labels == {TAKEN[0]: "0 16", TAKEN[1]: "0 16", TAKEN[2]: "13 17", "4109_26_B2_1": "17"}
    own = tmp_path / "own.csv"
    own.write_text("key,name\ncyto,Cytosol\nves,Vesicles\n")
    said = cli(*call(site, genes, tmp_path / "b", "--label-set", own, "--plan", "--json"))
    facts = json.loads(said.out)
    assert facts["locations"] == [
        {"key": "cyto", "location": "Cytosol", "fields": 2},
        {"key": "ves", "location": "Vesicles", "fields": 2},
    ]
    assert facts["without_location"]["Nucleus"] == 2
    refused = cli(*call(site, genes, tmp_path / "c", "--label-set", "hpa29"))
    assert (refused.code, "Did you mean hpa2" in refused.err or "hpa28" in refused.err) == (1, True)


def test_no_image_at_all_is_an_error(site: AtlasSite, genes: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "v18"
    site.faults |= {path: ["404"] for path in site.images}
    said = cli(*call(site, genes, out, "--json"))
    assert said.code == 1
    assert (json.loads(said.out)["images"], len(json.loads(said.out)["failed"])) == (0, 20)
    site.faults |= {path: ["404"] for path in site.images}
    assert cli(*call(site, genes, out)).code == 1
    genes.write_text(genes.read_text() + "ENSG00000009999\n")
    assert cli(*call(site, genes, out)).code == 0
    # All images are here: that a gene is not is no new failure.
    assert cli(*call(site, genes, out)).code == 0


def test_skipped_rows_of_a_gene_list_are_reported(site: AtlasSite, cli: Cli, tmp_path: Path) -> None:
    path, packed = tmp_path / "table.tsv", BytesIO()
    path.write_text("Gene\tGene name\nENSG00000000003\tTSPAN6\nENSG00000000457\n")
    said = cli(*call(site, path, tmp_path / "a", "--plan"))
    assert (said.code, "1 row skipped, without an Ensembl id or with missing cells" in said.err) == (0, True)
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("subcellular_location.tsv", path.read_text())
    site.files["/download/subcellular_location.tsv.zip"] = packed.getvalue()
    said = cli(*call(site, None, tmp_path / "b"))
    expected = "subcellular_location.tsv.zip: 1 row skipped, without an Ensembl id or with missing cells."
    assert (said.code, expected in said.err) == (0, True)
    assert "could not be fetched" not in said.err
    assert not (tmp_path / "b" / "failed.csv").exists()


def test_an_empty_selection_is_an_error(site: AtlasSite, genes: Path, cli: Cli, tmp_path: Path) -> None:
    said = cli(*call(site, genes, tmp_path / "v18", "--cell-line", "HELA"))
    assert said.code == 1
    assert "No field of 3 genes is selected: 6 of other cell lines, 1 of the reliability uncertain" in said.err
    assert not (tmp_path / "v18" / "labels.csv").exists()
    genes.write_text("ENSG00000000938\n")
    said = cli(*call(site, genes, tmp_path / "v18"))
    assert (said.code, "No field of 1 gene is selected: the catalog has none" in said.err) == (1, True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--reliability", "certain"], "--reliability contains 'certain', which is not one of"),
        (["--colors", "cyan"], "--colors contains 'cyan', which is not one of"),
        (["--base", "proteinatlas.org"], "which is not the URL of a site"),
        (["--base", ""], "--base is '', which is not the URL of a site"),
        (["--base", "http://[::1", "--plan"], "which is not the URL of a site"),
        (["--base", "http://127.0.0.1:99999"], "which is not the URL of a site"),
        (["--base", "http://127.0.0.1:99999", "--plan"], "which is not the URL of a site"),
        (["--base", "http://me:pw@127.0.0.1"], "which is not the URL of a site"),
        (["--rate", "0"], "must be a finite number above 0"),
        (["--rate", "inf"], "must be a finite number above 0"),
        (["--timeout-s", "nan"], "must be a finite number above 0"),
        (["--jobs", "99"], "--jobs"),
        (["--contact", "a\nb"], "printable ASCII"),
    ],
)
def test_bad_options_are_refused(cli: Cli, tmp_path: Path, words: list[str], expected: str) -> None:
    said = cli("fetch", "hpa", "--out", tmp_path / "v18", *words)
    assert said.code == 2
    assert expected in said.err
    assert not (tmp_path / "v18").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_fetch_is_resumed(
    site: AtlasSite, genes: Path, cli: Cli, tmp_path: Path, stop: signal.Signals
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    assert cli(*call(site, genes, whole)).code == 0
    site.slow_s = 0.05
    words = [str(word) for word in call(site, genes, out, "--jobs", 2)]
    stops = 0
    for more in (1, 3, 5):
        before = len(images(out))
        with subprocess.Popen(
            [sys.executable, "-m", "cytoloc", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            while process.poll() is None and len(images(out)) < before + more:
                time.sleep(0.002)
            process.send_signal(stop)
            _, said = process.communicate()
        if process.returncode:
            stops += 1
            assert stop == signal.SIGKILL or "Rerun the same command to continue" in said
        assert len(images(out)) > before
        for each in images(out):
            assert each.read_bytes() == (whole / each.relative_to(out)).read_bytes()
    assert stops >= 2
    site.slow_s = 0
    assert cli(*call(site, genes, out)).code == 0
    assert tree(out) == tree(whole)


def test_a_full_disk_is_reported(site: AtlasSite, genes: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    done = on_small_disks({disk: (call(site, genes, disk / "out"), "64k", False)})[disk]
    assert done.code == 1
    assert "cannot be written: No space left on device" in done.error
    assert "Traceback" not in done.error


@pytest.mark.parametrize("missing", ["httpx", "stamina"])
def test_a_missing_library_is_named(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    said = cli("fetch", "hpa", "--out", tmp_path / "v18")
    assert said.code == 1
    assert "pip install 'cytoloc[fetch]'" in said.err
    assert missing in said.err
    assert not (tmp_path / "v18").exists()


def test_real_renderings_come_as_they_are(cli: Cli, tmp_path: Path) -> None:
    folder = DATA / "images" / "hpa_jpg"
    if not folder.is_dir():
        pytest.skip(f"real renderings are not at {folder}; set CYTOLOC_TEST_DATA")
    real = AtlasSite()
    stems = {"10580/1610_C1_1": "10580_1610_C1_1", "10814/50_A1_1": "10814_50_A1_1"}
    wells = [Well("U-2 OS", ["nucleoplasm"], [stem]) for stem in stems]
    real.add_gene("ENSG00000000003", "TSPAN6", Assay("HPA010580", "enhanced", wells))
    for stem, name in stems.items():
        for color in COLORS:
            real.files[f"/images/{stem}_{color}.jpg"] = (folder / f"{name}_{color}.jpg").read_bytes()
    real.faults = {path: ["cut"] for path in real.images}
    genes = tmp_path / "genes.txt"
    genes.write_text("ENSG00000000003\n")
    with real.running():
        assert cli(*call(real, genes, tmp_path / "v18")).code == 0
    assert all(len(real.requests(path)) == 2 for path in real.images)
    labels = tmp_path / "v18" / "labels.csv"
    said = cli("import", "hpa", tmp_path / "v18" / "images", "--labels", labels, "--size", 256, "--out", tmp_path / "e")
    assert said.code == 0, said.err
    dataset = open_dataset(tmp_path / "e")
    assert dataset.fields["original_px"].to_list() == [2048, 1728]
    for stem, name in stems.items():
        with Image.open(tmp_path / "v18" / "images" / f"{stem}_red.jpg") as image:
            assert image.size[0] in (2048, 1728), name


def test_python_fetches_and_plans_without_a_network(tmp_path: Path) -> None:
    made = AtlasSite(base="http://mirror.example.org")
    made.add_gene(
        "ENSG00000000003", "TSPAN6", Assay("HPA004109", "approved", [Well("U-2 OS", ["cytosol"], ["1/2_C1_1"])])
    )
    shown: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        content = made.files.get(request.url.path)
        return httpx.Response(404 if content is None else 200, content=content)

    @contextmanager
    def progress(what: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: shown.append(f"{what} {done}/{total}")

    options = FetchOptions(
        base=made.base, transport=httpx.MockTransport(answer), progress=progress, rate_per_s=1000,
        now=lambda: datetime(2026, 1, 2, tzinfo=UTC), limit=9,
    )  # fmt: skip
    plan = plan_hpa(["ENSG00000000003"], out=tmp_path / "v18", options=options)
    assert (len(plan.images), plan.images_here, plan.sampled_images) == (4, 0, 4)
    fetched = fetch_hpa(["ENSG00000000003"], out=tmp_path / "v18", options=options)
    assert (fetched.images, fetched.already_there, fetched.failed) == (4, 0, [])
    assert fetched.plan.selection.labels == {"1_2_C1_1": (25,)}
    assert table(tmp_path / "v18" / "manifest.csv")[0]["time"] == "2026-01-02T00:00:00+00:00"

    async def in_a_notebook() -> Fetched:
        return fetch_hpa(["ENSG00000000003"], out=tmp_path / "b", options=options)

    assert asyncio.run(in_a_notebook()).images == 4
    assert shown[0] == "looking up genes 1/1"
    assert shown[-1] == "fetching 4/4"
    with pytest.raises(ArgumentTypeError, match="`genes` must be"):
        fetch_hpa(5, out=tmp_path, options=options)  # type: ignore[arg-type]
    for wrong in ({"reliability": "approved"}, {"colors": ["cyan"]}, {"base": "atlas"}, {"jobs": 0}, {"limit": 0}):
        with pytest.raises(SettingsError):
            FetchOptions(**wrong)
