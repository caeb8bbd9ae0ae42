"""Channels: their names, their order, and the colors that the Human Protein Atlas uses for them."""

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
"""The four channels of the Human Protein Atlas, in the order in which datasets store them."""

HPA_COLORS: Final = {MICROTUBULES: "red", PROTEIN: "green", NUCLEUS: "blue", ER: "yellow"}
"""The color in the file name of each channel in the Human Protein Atlas."""

COLORS: Final = tuple(HPA_COLORS.values())
"""The colors in the order of :data:`CHANNELS`."""

HPA_PLANES: Final = {MICROTUBULES: (0,), PROTEIN: (1,), NUCLEUS: (2,), ER: (0, 1)}
"""The planes (0 red, 1 green, 2 blue) that contain each channel in JPEG files of the Human Protein Atlas."""

ZERO: Final = "zero"
"""The substitute of a channel that was not imaged: a black image. No channel can have this name."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def check_channels(channels: Sequence[str]) -> tuple[str, ...]:
    """Return channel names as a tuple if they are valid.

    Args:
        channels: Names of channels: any of :data:`CHANNELS`, or other names.

    Returns:
        The names.

    Raises:
        ChannelError: If a name is invalid or occurs twice, or there is no protein channel.

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
            raise ChannelError(
                f"A channel cannot have the name {ZERO}, which stands for a black image.", hint="Choose another name."
            )
        if name in names[:number]:
            raise ChannelError(f"Two channels have the name {name}.", hint="Give each channel a unique name.")
    if PROTEIN not in names:
        raise ChannelError(
            f"The protein channel is missing among {', '.join(names) or 'no channels'}.",
            hint="Name the channel that shows the protein 'protein'.",
        )
    return names


def channel_order(channels: Sequence[str]) -> tuple[str, ...]:
    """Return channels in the order in which datasets store them: the known channels first, then other names.

    Args:
        channels: Names of channels.

    Returns:
        The ordered names.

    >>> channel_order(["actin", "nucleus", "protein"])
    ('protein', 'nucleus', 'actin')
    """
    return (*(role for role in CHANNELS if role in channels), *(name for name in channels if name not in CHANNELS))


def near_channels(name: str, known: Sequence[str]) -> str:
    """Return a hint that lists the known channels most similar to ``name``; empty if there are none."""
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""
