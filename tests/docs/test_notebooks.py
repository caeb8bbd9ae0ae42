"""The notebooks in ``examples/`` run, and are stored with text outputs only."""

from __future__ import annotations

import ast
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def test_notebooks_have_text_outputs_only() -> None:
    assert [path.name for path in NOTEBOOKS] == ["own_images.ipynb", "own_label_set.ipynb"]
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        outputs = [output for cell in code for output in cell["outputs"]]
        assert all(cell["execution_count"] is None for cell in code)
        assert len(outputs) >= 5
        assert {output["output_type"] for output in outputs} == {"stream"}
        assert not any("/tmp/" in line for output in outputs for line in output["text"])


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("short_steps")
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(json.loads(path.read_text(encoding="utf-8")), path.name)


def test_a_cell_that_fails_is_noticed(tmp_path: Path) -> None:
    notebook = json.loads(NOTEBOOKS[0].read_text(encoding="utf-8"))
    code = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    code["source"] = ["assert 1 == 2"]
    with pytest.raises(AssertionError):
        run(notebook, "notebook")


def run(content: dict[str, Any], name: str) -> None:
    """Execute the cells of a notebook in this process: a kernel takes seconds to start."""
    names: dict[str, Any] = {}
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    with warnings.catch_warnings():
        for number, cell in enumerate(code, start=1):
            # One by one, as in a notebook, so that values are shown.
            for statement in ast.parse("".join(cell["source"])).body:
                exec(compile(ast.Interactive([statement]), f"{name}, cell {number}", "single"), names)
