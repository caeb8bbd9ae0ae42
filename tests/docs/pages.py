"""The pages of the documentation, and the code blocks in them."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


class Block(NamedTuple):
    """A code block.

    Attributes:
        language: The word after the three backticks.
        line: The number of its first line of code, counted from 1.
        code: The code.
    """

    language: str
    line: int
    code: str


def blocks_of(text: str) -> list[Block]:
    """Return the code blocks of a page, in order."""
    return [
        Block(found[1], text.count("\n", 0, found.start(2)) + 1, found[2])
        for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def load_hook() -> ModuleType:
    """Return the module that makes the pages of the reference."""
    path = DOCS / "hooks" / "reference.py"
    spec = importlib.util.spec_from_file_location("site_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
