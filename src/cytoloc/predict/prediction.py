"""What a model says of pictures, and pictures in memory as a model takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoloc.errors import ImageError, SettingsError
from cytoloc.labels import CHANNELS, LOCATIONS, Location
from cytoloc.pictures.decoding import located
from cytoloc.pictures.depth import DepthRule, all_to_8_bit
from cytoloc.pictures.scale import Scaling, scale_field


@dataclass(frozen=True)
class Prediction:
    """Probabilities of some fields and, if the model has a decision, their locations.

    Attributes:
        ids: The id of each field; its number, for pictures in memory.
        probabilities: float32 ``(n, 28)``.
        predicted: bool ``(n, 28)``; None if the model has no decision.
        caution: What the model's makers say with every prediction; may be empty.
        rejected: Ids of the fields that could not be read, with the reason.
    """

    ids: tuple[str, ...]
    probabilities: NDArray[np.float32]
    predicted: NDArray[np.bool_] | None
    caution: str
    rejected: dict[str, str]

    @property
    def locations(self) -> list[list[Location]]:
        """The locations of each field.

        Raises:
            SettingsError: If the model has no decision.
        """
        if self.predicted is None:
            raise SettingsError(
                "The model has no decision, so it gives probabilities alone.",
                way_out="Fit one to held-out scores (`cytoloc decide fit`), and bundle it with the runs.",
            )
        return [[LOCATIONS[i] for i in np.flatnonzero(row)] for row in self.predicted]


def fields_of(pictures: NDArray[Any], *, size: int) -> NDArray[np.uint8]:
    """Return pictures in memory as a model takes them, uint8 ``(n, 4, size, size)``.

    Sixteen bits and floats become eight by the Human Protein Atlas's percentile rule, each picture by its own bounds;
    larger pictures are scaled down by area means.

    Args:
        pictures: ``(n, 4, h, w)`` or ``(4, h, w)``, uint8, uint16 or float; channels in the order of
            ``cytoloc.CHANNELS``.
        size: Edge of the result, in pixels.

    Raises:
        ImageError: If they have another shape or type, are smaller than ``size``, not square, or hold values that are
            not finite.
    """
    every = pictures[None] if pictures.ndim == 3 else pictures
    if every.ndim != 4 or every.shape[1] != len(CHANNELS) or 0 in every.shape:
        raise ImageError(
            f"Pictures must have the shape (n, {len(CHANNELS)}, h, w) or ({len(CHANNELS)}, h, w); these have"
            f" {pictures.shape}.",
            way_out=f"Stack the channels in the order {', '.join(CHANNELS)}.",
        )
    found = []
    for number, planes in enumerate(every):
        with located(f"picture {number}"):
            if planes.dtype.kind not in "uf" or (planes.dtype.kind == "u" and planes.dtype.itemsize > 2):
                raise ImageError(
                    f"it has {planes.dtype} pixels.", way_out="Give uint8, uint16 or floats; all but uint8 are scaled."
                )
            native = planes.astype(planes.dtype.newbyteorder("="), copy=False)
            found.append(scale_field(all_to_8_bit(list(native), DepthRule()).image, Scaling(size=size)).image)
    return np.stack(found)
