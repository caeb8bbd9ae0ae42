"""The tutorials run from top to bottom, in an empty folder."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from cytoloc.recipes.recipe import published_scores
from cytoloc.reproduce import kaggle2018, options
from cytoloc.reproduce.options import MEMBERS
from tests.conftest import Cli
from tests.docs.pages import DOCS, blocks_of

TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))


def test_there_are_tutorials() -> None:
    assert {path.name for path in TUTORIALS} >= {"own-images.md", "own-labels.md"}
    assert all({block.language for block in blocks_of(path.read_text())} >= {"bash", "python"} for path in TUTORIALS)


@pytest.fixture
def members_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave three of the ten networks of the 2018 solution: those that it averages."""
    members = {name: scores for name, scores in published_scores().items() if name in MEMBERS}
    assert len(members) == 3
    for module in (kaggle2018, options):
        monkeypatch.setattr(module, "published_scores", lambda: members)


@pytest.mark.slow
@pytest.mark.usefixtures("members_alone")
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("short_steps")
def test_every_block_of_a_tutorial_runs(page: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_blocks(page.read_text(encoding="utf-8"), cli, name=page.name)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```bash\nfalse\ntrue\n```\n", AssertionError),
        ("```bash\ncytoloc labels\ncytoloc nonsense\n```\n", AssertionError),
        ("```python\na = 1\n```\n\n```python\nassert a == 2\n```\n", AssertionError),
        ("```python\nimport nothing_of_this_name\n```\n", ModuleNotFoundError),
    ],
)
def test_a_block_that_fails_is_noticed(
    text: str, error: type[Exception], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        run_blocks(text, cli, name="page.md")


def run_blocks(text: str, cli: Cli, *, name: str) -> None:
    """Run the blocks of a page: commands of cytoloc in this process, other bash in a shell, Python in one namespace."""
    # `cytoloc` and `python` are those that run the tests.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    names: dict[str, Any] = {}
    for block in blocks_of(text):
        where = f"{name}, line {block.line}"
        lines = block.code.replace("\\\n", " ").splitlines()
        if block.language == "bash" and all(line.startswith("cytoloc ") for line in lines):
            for line in lines:
                said = cli(*shlex.split(line)[1:])
                assert said.code == 0, f"{where}:\n{line}\n{said.out}\n{said.err}"
        elif block.language == "bash":
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
