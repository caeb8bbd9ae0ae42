"""Ids of fields that differ only in spelling: leading zeros, decimals, blanks, case, file suffix, or Unicode form."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Final

from cytoloc.errors import IdWarning

SHOWN: Final = 3
"""Maximum number of examples in a message."""


def plain_id(name: str) -> str:
    """Return the spelling that all ids share which look the same to a person.

    Args:
        name: The id.

    Returns:
        The id in lower case without leading zeros, decimals, blanks at its ends and the suffix of an image.

    >>> [plain_id(name) for name in ("0980", "980.0", " 980", "980.png", "P1_A01_02")]
    ['980', '980', '980', '980', 'p1_a1_2']
    """
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", name).strip()).casefold()
    text = re.sub(r"\.(png|tiff?|jpe?g)$", "", text)
    text = re.sub(r"^(\d+)\.0+$", r"\1", text)
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


def alike(names: Iterable[str], others: Collection[str]) -> dict[str, str]:
    """Return ids that are not among others but look like one of them.

    Args:
        names: The ids.
        others: The other ids.

    Returns:
        For each such id the one that it looks like.

    >>> alike(["980", "7"], ["0980", "8"])
    {'980': '0980'}
    """
    known = set(others)
    strange = [name for name in names if name not in known]
    if not strange:
        return {}
    spelled = {plain_id(name): name for name in known}
    return {name: spelled[plain] for name in strange if (plain := plain_id(name)) in spelled}


def alike_note(names: Iterable[str], others: Collection[str]) -> str:
    """Return a sentence about ids that look like others, for the end of a message; empty if there are none.

    >>> alike_note(["980", "7"], ["0980"])
    ' 1 of them looks like another id: 980 like 0980.'
    """
    found = alike(names, others)
    if not found:
        return ""
    pairs = ", ".join(f"{one} like {other}" for one, other in islice(found.items(), SHOWN))
    several = "look like other ids" if len(found) > 1 else "looks like another id"
    return f" {len(found)} of them {several}: {pairs}."


def doubles_note(names: Iterable[str], *, where: str) -> str:
    """Return a sentence about ids of one list that look the same; empty if there are none."""
    by_plain: dict[str, list[str]] = {}
    for name in names:
        by_plain.setdefault(plain_id(name), []).append(name)
    same = [several for several in by_plain.values() if len(several) > 1]
    if not same:
        return ""
    pairs = ", ".join(" and ".join(several[:2]) for several in same[:SHOWN])
    return f"{where}: {len(same)} id{'s' * (len(same) > 1)} occur in several spellings: {pairs}."


def coverage_notes(named: Mapping[str, Collection[str]]) -> list[str]:
    """Return notes on how far several lists have the same ids.

    Args:
        named: Lists of ids, by name.

    Returns:
        For each list that lacks ids of the others, or has ids that no other list has, a note with the numbers.

    >>> coverage_notes({"a": ["1", "02"], "b": ["1", "2"]})[0]
    "'a' lacks 1 of 3 fields, such as 2, and alone has 1, such as 02. 1 of them looks like another id: 02 like 2."
    """
    every = dict.fromkeys(name for ids in named.values() for name in ids)
    notes = []
    for one, ids in named.items():
        own = set(ids)
        elsewhere = {name for other, those in named.items() if other != one for name in those}
        lacks = [name for name in every if name not in own]
        alone = [name for name in every if name in own and name not in elsewhere] if len(named) > 1 else []
        if not lacks and not alone:
            continue
        parts = []
        if lacks:
            parts.append(f"lacks {len(lacks)} of {len(every)} fields, such as {lacks[0]}")
        if alone:
            parts.append(f"alone has {len(alone)}, such as {alone[0]}")
        notes.append(f"{one!r} {', and '.join(parts)}.{alike_note(alone, elsewhere)}")
    return notes


def warn_about_ids(named: Mapping[str, Collection[str]], *, always: bool = False) -> None:
    """Warn about lists of ids of the same fields that differ; see :func:`coverage_notes`.

    Args:
        named: Lists of ids, by name.
        always: Also warn if no id looks like another one. A member of an ensemble may lack fields.
    """
    every = list(dict.fromkeys(name for ids in named.values() for name in ids))
    if always or len({plain_id(name) for name in every}) < len(every):
        for note in coverage_notes(named):
            warn_ids(note)


def warn_ids(note: str) -> None:
    """Emit a note about ids as a warning, unless it is empty."""
    if note:
        warnings.warn(note, IdWarning, stacklevel=3)
