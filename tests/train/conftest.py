"""What tests of training share: folds of the study, and a report that nobody hears."""

from __future__ import annotations

import polars as pl
import pytest

from cytoloc.atlas.store import Atlas
from cytoloc.folds.making import make_folds


def quiet(_line: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="session")
def folds(study: Atlas) -> pl.DataFrame:
    """Return three folds of the study."""
    return make_folds(study.fields, k=3)
