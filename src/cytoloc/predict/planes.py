"""Assignment of the channels of images to the channels that a model needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cytoloc._typing import UInt8Array
from cytoloc.channels import ZERO, near_channels
from cytoloc.choices import BUILTINS
from cytoloc.errors import ChannelError, SettingsError


@dataclass(frozen=True)
class PlaneMap:
    """The position of each channel of a model in images.

    Attributes:
        indices: For each channel of the model, the position of the channel in the images; None for a black image.
    """

    indices: tuple[int | None, ...]

    def of(self, images: UInt8Array) -> UInt8Array:
        """Return the channels of a model from images.

        Args:
            images: uint8 of shape ``(n, channels, h, w)``.

        Returns:
            uint8 of shape ``(n, channels of the model, h, w)``.
        """
        if self.indices == tuple(range(images.shape[1])):
            return images
        black = np.zeros_like(images[:, 0])
        return np.stack([black if index is None else images[:, index] for index in self.indices], axis=1)


def find_planes(
    wanted: Sequence[str], given: Sequence[str], *, absent: Mapping[str, str] | None = None, where: str
) -> PlaneMap:
    """Find the channels that a model needs in the channels of images.

    Args:
        wanted: The channels of the model, in order.
        given: The channels of the images, in order.
        absent: The substitute for each channel that was not imaged: ``"zero"`` for a black image, or the name of a
            channel of the images. Channels are substituted only if they are given here.
        where: The origin of the images, for error messages.

    Returns:
        The positions of the channels.

    Raises:
        ChannelError: If a channel is missing and has no substitute, or a substitute is not needed or does not exist.

    >>> find_planes(["protein", "er"], ["er", "protein"], where="the images").indices
    (1, 0)
    >>> find_planes(["protein", "er"], ["protein"], absent={"er": "zero"}, where="the images").indices
    (0, None)
    """
    substitutes = dict(absent or {})
    for name, substitute in substitutes.items():
        if name not in wanted:
            raise ChannelError(
                f"The model has no channel {name}; its channels are {', '.join(wanted)}.{near_channels(name, wanted)}",
                hint="Give substitutes only for channels of the model that the images lack.",
            )
        if name in given:
            raise ChannelError(
                f"The channel {name} needs no substitute, because {where} has it.", hint=f"Remove {name}."
            )
        if substitute != ZERO and substitute not in given:
            raise ChannelError(
                f"There is no channel {substitute} in {where} to replace {name}; its channels are {', '.join(given)}."
                f"{near_channels(substitute, given)}",
                hint=f"Choose {ZERO}, or one of {', '.join(given)}.",
            )
    missing = [name for name in wanted if name not in given and name not in substitutes]
    if missing:
        # The built-in models are named to users of a built-in model only.
        others = BUILTINS if tuple(wanted) in BUILTINS.values() else {}
        fitting = [f", such as {name}" for name, channels in others.items() if set(channels) <= set(given)]
        raise ChannelError(
            f"The model needs the channels {', '.join(wanted)}, but {where} has {', '.join(given)}.",
            hint=f"Use a model that was trained on these channels{''.join(fitting[:1])}, or give a substitute for each"
            f" missing channel, for example `absent={dict.fromkeys(missing, ZERO)}`.",
            missing=missing,
        )
    places: dict[str, int | None] = {name: number for number, name in enumerate(given)}
    places[ZERO] = None
    return PlaneMap(tuple(places[substitutes.get(name, name)] for name in wanted))


def parse_substitutes(texts: Sequence[str]) -> dict[str, str]:
    """Parse the substitutes in the argument ``absent`` of the command line.

    Args:
        texts: ``CHANNEL=SUBSTITUTE`` each, or several separated by commas.

    Returns:
        The substitute of each channel.

    Raises:
        SettingsError: If a text has another form, or a channel occurs twice.

    >>> parse_substitutes(["er=zero,microtubules=nucleus"])
    {'er': 'zero', 'microtubules': 'nucleus'}
    """
    substitutes: dict[str, str] = {}
    for text in (word.strip() for each in texts for word in each.split(",")):
        name, _, substitute = (part.strip() for part in text.partition("="))
        if not (name and substitute) or name in substitutes:
            raise SettingsError(
                f"`absent` contains {text!r}, which is not CHANNEL=SUBSTITUTE or repeats a channel.",
                hint="Write for example `absent={'er': 'zero'}`.",
            )
        substitutes[name] = substitute
    return substitutes
