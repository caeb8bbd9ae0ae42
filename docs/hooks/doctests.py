"""A Griffe extension: examples that a docstring shows without a heading become its section of examples."""

from __future__ import annotations

import re
from textwrap import indent
from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Puts ``Examples:`` above lines that begin with ``>>>``; without it Markdown would take them for quotations."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object."""
        if obj.docstring is not None:
            obj.docstring.value = with_heading(obj.docstring.value)


def with_heading(docstring: str) -> str:
    r"""Return a docstring whose unindented examples are in a section.

    >>> with_heading("Add.\n\n>>> 1 + 1\n2")
    'Add.\n\nExamples:\n    >>> 1 + 1\n    2'
    """
    found = re.search(r"^>>> ", docstring, flags=re.MULTILINE)
    if found is None:
        return docstring
    before, examples = docstring[: found.start()], docstring[found.start() :]
    return f"{before}Examples:\n{indent(examples, '    ')}"
