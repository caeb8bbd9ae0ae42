"""The sentences and the lines of the documentation are short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT
from tests.test_wording import MAX_WORDS

TEXTS = [*PAGES, *ROOT.glob("*.md"), *(ROOT / "research").glob("*.md")]
MAX_LINE = 120


def sentences(text: str) -> list[str]:
    """Return the sentences of a Markdown page; list items, cells of tables and headings are separate."""
    prose = re.sub(r"(?ms)^ *```.*?^ *```", "\n", text)
    prose = re.sub(r"\]\([^)]*\)", "]", prose)
    prose = re.sub(r"(?m)^\s*\|.*$", lambda row: row[0].replace("|", "\n\n"), prose)
    parts = re.split(r"\n\s*\n|\n\s*(?:[*-]|\d+\.|:|#+)\s|(?<=[.?!])[\"')*_]*\s+", prose)
    return [" ".join(re.sub(r"^\s*(?:[*-]|\d+\.|:|#+)\s", "", part).split()) for part in parts]


def test_sentences_of_a_page_are_separate() -> None:
    page = "# Title\n\nOne. Two\nends here.\n\n- Item [a](b c.md)\n\n| x | y |\n\n```bash\nno sentence\n```\n"
    assert [each for each in sentences(page) if each] == ["Title", "One.", "Two ends here.", "Item [a]", "x", "y"]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_have_no_long_sentences(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    long = [each for each in sentences(text) if len(each.split()) > MAX_WORDS]
    assert long == []


def long_lines(text: str) -> list[str]:
    """Return the lines of prose with more than 120 characters, without tables, code, headings and single links."""
    prose = re.sub(r"(?ms)^ *```.*?^ *```", "", text)
    others = re.compile(r"\s*(?:\||#|(?:[-*] |\d+\. )?!?\[[^]]*\]\([^)]*\)[.,;:]?$)")
    return [line for line in prose.splitlines() if len(line) > MAX_LINE and not others.match(line)]


def test_long_lines_are_found() -> None:
    word = "a" * 121
    page = f"# {word}\n\n- {word}\n\n| {word} |\n\n[b]({word}).\n\n```bash\n{word}\n```\n\nc [b]({word})\n{word[1:]}\n"
    assert long_lines(page) == [f"- {word}", f"c [b]({word})"]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_have_no_long_lines(path: Path) -> None:
    assert long_lines(path.read_text(encoding="utf-8")) == []
