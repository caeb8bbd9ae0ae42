"""The tutorials run from top to bottom, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import DOCS, blocks_of

TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))


def test_there_are_tutorials() -> None:
    assert {path.name for path in TUTORIALS} >= {"own-images.md", "own-labels.md"}
    assert all({block.language for block in blocks_of(path.read_text())} >= {"bash", "python"} for path in TUTORIALS)


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda path: path.stem)
def test_every_block_of_a_tutorial_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_blocks(page.read_text(encoding="utf-8"), tmp_path, monkeypatch, name=page.name)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```bash\nfalse\ntrue\n```\n", AssertionError),
        ("```bash\ncytoloc nonsense\n```\n", AssertionError),
        ("```python\na = 1\n```\n\n```python\nassert a == 2\n```\n", AssertionError),
        ("```python\nimport nothing_of_this_name\n```\n", ModuleNotFoundError),
    ],
)
def test_a_block_that_fails_is_noticed(
    text: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(error):
        run_blocks(text, tmp_path, monkeypatch, name="page.md")


def run_blocks(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, name: str) -> None:
    """Run the blocks of a page: those of bash in a shell each, those of Python in one namespace."""
    monkeypatch.chdir(folder)
    # `cytoloc` and `python` are those that run the tests.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    names: dict[str, Any] = {}
    for block in blocks_of(text):
        where = f"{name}, line {block.line}"
        if block.language == "bash":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.code],
                env=os.environ | {"PATH": path},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{where}:\n{block.code}\n{done.stdout}\n{done.stderr}"
        elif block.language == "python":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exec(compile(block.code, where, "exec"), names)
