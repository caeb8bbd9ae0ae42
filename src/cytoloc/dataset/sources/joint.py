"""One pair of bounds per channel for all fields of an import, found before it begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoloc.errors import ImageError
from cytoloc.images.depth import DepthRule, Histogram, JointBounds, refuse_not_finite, refuse_not_gray
from cytoloc.parallel import in_order

Planes = Sequence[NDArray[Any]]
"""A field's plane of each channel."""


def find_joint_bounds(
    items: Sequence[str],
    fields_of: Callable[[str], Iterable[Planes]],
    rule: DepthRule,
    *,
    channels: int,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[JointBounds | None, ...]:
    """Return the bounds of each channel over all fields; None for a channel that has 8 bits everywhere.

    Fields that cannot be read are passed over: the import itself rejects them, with the reason. Where the fields of a
    channel differ in type, the first decides, and the import rejects the others.

    Args:
        items: What is to be imported, in order.
        fields_of: Returns the planes of an item's fields; called in threads.
        rule: Which percentiles, and the floor of white.
        channels: How many channels a field has.
        advance: Called after each item with the number of items done and of all items.
    """
    histograms = [Histogram() for _ in range(channels)]

    def readable(item: str) -> list[Planes]:
        """Return the planes of those fields of an item that the import will not reject."""
        fields: list[Planes] = []
        try:
            # Those before an error count: the import takes them, too.
            fields += (planes for planes in fields_of(item) if _usable(planes))
        except ImageError:
            # The import meets the same error, and lists the item with it.
            return fields
        return fields

    for done, fields in enumerate(in_order(readable, items), start=1):
        for planes in fields:
            for histogram, plane in zip(histograms, planes, strict=True):
                if plane.dtype != np.uint8 and histogram.dtype in (None, plane.dtype):
                    histogram.add(plane)
        advance(done, len(items))
    return tuple(histogram.bounds(rule) for histogram in histograms)


def _usable(planes: Planes) -> bool:
    try:
        for plane in planes:
            refuse_not_gray(plane.dtype)
            refuse_not_finite(plane)
    except ImageError:
        return False
    return True


def note(bounds: Sequence[JointBounds | None]) -> list[dict[str, Any] | None]:
    """Return joint bounds as JSON."""
    return [each and {"black": each.bounds.black, "white": each.bounds.white, "of": str(each.dtype)} for each in bounds]
