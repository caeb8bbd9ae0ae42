"""The values that settings can have, where several packages and the command line share them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from cytoloc.errors import ArgumentTypeError, SettingsError

BUILTINS: Final = MappingProxyType(
    {
        "builtin": ("microtubules", "protein", "nucleus", "er"),
        "builtin-protein-nucleus": ("protein", "nucleus"),
        "builtin-protein": ("protein",),
    }
)
"""The names of the built-in models, with the channels that each needs."""

Square = Literal["refuse", "crop", "pad"]
"""What to do with an image that is not square."""

Resample = Literal["area", "nearest"]
"""How larger images are scaled down: by area means, or by the nearest pixel as in the 2018 Kaggle competition."""

GroupBy = Literal["well", "antibody", "field"]
"""Which fields folds keep together."""

Noise = Literal["missing", "extra", "swapped"]
"""The kind of wrong labels in a simulated study."""

HeadName = Literal["plain", "average-max", "attention", "multi-stage"]
"""The head of a network."""

BackboneVariant = Literal["plain", "second-pool", "cbam", "dino", "channel-bag"]
"""The change to a backbone that a published network has."""

NewPlanes = Literal["red", "mean"]
"""How the input weights of additional channels are initialized."""

MethodName = Literal["grid", "global", "smooth", "fixed", "ratio", "shrunk", "exact", "expected", "stack", "auto"]
"""The method of fitting a decision."""

EnsembleKind = Literal["mean", "logit", "rank", "weighted", "class", "stack"]
"""How the members of an ensemble are combined."""

CalibrationKind = Literal["none", "platt", "temperature", "isotonic", "beta"]
"""How probabilities are calibrated."""

Blank = Literal["none", "probability", "margin", "ratio"]
"""The location of a field without a probability above its threshold."""

MapMethod = Literal["layercam", "gradcam", "attention"]
"""How a map of what a network used is computed."""

Palette = Literal["hpa", "colorblind"]
"""The colors of composites."""

Device = Literal["auto", "cuda", "mps", "cpu"]
"""A kind of device to compute on. ``auto`` is the fastest one available."""


def near(word: str, known: Iterable[str]) -> str:
    """Return a hint that lists the known words most similar to an unknown word, or all if none is similar.

    Args:
        word: The unknown word.
        known: The known words.

    Returns:
        The hint.

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
    """Raise unless an argument has one of the given types. True and False are not numbers.

    Args:
        value: The value of the argument.
        kinds: The allowed type, or a tuple of allowed types.
        argument: The name of the argument, for the message.

    Raises:
        ArgumentTypeError: If the value has another type.
    """
    allowed = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join("None" if kind is type(None) else kind.__name__ for kind in allowed)
        raise ArgumentTypeError(f"`{argument}` must be {names}, not {type(value).__name__}.")


def refuse_unknown(word: object, known: Iterable[str], *, argument: str) -> None:
    """Raise unless the value of an argument is one of the known words.

    Args:
        word: The value of the argument.
        known: The known words.
        argument: The name of the argument, for the message.

    Raises:
        ArgumentTypeError: If the value is not a string.
        SettingsError: If the value is unknown; the hint suggests similar words.
    """
    words = list(known)
    if not isinstance(word, str):
        raise ArgumentTypeError(f"`{argument}` must be a string, not {type(word).__name__}.", hint=near("", words))
    if word not in words:
        raise SettingsError(f"`{argument}` has the unknown value {word!r}.", hint=near(word, words))


def is_builtin(path: str | Path) -> bool:
    """Return whether a path means a built-in model: it is the name of one, and no file has this name."""
    return str(path) in BUILTINS and not Path(path).exists()
