"""The messages that the FAQ quotes are those of the code."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import DOCS
from tests.test_wording import messages, sources

FAQ = (DOCS / "faq.md").read_text(encoding="utf-8")
QUOTED = [each for each in re.findall(r'^### "(.+)"$', FAQ, re.MULTILINE) if each != "CUDA out of memory"]
"""The quoted messages of cytoloc; one message is PyTorch's."""


def is_message(quoted: str, literal: str) -> bool:
    """Return whether a text is a message of the code, with ``{}`` for values; ``…`` at its end stands for the rest."""
    if not quoted.endswith("…"):
        return re.fullmatch(re.escape(literal).replace(r"\{\}", ".*"), quoted) is not None
    start = quoted.removesuffix("…").strip()
    heads = (literal[: found.end()] for found in re.finditer(re.escape(start[-4:]), literal))
    return any(re.fullmatch(re.escape(head).replace(r"\{\}", ".*"), start) for head in heads)


@pytest.mark.parametrize(
    ("quoted", "expected"),
    [
        ("a.csv has 3 rows; remove one.", True),
        ("a.csv has 3 rows; …", True),
        ("a.csv has 3 lines; …", False),
        ("a.csv has 3 rows.", False),
    ],
)
def test_a_quoted_message_is_compared_without_values(quoted: str, *, expected: bool) -> None:
    assert is_message(quoted, "{} has {} rows; remove one.") == expected


def test_quoted_messages_are_those_of_the_code() -> None:
    literals = {text.text for path in sources() for text in messages(path)}
    literals = {each for each in literals if len(each.replace("{}", "")) >= 15}
    assert len(QUOTED) >= 5
    assert [each for each in QUOTED if not any(is_message(each, literal) for literal in literals)] == []
