from __future__ import annotations

from pathlib import Path

import pytest

from tests.images.fuzz import run


@pytest.mark.parametrize("kind", ["tiff", "czi", "lif", "zarr"])
def test_files_with_strange_headers_read_or_are_refused(tmp_path: Path, kind: str) -> None:
    run(kind, tmp_path, examples=60, seed=0)
