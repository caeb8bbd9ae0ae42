"""A model for explanations that computes quickly."""

from __future__ import annotations

from pathlib import Path

import pytest

from cytoloc.predict.bundle import builtin_bundle, open_bundle, write_archive


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the built-in model with one view per field instead of eight."""
    found, path = open_bundle(builtin_bundle()), tmp_path_factory.mktemp("bundle") / "one-view.cytoloc"
    write_archive(path, found.header.model_copy(update={"tta": 1}), found.parts)
    return path
