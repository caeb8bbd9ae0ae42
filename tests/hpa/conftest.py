"""What tests of fetching share: a site with three genes, and retries that do not wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import stamina

from tests.hpa.site_double import Assay, AtlasSite, Well

GENES = {"ENSG00000000003": "TSPAN6", "ENSG00000000457": "SCYL3", "ENSG00000000938": "FGR"}


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


@pytest.fixture
def site() -> Iterator[AtlasSite]:
    """Return a running site: two wells with different locations, an uncertain antibody, a gene without images."""
    made = AtlasSite()
    made.add_gene(
        "ENSG00000000003",
        "TSPAN6",
        Assay(
            "HPA004109",
            "approved",
            [
                Well("U-2 OS", ["cytosol", "Nucleus"], ["4109/24_H11_1", "4109/24_H11_2"]),
                Well("A-431", ["vesicles", "cell junctions"], ["4109/25_B2_1_cr5af971a263864"]),
                Well("MCF7", ["vesicles"], ["4109/26_B2_1"]),
            ],
        ),
    )
    made.add_gene(
        "ENSG00000000457",
        "SCYL3",
        Assay("HPA005422", "uncertain", [Well("U-2 OS", ["microtubules"], ["5422/30_A1_1"])]),
        Assay(
            "CAB004223",
            "enhanced",
            [Well("U-2 OS", ["rods & rings", "dark side of the moon"], ["10580/1610_C1_1", "10580/1610_C1_2"])],
        ),
    )
    made.add_gene("ENSG00000000938", "FGR")
    with made.running():
        yield made
