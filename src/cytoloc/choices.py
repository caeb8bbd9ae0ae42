"""The words that settings can take, where several packages and the command line must agree on them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal

from cytoloc.errors import ArgumentTypeError, SettingsError

Square = Literal["refuse", "crop", "pad"]
"""What becomes of an image that is not square."""

GroupBy = Literal["well", "antibody", "field"]
"""What folds keep together."""

Noise = Literal["missing", "extra", "swapped"]
"""The kind of wrong labels in a simulated study."""

HeadName = Literal["plain", "average-max", "attention", "multi-stage"]
"""How a network's features become predictions of the locations."""

NewPlanes = Literal["red", "mean"]
"""What a network's weights for a fourth channel are copied from."""

MethodName = Literal["grid", "global", "smooth", "fixed", "ratio", "shrunk", "exact", "expected", "stack", "auto"]
"""How a decision is fitted."""

EnsembleKind = Literal["mean", "logit", "rank", "weighted", "class", "stack"]
"""How members become one."""

CalibrationKind = Literal["none", "platt", "temperature", "isotonic", "beta"]
"""How predictions become probabilities."""

Blank = Literal["none", "probability", "margin", "ratio"]
"""What a field above no threshold gets."""

Device = Literal["auto", "cuda", "mps", "cpu"]
"""A kind of device to compute on; ``auto`` is the best one of the machine."""


def near(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known words nearest to one that is unknown, else all of them.

    >>> near("expcted", ["grid", "expected"])
    'Did you mean expected?'
    >>> near("xyz", ["grid", "expected"])
    'Choose one of grid, expected.'
    """
    words = list(known)
    found = difflib.get_close_matches(word, words, n=3, cutoff=0.6)
    if found:
        return f"Did you mean {' or '.join(found)}?"
    return f"Choose one of {', '.join(words[:12])}{', …' if len(words) > 12 else ''}."


def check_type(value: object, kinds: type | tuple[type, ...], *, argument: str) -> None:
    """Raise unless an argument has one of some types; True and False are not numbers.

    Raises:
        ArgumentTypeError: If it has another type.
    """
    allowed = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join("None" if kind is type(None) else kind.__name__ for kind in allowed)
        raise ArgumentTypeError(f"`{argument}` must be {names}, not {type(value).__name__}.")


def refuse_unknown(word: object, known: Iterable[str], *, argument: str) -> None:
    """Raise unless a word is one of those that an argument can take.

    Raises:
        ArgumentTypeError: If it is not a string.
        SettingsError: If it is not one of ``known``; the hint names the nearest ones.
    """
    words = list(known)
    if not isinstance(word, str):
        raise ArgumentTypeError(f"{argument} must be a string, not {type(word).__name__}.", hint=near("", words))
    if word not in words:
        raise SettingsError(f"{argument}={word!r} is unknown.", hint=near(word, words))
