from __future__ import annotations

from pathlib import Path

import pytest

from tests.images.fuzz import run


@pytest.mark.parametrize(("kind", "examples"), [("tiff", 60), ("czi", 40), ("lif", 40), ("zarr", 10)])
def test_files_with_strange_headers_read_or_are_refused(tmp_path: Path, kind: str, examples: int) -> None:
    run(kind, tmp_path, examples=examples, seed=0)
