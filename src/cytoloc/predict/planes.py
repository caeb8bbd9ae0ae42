"""Which planes of the images at hand a model sees as its channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cytoloc._typing import UInt8Array
from cytoloc.channels import ZERO, near_channels
from cytoloc.errors import ChannelError, SettingsError


@dataclass(frozen=True)
class PlaneMap:
    """The plane of each channel of a model.

    Attributes:
        indices: For each channel of the model the plane of the images that shows it; None for black.
    """

    indices: tuple[int | None, ...]

    def of(self, images: UInt8Array) -> UInt8Array:
        """Return uint8 ``(n, channels of the model, h, w)`` of ``images``, ``(n, channels, h, w)``."""
        if self.indices == tuple(range(images.shape[1])):
            return images
        black = np.zeros_like(images[:, 0])
        return np.stack([black if index is None else images[:, index] for index in self.indices], axis=1)


def find_planes(
    wanted: Sequence[str], given: Sequence[str], *, absent: Mapping[str, str] | None = None, where: str
) -> PlaneMap:
    """Return which planes of images a model sees.

    Args:
        wanted: Channels that the model needs, in its order.
        given: Channels that the images have, in their order.
        absent: The substitute for each channel that was not imaged: ``"zero"`` for black, or the name of a channel that
            the images have. A channel is never substituted unless it is named here.
        where: What the images are, for the message of an error.

    Raises:
        ChannelError: If a channel is missing and has no substitute, or a substitute is not needed or not there.

    >>> find_planes(["protein", "er"], ["er", "protein"], where="the images").indices
    (1, 0)
    >>> find_planes(["protein", "er"], ["protein"], absent={"er": "zero"}, where="the images").indices
    (0, None)
    """
    substitutes = dict(absent or {})
    for name, substitute in substitutes.items():
        if name not in wanted:
            raise ChannelError(
                f"The model does not see the channel {name}; it sees {', '.join(wanted)}.{near_channels(name, wanted)}",
                hint="Name a substitute only for channels that the model sees and the images lack.",
            )
        if name in given:
            raise ChannelError(f"{where} has the channel {name}, so it needs no substitute.", hint=f"Leave out {name}.")
        if substitute != ZERO and substitute not in given:
            raise ChannelError(
                f"{where} has no channel {substitute} to stand for {name}; it has {', '.join(given)}."
                f"{near_channels(substitute, given)}",
                hint=f"Choose {ZERO}, or one of {', '.join(given)}.",
            )
    missing = [name for name in wanted if name not in given and name not in substitutes]
    if missing:
        raise ChannelError(
            f"The model sees {', '.join(wanted)}; {where} has {', '.join(given)}.",
            hint="Use a model that was trained on these channels, or name a substitute for each missing channel, for"
            f" example `absent={dict.fromkeys(missing, ZERO)}`.",
        )
    places: dict[str, int | None] = {name: number for number, name in enumerate(given)}
    places[ZERO] = None
    return PlaneMap(tuple(places[substitutes.get(name, name)] for name in wanted))


def parse_substitutes(texts: Sequence[str]) -> dict[str, str]:
    """Return the substitute of each channel that the argument ``absent`` names as text.

    Args:
        texts: ``channel=substitute``, several also in one text with commas between.

    Raises:
        SettingsError: If a text has another form, or names a channel twice.

    >>> parse_substitutes(["er=zero,microtubules=nucleus"])
    {'er': 'zero', 'microtubules': 'nucleus'}
    """
    substitutes: dict[str, str] = {}
    for text in (word.strip() for each in texts for word in each.split(",")):
        name, _, substitute = (part.strip() for part in text.partition("="))
        if not (name and substitute) or name in substitutes:
            raise SettingsError(
                f"`absent` has {text!r}, which is not CHANNEL=SUBSTITUTE, or names a channel twice.",
                hint="Write for example `absent={'er': 'zero'}`.",
            )
        substitutes[name] = substitute
    return substitutes
