"""Joint intensity bounds per channel for all fields of an import, determined before the import."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoloc.errors import ImageError
from cytoloc.images.depth import DepthRule, Histogram, JointBounds, refuse_not_finite, refuse_not_gray
from cytoloc.parallel import in_order

Planes = Sequence[NDArray[Any]]
"""The image of each channel of a field."""


def find_joint_bounds(
    items: Sequence[str],
    fields_of: Callable[[str], Iterable[Planes]],
    rule: DepthRule,
    *,
    channels: int,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[JointBounds | None, ...]:
    """Return the joint bounds of each channel over all fields.

    Fields that cannot be read are skipped here; the import rejects them with the reason. If the fields of a channel
    differ in pixel type, the first type is used, and the import rejects the others.

    Args:
        items: The names of the items.
        fields_of: A function that yields the fields of an item.
        rule: How intensities are scaled.
        channels: Number of channels.
        advance: A function that is called with the number of finished items and of all items.

    Returns:
        One pair of bounds per channel; None for a channel that always has 8 bits.
    """
    histograms = [Histogram() for _ in range(channels)]

    def readable(item: str) -> list[Planes]:
        """Return the fields of an item that the import will not reject."""
        fields: list[Planes] = []
        # The import reports these errors. Fields before an error are imported, so they are counted here too.
        with suppress(ImageError):
            for planes in fields_of(item):
                with suppress(ImageError):
                    for plane in planes:
                        refuse_not_gray(plane.dtype)
                        refuse_not_finite(plane)
                    fields.append(planes)
        return fields

    for done, fields in enumerate(in_order(readable, items), start=1):
        for planes in fields:
            for histogram, plane in zip(histograms, planes, strict=True):
                if plane.dtype != np.uint8 and histogram.dtype in (None, plane.dtype):
                    histogram.add(plane)
        advance(done, len(items))
    return tuple(histogram.bounds(rule) for histogram in histograms)


def joint_note(bounds: Sequence[JointBounds | None]) -> list[dict[str, Any] | None]:
    """Return joint bounds as JSON values."""
    return [each and {"black": each.bounds.black, "white": each.bounds.white, "of": str(each.dtype)} for each in bounds]
