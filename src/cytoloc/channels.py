"""Channels: the roles that stains play, their order, and the colors by which the Human Protein Atlas names them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Final

from cytoloc.errors import ChannelError

MICROTUBULES: Final = "microtubules"
PROTEIN: Final = "protein"
NUCLEUS: Final = "nucleus"
ER: Final = "er"

CHANNELS: Final = (MICROTUBULES, PROTEIN, NUCLEUS, ER)
"""The four stains of the Human Protein Atlas, in the order in which datasets store those that they have."""

HPA_COLORS: Final = {MICROTUBULES: "red", PROTEIN: "green", NUCLEUS: "blue", ER: "yellow"}
"""The color by which the Human Protein Atlas names each channel's file."""

COLORS: Final = tuple(HPA_COLORS.values())
"""These colors, in the order of :data:`CHANNELS`."""

HPA_PLANES: Final = {MICROTUBULES: (0,), PROTEIN: (1,), NUCLEUS: (2,), ER: (0, 1)}
"""The planes of red, green and blue that show each channel in the Human Protein Atlas's renderings."""

ZERO: Final = "zero"
"""The word for black, as the substitute of a channel that was not imaged; no channel has this name."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def check_channels(channels: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a dataset's or a model's channels if they are valid.

    Args:
        channels: Any of :data:`CHANNELS`, or names of the user's own.

    Raises:
        ChannelError: If a name occurs twice or is not valid, or the protein is not among them.

    >>> check_channels(["protein", "nucleus"])
    ('protein', 'nucleus')
    """
    names = tuple(channels)
    for number, name in enumerate(names):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ChannelError(
                f"{name!r} is not a valid channel name.",
                hint=f"Use one of {', '.join(CHANNELS)}, or a name of letters, digits, '-' and '_'.",
            )
        if name == ZERO:
            raise ChannelError(f"A channel cannot be named {ZERO}.", hint="The word stands for a black substitute.")
        if name in names[:number]:
            raise ChannelError(f"Two channels are named {name}.", hint="Give each channel its own role or name.")
    if PROTEIN not in names:
        raise ChannelError(
            f"There is no protein channel among {', '.join(names) or 'no channels'}.",
            hint="cytoloc locates the protein: name the channel that shows it 'protein'.",
        )
    return names


def channel_order(channels: Sequence[str]) -> tuple[str, ...]:
    """Return channels in the order in which a dataset stores them: the known roles first, then the user's own.

    >>> channel_order(["actin", "nucleus", "protein"])
    ('protein', 'nucleus', 'actin')
    """
    return (*(role for role in CHANNELS if role in channels), *(name for name in channels if name not in CHANNELS))


def near_channels(name: str, known: Sequence[str]) -> str:
    """Return a hint that names the known channels nearest to ``name``; empty if none is near."""
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""
