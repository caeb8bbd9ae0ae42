"""Simulated fields at full resolution, and the weights of InstanSeg if they are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from cytoloc.dataset.store import Dataset
from cytoloc.simulate.field import photograph, true_cells
from cytoloc.simulate.files import write_kaggle_field
from cytoloc.simulate.plan import plan_one
from tests.conftest import DATA

PIXEL_UM = 0.32
IDS = ("one", "two")


@pytest.fixture(scope="session")
def weights() -> Path:
    """Return the weights of InstanSeg, or skip."""
    file = DATA / "weights" / "instanseg_fluorescence_0.1.1" / "instanseg.pt"
    if not file.is_file():
        pytest.skip(f"the weights of InstanSeg are not at {file}; set CYTOLOC_TEST_DATA")
    return file


@pytest.fixture(scope="session")
def truths() -> dict[str, tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Return the cells and nuclei of two simulated fields of 512 px."""
    return {name: true_cells(plan_one(7 * (k + 1), seed=k, size=512)) for k, name in enumerate(IDS)}


@pytest.fixture(scope="session")
def pictures() -> dict[str, NDArray[np.uint8]]:
    """Return the images of two simulated fields of 512 px."""
    plans = {name: plan_one(7 * (k + 1), seed=k, size=512) for k, name in enumerate(IDS)}
    return {name: np.asarray(photograph(plan), np.uint8) for name, plan in plans.items()}


@pytest.fixture
def folder(
    tmp_path: Path,
    pictures: dict[str, NDArray[np.uint8]],
    truths: dict[str, tuple[NDArray[np.int32], NDArray[np.int32]]],
) -> Path:
    """Return a folder of two fields in the form of the competition, with their label images in ``labels``."""
    made = tmp_path / "fields"
    (tmp_path / "labels").mkdir()
    made.mkdir()
    for name in IDS:
        write_kaggle_field(made, name, pictures[name])
        for what, labels in zip(("cells", "nuclei"), truths[name], strict=True):
            tifffile.imwrite(tmp_path / "labels" / f"{name}_{what}.tif", labels.astype(np.uint16))
    return made


def column(cells: Dataset, name: str) -> list[object]:
    """Return a column of the table of a dataset."""
    return list(cells.fields[name].to_list())
