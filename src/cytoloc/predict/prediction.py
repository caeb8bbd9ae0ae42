"""What a model says of images, and images in memory as a model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoloc.errors import ImageError, SettingsError
from cytoloc.images.decoding import located
from cytoloc.images.depth import DepthRule, all_to_8_bit
from cytoloc.images.scale import Scaling, scale_field
from cytoloc.labels import LabelSet, Location


@dataclass(frozen=True)
class Prediction:
    """Probabilities of some fields and, if the model has a decision, their locations.

    Attributes:
        ids: The id of each field; its number, for images in memory.
        probabilities: float32 ``(n, locations)``.
        predicted: bool ``(n, locations)``; None if the model has no decision.
        caution: What the model's makers say with every prediction; may be empty.
        rejected: Ids of the fields that could not be read, with the reason.
        label_set: The locations of the columns.
    """

    ids: tuple[str, ...]
    probabilities: NDArray[np.float32]
    predicted: NDArray[np.bool_] | None
    caution: str
    rejected: dict[str, str]
    label_set: LabelSet

    @property
    def locations(self) -> list[list[Location]]:
        """The locations of each field.

        Raises:
            SettingsError: If the model has no decision.
        """
        if self.predicted is None:
            raise SettingsError(
                "The model has no decision, so it gives probabilities alone.",
                hint="Fit one to out-of-fold predictions (`cytoloc decide fit`), and bundle it with the runs.",
            )
        return [[self.label_set[int(i)] for i in np.flatnonzero(row)] for row in self.predicted]


def fields_of(images: NDArray[Any], *, size: int, channels: Sequence[str]) -> NDArray[np.uint8]:
    """Return images in memory with 8 bits and at one size, uint8 ``(n, channels, size, size)``.

    Sixteen bits and floats become eight by the Human Protein Atlas's percentile rule, each image by its own bounds;
    larger images are scaled down by area means.

    Args:
        images: ``(n, channels, h, w)`` or ``(channels, h, w)``, uint8, uint16 or float.
        size: Edge of the result, in pixels.
        channels: Names of the channels, in order.

    Raises:
        ImageError: If they have another shape or type, are smaller than ``size``, not square, or hold values that are
            not finite.
    """
    every = images[None] if images.ndim == 3 else images
    count = len(channels)
    if every.ndim != 4 or every.shape[1] != count or 0 in every.shape:
        raise ImageError(
            f"Images must have the shape (n, {count}, h, w) or ({count}, h, w); these have {images.shape}.",
            hint=f"Stack the channels in the order {', '.join(channels)}, or name those that there are by channels.",
        )
    found = []
    for number, planes in enumerate(every):
        with located(f"image {number}"):
            if planes.dtype.kind not in "uf" or (planes.dtype.kind == "u" and planes.dtype.itemsize > 2):
                raise ImageError(
                    f"it has {planes.dtype} pixels.", hint="Give uint8, uint16 or floats; all but uint8 are scaled."
                )
            native = planes.astype(planes.dtype.newbyteorder("="), copy=False)
            found.append(
                scale_field(all_to_8_bit(list(native), DepthRule(), called=channels).image, Scaling(size=size)).image
            )
    return np.stack(found)
