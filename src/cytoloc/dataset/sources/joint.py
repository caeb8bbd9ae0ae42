"""One pair of bounds per channel for all fields of an import, found before it begins."""

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

    Fields that cannot be read are skipped; the import rejects them with the reason. If the fields of a channel differ
    in type, the first one decides, and the import rejects the others.
    """
    histograms = [Histogram() for _ in range(channels)]

    def readable(item: str) -> list[Planes]:
        """Return the planes of those fields of an item that the import will not reject."""
        fields: list[Planes] = []
        # The import meets the same errors and lists them. It takes the fields before an error, which count here too.
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
    """Return joint bounds as JSON."""
    return [each and {"black": each.bounds.black, "white": each.bounds.white, "of": str(each.dtype)} for each in bounds]
